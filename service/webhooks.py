"""Webhook endpoints: what their owner does with them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import SecretStr
from starlette.concurrency import run_in_threadpool

from api_schemas.errors import PayloadGone, WebhookDisabled
from api_schemas.events import PING, Event
from api_schemas.jobs import new_id, utc_now
from api_schemas.webhooks import (
    Delivery,
    Endpoint,
    EndpointChanges,
    EndpointRequest,
    EndpointWithSecret,
    RotateRequest,
    StoredEndpoint,
    StoredSecret,
)
from service.auth import Tenant
from service.deps import Services
from service.keys import new_webhook_secret
from service.submit import check_webhook


async def register(parts: Services, caller: Tenant, request: EndpointRequest) -> EndpointWithSecret:
    """Register an endpoint. Raises ``WebhookNotAllowed`` and ``TooManyWebhooks``."""
    check_webhook(parts, request.url, "url")
    secret = new_webhook_secret()
    endpoint = StoredEndpoint(
        id=new_id("whk"), created_at=utc_now(), secrets=(StoredSecret(value=SecretStr(secret)),), **request.model_dump()
    )
    await run_in_threadpool(parts.endpoints.add, caller.name, endpoint, limit=parts.settings.webhooks.max_endpoints)
    return _with_secret(endpoint, secret)


async def change(parts: Services, caller: Tenant, endpoint_id: str, changes: EndpointChanges) -> Endpoint:
    """Change an endpoint. Raises ``WebhookNotFound`` and ``WebhookNotAllowed``."""
    if changes.url is not None:
        check_webhook(parts, changes.url, "url")
    update: dict[str, Any] = changes.model_dump(exclude_unset=True)
    if changes.enabled:
        update["disabled_reason"] = None
    changed = await run_in_threadpool(parts.endpoints.change, caller.name, endpoint_id, lambda old: old.model_copy(update=update))
    return Endpoint.of(changed, utc_now())


def rotate(parts: Services, caller: Tenant, endpoint_id: str, request: RotateRequest) -> EndpointWithSecret:
    """Replace an endpoint's secret. Raises ``WebhookNotFound``."""
    secret, now = new_webhook_secret(), utc_now()
    until = now + timedelta(seconds=request.overlap_s)
    changed = parts.endpoints.change(caller.name, endpoint_id, lambda old: old.rotated(SecretStr(secret), now, until))
    return _with_secret(changed, secret)


def ping(parts: Services, caller: Tenant, endpoint_id: str) -> Delivery:
    """Owe an endpoint a test event. Raises ``WebhookNotFound``, ``WebhookDisabled`` and ``TooManyPings``."""
    _check_enabled(parts, caller, endpoint_id)
    return parts.outbox.ping(Event.now(PING, tenant=caller.name), endpoint_id)


def redeliver(parts: Services, caller: Tenant, delivery_id: str) -> Delivery:
    """Owe a webhook anew. Raises ``DeliveryNotFound``, ``PayloadGone``, ``WebhookNotFound`` and ``WebhookDisabled``."""
    row = parts.outbox.row(caller.name, delivery_id)
    if row.event.job_id is not None and parts.records.find(row.event.job_id) is None:
        raise PayloadGone("the job was deleted")
    if row.endpoint is not None:
        _check_enabled(parts, caller, row.endpoint)
    return parts.outbox.redeliver(caller.name, row)


def _check_enabled(parts: Services, caller: Tenant, endpoint_id: str) -> None:
    if not parts.endpoints.get(caller.name, endpoint_id).enabled:
        raise WebhookDisabled("enable the endpoint first")


def _with_secret(endpoint: StoredEndpoint, secret: str) -> EndpointWithSecret:
    return EndpointWithSecret(**Endpoint.of(endpoint, utc_now()).model_dump(), secret=secret)
