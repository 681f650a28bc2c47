"""Usage: what each key was used for, by day (UTC).

``outfill:usage:{key id}:{day}`` is a hash. The scripts that let a request in, record a job and commit its result count there, each in the
same step, so that nothing is counted twice or missed.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import cast

import redis

from api_schemas.access import DayOfUsage
from core.jobs import USAGE_TTL_S, usage_key

DAYS_KEPT = USAGE_TTL_S // 86400


def today() -> str:
    """The day that it is, in UTC."""
    return datetime.now(UTC).date().isoformat()


def days_of(connection: redis.Redis, key_id: str, since: date, until: date) -> list[DayOfUsage]:
    """The days from ``since`` to ``until``, newest first, on which the key was used."""
    days = [until - timedelta(days=number) for number in range((until - since).days + 1)]
    with connection.pipeline(transaction=False) as pipe:
        for day in days:
            pipe.hgetall(usage_key(key_id, day))
        found = cast("list[dict[bytes, bytes]]", pipe.execute())
    return [_day(day, fields) for day, fields in zip(days, found, strict=True) if fields]


def _day(day: date, fields: dict[bytes, bytes]) -> DayOfUsage:
    numbers = {name: int(fields.get(name.encode(), 0)) for name in ("requests", "jobs", "images", "pixels")}
    return DayOfUsage(
        day=day, requests=numbers["requests"], jobs=numbers["jobs"], images=numbers["images"], megapixels=round(numbers["pixels"] / 1e6, 6)
    )
