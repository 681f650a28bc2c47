"""``/v1/jobs``: create, repeat, read, list, cancel, delete."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api_schemas.access import Scope
from api_schemas.errors import (
    FetchFailed,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    InputsGone,
    Invalid,
    InvalidSource,
    JobAlreadyFinished,
    JobNotFinished,
    JobNotFound,
    MaskEmpty,
    MaskFaint,
    MaskFull,
    MaskHasNoAlpha,
    MaskSizeMismatch,
    ModelNotFound,
    OutfillError,
    ParameterNotSupported,
    TooManyLeaving,
    TooManyQueued,
    TooManyReservations,
    UploadNotFound,
    UrlNotAllowed,
    WebhookNotAllowed,
)
from api_schemas.jobs import DryRun, Job, JobList, JobSpec, JobState, JobStatus, first_id
from api_schemas.requests import Operation, RepeatRequest
from core.jobs import Glance, JobRecord, public
from service.auth import JobsReader, JobsRepeater, JobsWriter, Tenant
from service.bodies import Body, Changes, JobBody, NoQuery, QueryOnce, described, query_once, request_body
from service.deps import Parts, RootPath, Services
from service.dry_run import dry_run
from service.idempotency import HEADER as IDEMPOTENCY_KEY
from service.idempotency import IdempotencyKey, job_digest, once
from service.openapi import FORM_BODY, IMAGE, JSON_BODY, headers, links, optional, refusals
from service.repeat import repeat, repeat_digest
from service.submit import submit

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_SECONDS = re.compile(r'"?([0-9]{1,4})"?')
MAX_WAIT_S = 60
_LONGEST_WAIT_S = 55
"""Many proxies give an answer up after 60 seconds; what is asked for beyond this is this."""
_JOB_ID = r"^job_[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_Entry = Annotated[str, StringConstraints(pattern=r"^[^=]+=")]
_OVER_BOUNDS = (TooManyQueued, TooManyLeaving, TooManyReservations)
_ACCEPTING = (ModelNotFound, ParameterNotSupported, WebhookNotAllowed, IdempotencyKeyReused, IdempotencyKeyInUse, *_OVER_BOUNDS)
"""How a job is refused, whether it is new or a repetition."""
_SOURCES = (*IMAGE, InvalidSource, UrlNotAllowed, FetchFailed, UploadNotFound)
_MASKS = (MaskSizeMismatch, MaskEmpty, MaskFull, MaskFaint, MaskHasNoAlpha)
_FOLLOWING = ("jobs_read", "jobs_cancel", "jobs_delete", "jobs_repeat", "jobs_follow")
_ACCEPTED = {
    "description": "The job, accepted.",
    "headers": headers("Location", "Preference-Applied"),
    "links": links("job_id", "$response.body#/id", *_FOLLOWING),
}
_FINISHED = {**_ACCEPTED, "description": "The finished job, with `Prefer: wait=N`."}
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


def _no_number(value: Any) -> Any:
    if isinstance(value, str) and "T" not in value.upper():  # pydantic would take a number for seconds since 1970
        raise ValueError("must be RFC 3339, with a time zone")
    return value


_Moment = Annotated[AwareDatetime, Field(ge=_FIRST, lt=_LAST), BeforeValidator(_no_number)]


def _view(parts: Services, record: JobRecord, root_path: str) -> Job:
    waiting = record.status is JobStatus.QUEUED
    position = parts.queue.position(record.spec) if waiting else None
    return public(record, parts.storage, root_path=root_path, position=position)


class ListQuery(BaseModel):
    """The query of ``GET /v1/jobs``."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(default=None, pattern=_JOB_ID, description="The `next` of the page before; the filters may stay or change.")
    limit: int = Field(default=20, ge=1, le=100)
    status: JobStatus | None = None
    operation: Operation | None = None
    created_from: _Moment | None = Field(default=None, description="RFC 3339 with a time zone, from 1970 on; this moment and later.")
    created_before: _Moment | None = Field(default=None, description="RFC 3339 with a time zone, from 1970 on; earlier than this moment.")
    metadata: tuple[_Entry, ...] = Field(
        default=(),
        max_length=8,
        description="`key=value`, several times for several keys. Numbers and booleans as in JSON: `n=1`, `rush=true`.",
    )

    def matches(self, job: Glance) -> bool:
        """Whether a job has the status, the operation and the metadata that are asked for."""
        if self.status not in (None, job.status) or self.operation not in (None, job.operation):
            return False
        told = {f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in job.metadata.items()}
        return told.issuperset(self.metadata)


Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        examples=["wait=30"],
        description="`wait=N` (1-60): answer when the job has ended, or N seconds after the request came in; above 55 it is 55.",
    ),
]


