"""One run: jobs are posted while processes end at named points and what they stand on fails; then everything is looked at."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from core.jobs import JobRecords
from core.settings import Settings
from core.storage import Storage
from service.local import StackOptions

from . import invariants
from .caller import Asked, Caller
from .invariants import Scene
from .points import POISON, Hit
from .receiver import Receiver
from .stack import ChaosStack, wait_until

Fault = Callable[[ChaosStack], None]


@dataclass(frozen=True)
class Plan:
    """What happens in a run."""

    seed: int
    workers: int
    jobs: int
    strikes: Sequence[tuple[str, str]]
    """Point and action, one after the other."""
    faults: Mapping[int, tuple[str, Fault]]
    """What fails while the strike with that number is waited for, and its name."""
    clocks: Mapping[str, float]
    environment: Mapping[str, str] = field(default_factory=dict)
    replica: bool = False
    """Whether Valkey has a replica, which must have each accepted job on disk."""
    patience_s: float = 300.0
    """For everything to have ended."""


@dataclass
class Result:
    """What a run found."""

    breaches: list[str]
    hits: list[Hit]
    missed: list[str]
    """Strikes that nothing ran into."""
    endings: list[str]
    """What the orchestrator saw end."""
    dropped_replies: int
    bytes_per_ended_job: float
    most_attempts: int
    """Of a job that is not poison."""
    seconds: float


class Run:
    """A running stack and who calls it."""

    def __init__(self, plan: Plan, stack: ChaosStack, receiver: Receiver, caller: Caller, *, say: Callable[[str], None]) -> None:
        self.plan, self.stack, self.receiver, self.caller, self.say = plan, stack, receiver, caller, say
        with mock.patch.dict("os.environ", stack.direct_environment()):
            settings = Settings()
        self.connection = stack.connect()
        self.records = JobRecords(self.connection, retention_s=settings.retention.jobs_s)
        self.storage = Storage(settings.s3)

    @property
    def scene(self) -> Scene:
        """What is looked at in the end."""
        return Scene(self.caller.accepted, self.records, self.connection, self.storage, self.receiver)

    def ended(self, job: Asked) -> bool:
        """Whether its record says so."""
        record = self.records.find(job.id)
        return record is not None and record.status.terminal

    def storm(self) -> Result:
        """Post, strike, fail, wait for the end, look."""
        began, missed = time.monotonic(), []
        self.caller.post(1, kind=POISON)
        shares = _shares(self.plan.jobs - 1, len(self.plan.strikes))
        with ThreadPoolExecutor(1, "faults") as pool:
            for number, ((point, action), jobs) in enumerate(zip(self.plan.strikes, shares, strict=True)):
                failing = self._fail(pool, number)
                if not self._strike(point, action, jobs):
                    missed.append(f"{action} at {point}")
                if failing is not None:
                    failing.result()
        self.stack.faults.disarm()
        self._settle()
        found = invariants.breaches(self.scene)
        attempts = [record.attempts for job in self.caller.accepted if job.kind != POISON and (record := self.records.find(job.id))]
        return Result(
            breaches=found,
            hits=self.stack.faults.hits(),
            missed=missed,
            endings=list(self.stack.said),
            dropped_replies=self.stack.redis_proxy.dropped,
            bytes_per_ended_job=invariants.bytes_per_ended_job(self.scene),
            most_attempts=max(attempts),
            seconds=time.monotonic() - began,
        )

    def _fail(self, pool: ThreadPoolExecutor, number: int) -> Future[None] | None:
        if number not in self.plan.faults:
            return None
        name, fault = self.plan.faults[number]
        self.say(f"{name} …")
        return pool.submit(fault, self.stack)

    def _strike(self, point: str, action: str, jobs: int) -> bool:
        """Arm one strike, and post jobs until somebody runs into it. False: nobody did."""
        before = len(self._struck())
        self.stack.faults.arm(point, action)
        self.caller.post(jobs)
        hit = wait_until(lambda: len(self._struck()) > before, 120)
        self.say(f"{action} at {point}: {self._struck()[-1].subject if hit else 'nobody came by'}")
        if not hit:
            self.stack.faults.disarm()
        return hit

    def _struck(self) -> list[Hit]:
        return [hit for hit in self.stack.faults.hits() if hit.point != POISON]

    def _settle(self) -> None:
        """Wait until all jobs have ended and nothing is on its way; or for as long as patience lasts."""
        deadline = time.monotonic() + self.plan.patience_s
        waiting = list(self.caller.accepted)

        def none_waits() -> bool:
            waiting[:] = [job for job in waiting if not self.ended(job)]
            return not waiting

        wait_until(none_waits, self.plan.patience_s, 0.5)
        self.say(f"{len(self.caller.accepted) - len(waiting)} of {len(self.caller.accepted)} jobs have ended")
        wait_until(lambda: not list(invariants.left_behind(self.connection)), max(deadline - time.monotonic(), 60.0), 1.0)


@contextmanager
def running(plan: Plan, data: Path, *, say: Callable[[str], None] = print) -> Iterator[Run]:
    """A stack as the plan wants it, with a receiver and a caller."""
    options = StackOptions(
        data,
        workers=plan.workers,
        environment={
            "OUTFILL_OUTBOUND__ALLOW_PRIVATE": "127.0.0.1/32",
            "OUTFILL_WORKER__SERVE": "exemplar,backdrop,u2netp",
            "OUTFILL_WEBHOOKS__RETRY_DELAYS_S": str([0.5, 1, 2, *[5] * 40]),
            **plan.environment,
        },
    )
    stack = ChaosStack(options, seed=plan.seed, clocks=plan.clocks, replica=plan.replica)
    with stack, Receiver(stack.webhook_secret, plan.seed) as receiver:
        caller = Caller(stack.url, stack.api_key, receiver.url, plan.seed)
        run = Run(plan, stack, receiver, caller, say=say)
        try:
            yield run
        finally:
            caller.close()
            run.connection.close()


def _shares(jobs: int, parts: int) -> list[int]:
    """``jobs`` in as many parts, as even as can be."""
    return [jobs * (number + 1) // parts - jobs * number // parts for number in range(parts)]


def shuffled(strikes: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """In an order that the seed decides."""
    return random.Random(seed).sample(list(strikes), len(strikes))
