"""Webhook endpoints: what a tenant registers, and what became of the webhooks that it was owed."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_serializer, model_validator

from api_schemas.events import EventType
from api_schemas.requests import Body, JobEvent, JobEvents, WebhookTarget, field_fault

ENDPOINT_ID = r"^whk_[0-7][0-9A-HJKMNP-TV-Z]{25}$"
DELIVERY_ID = r"^evt_[0-7][0-9A-HJKMNP-TV-Z]{25}(?:_[0-7][0-9A-HJKMNP-TV-Z]{25})?$"
MAX_OVERLAP_S = 7 * 86400
MAX_OLD_SECRETS = 4
"""Secrets that sign beside the newest: each is kept, and a signature in every webhook."""
Description = Annotated[str, StringConstraints(max_length=256)]


class EndpointRequest(WebhookTarget):
    """Registers a URL that is told of every job of the tenant. What it is signed with is made here and shown once."""

    description: Description = ""


def _without_null(schema: dict[str, Any]) -> None:
    """``None`` stands for "left out", and is refused where it is sent."""
    schema.pop("default")
    schema |= next(kind for kind in schema.pop("anyOf") if kind.get("type") != "null")


class EndpointChanges(Body):
    """What is to be different. What is left out stays."""

    url: str | None = Field(default=None, min_length=1, max_length=2048, json_schema_extra=_without_null)
    events: JobEvents | None = Field(default=None, json_schema_extra=_without_null)
    description: Description | None = Field(default=None, json_schema_extra=_without_null)
    enabled: bool | None = Field(
        default=None,
        description="`false`: nothing is sent, and what happens meanwhile is not sent later.",
        json_schema_extra=_without_null,
    )

    @model_validator(mode="after")
    def _null_is_no_value(self) -> Self:
        for name in sorted(self.model_fields_set):
            if getattr(self, name) is None:
                raise field_fault(name, "null is no value for this; leave it out")
        return self


class RotateRequest(Body):
    """How the secret is replaced."""

    overlap_s: int = Field(
        default=86400,
        ge=0,
        le=MAX_OVERLAP_S,
        description="How long the old secret signs beside the new one. 0: not at all, as after a leak.",
    )


class StoredSecret(BaseModel):
    """A secret as Redis has it: it has to sign, so that no hash of it would do."""

    model_config = ConfigDict(frozen=True)

    value: SecretStr
    expires_at: datetime | None = None
    """``None`` for the newest."""

    @field_serializer("value", when_used="json")
    def _readable(self, value: SecretStr) -> str:
        return value.get_secret_value()


class StoredEndpoint(BaseModel):
    """An endpoint as Redis has it. core/lua/tell.lua reads ``enabled`` and ``events``."""

    model_config = ConfigDict(frozen=True)

    id: str
    url: str
    events: tuple[JobEvent, ...]
    description: str
    enabled: bool = True
    disabled_reason: str | None = None
    created_at: datetime
    secrets: tuple[StoredSecret, ...]
    """Newest first."""

    def signing(self, now: datetime) -> tuple[SecretStr, ...]:
        """The secrets that sign at this moment."""
        return tuple(secret.value for secret in self.secrets if secret.expires_at is None or secret.expires_at > now)

    def rotated(self, value: SecretStr, now: datetime, until: datetime) -> StoredEndpoint:
        """With a new secret; older ones sign no longer than ``until``, and only the newest of them sign at all."""
        old = (secret.model_copy(update={"expires_at": min(secret.expires_at or until, until)}) for secret in self.secrets)
        kept = [secret for secret in old if secret.value != value and secret.expires_at is not None and secret.expires_at > now]
        return self.model_copy(update={"secrets": (StoredSecret(value=value), *kept[:MAX_OLD_SECRETS])})


class Endpoint(BaseModel):
    """An endpoint as its owner sees it."""

    id: str = Field(examples=["whk_01JD0000000000000000000000"])
    url: str
    events: tuple[JobEvent, ...]
    description: str
    enabled: bool
    disabled_reason: str | None = Field(default=None, description="Why the service disabled it: `gone` after it answered 410.")
    created_at: datetime
    old_secret_signs_until: datetime | None = Field(default=None, description="While a replaced secret still signs beside the new one.")

    @classmethod
    def of(cls, stored: StoredEndpoint, now: datetime) -> Self:
        """Without its secrets."""
        ends = [secret.expires_at for secret in stored.secrets if secret.expires_at is not None and secret.expires_at > now]
        return cls(**stored.model_dump(exclude={"secrets"}), old_secret_signs_until=max(ends, default=None))


class EndpointWithSecret(Endpoint):
    """An endpoint with a secret that was just made. It is not shown again."""

    secret: str = Field(repr=False, description="What webhooks to it are signed with (Standard Webhooks).", examples=["whsec_…"])


class EndpointList(BaseModel):
    """All endpoints of the tenant, oldest first."""

    items: tuple[Endpoint, ...]
    next: str | None = None


class DeliveryState(StrEnum):
    """What became of a webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class Attempt(BaseModel):
    """One try to deliver a webhook."""

    at: datetime
    status_code: int | None = Field(default=None, description="What the receiver answered; null where it did not.")
    error: str | None = Field(default=None, description="Why it failed; null if it did not.")
    duration_ms: int


class Delivery(BaseModel):
    """A webhook that was owed to one receiver."""

    id: str = Field(description="The `webhook-id`: the same over all attempts.", examples=["evt_01JD0000000000000000000000"])
    event: EventType
    job_id: str | None = Field(description="Null for a test event.")
    sequence: int = Field(description="Counts the events of its job from 1.")
    endpoint: str | None = Field(description="The endpoint that it is for; null where it is for the URL that the job itself named.")
    url: str | None = Field(description="That URL; null for an endpoint's.")
    state: DeliveryState = Field(description="`dead`: every attempt failed, or there was no sense in another.")
    created_at: datetime
    next_attempt_at: datetime | None = Field(
        description="While it is pending. During an attempt: when it would be tried again if that were lost."
    )
    attempts: tuple[Attempt, ...] = Field(description="Oldest first, the last 32.")


class DeliveryList(BaseModel):
    """A page of deliveries, newest first."""

    items: tuple[Delivery, ...]
    next: str | None = Field(default=None, description="Pass as `cursor` for the next page; null on the last.")
