"""What is told: a stream of events for each job, and the outbox of webhooks.

The scripts that change a job's state write both in the same step (core/lua). A stream ``outfill:events:{job}`` is what a waiting
caller reads; the outbox ``outfill:outbox`` (webhook ids by due time, ms) is what the steward delivers.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import redis
import redis.asyncio

from api_schemas.events import WebhookRow
from api_schemas.jobs import JobStatus

OUTBOX, DEAD_LETTERS = "outfill:outbox", "outfill:dead"
DEAD_LETTER_TTL_S = 7 * 86400

_LEASE_DUE = """
-- Takes due rows and puts them off by a lease, so that a sender that dies does not take them with it.
-- KEYS: outbox   ARGV: now_ms, lease_ms, limit
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], 0, ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], ARGV[1] + ARGV[2], id) end
return ids
"""

_PUT_OFF = """
-- KEYS: outbox, webhook row   ARGV: id, due_ms
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('HINCRBY', KEYS[2], 'attempts', 1)
"""

_BURY = """
-- KEYS: outbox, webhook row, dead letters   ARGV: id, now_s, ttl_s
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return end
redis.call('HINCRBY', KEYS[2], 'attempts', 1)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], 0, ARGV[2] - ARGV[3])
"""


def stream_key(job_id: str) -> str:
    """The stream of a job's events."""
    return f"outfill:events:{job_id}"


def webhook_key(webhook_id: str) -> str:
    """The row of one webhook."""
    return f"outfill:webhook:{webhook_id}"


class Outbox:
    """Webhooks that are owed. A row leaves only when it was delivered, or given up as a dead letter."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._put_off = connection.register_script(_PUT_OFF)
        self._bury = connection.register_script(_BURY)
        self._lease_due = connection.register_script(_LEASE_DUE)

    def lease(self, limit: int, lease_s: float) -> list[WebhookRow]:
        """Rows that are due. They come again after ``lease_s`` unless their end is told."""
        now = int(time.time() * 1000)
        ids = cast("list[bytes]", self._lease_due(keys=[OUTBOX], args=[now, int(lease_s * 1000), limit]))
        with self._redis.pipeline(transaction=False) as pipe:
            for webhook_id in ids:
                pipe.hgetall(webhook_key(webhook_id.decode()))
            found = pipe.execute()
        return [
            WebhookRow.model_validate_json(fields[b"row"]).model_copy(
                update={"seq": int(fields[b"seq"]), "attempts": int(fields[b"attempts"])}
            )
            for fields in found
            if fields
        ]

    def delivered(self, row: WebhookRow) -> None:
        """The receiver has accepted it."""
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(OUTBOX, row.id)
            pipe.delete(webhook_key(row.id))
            pipe.execute()

    def put_off(self, row: WebhookRow, delay_s: float) -> None:
        """Try again after ``delay_s``, unless another steward has delivered it meanwhile."""
        self._put_off(keys=[OUTBOX, webhook_key(row.id)], args=[row.id, int((time.time() + delay_s) * 1000)])

    def bury(self, row: WebhookRow) -> None:
        """Give up: it becomes a dead letter, kept for a week; unless its job was deleted meanwhile, and it with it."""
        self._bury(keys=[OUTBOX, webhook_key(row.id), DEAD_LETTERS], args=[row.id, int(time.time()), DEAD_LETTER_TTL_S])

    def size(self) -> int:
        """Webhooks owed."""
        return self._redis.zcard(OUTBOX)

    def dead_letters(self) -> int:
        """Webhooks given up."""
        return self._redis.zcard(DEAD_LETTERS)


async def wait_until_terminal(connection: redis.asyncio.Redis, job_id: str, timeout_s: float) -> None:
    """Return when the job has ended, or after ``timeout_s``. Waits on the job's stream; polls nothing."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    last: bytes | str = "0"
    while (left := deadline - asyncio.get_running_loop().time()) > 0:
        status = cast("bytes | None", await connection.hget(f"outfill:job:{job_id}", "status"))
        if status is None or JobStatus(status.decode()).terminal:
            return
        found: Any = await connection.xread({stream_key(job_id): last}, count=256, block=max(1, int(left * 1000)))
        if found:
            last = found[0][1][-1][0]
