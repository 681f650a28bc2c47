"""``/v1/jobs``: create, repeat, read, list, cancel, delete."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import Invalid, JobNotFinished, OutfillError
from api_schemas.jobs import DryRun, Job, JobList, JobSpec, JobStatus
from api_schemas.requests import Operation
from core.events import wait_until_terminal
from core.jobs import JobRecord, public
from service.auth import Caller
from service.bodies import REPEAT_BODY, Body, Changes, request_body
from service.deps import Parts, Services
from service.dry_run import dry_run
from service.idempotency import HEADER as IDEMPOTENCY_KEY
from service.idempotency import IdempotencyKey, job_digest, once
from service.repeat import repeat, repeat_digest
from service.submit import submit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]{1,4})\"?\s*(?:$|[,;])")
_JOB_ID = r"^job_[0-9A-Z]{26}$"


def _view(parts: Services, record: JobRecord) -> Job:
    waiting = record.status is JobStatus.QUEUED
    position = parts.queue.position(record.spec.queue, record.spec.id) if waiting else None
    return public(record, parts.storage, position=position)


Prefer = Annotated[str | None, Header(description="`wait=N`: answer when the job has ended, at most N (1-60) seconds from now.")]


class CreateQuery(BaseModel):
    """The query of ``POST /v1/jobs``."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(
        default=False, description="Check and resolve everything, store nothing, and answer 200 with what the job would be."
    )


@router.post(
    "",
    status_code=202,
    response_model=Job,
    openapi_extra={"requestBody": request_body()},
    responses={200: {"model": Job | DryRun, "description": "The finished job, or with `dry_run` what it would be."}},
)
async def create(
    request: Request,
    response: Response,
    caller: Caller,
    parts: Parts,
    body: Body,
    query: Annotated[CreateQuery, Query()],
    key: IdempotencyKey,
    prefer: Prefer = None,
) -> Job | Response:
    """Accept a job. 202 with the queued job, or with `Prefer: wait=N` 200 with the finished one."""
    wait_s = _wait_seconds(prefer)
    if query.dry_run:
        if key is not None or wait_s:
            raise Invalid("a dry run makes no job", field="Prefer" if wait_s else IDEMPOTENCY_KEY)
        found = await dry_run(parts, caller, *body)
        return JSONResponse(found.model_dump(mode="json"))
    spec = await _made(parts, once(parts, caller, key, partial(job_digest, *body), partial(submit, parts, caller, *body)))
    return await _answer(request, response, parts, spec, wait_s)


@router.post(
    "/{job_id}/repeat", status_code=202, response_model=Job, openapi_extra={"requestBody": REPEAT_BODY}, responses={200: {"model": Job}}
)
async def repeat_job(
    job_id: str,
    request: Request,
    response: Response,
    caller: Caller,
    parts: Parts,
    changes: Changes,
    key: IdempotencyKey,
    prefer: Prefer = None,
) -> Job:
    """Make a new job with the resolved request and the inputs of another, by the same seed unless the body says otherwise.

    It paints the same as long as the model's revision is the same, which the `recipe` tells.
    """
    wait_s = _wait_seconds(prefer)
    make = partial(repeat, parts, caller, job_id, changes)
    spec = await _made(parts, once(parts, caller, key, partial(repeat_digest, job_id, changes), make))
    return await _answer(request, response, parts, spec, wait_s)


async def _made(parts: Services, making: Awaitable[JobSpec]) -> JobSpec:
    """The job, or the refusal counted."""
    try:
        return await making
    except OutfillError as error:
        parts.metrics.refused.labels(error.code).inc()
        raise


async def _answer(request: Request, response: Response, parts: Services, spec: JobSpec, wait_s: int) -> Job:
    """The job just accepted, after ``wait_s`` or when it has ended."""
    if wait_s:
        began = time.perf_counter()
        # The job is accepted, whatever happens to the waiting.
        with suppress(RedisError, TimeoutError):
            async with asyncio.timeout(wait_s + 1):
                await wait_until_terminal(parts.waiting, spec.id, wait_s)
        request.state.waited_s = time.perf_counter() - began
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    job = await run_in_threadpool(_accepted, parts, spec)
    response.headers["Location"] = job.urls.self
    if wait_s and job.status.terminal:
        response.status_code = 200
    return job


def _accepted(parts: Services, spec: JobSpec) -> Job:
    """The job just accepted, as it is by now; as it was accepted, if Redis went away since."""
    try:
        return _view(parts, parts.records.get(spec.id, spec.tenant))
    except RedisError:
        return public(JobRecord(spec, JobStatus.QUEUED, attempts=0), parts.storage)


def _wait_seconds(prefer: str | None) -> int:
    if prefer is None or "wait" not in prefer:
        return 0
    match = _WAIT.search(prefer)
    if match is None or not 1 <= int(match[1]) <= 60:
        raise Invalid("wait must be 1 to 60 seconds", field="Prefer")
    return int(match[1])


@router.get("")
def page(
    caller: Caller,
    parts: Parts,
    cursor: Annotated[str | None, Query(pattern=_JOB_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    status: JobStatus | None = None,
    operation: Operation | None = None,
) -> JobList:
    """The caller's jobs, newest first. Filters look at one page: a page may hold fewer than `limit` jobs while `next` is set."""
    records = parts.records.page(caller.name, before=cursor, limit=limit)
    shown = [r for r in records if (status is None or r.status is status) and (operation is None or r.spec.request.operation is operation)]
    items = tuple(_view(parts, record) for record in shown)
    return JobList(items=items, next=records[-1].spec.id if len(records) == limit else None)


@router.get("/{job_id}")
def read(job_id: str, caller: Caller, parts: Parts) -> Job:
    """One job."""
    return _view(parts, parts.records.get(job_id, caller.name))


@router.post("/{job_id}/cancel")
def cancel(job_id: str, caller: Caller, parts: Parts) -> Job:
    """Cancel a job: at once while it waits, at its next step while it runs. Canceling twice is no error."""
    return _view(parts, parts.records.cancel(job_id, caller.name))


@router.delete("/{job_id}", status_code=204)
def delete(job_id: str, caller: Caller, parts: Parts) -> None:
    """Delete a job that has ended: its record, its inputs and outputs, the webhooks that it is owed, and its idempotency key."""
    record = parts.records.get(job_id, caller.name)
    if not record.status.terminal:
        raise JobNotFinished(f"the job is {record.status}; POST /v1/jobs/{job_id}/cancel first")
    parts.storage.delete_job(caller.name, job_id)  # the record last: it is what leads to the objects
    parts.records.delete(record.spec, only_if="ended")
