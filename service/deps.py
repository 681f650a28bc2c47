"""What the routes work with: one object for each process, put together by ``create_app``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import httpx
import redis
from fastapi import Depends, Request

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
from service.threads import Shares, Threads


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
    records: JobRecords
    endpoints: Endpoints
    outbox: Outbox
    queue: JobQueue
    catalogue: Catalogue
    http: httpx.AsyncClient
    """Guarded: for URLs that callers name."""
    calls: Shares
    """In looking those up and fetching them: name servers and hosts may be slow."""
    metrics: ApiMetrics


def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


Parts = Annotated[Services, Depends(_services)]
