"""What is told about a job: the payload of a webhook, and the message that a waiting caller gets."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from api_schemas.jobs import Job, JobStatus, new_id
from api_schemas.requests import JobEvent, WebhookTarget

TERMINAL_EVENTS = {
    JobStatus.SUCCEEDED: JobEvent.SUCCEEDED,
    JobStatus.FAILED: JobEvent.FAILED,
    JobStatus.CANCELED: JobEvent.CANCELED,
    JobStatus.EXPIRED: JobEvent.EXPIRED,
}


class WebhookRow(BaseModel):
    """A webhook to deliver, as the outbox keeps it."""

    model_config = ConfigDict(frozen=True)

    id: str
    """The ``webhook-id``: the same over all attempts."""
    job_id: str
    tenant: str
    event: JobEvent
    url: str
    occurred_at: datetime
    seq: int = 0
    """Set by the script that commits the event."""
    attempts: int = 0

    @classmethod
    def of(cls, target: WebhookTarget | None, event: JobEvent, *, job_id: str, tenant: str, at: datetime) -> Self | None:
        """The row for ``event``, or ``None`` where nobody asked to be told."""
        if target is None or event not in target.events:
            return None
        return cls(id=new_id("evt"), job_id=job_id, tenant=tenant, event=event, url=target.url, occurred_at=at)


class WebhookPayload(BaseModel):
    """The body of a webhook (Standard Webhooks)."""

    type: JobEvent
    timestamp: datetime = Field(description="When the event happened.")
    sequence: int = Field(description="Counts the events of this job from 1; deliveries may overtake each other.")
    data: Job
