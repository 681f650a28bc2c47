"""``/v1/webhooks``: endpoints that are told of every job, and what became of what they were told."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api_schemas.errors import (
    DeliveryNotFound,
    PayloadGone,
    TooManyPings,
    TooManyWebhooks,
    WebhookDisabled,
    WebhookNotAllowed,
    WebhookNotFound,
)
from api_schemas.jobs import utc_now
from api_schemas.webhooks import (
    DELIVERY_ID,
    ENDPOINT_ID,
    Delivery,
    DeliveryList,
    DeliveryState,
    Endpoint,
    EndpointChanges,
    EndpointList,
    EndpointRequest,
    EndpointWithSecret,
    RotateRequest,
)
from service import webhooks
from service.auth import WebhooksChanger, WebhooksReader, WebhooksWriter
from service.bodies import ChangedEndpoint, NewEndpoint, NoQuery, QueryOnce, Rotation, described
from service.deps import Parts
from service.openapi import JSON_BODY, links, refusals

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
_FOLLOWING = ("webhooks_read", "webhooks_change", "webhooks_delete", "webhooks_rotate", "webhooks_ping")


class DeliveryQuery(BaseModel):
    """The query of ``GET /v1/webhooks/deliveries``."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(
        default=None, pattern=DELIVERY_ID, description="The `next` of the page before; the filters may stay or change."
    )
    limit: int = Field(default=20, ge=1, le=100)
    state: DeliveryState | None = Field(default=None, description="`dead`: the dead letters.")
    endpoint: str | None = Field(default=None, pattern=ENDPOINT_ID)


@router.post(
    "",
    status_code=201,
    openapi_extra=described(EndpointRequest),
    responses={
        201: {"links": links("endpoint_id", "$response.body#/id", *_FOLLOWING)},
        **refusals(*JSON_BODY, WebhookNotAllowed, TooManyWebhooks),
    },
)
async def create(caller: WebhooksWriter, parts: Parts, body: NewEndpoint, _: NoQuery) -> EndpointWithSecret:
    """Register a URL that is told of the caller's jobs. The answer is the only one that shows its secret."""
    return await webhooks.register(parts, caller, body)


@router.get("", responses={200: {"links": links("endpoint_id", "$response.body#/items/0/id", *_FOLLOWING)}, **refusals()})
def page(caller: WebhooksReader, parts: Parts, _: NoQuery) -> EndpointList:
    """All endpoints, oldest first."""
    return EndpointList(items=tuple(Endpoint.of(endpoint, utc_now()) for endpoint in parts.endpoints.of(caller.name)))


@router.get(
    "/deliveries",
    responses={200: {"links": links("delivery_id", "$response.body#/items/0/id", "webhooks_redeliver")}, **refusals()},
)
async def deliveries(caller: WebhooksReader, parts: Parts, _: QueryOnce, query: Annotated[DeliveryQuery, Query()]) -> DeliveryList:
    """What the caller's receivers were sent or are owed, newest first, with each attempt; also for URLs that jobs name themselves.

    Kept for some days after its end. Where what is asked for is rare a page may be short; `next` is null on the last one.
    """
    items, following = await parts.listing.run(
        caller.name, parts.outbox.page, caller.name, state=query.state, endpoint=query.endpoint, before=query.cursor, limit=query.limit
    )
    return DeliveryList(items=tuple(items), next=following)


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    responses=refusals(DeliveryNotFound, WebhookNotFound, PayloadGone, WebhookDisabled),
)
def redeliver(delivery_id: str, caller: WebhooksChanger, parts: Parts, _: NoQuery) -> Delivery:
    """Send a webhook again, whatever became of it, under the same id and with the whole schedule."""
    return webhooks.redeliver(parts, caller, delivery_id)


@router.get("/{endpoint_id}", responses=refusals(WebhookNotFound))
def read(endpoint_id: str, caller: WebhooksReader, parts: Parts, _: NoQuery) -> Endpoint:
    """One endpoint."""
    return Endpoint.of(parts.endpoints.get(caller.name, endpoint_id), utc_now())


@router.patch(
    "/{endpoint_id}",
    openapi_extra=described(EndpointChanges),
    responses=refusals(*JSON_BODY, WebhookNotFound, WebhookNotAllowed),
)
async def change(endpoint_id: str, caller: WebhooksChanger, parts: Parts, body: ChangedEndpoint, _: NoQuery) -> Endpoint:
    """Change where, of what, or whether an endpoint is told. One that was disabled after a 410 is enabled so too."""
    return await webhooks.change(parts, caller, endpoint_id, body)


@router.delete("/{endpoint_id}", status_code=204, responses=refusals(WebhookNotFound))
def delete(endpoint_id: str, caller: WebhooksWriter, parts: Parts, _: NoQuery) -> None:
    """Forget an endpoint. What it is still owed is not sent."""
    parts.endpoints.remove(caller.name, endpoint_id)


@router.post(
    "/{endpoint_id}/rotate",
    openapi_extra=described(RotateRequest, required=False),
    responses=refusals(*JSON_BODY, WebhookNotFound),
)
def rotate(endpoint_id: str, caller: WebhooksChanger, parts: Parts, body: Rotation, _: NoQuery) -> EndpointWithSecret:
    """Make a new secret, which the answer shows. The old one signs beside it for `overlap_s`."""
    return webhooks.rotate(parts, caller, endpoint_id, body)


@router.post(
    "/{endpoint_id}/ping",
    status_code=202,
    responses={
        202: {"links": links("delivery_id", "$response.body#/id", "webhooks_redeliver")},
        **refusals(WebhookNotFound, WebhookDisabled, TooManyPings),
    },
)
def ping(endpoint_id: str, caller: WebhooksChanger, parts: Parts, _: NoQuery) -> Delivery:
    """Send a test event, `webhook.ping`. A few may wait for one endpoint, and of those that have ended the last are listed."""
    return webhooks.ping(parts, caller, endpoint_id)
