"""Puts the API together. ``uvicorn service.app:create_app --factory``."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import FrameType
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis as AsyncRedis

from core import logging, outbound, queue
from core.catalogue import Catalogue
from core.events import Endpoints, Outbox
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Limits, Settings
from core.storage import Storage
from imagefiles.sandbox import Sandbox
from service import openapi, problems, threads
from service.deps import Services
from service.keys import KeyRing
from service.listeners import Listeners
from service.metrics import ApiMetrics
from service.middleware import BodyLimit, PlainHead, RequestContext
from service.routes import events, health, jobs, models, uploads, usage, webhooks

_SWITCH_S = 0.001
"""Seconds for which a thread that reads bodies keeps the loop from the interpreter; else five times as many."""
_POLITE = 19
"""Priority of the processes that look into images: answering goes first."""
LISTENING = "outfill-listening"
"""What the connection of those who wait is called in Redis' list of clients."""


def build_services(settings: Settings) -> Services:
    """Connect the parts of one process."""
    connection = queue.connect(settings.redis)
    records = JobRecords.of(connection, settings)
    # Without a limit on reading: it waits for messages.
    listening = AsyncRedis.from_url(
        settings.redis.url.get_secret_value(), socket_timeout=None, socket_keepalive=True, client_name=LISTENING
    )
    telling = threads.for_news()
    listeners, metrics = Listeners(listening, records, settings.events, telling), ApiMetrics()
    metrics.streams.set_function(listeners.streams)
    return Services(
        settings=settings,
        connection=connection,
        listeners=listeners,
        keys=KeyRing(connection, settings),
        storage=Storage(settings.s3, patient=False),
        storing=threads.for_storage(),
        checking=threads.for_checks(),
        decoding=Sandbox("service.intake", threads.CHECKING, memory=settings.limits.decoding_bytes, niceness=_POLITE),
        parsing=threads.for_parsing(),
        listing=threads.for_pages(),
        telling=telling,
        bodies=_room_for_bodies(settings.limits),
        records=records,
        endpoints=Endpoints(connection),
        outbox=Outbox(connection, settings.webhooks),
        queue=JobQueue(connection, fsync_timeout_ms=settings.redis.fsync_timeout_ms),
        catalogue=Catalogue(connection),
        http=outbound.client(settings.outbound),
        calls=threads.Shares(),
        reads=threads.Shares(threads.READING),
        metrics=metrics,
    )


def _room_for_bodies(limits: Limits) -> threads.BodyBytes:
    """At least one body of each tenant fits."""
    share = max(limits.body_bytes_in_flight_per_tenant, limits.max_body_bytes)
    return threads.BodyBytes(limits.body_bytes_in_flight, share)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without ``settings`` they come from the environment."""
    settings = settings or Settings()
    logging.configure(settings.logging, "api")
    services = build_services(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        sys.setswitchinterval(_SWITCH_S)
        _on_stop_signal(services.listeners.close)
        asyncio.get_running_loop().run_in_executor(None, services.decoding.warm)
        yield
        await services.http.aclose()
        await services.listeners.aclose()
        services.decoding.close()
        services.connection.close()

    app = FastAPI(
        redirect_slashes=False,
        title="Outfill",
        version=version("outfill"),
        summary="Fills, extends, erases and replaces parts of images.",
        lifespan=lifespan,
        generate_unique_id_function=openapi.operation_id,
    )
    routers = [module.router for module in (health, jobs, events, uploads, models, webhooks, usage)]
    problems.install(app, [route for router in routers for route in router.routes])
    limits = settings.limits
    pace = threads.Pace(limits.body_bytes_per_s)
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s, room=services.bodies, pace=pace)
    app.add_middleware(PlainHead)
    app.add_middleware(RequestContext, metrics=services.metrics)  # outermost: it counts refusals too
    for router in routers:
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _on_stop_signal(call: Callable[[], None]) -> None:
    """Call it too when the process is told to end: uvicorn tells the application only after the last open answer has ended."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        earlier = signal.getsignal(number)

        def stop(number: int, frame: FrameType | None, earlier: Any = earlier) -> None:
            loop.call_soon_threadsafe(call)
            if callable(earlier):
                earlier(number, frame)

        signal.signal(number, stop)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        app.openapi_schema = openapi.document(app)
    return app.openapi_schema
