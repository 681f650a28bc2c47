"""The spread of a burst over idle workers: ``make bench-burst``. A table of one run, and build/bench/burst.json.

Eight jobs are queued at once before two real workers that have nothing to do, twenty times. Their engine sleeps in place of a GPU, so that
no job ends while the burst is being claimed. The spread is the number of jobs that one worker took more than the other.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import redis
from rich.console import Console
from rich.table import Table

from api_schemas.jobs import InputRef, JobSpec, JobStatus, new_id, utc_now
from api_schemas.models import BACKDROP
from api_schemas.requests import job_request
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import S3
from core.storage import Storage
from scripts.figures import exit_status, figure, write_figures
from service.local import LocalStack, StackOptions

WORKERS, JOBS, BURSTS = 2, 8, 20
LIMITS = {"largest_spread_of_twenty_bursts": 2}
POLL_S = 0.1
"""The pause between two claims of an idle worker, as in the settings; bursts meet the workers anywhere in it."""
PICTURE = InputRef(key="bench/coffee.png", format="png", width=600, height=400, bytes=1, sha256="0")
REQUEST = {"operation": "replace_background", "image": "image", "mask": "mask", "background": {"color": "#ffffff"}}
SLEEPING_WORKER = """
import sys, time
from api_schemas.models import EngineKind
from worker import __main__ as worker
from worker.engines import registry
from worker.engines.backdrop import BackdropEngine

class Sleeping(BackdropEngine):
    reentrant = False
    max_rows, budget = 8, 16.0  # room for a whole burst

    def step(self, slots):
        time.sleep(1.0)
        super().step(slots)

registry.FACTORIES[EngineKind.BACKDROP] = lambda *_: Sleeping()
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""


@dataclass(frozen=True)
class Bench:
    """Queue, records and object store of a stack whose workers are idle."""

    connection: redis.Redis
    records: JobRecords
    queue: JobQueue


def main() -> int:
    """Run, print, write; 1 if the limit does not hold."""
    with idle_workers() as bench:
        shares = [burst(bench) for _ in range(BURSTS)]
    table = Table("burst", "jobs by worker", "spread")
    for number, share in enumerate(shares, start=1):
        table.add_row(str(number), " + ".join(map(str, share)), str(spread(share)))
    Console(width=100).print(table)
    figures = {"largest_spread_of_twenty_bursts": figure(max(map(spread, shares)), LIMITS["largest_spread_of_twenty_bursts"])}
    Console(width=100).print(figures)
    write_figures("burst", figures)
    return exit_status(figures)


@contextmanager
def idle_workers() -> Iterator[Bench]:
    """Two workers of a local stack that have announced themselves and wait for work."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        local = stack.enter_context(LocalStack(StackOptions(Path(folder), workers=0), say=lambda _: None))
        environment = {**os.environ, **local.environment(), "OUTFILL_WORKER__SERVE": BACKDROP.id, "OUTFILL_WORKER__POLL_S": str(POLL_S)}
        log = stack.enter_context((Path(folder) / "workers.log").open("wb"))
        for _ in range(WORKERS):
            worker = subprocess.Popen([sys.executable, "-c", SLEEPING_WORKER], env=environment, stderr=log)  # noqa: S603 - our own
            stack.callback(worker.wait, 30)
            stack.callback(worker.terminate)
        connection = redis.Redis.from_url(environment["OUTFILL_REDIS__URL"])
        bench = Bench(connection, JobRecords(connection, retention_s=600), JobQueue(connection))
        _store(environment)
        _wait(lambda: len(Catalogue(connection).live_workers()) == WORKERS)
        burst(bench)  # connections, and the first use of everything
        yield bench


def _store(environment: Mapping[str, str]) -> None:
    names = ("endpoint_url", "bucket", "access_key_id", "secret_access_key")
    settings = S3.model_validate({name: environment[f"OUTFILL_S3__{name.upper()}"] for name in names})
    Storage(settings).put(PICTURE.key, (files("skimage.data") / "coffee.png").read_bytes(), "image/png")


def burst(bench: Bench) -> list[int]:
    """Queue ``JOBS`` jobs and wait for their ends: how many each worker did, most first."""
    time.sleep(random.uniform(0, 3 * POLL_S))  # noqa: S311 - only its spread matters
    specs = [_spec() for _ in range(JOBS)]
    for spec in specs:
        bench.records.create(spec)
    for spec in specs:
        bench.queue.push(spec)
        bench.records.accepted(spec.id)
    done = Counter(_worker_of(bench, spec) for spec in specs)
    return sorted([*done.values(), *[0] * (WORKERS - len(done))], reverse=True)


def spread(share: list[int]) -> int:
    """Jobs that the busiest worker did more than the idlest."""
    return max(share) - min(share)


def _spec() -> JobSpec:
    return JobSpec(
        id=new_id("job"),
        tenant="bench",
        model=BACKDROP.id,
        model_revision="1",
        request=job_request.validate_python(REQUEST),
        inputs={"image": PICTURE, "mask": PICTURE},
        created_at=utc_now(),
    )


def _worker_of(bench: Bench, spec: JobSpec) -> str:
    _wait(lambda: bench.records.get(spec.id, spec.tenant).status not in (JobStatus.QUEUED, JobStatus.RUNNING))
    record = bench.records.get(spec.id, spec.tenant)
    if record.status is not JobStatus.SUCCEEDED:
        raise RuntimeError(f"{spec.id} ended {record.status}: {record.error}")
    return str(record.runtime["worker"])


def _wait(is_so: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
