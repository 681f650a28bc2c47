"""What the routes work with: one object for each process, put together by ``create_app``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ParamSpec, TypeVar, cast

import httpx
import redis
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from core.catalogue import Catalogue
from core.events import Endpoints, Outbox
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from imagefiles.sandbox import Sandbox
from service.keys import KeyRing
from service.listeners import Listeners
from service.metrics import ApiMetrics
from service.threads import BodyBytes, Shares, Threads

P = ParamSpec("P")
R = TypeVar("R")
_FEW = 2**13
"""Bytes that are read in a millisecond or two, whatever they say."""


@dataclass(frozen=True)
class Services:
    """The parts of a running API process."""

    settings: Settings
    connection: redis.Redis
    listeners: Listeners
    """Callers who wait for a job: one connection for all."""
    keys: KeyRing
    storage: Storage
    """From a coroutine its calls go through ``storing``."""
    storing: Threads
    checking: Threads
    """For looking into images, which is done by ``decoding``."""
    decoding: Sandbox
    parsing: Threads
    """For what else a request holds: its cost is the caller's."""
    listing: Threads
    """For pages."""
    telling: Threads
    """For those who follow a job or wait for it."""
    bodies: BodyBytes
    records: JobRecords
    endpoints: Endpoints
    outbox: Outbox
    queue: JobQueue
    catalogue: Catalogue
    http: httpx.AsyncClient
    """Guarded: for URLs that callers name."""
    calls: Shares
    """In looking those up and fetching them: name servers and hosts may be slow."""
    reads: Shares
    """In reading uploads."""
    metrics: ApiMetrics

    async def reading(self, tenant: str, size: int, call: Callable[P, R], *args: P.args, **named: P.kwargs) -> R:
        """What ``call`` makes of ``size`` bytes that a caller sent: of many in threads in which tenants take turns."""
        if size > _FEW:
            return await self.parsing.run(tenant, call, *args, **named)
        return await run_in_threadpool(call, *args, **named)


async def _services(request: Request) -> Services:  # no thread is needed for it
    return cast("Services", request.app.state.services)


async def _root_path(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


Parts = Annotated[Services, Depends(_services)]
RootPath = Annotated[str, Depends(_root_path)]
"""What the paths that callers know begin with."""
