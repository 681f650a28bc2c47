"""``/healthz``, ``/readyz`` and ``/metrics``: for machines that look after machines."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import TooManyAtOnce, Unauthenticated, Unavailable
from service.auth import Scraper
from service.deps import Parts
from service.metrics import SEVERAL, may_have_siblings
from service.openapi import ODD_HEAD, refusal
from service.threads import OURSELVES

router = APIRouter(tags=["health"])


@router.get("/healthz", responses=ODD_HEAD)
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"model": dict[str, str], "description": "A part does not answer."}, **ODD_HEAD})
async def readyz(response: Response, parts: Parts) -> dict[str, str]:
    """Redis takes jobs and S3 answers; else what is wrong: a word, and an explanation."""
    checks = {"redis": await run_in_threadpool(parts.queue.trouble) or "ok", "s3": "ok"}
    try:
        await parts.storing.run(OURSELVES, parts.storage.ping)
    except (TooManyAtOnce, Unavailable):
        checks["s3"] = "unavailable"
    if set(checks.values()) != {"ok"}:
        response.status_code = 503
    return checks


@router.get(
    "/metrics",
    dependencies=[Scraper],
    response_class=PlainTextResponse,
    responses={401: refusal(Unauthenticated), 503: refusal(Unavailable), **ODD_HEAD},
)
def metrics(parts: Parts) -> Response:
    """Prometheus metrics of this process; 503 where several share its address. Needs the bearer token of `OUTFILL_METRICS__TOKEN`."""
    if may_have_siblings():
        raise Unavailable(SEVERAL)
    return Response(generate_latest(parts.metrics.registry), media_type=CONTENT_TYPE_LATEST)
