"""What the routes work with: one object for each process, put together by ``create_app``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import httpx
import redis
from fastapi import Depends, Request
from redis.asyncio import Redis as AsyncRedis

from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from service.keys import KeyRing
from service.metrics import ApiMetrics


@dataclass(frozen=True)
class Services:
    """The parts of a running API process."""

    settings: Settings
    connection: redis.Redis
    waiting: AsyncRedis
    """For callers who wait for a job: one connection for each."""
    keys: KeyRing
    storage: Storage
    records: JobRecords
    queue: JobQueue
    catalogue: Catalogue
    http: httpx.AsyncClient
    """Guarded: for URLs that callers name."""
    metrics: ApiMetrics


def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


Parts = Annotated[Services, Depends(_services)]
