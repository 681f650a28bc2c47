"""Accepts a job: resolve, bring in, check, record, store, queue. After this returns, the job cannot be lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import IdempotencyKeyInUse, OutfillError, TooMany, Unavailable, UrlNotAllowed, WebhookNotAllowed
from api_schemas.jobs import InputRef, JobSpec, made_at, new_id
from api_schemas.models import ModelCard, ModelInfo
from api_schemas.requests import JobRequest
from core import outbound
from core.jobs import Reservation
from core.storage import input_key
from service import intake, sources
from service.auth import Tenant
from service.deps import Services
from service.intake import Header
from service.resolve import check_output_size, default_growth, resolve, ungrown
from service.sources import Sent

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A request that would be accepted, with its inputs."""

    request: JobRequest
    """Resolved; its image fields name ``blobs``."""
    model: ModelInfo
    headers: Mapping[str, Header]
    blobs: Mapping[str, bytes]


async def prepare(parts: Services, caller: Tenant, sent: Sent) -> Prepared:
    """Resolve a request, bring its inputs in and check everything, or raise what is wrong with it. Nothing is stored."""
    request = sent.request
    models, resolved, card = await run_in_threadpool(_resolved, parts, request)
    if request.webhook is not None:
        check_webhook(parts, request.webhook.url, "webhook.url")
    blobs = await sources.collect(parts, caller.name, sent)
    limit = parts.settings.limits.max_image_pixels
    options, growth = getattr(resolved, "mask_options", None), default_growth(request, resolved)
    checked = await parts.checking.run(caller.name, intake.check_apart, parts.decoding, parts.settings.limits, blobs, options, growth)
    if not checked.has_room:
        resolved = ungrown(request, resolved)
    check_output_size(resolved, checked.headers["image"], limit)
    model = next(model for model in models if model.card.id == card.id)
    return Prepared(sources.with_stored_sources(resolved), model, checked.headers, blobs)


def _resolved(parts: Services, request: JobRequest) -> tuple[Sequence[ModelInfo], JobRequest, ModelCard]:
    """Beside the loop: prompts are taken apart letter by letter."""
    models = parts.catalogue.models()
    return models, *resolve(request, models, subject_model=parts.settings.models.subject_model)


async def submit(parts: Services, caller: Tenant, sent: Sent, reservation: Reservation | None = None) -> JobSpec:
    """Accept a request, or raise what is wrong with it, in which case nothing was kept."""
    prepared = await prepare(parts, caller, sent)
    blobs = prepared.blobs

    def store(spec: JobSpec) -> None:
        for name, data in blobs.items():
            parts.storage.put(spec.inputs[name].key, data, f"image/{spec.inputs[name].format}")

    job_id = new_id("job")
    size = sum(map(len, blobs.values()))
    inputs = await parts.reading(caller.name, size, _references, caller.name, job_id, prepared.headers, blobs)
    spec = new_spec(caller, job_id, prepared.model.card, prepared.request, inputs)
    await accept(parts, spec, store, reservation)
    return spec


def new_spec(caller: Tenant, job_id: str, card: ModelCard, request: JobRequest, inputs: dict[str, InputRef]) -> JobSpec:
    """A new job of a resolved request."""
    now = made_at(job_id)
    return JobSpec(
        id=job_id,
        tenant=caller.name,
        model=card.id,
        model_revision=card.revision,
        request=request,
        inputs=inputs,
        created_at=now,
        key_id=caller.key_id,
        deadline_at=now + timedelta(seconds=request.deadline_s) if request.deadline_s else None,
    )


async def accept(parts: Services, spec: JobSpec, store: Callable[[JobSpec], None], reservation: Reservation | None) -> None:
    """Record a job, ``store`` its inputs and queue it. Where that fails nothing of it is kept."""
    await parts.storing.run(spec.tenant, _keep, parts, spec, store, reservation)
    parts.metrics.accepted.labels(spec.request.operation, spec.model, spec.request.priority).inc()
    _log.info("job_accepted", job=spec.id, tenant=spec.tenant, operation=spec.request.operation, model=spec.model)


def _references(tenant: str, job_id: str, headers: Mapping[str, Header], blobs: Mapping[str, bytes]) -> dict[str, InputRef]:
    return {name: intake.reference(input_key(tenant, job_id, name), headers[name], data) for name, data in blobs.items()}


def check_webhook(parts: Services, url: str, field: str) -> None:
    """Raises ``WebhookNotAllowed`` for a URL that nothing is sent to."""
    try:
        outbound.check_destination(url, parts.settings.outbound)
    except UrlNotAllowed as error:
        raise WebhookNotAllowed(error.detail, field=field) from error


def _keep(parts: Services, spec: JobSpec, store: Callable[[JobSpec], None], reservation: Reservation | None) -> None:
    """The record (as "being accepted"), then the bytes, then the idempotency key, then the queue. A failure takes everything back; where
    this process dies half-way, the steward does.
    """
    try:
        parts.records.create(spec)
        store(spec)
        if reservation is not None:
            _bind(parts, reservation, spec)
    except TooMany:  # nothing was recorded, and looking for what is left would cost more than refusing
        raise
    except BaseException:
        _take_back(parts, spec)
        raise
    enqueue(parts, spec)


def _bind(parts: Services, reservation: Reservation, spec: JobSpec) -> None:
    if not parts.records.bind(reservation, spec.id):
        raise IdempotencyKeyInUse("another request with this key was faster", field="Idempotency-Key")


def enqueue(parts: Services, spec: JobSpec) -> None:
    """Queue a job whose inputs are stored; from here on it is accepted. A failure takes everything back."""
    try:
        parts.queue.push(spec)
        in_time = parts.records.accepted(spec.id)
    except BaseException:
        _take_back(parts, spec)
        raise
    if not in_time and parts.records.find(spec.id) is None:
        _take_back(parts, spec)
        raise Unavailable("storing the job took too long")


def _take_back(parts: Services, spec: JobSpec) -> None:
    """Best effort: what is left over the steward finds among the jobs that are being accepted, or that may have left objects.

    A job that a worker has begun already, or that was accepted by a retry of the same request, is left: there is no taking that back.
    """
    try:
        parts.records.expect_leftovers(spec)  # with the record goes what leads to the objects
        if parts.records.delete(spec, only_if="unaccepted") or parts.records.find(spec.id) is None:
            parts.storage.delete_job(spec.tenant, spec.id)
            parts.records.forget_leftovers(spec.tenant, spec.id)
    except (OutfillError, RedisError):
        _log.warning("take_back_failed", job=spec.id, exc_info=True)
