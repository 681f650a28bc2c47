"""One job inside this worker, from its lease to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from api_schemas.jobs import JobSpec, utc_now
from worker.claims import Lease
from worker.engines.base import PaintRequest, Pixels, Prepared, Slot
from worker.rounds import Rounds


@dataclass(eq=False)
class Work:
    """Handed from thread to thread; only ``canceled``, ``progress`` and the previews are touched by two at once."""

    lease: Lease
    canceled: threading.Event = field(default_factory=threading.Event)
    """Set when the owner asked to cancel."""
    rounds: Rounds | None = None
    """What is painted, once it is planned."""
    prepared: tuple[Prepared, ...] = ()
    """One for each request of the round, until it is in an engine with a device."""
    slots: list[Slot] = field(default_factory=list)
    """One for each request of the round, while it is painted."""
    painted: dict[int, Pixels] = field(default_factory=dict)
    """Finished pictures by their place in ``slots``."""
    ending: bool = False
    """Set when how it ends has been decided: from there on a fault of ours must not decide again, and no preview is stored."""
    wants_previews: bool = field(init=False)
    """Whether small pictures are to be made of it while it is painted."""
    preview_under_way: bool = False
    """Set from when one is handed out until it is stored; no other is made meanwhile."""
    preview_key: str | None = None
    """The object that holds the newest of them, once there is one."""
    previews: int = 0
    """How many of them there were."""
    storing_preview: threading.Lock = field(default_factory=threading.Lock)
    """Held while one is being stored and while ``ending`` is set, so that none arrives after the job has ended."""
    _done: int = 0
    """Steps of the rounds before."""
    stage_began: float = field(default_factory=time.perf_counter)
    _until: dict[int, float] = field(default_factory=dict)
    """By when the stage has to end that a thread computes now: one may begin before the one before it has left its thread."""

    def __post_init__(self) -> None:
        self.wants_previews = getattr(self.spec.request, "previews", False)

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        return self.lease.spec

    @property
    def key(self) -> str:
        """Names this execution. The job's id would not do: after a lapse this worker may hold the same job again."""
        return self.lease.member

    @property
    def begun(self) -> bool:
        """Whether a step of it was run."""
        return self.progress()[0] > 0

    @property
    def overdue(self) -> bool:
        """Whether its deadline is over."""
        return self.spec.deadline_at is not None and utc_now() > self.spec.deadline_at

    @property
    def first_unfinished(self) -> Slot | None:
        """The first of its pictures that has a step left to run."""
        return next((slot for slot in self.slots if not slot.done), None)

    @property
    def requests(self) -> tuple[PaintRequest, ...]:
        """What is to be painted now."""
        return self.rounds.requests if self.rounds else ()

    def progress(self) -> tuple[int, int]:
        """Steps done and to do, over all pictures and passes; (0, 0) before painting. What has to be tried again adds to both."""
        slots, rounds = self.slots, self.rounds  # another thread may replace the list, but nobody changes it
        if not slots:
            return self._done, self._done
        each = max(slot.steps for slot in slots)
        later = rounds.later * each if rounds else 0
        return self._done + sum(slot.position for slot in slots), self._done + sum(slot.steps for slot in slots) + later

    def take_painted(self) -> list[Pixels]:
        """The pictures of the round that was painted, in the order of its requests. The next one may begin."""
        painted, self.painted = [self.painted[index] for index in range(len(self.requests))], {}
        return painted

    def release(self) -> None:
        """It has left the engine: let go of its slots, and so of what they have on the device."""
        self._done, _ = self.progress()
        self.slots = []

    def end(self) -> None:
        """How it ends has been decided. Waits for a preview that is being stored; none is stored from then on."""
        with self.storing_preview:
            self.ending = True

    @contextmanager
    def computing(self, seconds: float) -> Iterator[None]:
        """A stage in which this thread computes, for so long at most."""
        thread = threading.get_ident()
        self._until[thread] = time.monotonic() + seconds
        try:
            yield
        finally:
            self._until.pop(thread, None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in a stage that is not its own: Redis or S3 is asked."""
        thread, began = threading.get_ident(), time.monotonic()
        until = self._until.pop(thread, None)
        try:
            yield
        finally:
            if until is not None:
                self._until[thread] = until + time.monotonic() - began

    @property
    def over_s(self) -> float:
        """Seconds by which a stage has taken more than its time; 0 where none has, or how the job ends has been decided."""
        first = min(self._until.copy().values(), default=None)
        return 0.0 if first is None or self.ending else max(time.monotonic() - first, 0.0)

    def lap(self) -> float:
        """Seconds since the last lap: how long the stage took that ends now."""
        now = time.perf_counter()
        seconds, self.stage_began = now - self.stage_began, now
        return seconds
