"""What is told about a job: events, the webhooks that carry them, and the payload."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from api_schemas.jobs import Job, JobStatus, new_id, utc_now
from api_schemas.requests import JobEvent

TERMINAL_EVENTS = {
    JobStatus.SUCCEEDED: JobEvent.SUCCEEDED,
    JobStatus.FAILED: JobEvent.FAILED,
    JobStatus.CANCELED: JobEvent.CANCELED,
    JobStatus.EXPIRED: JobEvent.EXPIRED,
}
PING: Literal["webhook.ping"] = "webhook.ping"
EventType = JobEvent | Literal["webhook.ping"]


def status_after(event: JobEvent) -> JobStatus:
    """The state that a job has by this event."""
    return next((status for status, told in TERMINAL_EVENTS.items() if told is event), JobStatus.RUNNING)


class Event(BaseModel):
    """Something that happened; each receiver that wants it is owed one webhook of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    type: EventType
    tenant: str
    job_id: str | None = None
    """``None`` for a test event."""
    occurred_at: datetime

    @classmethod
    def now(cls, event: EventType, *, tenant: str, job_id: str | None = None) -> Self:
        """An event of this moment."""
        return cls(id=new_id("evt"), type=event, tenant=tenant, job_id=job_id, occurred_at=utc_now())


class WebhookRow(BaseModel):
    """A webhook to deliver, as the outbox keeps it."""

    model_config = ConfigDict(frozen=True)

    id: str
    """The ``webhook-id``: the same over all attempts. That of its event, and for an endpoint the endpoint's letters behind it."""
    event: Event
    lane: str
    """Whom it waits with: the rows of one receiver."""
    url: str | None = None
    """The job's own URL; or"""
    endpoint: str | None = None
    """the endpoint that it goes to."""
    seq: int
    attempts: int
    """Since it was last owed anew."""


class WebhookPayload(BaseModel):
    """The body of a webhook (Standard Webhooks)."""

    type: JobEvent
    timestamp: datetime = Field(description="When the event happened.")
    sequence: int = Field(description="Counts the events of this job from 1; deliveries may overtake each other.")
    data: Job


class PingData(BaseModel):
    """Whom a test event was for."""

    endpoint: str


class PingPayload(BaseModel):
    """The body of a test event."""

    type: Literal["webhook.ping"] = "webhook.ping"
    timestamp: datetime
    data: PingData
