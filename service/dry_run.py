"""Dry runs: what a job would be, where it would stand, and when it would be done."""

from __future__ import annotations

from statistics import median

from starlette.concurrency import run_in_threadpool

from api_schemas.jobs import DryRun, queue_name
from api_schemas.requests import Priority
from core.jobs import JobRecords, recipe_of, warnings_of
from core.queue import PRIORITIES, JobQueue
from service.auth import Tenant
from service.deps import Services
from service.sources import Sent
from service.submit import Prepared, prepare


async def dry_run(parts: Services, caller: Tenant, sent: Sent) -> DryRun:
    """Do all of accepting a request but keeping it. Raises what accepting it would."""
    return await run_in_threadpool(_describe, parts, caller.name, await prepare(parts, caller, sent))


def _describe(parts: Services, tenant: str, prepared: Prepared) -> DryRun:
    request, card = prepared.request, prepared.model.card
    return DryRun(
        operation=request.operation,
        model=card.id,
        recipe=recipe_of(request, card.id, card.revision),
        warnings=warnings_of(request),
        position=parts.queue.next_position(queue_name(card.id, request.priority), tenant),
        estimate_s=seconds_until_done(parts.records, parts.queue, card.id, request.priority, workers=len(prepared.model.workers)),
    )


def seconds_until_done(records: JobRecords, queue: JobQueue, model: str, priority: Priority, *, workers: int) -> float | None:
    """What a job that is queued now takes to its end, by the model's last jobs; ``None`` where nothing can be said.

    What runs and what waits at this priority or above goes first, shared among the workers.
    """
    durations = records.durations(model)
    if not durations or not workers:
        return None
    first = PRIORITIES[: PRIORITIES.index(priority) + 1]
    ahead = sum(queue.depth(queue_name(model, each)) for each in first) + sum(queue.running(queue_name(model, each)) for each in PRIORITIES)
    return round(median(durations) * (1 + ahead / workers), 3)