MetadataAgain = Annotated[None, Depends(query_once("metadata"))]


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
    responses={
        200: {
            "model": Job | DryRun,
            "description": "The finished job, with `Prefer: wait=N`; or with `dry_run` what it would be.",
            "headers": optional("Location") | headers("Preference-Applied"),
        },
        202: _ACCEPTED,
        **refusals(*JSON_BODY, *FORM_BODY, *_ACCEPTING, *_SOURCES, *_MASKS),
    },
)
async def create(
    request: Request,
    response: Response,
    caller: JobsWriter,
    parts: Parts,
    root_path: RootPath,
    _: QueryOnce,
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
        found = await dry_run(parts, caller, body.take())
        return JSONResponse(found.model_dump(mode="json"))
    spec = await _made(parts, _submitted(parts, caller, key, body))
    request.state.release_body()
    return await _answer(request, response, parts, root_path, spec, wait_s)


async def _submitted(parts: Services, caller: Tenant, key: str | None, body: JobBody) -> JobSpec:
    """The job of a body, which nobody holds afterwards."""
    sent = body.take()
    return await once(parts, caller, key, partial(job_digest, sent), partial(submit, parts, caller, sent), size=body.size)


@router.post(
    "/{job_id}/repeat",
    operation_id="jobs_repeat",
    status_code=202,
    response_model=Job,
    openapi_extra=described(RepeatRequest, required=False),
    responses={200: {"model": Job, **_FINISHED}, 202: _ACCEPTED, **refusals(*JSON_BODY, *_ACCEPTING, JobNotFound, InputsGone)},
)
async def repeat_job(
    job_id: str,
    request: Request,
    response: Response,
    caller: JobsRepeater,
    parts: Parts,
    root_path: RootPath,
    changes: Changes,
    _: NoQuery,
    key: IdempotencyKey,
    prefer: Prefer = None,
) -> Job:
    """Make a new job with the resolved request and the inputs of another, by the same seed unless the body says otherwise.

    It paints the same as long as the revisions of its models are the same, which the `recipe` tells.
    """
    wait_s = _wait_seconds(prefer)
    make = partial(repeat, parts, caller, job_id, changes)
    spec = await _made(parts, once(parts, caller, key, partial(repeat_digest, job_id, changes), make))
    request.state.release_body()
    return await _answer(request, response, parts, root_path, spec, wait_s)


async def _made(parts: Services, making: Awaitable[JobSpec]) -> JobSpec:
    """The job, or the refusal counted."""
    try:
        return await making
    except OutfillError as error:
        parts.metrics.refused.labels(error.code).inc()
        raise


async def _answer(request: Request, response: Response, parts: Services, root_path: str, spec: JobSpec, wait_s: int) -> Job:
    """The job just accepted, when it has ended or ``wait_s`` after the request came in."""
    if wait_s:
        began = time.perf_counter()
        # The job is accepted, whatever happens to the waiting.
        with suppress(RedisError):
            await parts.listeners.until_terminal(spec.id, spec.tenant, request.state.began + wait_s - began)
        request.state.waited_s = time.perf_counter() - began
        response.headers["Preference-Applied"] = f"wait={wait_s}"
    job = await run_in_threadpool(_accepted, parts, spec, root_path)
    response.headers["Location"] = job.urls.self
    if wait_s and job.status.terminal:
        response.status_code = 200
    return job


def _accepted(parts: Services, spec: JobSpec, root_path: str) -> Job:
    """The job just accepted, as it is by now; as it was accepted, if Redis went away since."""
    try:
        return _view(parts, parts.records.get(spec.id, spec.tenant), root_path)
    except RedisError:
        return public(JobRecord(spec, JobStatus.QUEUED, attempts=0), parts.storage, root_path=root_path)


def _wait_seconds(prefer: str | None) -> int:
    """RFC 7240: names of preferences have no case, and unknown ones are ignored."""
    for preference in re.split(r"[,;]", prefer or ""):
        name, _, value = (part.strip() for part in preference.partition("="))
        if name.lower() == "wait":
            written = _SECONDS.fullmatch(value)
            seconds = int(written[1]) if written else 0
            if not 1 <= seconds <= MAX_WAIT_S:
                raise Invalid(f"wait must be 1 to {MAX_WAIT_S} seconds", field="Prefer")
            return min(seconds, _LONGEST_WAIT_S)
    return 0


@router.get("", responses={200: {"links": links("job_id", "$response.body#/items/0/id", *_FOLLOWING)}, **refusals()})
async def page(caller: JobsReader, parts: Parts, root_path: RootPath, _: MetadataAgain, query: Annotated[ListQuery, Query()]) -> JobList:
    """The caller's jobs that match all filters, newest first (by id, whose first ten letters are the time).

    A page holds `limit` jobs, or fewer where those that match are rare; `next` is null on the last one.
    """
    since = first_id("job", query.created_from) if query.created_from else None
    ends = [query.cursor] if query.cursor else []
    if query.created_before:
        ends.append(first_id("job", query.created_before))
    before = min(ends, default=None)

    def read() -> JobList:
        records, following = parts.records.page(caller.name, before=before, since=since, limit=query.limit, wanted=query.matches)
        return JobList(items=tuple(_view(parts, record, root_path) for record in records), next=following)

    return await parts.listing.run(caller.name, read)


@router.get("/{job_id}", responses=refusals(JobNotFound))
def read(job_id: str, caller: JobsReader, parts: Parts, root_path: RootPath, _: NoQuery) -> Job:
    """One job."""
    return _view(parts, parts.records.get(job_id, caller.name), root_path)


@router.post("/{job_id}/cancel", responses=refusals(JobNotFound, JobAlreadyFinished))
def cancel(job_id: str, caller: JobsWriter, parts: Parts, root_path: RootPath, _: NoQuery) -> Job | JobState:
    """Cancel a job: at once while it waits, at its next step while it runs. Canceling twice is no error.

    A key without `jobs:read` is told its state alone.
    """
    record = parts.records.cancel(job_id, caller.name)
    job = _view(parts, record, root_path)
    return job if Scope.JOBS_READ in caller.scopes else JobState.of(job)


@router.delete("/{job_id}", status_code=204, responses=refusals(JobNotFound, JobNotFinished))
async def delete(job_id: str, caller: JobsWriter, parts: Parts, _: NoQuery) -> None:
    """Delete a job that has ended: its record, its inputs and outputs, the webhooks that it is owed, and its idempotency key."""
    await parts.storing.run(caller.name, _delete, parts, caller.name, job_id)


def _delete(parts: Services, tenant: str, job_id: str) -> None:
    record = parts.records.get(job_id, tenant)
    if not record.status.terminal:
        raise JobNotFinished(f"the job is {record.status}; POST /v1/jobs/{job_id}/cancel first")
    parts.storage.delete_job(tenant, job_id)  # the record last: it is what leads to the objects
    parts.records.delete(record.spec, only_if="ended")
    parts.storage.delete([record.archive])  # which the steward may have written just now
    parts.queue.wait_until_durable()  # else a Redis that crashes now would bring the record back, without its objects
