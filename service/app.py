"""Puts the API together. ``uvicorn service.app:create_app --factory``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from redis.asyncio import Redis as AsyncRedis

from api_schemas.errors import Problem
from core import logging, outbound, queue
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from service import bodies, problems
from service.deps import Services
from service.keys import KeyRing
from service.metrics import ApiMetrics
from service.middleware import BodyLimit, RequestContext
from service.routes import health, jobs, models, uploads, usage

_PROBLEM = {"model": Problem, "content": {"application/problem+json": {}}}


def build_services(settings: Settings) -> Services:
    """Connect the parts of one process."""
    connection = queue.connect(settings.redis)
    return Services(
        settings=settings,
        connection=connection,
        waiting=AsyncRedis.from_url(settings.redis.url.get_secret_value(), socket_timeout=None),
        keys=KeyRing(connection, settings),
        storage=Storage(settings.s3),
        records=JobRecords.of(connection, settings.retention),
        queue=JobQueue(connection, fsync_timeout_ms=settings.redis.fsync_timeout_ms),
        catalogue=Catalogue(connection),
        http=outbound.client(settings.outbound),
        metrics=ApiMetrics(),
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without ``settings`` they come from the environment."""
    settings = settings or Settings()
    logging.configure(settings.logging, "api")
    services = build_services(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.services = services
        yield
        await services.http.aclose()
        await services.waiting.aclose()
        services.connection.close()

    app = FastAPI(
        title="Outfill",
        version=version("outfill"),
        summary="Fills, extends, erases and replaces parts of images.",
        lifespan=lifespan,
        responses={401: _PROBLEM, 403: _PROBLEM, 404: _PROBLEM, 409: _PROBLEM, 413: _PROBLEM, 422: _PROBLEM, 429: _PROBLEM, 503: _PROBLEM},
    )
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.limits.max_body_bytes, timeout_s=settings.limits.body_timeout_s)
    app.add_middleware(RequestContext, metrics=services.metrics)  # outermost: it counts refusals too
    for module in (health, jobs, uploads, models, usage):
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schema["components"]["schemas"].update(bodies.schemas())
        app.openapi_schema = schema
    return app.openapi_schema
