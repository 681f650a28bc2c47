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
    """Handed from thread to thread; only ``canceled`` and ``progress`` are touched by two at once."""

    lease: Lease
    canceled: threading.Event = field(default_factory=threading.Event)
    """Set when the owner asked to cancel."""
    plan: Plan | None = None
    slots: list[Slot] = field(default_factory=list)
    """One for each request of the plan, once painting has begun."""
    painted: dict[int, Pixels] = field(default_factory=dict)
    """Finished pictures by their place in ``slots``."""
    ending: bool = False
    """Set when how it ends has been decided: from there on a fault of ours must not decide again."""
    stage_began: float = field(default_factory=time.perf_counter)

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

    def progress(self) -> tuple[int, int]:
        """Steps done and to do, over all pictures; (0, 0) before painting."""
        slots = list(self.slots)
        return sum(slot.position for slot in slots), sum(slot.steps for slot in slots)

    def lap(self) -> float:
        """Seconds since the last lap: how long the stage took that ends now."""
        now = time.perf_counter()
        seconds, self.stage_began = now - self.stage_began, now
        return seconds
