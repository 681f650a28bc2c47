"""How long it takes until others go on with what a killed process had in its hands."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

from core.events import stream_key

from .caller import Asked
from .points import Hit
from .receiver import Delivery
from .stack import wait_until
from .storm import Run

_PATIENCE_S = 240.0
_JOBS = 6


def jobs_elsewhere_s(run: Run, point: str) -> float:
    """Seconds from a worker's kill -9 at ``point`` until the last of the jobs that it held runs in another process."""
    run.stack.faults.arm(point, "kill")
    jobs = run.caller.post(_JOBS)
    hit = _hit(run)
    _within_patience(lambda: all(run.ended(job) for job in jobs), "the jobs to end")
    starts = [_starts(run, job) for job in jobs if job.id == hit.subject or any(moment < hit.at for moment in _starts(run, job))]
    again = [min(after) for moments in starts if (after := [moment for moment in moments if moment > hit.at])]
    return max(again) - hit.at


def steward_replaced_s(run: Run) -> tuple[float, float]:
    """Seconds from a steward's kill -9, with a webhook sent and not marked, until another sends new webhooks; and until that one comes again."""
    run.stack.faults.arm("outbox", "kill")
    run.caller.post(1)
    hit = _hit(run)
    time.sleep(0.5)  # none of what the killed steward had sent arrives later than this
    began = time.time()
    (job,) = run.caller.post(1)
    new = _within_patience(lambda: _first_after(run.receiver.deliveries(job.id), began), "a webhook")
    again = _within_patience(lambda: _first_after(run.receiver.arrived(hit.subject), began), "a webhook again")
    return new - hit.at, again - hit.at


def _first_after(deliveries: Sequence[Delivery], began: float) -> float:
    """When the first one came after that; 0 if none did."""
    return min((each.at for each in deliveries if each.at > began), default=0.0)


def _hit(run: Run) -> Hit:
    if not wait_until(lambda: not run.stack.faults.waiting(), _PATIENCE_S):
        raise AssertionError("nobody came by the point")
    return run.stack.faults.hits()[-1]


def _starts(run: Run, job: Asked) -> Sequence[float]:
    """When a job was begun, by the clock of Redis."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", run.connection.xrange(stream_key(job.id)))
    return [int(name.partition(b"-")[0]) / 1000 for name, fields in entries if fields[b"event"] == b"job.started"]


def _within_patience(look: Callable[[], float], what: str) -> float:
    found = 0.0

    def seen() -> bool:
        nonlocal found
        found = look()
        return bool(found)

    if not wait_until(seen, _PATIENCE_S, 0.05):
        raise AssertionError(f"waited {_PATIENCE_S} s for {what}")
    return found
