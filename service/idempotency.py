"""Idempotency keys: a POST that is sent again makes no second job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Annotated, Any

from fastapi import Depends, Header
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import IdempotencyKeyInUse, IdempotencyKeyReused, Invalid
from api_schemas.jobs import JobSpec, new_id
from core.jobs import Reservation
from service.auth import Tenant
from service.deps import Services
from service.sources import Sent, letters
from service.submit import enqueue

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_DESCRIPTION = (
    "1 to 255 visible ASCII characters. The same key with the same body, by the same API key, answers with the job that the first request made, for 24 hours "
    "or until the job is deleted; with another body it is 422, and 409 while the first is still being accepted. A refused request frees its key. A dry run takes none."
)


async def _key(
    idempotency_key: Annotated[
        str | None, Header(alias=HEADER, description=_DESCRIPTION, json_schema_extra={"pattern": f"^{_KEY.pattern}$"})
    ] = None,
) -> str | None:
    if idempotency_key is None:
        return None
    if not _KEY.fullmatch(idempotency_key):
        raise Invalid("send it as 1 to 255 visible ASCII characters", field=HEADER)
    return idempotency_key


IdempotencyKey = Annotated[str | None, Depends(_key)]


def digest(asked: Mapping[str, Any], files: Mapping[str, bytes], data_urls: Mapping[str, memoryview] = MappingProxyType({})) -> str:
    """What tells one request from another, as SHA-256: its JSON in one spelling, with the long data URLs in their places, and its files."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    rest, made = json.dumps([asked, hashes], sort_keys=True).encode(), hashlib.sha256()
    for name in sorted(data_urls, key=lambda name: rest.index(name.encode())):
        before, rest = rest.split(name.encode(), 1)
        made.update(before)
        for piece in letters(data_urls[name]):
            made.update(piece)
    made.update(rest)
    return made.hexdigest()


def job_digest(sent: Sent) -> str:
    """The digest of a job request. A field that is left out and one that says its default are the same."""
    return digest(sent.request.model_dump(mode="json", exclude_defaults=True), sent.files, sent.data_urls)


async def once(
    parts: Services,
    caller: Tenant,
    key: str | None,
    asked: Callable[[], str],
    make: Callable[[Reservation | None], Awaitable[JobSpec]],
    *,
    size: int = 0,
) -> JobSpec:
    """The job that ``make`` makes, or the one that was made under ``key`` before.

    ``asked`` is the digest of the request, which had ``size`` bytes. Raises ``IdempotencyKeyReused``, ``IdempotencyKeyInUse``,
    ``TooManyReservations``, and what ``make`` raises; the key is free again then. Where this process dies on the way, the key's lease lapses.
    """
    if key is None:
        return await make(None)
    wanted = Reservation(caller.name, caller.key_id, key, await parts.reading(caller.name, size, asked), token=new_id("res"))
    held = await run_in_threadpool(parts.records.reserve, wanted)
    if held.request != wanted.request:
        raise IdempotencyKeyReused("another request was sent with this key", field=HEADER)
    if held.job_id is not None:
        return await run_in_threadpool(_made_before, parts, held.job_id)
    if held.token != wanted.token:
        raise IdempotencyKeyInUse("the first request with this key is still being accepted", field=HEADER)
    try:
        return await make(wanted)
    except Exception:
        with suppress(RedisError):  # then its lease lapses
            await run_in_threadpool(parts.records.release, wanted)
        raise


def _made_before(parts: Services, job_id: str) -> JobSpec:
    record = parts.records.find(job_id)
    if record is None:
        raise IdempotencyKeyInUse("the first request with this key is being taken back", field=HEADER)
    if parts.records.accepting(job_id):  # the API died before its answer, or is about to give it: queuing twice is queuing once
        enqueue(parts, record.spec)
    return record.spec
