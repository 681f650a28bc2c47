"""Server-sent events of one job: ``state``, ``progress`` and ``preview``, until it has ended.

Only states have ids: they are what a caller who comes back must not miss. Progress and previews are told as they are by then.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api_schemas.errors import OutfillError
from api_schemas.events import status_after
from api_schemas.jobs import JobStatus, Progress
from core.jobs import JobRecord, public
from core.queue import words
from service.deps import Services

_log = structlog.get_logger(__name__)
_HEARTBEAT = ": nothing new\n\n"
_BEGINNING = "0-0"


class Preview(BaseModel):
    """The data of a ``preview`` event."""

    url: str = Field(description="A presigned URL of a small JPEG of what is being painted; the next preview takes its place.")
    step: int = Field(description="Steps done when it was told.")


@dataclass
class _Told:
    """What one caller has been told."""

    entry: str | None
    """The last entry of the job's stream; ``None`` before the first event."""
    status: JobStatus | None = None
    progress: tuple[int, int] = (0, 0)
    preview: int = 0
    gone: bool = False
    """There is no more to tell: the job was deleted, or the key revoked."""


def _frame(event: str, data: BaseModel, entry: str | None = None) -> str:
    head = f"id: {entry}\n" if entry else ""
    return f"{head}event: {event}\ndata: {data.model_dump_json()}\n\n"


class EventStream(StreamingResponse):
    """One caller who follows one job. Holds a Redis connection or a thread only while it reads.

    Raises ``TooManyStreams`` before it has begun.
    """

    def __init__(self, parts: Services, record: JobRecord, key_id: str, last_event_id: str | None, root_path: str) -> None:
        self._parts, self._job_id, self._tenant, self._key_id = parts, record.spec.id, record.spec.tenant, key_id
        self._told, self._root_path = _Told(last_event_id), root_path
        # What stands between must not keep events back.
        super().__init__(self._frames(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, in one of the places that there are."""
        began = time.perf_counter()
        try:
            async with self._parts.listeners.stream(self._tenant):
                await super().__call__(scope, receive, send)
        finally:
            scope["state"]["waited_s"] = time.perf_counter() - began

    async def _frames(self) -> AsyncIterator[str]:
        told, listeners = self._told, self._parts.listeners
        try:
            async with listeners.listen(self._job_id) as news:
                while not listeners.closing:
                    news.clear()
                    for frame in await self._parts.telling.run(self._tenant, lambda: list(self._news())):
                        yield frame
                    if told.gone or (told.status is not None and told.status.terminal):
                        return
                    if not await listeners.news_or(news, self._parts.settings.events.heartbeat_s):
                        yield _HEARTBEAT
        except (RedisError, OutfillError) as error:  # the answer has begun; its caller comes back for the rest
            _log.warning("event_stream_broken", job=self._job_id, error=words(error))

    def _news(self) -> Iterator[str]:
        told = self._told
        if not self._parts.keys.is_good(self._key_id):  # who opened it may hear no more; coming back is a 401
            told.gone = True
            return
        record, entries = self._parts.records.news(self._job_id, told.entry or _BEGINNING)
        if record is None:
            told.gone = True
            return
        if told.entry is None:  # the first event is the job as it is
            told.entry = entries[-1][0] if entries else _BEGINNING
            yield self._state(record, record.status)
        else:
            for told.entry, event in entries:
                yield self._state(record, status_after(event))
            if told.status not in (None, record.status):  # its worker died, and it waits again
                yield self._state(record, record.status)
        told.status = record.status
        yield from self._painting(record)

    def _state(self, record: JobRecord, status: JobStatus) -> str:
        self._told.status = status
        waiting = status is JobStatus.QUEUED
        position = self._parts.queue.position(record.spec) if waiting else None
        job = public(record, self._parts.storage, root_path=self._root_path, position=position, status=status)
        return _frame("state", job, self._told.entry)

    def _painting(self, record: JobRecord) -> Iterator[str]:
        told = self._told
        if record.status is not JobStatus.RUNNING:
            return
        if record.steps and told.progress != (record.step, record.steps):
            told.progress = (record.step, record.steps)
            yield _frame("progress", Progress(step=record.step, steps=record.steps))
        if record.preview and told.preview != record.preview_number:
            told.preview = record.preview_number
            yield _frame("preview", Preview(url=self._parts.storage.presign_get(record.preview), step=record.step))


def to_resume(parts: Services, record: JobRecord, last_event_id: str | None) -> tuple[bool, str | None]:
    """Whether the last event that a caller got is the one that ended the job, and after which to go on.

    An id that this job's stream has not come to is of another stream, as after a Redis that was restored: what came after it would never come.
    """
    if last_event_id is None:
        return False, None
    last = parts.records.last_entry(record.spec.id)
    if last is None or _order(last_event_id) > _order(last):
        return False, None
    return record.status.terminal and last_event_id == last, last_event_id


def _order(entry: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split("-"))


_EXAMPLE = 'id: 1767225600000-0\nevent: state\ndata: {"id": "job_…", "status": "running", …}\n\nevent: progress\ndata: {"step": 8, "steps": 20}\n\n'
OPENAPI: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`state`: the job, first as it is and then after every event, with an id. `progress`: `{step, steps, preview_url}`. "
        "`preview`: `{url, step}`. Comments keep the connection alive. The stream ends after the event of a terminal state.",
        "content": {"text/event-stream": {"schema": {}, "example": _EXAMPLE}},
    },
    204: {"description": "The job has ended, and `Last-Event-ID` is the event that said so: do not come back."},
}
