"""``/v1/usage``: what the caller's key was used for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api_schemas.access import UsageList
from api_schemas.errors import Invalid
from service.auth import UsageReader
from service.bodies import QueryOnce
from service.deps import Parts
from service.openapi import refusals
from service.usage import DAYS_KEPT, days_of

router = APIRouter(prefix="/v1/usage", tags=["usage"])
_Day = Annotated[date, Field(ge=date(2020, 1, 1), lt=date(9999, 1, 1))]


class UsageQuery(BaseModel):
    """The query of ``GET /v1/usage``."""

    model_config = ConfigDict(extra="forbid")

    since: _Day | None = Field(default=None, description="The first day, UTC, from 2020 on. Default: 30 days before the last.")
    until: _Day | None = Field(default=None, description="The last day, UTC, less than 400 days after the first. Default: today.")

    def days(self) -> tuple[date, date]:
        """The first and the last day that are asked for. Raises ``Invalid``."""
        until = self.until or datetime.now(UTC).date()
        since = self.since or until - timedelta(days=30)
        if not timedelta(0) <= until - since < timedelta(days=DAYS_KEPT):
            raise Invalid(f"ask for at most {DAYS_KEPT} days, the first of them no later than the last", field="since")
        return since, until


@router.get("", responses=refusals())
def page(caller: UsageReader, parts: Parts, _: QueryOnce, query: Annotated[UsageQuery, Query()]) -> UsageList:
    """Requests, jobs, images and megapixels of the key that asks, by day (UTC), newest first; days without any are left out."""
    return UsageList(items=tuple(days_of(parts.connection, caller.key_id, *query.days())))
