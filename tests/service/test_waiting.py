"""Waiting for a job to end."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack

import pytest
import redis
from conftest import CORE_TEST_DB, eventually
from queueing import accept, spec_of

from api_schemas.errors import TooManyStreams
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from service.app import build_services
from service.local import LocalStack


@pytest.fixture
def own_settings(settings: Settings, stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The service's settings, with the database of the tests that talk to Redis themselves: no worker looks there."""
    monkeypatch.setenv("OUTFILL_REDIS__URL", f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}")
    return Settings()


def wait(settings: Settings, job_id: str, timeout_s: float) -> None:
    """Wait as the API does."""

    async def run() -> None:
        services = build_services(settings)
        try:
            await services.listeners.until_terminal(job_id, "shop", timeout_s)
        finally:
            await services.http.aclose()
            await services.listeners.aclose()
            services.connection.close()

    asyncio.run(run())


def test_a_wait_may_outlast_the_patience_of_a_redis_client(own_redis: redis.Redis, own_settings: Settings) -> None:
    """Where a job does not end, the wait returns after its time, also beyond the five seconds after which redis-py gives up."""
    records, queue = JobRecords(own_redis, retention_s=60), JobQueue(own_redis)
    spec = accept(records, queue, spec_of())
    wait(own_settings, spec.id, 5.5)
    assert not records.get(spec.id, "shop").status.terminal


def test_the_last_streams_are_for_tenants_that_have_none(own_settings: Settings) -> None:
    """Of ten places nine are for all; a tenant that has one cannot take the last, one that has none can, and each is told its reason."""

    async def run() -> list[str]:
        limits = own_settings.events.model_copy(update={"streams": 10, "streams_per_tenant": 6})
        services = build_services(own_settings.model_copy(update={"events": limits}))
        reasons = []
        async with AsyncExitStack() as streams:
            for tenant in ["a"] * 7 + ["b"] * 4 + ["c", "d"]:
                try:
                    await streams.enter_async_context(services.listeners.stream(tenant))
                except TooManyStreams as error:
                    reasons.append(f"{tenant}: {error.detail}")
        await services.http.aclose()
        await services.listeners.aclose()
        services.connection.close()
        return reasons

    own, everybody = "6 of your event streams may be open at once, and are", "as many event streams of all callers are open as may be"
    assert asyncio.run(run()) == [f"a: {own}", f"b: {everybody}", f"d: {everybody}"]


def test_a_wait_ends_with_the_job(own_redis: redis.Redis, own_settings: Settings) -> None:
    """The wait returns when the job is canceled meanwhile, long before its time."""
    records, queue = JobRecords(own_redis, retention_s=60), JobQueue(own_redis)
    spec = accept(records, queue, spec_of())
    waiter = threading.Thread(target=wait, args=(own_settings, spec.id, 3600))
    waiter.start()
    records.cancel(spec.id, "shop")
    eventually(lambda: not waiter.is_alive())
