"""Access: what a key may do, and what it has been used for."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from pydantic import BaseModel, Field


class Scope(StrEnum):
    """What a key may do. Every route under ``/v1`` demands one."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    UPLOADS_WRITE = "uploads:write"
    MODELS_READ = "models:read"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    USAGE_READ = "usage:read"


class DayOfUsage(BaseModel):
    """What one key was used for on one day (UTC)."""

    day: date
    requests: int = Field(description="Requests that were let in; those that were refused for their rate are not counted.")
    jobs: int = Field(description="Jobs accepted.")
    images: int = Field(description="Output images of jobs that succeeded, on the day that they did.")
    megapixels: float = Field(description="Width times height of those images, in millions.")


class UsageList(BaseModel):
    """The days on which a key was used, newest first."""

    items: tuple[DayOfUsage, ...]
    next: str | None = Field(default=None, description="Always null: a key has at most 400 days.")
