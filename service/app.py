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
from starlette.middleware.cors import CORSMiddleware

from core import logging, outbound, queue
from core.catalogue import Catalogue
from core.events import Endpoints, Outbox
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Limits, Settings
from core.storage import Storage
from imagefiles.sandbox import Sandbox
from service import openapi, problems, reference_page, threads
from service.deps import Services
from service.keys import KeyRing
from service.listeners import Listeners
from service.metrics import ApiMetrics, warn_of_siblings
from service.middleware import BodyLimit, HeadAsGet, PlainHead, RequestContext
from service.routes import events, health, jobs, models, uploads, usage, webhooks

_SWITCH_S = 0.0002
"""Seconds for which a thread that reads bodies keeps the loop from the interpreter; else 5 ms. A POST takes it some fifty times: each call of a store does."""
_POLITE = 5
"""Niceness of the processes that look into images: the loop goes first, and a check, for which a caller waits, before stages of a worker beside it."""
LISTENING = "outfill-listening"
"""What the connection of those who wait is called in Redis' list of clients."""


def build_services(settings: Settings) -> Services:
    """Connect the parts of one process."""
    connection = queue.connect(settings.redis)
    records = JobRecords.of(connection, settings)
    listening = queue.connect_listening(settings.redis, LISTENING)
    telling, patience_s = threads.for_news(), settings.limits.turn_s
    listeners, metrics = Listeners(listening, records, settings.events, telling), ApiMetrics()
    metrics.streams.set_function(listeners.streams)
    return Services(
        settings=settings,
        connection=connection,
        listeners=listeners,
        keys=KeyRing(connection, settings),
        storage=Storage(settings.s3, patient=False),
        storing=threads.for_storage(patience_s),
        checking=threads.for_checks(patience_s),
        decoding=Sandbox("service.intake", threads.CHECKING, memory=settings.limits.decoding_bytes, niceness=_POLITE),
        parsing=threads.for_parsing(patience_s),
        listing=threads.for_pages(patience_s),
        telling=telling,
        bodies=_room_for_bodies(settings.limits),
        records=records,
        endpoints=Endpoints(connection),
        outbox=Outbox(connection, settings.webhooks),
        queue=JobQueue(connection, fsync_timeout_ms=settings.redis.fsync_timeout_ms, replicas=settings.redis.replicas),
        catalogue=Catalogue(connection),
        http=outbound.client(settings.outbound),
        calls=threads.Shares(threads.CALLING, patience_s),
        reads=threads.Shares(threads.READING, patience_s),
        metrics=metrics,
    )


def _room_for_bodies(limits: Limits) -> threads.BodyBytes:
    """At least one body of each tenant fits."""
    share = max(limits.body_bytes_in_flight_per_tenant, limits.max_body_bytes)
    return threads.BodyBytes(limits.body_bytes_in_flight, share)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without ``settings`` they come from the environment."""
    settings = settings or Settings.read()
    logging.configure(settings.logging, "api")
    services = build_services(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        warn_of_siblings()
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
        root_path=settings.http.root_path,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=openapi.operation_id,
    )
    routers = [module.router for module in (health, jobs, events, uploads, models, webhooks, usage)]
    problems.install(app, [route for router in routers for route in router.routes])
    limits = settings.limits
    pace = threads.Pace(limits.body_bytes_per_s)
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s, room=services.bodies, pace=pace)
    app.add_middleware(PlainHead)
    if settings.http.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.http.cors_origins,
            allow_methods=("GET", "POST", "PATCH", "DELETE"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"),
            expose_headers=openapi.HEADER_NAMES,
        )
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestContext, metrics=services.metrics)  # outermost: it counts refusals too
    for router in routers:
        app.include_router(router)
    reference_page.install(app)
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
