"""One job inside this worker, from its lease to its end."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from api_schemas.jobs import JobSpec, utc_now
from worker.claims import Lease
from worker.engines.base import Pixels, Slot
from worker.intake import Plan


@dataclass(eq=False)
class Work:
    """Handed from thread to thread; only ``canceled``, ``progress`` and the previews are touched by two at once."""

    lease: Lease
    canceled: threading.Event = field(default_factory=threading.Event)
    """Set when the owner asked to cancel."""
    plan: Plan | None = None
    slots: list[Slot] = field(default_factory=list)
    """One for each request of the plan, while it is painted."""
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
    storing_preview: threading.Lock = field(default_factory=threading.Lock)
    """Held while one is being stored and while ``ending`` is set, so that none arrives after the job has ended."""
    _progress: tuple[int, int] = (0, 0)
    """How far it came, once its slots are gone."""
    stage_began: float = field(default_factory=time.perf_counter)

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
    def overdue(self) -> bool:
        """Whether its deadline is over."""
        return self.spec.deadline_at is not None and utc_now() > self.spec.deadline_at

    @property
    def first_unfinished(self) -> Slot | None:
        """The first of its pictures that has a step left to run."""
        return next((slot for slot in self.slots if not slot.done), None)

    def progress(self) -> tuple[int, int]:
        """Steps done and to do, over all pictures; (0, 0) before painting."""
        slots = self.slots  # another thread may replace the list, but nobody changes it
        return (sum(slot.position for slot in slots), sum(slot.steps for slot in slots)) if slots else self._progress

    def release(self) -> None:
        """It has left the engine: let go of its slots, and so of what they have on the device."""
        self._progress = self.progress()
        self.slots = []

    def end(self) -> None:
        """How it ends has been decided. Waits for a preview that is being stored; none is stored from then on."""
        with self.storing_preview:
            self.ending = True

    def lap(self) -> float:
        """Seconds since the last lap: how long the stage took that ends now."""
        now = time.perf_counter()
        seconds, self.stage_began = now - self.stage_began, now
        return seconds
