"""``/healthz``, ``/readyz`` and ``/metrics``: for machines that look after machines."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import TooManyAtOnce, Unauthenticated, Unavailable
from service.auth import Scraper
from service.deps import Parts
from service.openapi import ODD_HEAD, refusal
from service.threads import OURSELVES

router = APIRouter(tags=["health"])


@router.get("/healthz", responses=ODD_HEAD)
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": dict[str, str], "description": "A part does not answer."}, **ODD_HEAD})
async def readyz(response: Response, parts: Parts) -> dict[str, str]:
    """Redis and S3 answer."""
    checks = {"redis": "ok", "s3": "ok"}
    try:
        await run_in_threadpool(parts.connection.ping)
    except RedisError:
        checks["redis"] = "unavailable"
    try:
        await parts.storing.run(OURSELVES, parts.storage.ping)
    except (TooManyAtOnce, Unavailable):
        checks["s3"] = "unavailable"
    if set(checks.values()) != {"ok"}:
        response.status_code = 503
    return checks


@router.get("/metrics", dependencies=[Scraper], response_class=PlainTextResponse, responses={401: refusal(Unauthenticated), **ODD_HEAD})
def metrics(parts: Parts) -> Response:
    """Prometheus metrics of this process. Needs the bearer token of `OUTFILL_METRICS__TOKEN`."""
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
