"""``/v1/jobs/{id}/events``: what happens to a job, as it happens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import JobNotFound, TooManyStreams
from service.auth import JobsReader
from service.bodies import NoQuery
from service.deps import Parts, RootPath
from service.event_stream import OPENAPI, EventStream, to_resume
from service.openapi import refusals

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        pattern=r"^[0-9]{1,18}-[0-9]{1,18}$",
        examples=["1767225600000-0"],
        description="The id of the last event that arrived: what came after it is told.",
    ),
]


@router.get("/{job_id}/events", response_class=Response, responses={**OPENAPI, **refusals(JobNotFound, TooManyStreams)})
async def follow(
    job_id: str, caller: JobsReader, parts: Parts, root_path: RootPath, _: NoQuery, last_event_id: LastEventId = None
) -> Response:
    """Server-sent events: the states of a job, its progress and its previews, until it has ended."""
    record = await run_in_threadpool(parts.records.get, job_id, caller.name)
    has_heard_the_end, after = await run_in_threadpool(to_resume, parts, record, last_event_id)
    return Response(status_code=204) if has_heard_the_end else EventStream(parts, record, caller.key_id, after, root_path)
