"""How long it takes until others go on with what a killed process had in its hands."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast

from core.events import stream_key

from .caller import Asked
from .points import Hit
from .stack import wait_until
from .storm import Run

_PATIENCE_S = 240.0
_JOBS = 6


def jobs_elsewhere_s(run: Run, point: str) -> float:
    """Seconds from a worker's kill -9 at ``point`` until the last of the jobs that it held runs in another process."""
    run.stack.faults.arm(point, "kill")
    jobs = run.caller.post(_JOBS)
    hit = _hit(run)
    held = [job for job in jobs if job.id == hit.subject or _was_running(run, job, hit.at)]
    began = [_within_patience(lambda job=job: _next_start(run, job, hit.at), f"{job.id} to run elsewhere") for job in held]  # type: ignore[misc]
    return max(began) - hit.at


def steward_replaced_s(run: Run) -> tuple[float, float]:
    """Seconds from a steward's kill -9, with a webhook sent and not marked, until another sends new webhooks; and until that one comes again."""
    run.stack.faults.arm("outbox", "kill")
    run.caller.post(1)
    hit = _hit(run)
    time.sleep(0.5)  # none of what the killed steward had sent arrives later than this
    began = time.time()
    (job,) = run.caller.post(1)
    new = _within_patience(lambda: min((each.at for each in run.receiver.deliveries(job.id) if each.at > began), default=0.0), "a webhook")
    again = _within_patience(lambda: max(each.at for each in run.receiver.arrived(hit.subject)) > began, "a webhook again")
    return new - hit.at, max(each.at for each in run.receiver.arrived(hit.subject)) - hit.at if again else 0.0


def _hit(run: Run) -> Hit:
    before = len(run.stack.faults.hits())
    wait_until(lambda: not run.stack.faults.waiting() and run.stack.faults.hits(), _PATIENCE_S)
    hits = run.stack.faults.hits()
    if run.stack.faults.waiting() or len(hits) < before:
        raise AssertionError("nobody came by the point")
    return hits[-1]


def _starts(run: Run, job: Asked) -> Sequence[tuple[float, str]]:
    """When, by Redis's clock, and what: the events of a job."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", run.connection.xrange(stream_key(job.id)))
    return [(int(name.partition(b"-")[0]) / 1000, fields[b"event"].decode()) for name, fields in entries]


def _was_running(run: Run, job: Asked, at: float) -> bool:
    """Whether it had begun before and began again: only the dead worker's jobs do."""
    before = [event for moment, event in _starts(run, job) if moment <= at]
    record = run.records.find(job.id)
    mine = record is not None and not record.status.terminal and run.records.execution(job.id) is not None
    return bool(before) and before[-1] == "job.started" and mine and _lost(run, job)


def _lost(run: Run, job: Asked) -> bool:
    """Whether the process that began it is gone."""
    lease = run.records.execution(job.id)
    name = cast("bytes | None", run.connection.hget(f"rq:execution:{lease}", "worker_name")) if lease else None
    return name is not None and int(name.split(b"-")[-2]) == run.stack.faults.hits()[-1].pid


def _next_start(run: Run, job: Asked, after: float) -> float:
    return min((moment for moment, event in _starts(run, job) if moment > after and event == "job.started"), default=0.0)


def _within_patience(look: Callable[[], float], what: str) -> float:
    found = 0.0

    def seen() -> bool:
        nonlocal found
        found = look()
        return bool(found)

    if not wait_until(seen, _PATIENCE_S, 0.05):
        raise AssertionError(f"waited {_PATIENCE_S} s for {what}")
    return found
