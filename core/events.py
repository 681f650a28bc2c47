"""What is told: the endpoints that tenants register, and the outbox of webhooks.

The scripts that change a job's state write its stream of events and its webhooks in the same step (core/lua/tell.lua). The outbox ``outfill:outbox``
has lanes, one for each endpoint and a few for the URLs that a tenant's jobs name, by when their first row is due (ms); a lane
``outfill:lane:{lane}`` has rows by when they are due; a row ``outfill:webhook:{id}`` stays, once it is delivered or given up, as the log of its
attempts. That is what the steward sends from, and how one receiver's backlog keeps no other waiting.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import redis
import structlog
from prometheus_client import Counter
from pydantic import ValidationError

from api_schemas.errors import DeliveryNotFound, RecordUnreadable, TooManyPings, TooManyWebhooks, WebhookNotFound
from api_schemas.events import Event, WebhookRow
from api_schemas.requests import WebhookTarget
from api_schemas.webhooks import Attempt, Delivery, DeliveryState, StoredEndpoint
from core.queue import lua
from core.settings import Webhooks

_log = structlog.get_logger(__name__)
UNREADABLE = Counter("outfill_records_unreadable", "Records that this release could not read, each time.", ["kind"], registry=None)
"""In the metrics of every process."""
OUTBOX, DEAD_LETTERS = "outfill:outbox", "outfill:dead"
TENANTS = "outfill:tenants"
"""Tenants that have, or had, something of their own: endpoints, limits, times to live, a webhook secret."""
PINGS_KEPT = 32
"""Test events of a tenant that have ended and are still listed."""
_URL_LANES = 8
"""Lanes of a tenant for the URLs that its jobs name, chosen by host: a lane for each host would be as many as it likes."""
_CHUNK, _CHUNKS = 200, 10
"""Ids that a listing looks at at once, and how often."""

Verdict = Literal["pending", "delivered", "dead", "gone"]


@contextmanager
def reading(kind: str, record: str) -> Iterator[None]:
    """Count, log and raise as ``RecordUnreadable`` whatever keeps a stored record from being read."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        UNREADABLE.labels(kind).inc()
        _log.warning("record_unreadable", kind=kind, record=record, reason=_reason(error))
        raise RecordUnreadable(
            f"a newer release of the service wrote {record}, and this one cannot read it; nothing of it is lost"
        ) from error


def _reason(error: Exception) -> str:
    """Where a record is not as it should be; what it holds is its owner's."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, fault['loc']))}: {fault['type']}"
    return f"{type(error).__name__}: {error}"


def stream_key(job_id: str) -> str:
    """The stream of a job's events, and the channel on which its listeners are woken."""
    return f"outfill:events:{job_id}"


def webhook_key(webhook_id: str) -> str:
    """The row of one webhook."""
    return f"outfill:webhook:{webhook_id}"


def endpoints_key(tenant: str) -> str:
    """A tenant's endpoints by id."""
    return f"outfill:endpoints:{tenant}"


def deliveries_key(tenant: str) -> str:
    """The ids of a tenant's webhooks; they begin with their time."""
    return f"outfill:deliveries:{tenant}"


def dead_key(tenant: str) -> str:
    """The ids of a tenant's dead letters. ``DEAD_LETTERS`` has those of all, by when they were given up."""
    return f"outfill:dead:{tenant}"


def told_key(tenant: str) -> str:
    """The ids of a tenant's webhooks that were delivered or given up, by when."""
    return f"outfill:told:{tenant}"


def pings_key(tenant: str) -> str:
    """The ids of a tenant's test events, by when they were asked for."""
    return f"outfill:pings:{tenant}"


def policy_key(tenant: str) -> str:
    """What a tenant has of its own: limits, times to live, a webhook secret."""
    return f"outfill:tenant:{tenant}"


def lane_key(lane: str) -> str:
    """The rows that wait for one receiver."""
    return f"outfill:lane:{lane}"


def telling(event: Event, target: WebhookTarget | None) -> tuple[list[str], list[str]]:
    """What the scripts that tell an event of a job take (core/lua/tell.lua): the keys after the job's own, and the arguments."""
    tenant, url = event.tenant, target.url if target is not None and event.type in target.events else ""
    keys = [stream_key(event.job_id or ""), OUTBOX, endpoints_key(tenant), deliveries_key(tenant)]
    return keys, [
        event.type,
        event.occurred_at.isoformat(),
        event.id,
        event.model_dump_json(),
        tenant,
        url,
        _url_lane(tenant, url) if url else "",
    ]


def _url_lane(tenant: str, url: str) -> str:
    try:
        host = urlsplit(url).netloc
    except ValueError:  # what httpx takes for a URL and urllib does not
        host = url
    return f"{tenant}/{zlib.crc32(host.lower().encode()) % _URL_LANES}"


class Endpoints:
    """Where tenants want to be told of all their jobs."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def of(self, tenant: str) -> list[StoredEndpoint]:
        """A tenant's endpoints, oldest first, without those that cannot be read."""
        found = cast("dict[bytes, bytes]", self._redis.hgetall(endpoints_key(tenant)))
        endpoints = []
        for endpoint_id, text in sorted(found.items()):
            with suppress(RecordUnreadable):  # counted, and there for the release that wrote it
                endpoints.append(_endpoint(endpoint_id.decode(), text))
        return endpoints

    def get(self, tenant: str, endpoint_id: str) -> StoredEndpoint:
        """One of them. Raises ``WebhookNotFound``, for another tenant's too."""
        text = cast("bytes | None", self._redis.hget(endpoints_key(tenant), endpoint_id))
        if text is None:
            raise WebhookNotFound(f"no webhook endpoint {endpoint_id}")
        return _endpoint(endpoint_id, text)

    def add(self, tenant: str, endpoint: StoredEndpoint, *, limit: int) -> None:
        """Register one. Raises ``TooManyWebhooks``."""

        def add(pipe: redis.client.Pipeline) -> None:
            if pipe.hlen(endpoints_key(tenant)) >= limit:
                raise TooManyWebhooks(f"there may be {limit} webhook endpoints; delete one first")
            pipe.multi()
            pipe.sadd(TENANTS, tenant)
            pipe.hset(endpoints_key(tenant), endpoint.id, endpoint.model_dump_json())

        self._redis.transaction(add, endpoints_key(tenant))

    def change(self, tenant: str, endpoint_id: str, how: Callable[[StoredEndpoint], StoredEndpoint]) -> StoredEndpoint:
        """Replace one by what ``how`` makes of it, also while others change it. Raises ``WebhookNotFound``."""
        changed: list[StoredEndpoint] = []

        def change(pipe: redis.client.Pipeline) -> None:
            text = cast("bytes | None", pipe.hget(endpoints_key(tenant), endpoint_id))
            if text is None:
                raise WebhookNotFound(f"no webhook endpoint {endpoint_id}")
            changed.append(how(_endpoint(endpoint_id, text)))
            kept = json.loads(text) | json.loads(changed[-1].model_dump_json())  # with what a newer release has added
            pipe.multi()
            pipe.hset(endpoints_key(tenant), endpoint_id, json.dumps(kept))

        self._redis.transaction(change, endpoints_key(tenant))
        return changed[-1]

    def remove(self, tenant: str, endpoint_id: str) -> None:
        """Forget one; the sender drops what it is still owed. Raises ``WebhookNotFound``."""
        if not self._redis.hdel(endpoints_key(tenant), endpoint_id):
            raise WebhookNotFound(f"no webhook endpoint {endpoint_id}")


class Outbox:
    """Webhooks that are owed, and the log of those that were. A row is owed until it was delivered, or given up as a dead letter."""

    def __init__(self, connection: redis.Redis, settings: Webhooks | None = None) -> None:
        self._redis, self._limits = connection, settings or Webhooks()
        self._lease, self._settle, self._redeliver, self._ping = (
            connection.register_script(lua("clock", "quota", "outbox", name)) for name in ("lease", "settle", "redeliver", "ping")
        )

    # -- sending ------------------------------------------------------------------------------------------------------------------

    def lease(
        self,
        limit: int,
        lease_s: float,
        *,
        in_flight: Mapping[str, int] | None = None,
        of_lane: int | None = None,
        of_tenant: int | None = None,
        spare: int = 0,
    ) -> list[WebhookRow]:
        """At most ``limit`` rows that are due, such that with those ``in_flight`` (by lane) no lane and no tenant has more than its share.
        The last ``spare`` are for tenants that have none in flight.

        They come again after ``lease_s`` unless their end is told.
        """
        args: list[str | int] = [int(lease_s * 1000), limit, of_lane or limit, of_tenant or limit, spare]
        for lane, count in (in_flight or {}).items():
            args += [lane, count]
        ids = [webhook_id.decode() for webhook_id in cast("list[bytes]", self._lease(keys=[OUTBOX], args=args))]
        rows = []
        for webhook_id, fields in self._rows(ids):
            with suppress(RecordUnreadable):  # it comes again when its lease lapses, to a steward that can read it
                rows += [_row(webhook_id, fields)] if fields else []
        return rows

    def delivered(self, row: WebhookRow, attempt: Attempt | None = None) -> None:
        """The receiver has accepted it."""
        self._end(row, "delivered", attempt)

    def put_off(self, row: WebhookRow, delay_s: float, attempt: Attempt | None = None) -> None:
        """Try again after ``delay_s``, unless another steward has delivered it meanwhile."""
        self._end(row, "pending", attempt, delay_s)

    def bury(self, row: WebhookRow, attempt: Attempt | None = None) -> None:
        """Give up: it becomes a dead letter; unless its job was deleted meanwhile, and it with it."""
        self._end(row, "dead", attempt)

    def drop(self, row: WebhookRow) -> None:
        """Nobody is there any more to be told; nothing is kept of it."""
        self._end(row, "gone", None)

    def _end(self, row: WebhookRow, verdict: Verdict, attempt: Attempt | None, delay_s: float = 0.0) -> None:
        tenant = row.event.tenant
        keys = [OUTBOX, lane_key(row.lane), webhook_key(row.id), deliveries_key(tenant), DEAD_LETTERS, dead_key(tenant)]
        args: list[str | int] = [row.id, row.lane, verdict, int(delay_s * 1000), attempt.model_dump_json() if attempt else ""]
        args += [self._limits.kept_s, self._limits.deliveries]
        self._settle(keys=[*keys, told_key(tenant), policy_key(tenant)], args=args)

    def size(self) -> int:
        """Webhooks owed."""
        lanes = cast("list[bytes]", self._redis.zrange(OUTBOX, 0, -1))
        with self._redis.pipeline(transaction=False) as pipe:
            for lane in lanes:
                pipe.zcard(lane_key(lane.decode()))
            return sum(pipe.execute())

    def lanes(self) -> int:
        """Receivers to whom webhooks are owed, as ``lane_key`` counts them."""
        return self._redis.zcard(OUTBOX)

    def late_s(self, now_s: float) -> float:
        """How long the first webhook that nobody sends has been due; 0 while none is. ``now_s`` by the clock of Redis."""
        first = cast("list[tuple[bytes, float]]", self._redis.zrange(OUTBOX, 0, 0, withscores=True))
        return max(now_s - first[0][1] / 1000, 0.0) if first else 0.0

    def dead_letters(self) -> int:
        """Webhooks given up."""
        return self._redis.zcard(DEAD_LETTERS)

    # -- for their owner ----------------------------------------------------------------------------------------------------------

    def ping(self, event: Event, endpoint_id: str) -> Delivery:
        """Owe a test event to an endpoint. Raises ``TooManyPings`` where as many wait for it as may."""
        tenant = event.tenant
        lane, webhook_id = f"{tenant}/{endpoint_id}", f"{event.id}_{endpoint_id.partition('_')[2]}"
        keys = [OUTBOX, deliveries_key(tenant), webhook_key(webhook_id), endpoints_key(tenant), policy_key(tenant), pings_key(tenant)]
        args: list[str | int] = [webhook_id, lane, event.model_dump_json(), endpoint_id, self._limits.pings, PINGS_KEPT - 1]
        refused = cast("tuple[int, int] | None", self._ping(keys=[*keys, DEAD_LETTERS, dead_key(tenant), told_key(tenant)], args=args))
        if refused is not None:
            waiting, wait_ms = refused
            raise TooManyPings(
                f"{waiting} test events wait for this endpoint, which has not accepted them",
                retry_after_s=max(math.ceil(wait_ms / 1000), 1),
            )
        return self.delivery(tenant, webhook_id)

    def redeliver(self, tenant: str, row: WebhookRow) -> Delivery:
        """Owe a webhook anew, under its own id. Raises ``DeliveryNotFound``."""
        keys = [OUTBOX, lane_key(row.lane), webhook_key(row.id), DEAD_LETTERS, dead_key(tenant), told_key(tenant)]
        if not self._redeliver(keys=keys, args=[row.id, row.lane]):
            raise DeliveryNotFound(f"nothing is kept of {row.id}")
        return self.delivery(tenant, row.id)

    def row(self, tenant: str, webhook_id: str) -> WebhookRow:
        """A webhook of a tenant. Raises ``DeliveryNotFound``, for another tenant's too."""
        ((_, fields),) = self._rows([webhook_id])
        row = _row(webhook_id, fields) if fields else None
        if row is None or row.event.tenant != tenant:
            raise DeliveryNotFound(f"no webhook {webhook_id}")
        return row

    def delivery(self, tenant: str, webhook_id: str) -> Delivery:
        """What became of a webhook. Raises ``DeliveryNotFound``."""
        self.row(tenant, webhook_id)
        ((_, fields),) = self._rows([webhook_id])
        if not fields:
            raise DeliveryNotFound(f"nothing is kept of {webhook_id}")
        due_ms = self._redis.zscore(lane_key(fields["lane"]), webhook_id)
        with reading("webhook", webhook_id):
            return _delivery(webhook_id, fields, due_ms)

    def page(
        self, tenant: str, *, state: DeliveryState | None, endpoint: str | None, before: str | None, limit: int
    ) -> tuple[list[Delivery], str | None]:
        """A tenant's webhooks, newest first, and where to go on; ``None`` says that there are no more. Where those that are wanted are rare
        a page may be short, or empty.
        """
        index = dead_key(tenant) if state is DeliveryState.DEAD else deliveries_key(tenant)
        letters = f"_{endpoint.partition('_')[2]}" if endpoint else ""
        found: list[Delivery] = []
        for _ in range(_CHUNKS):
            top = f"({before}" if before else "+"
            ids = [each.decode() for each in cast("list[bytes]", self._redis.zrevrangebylex(index, top, "-", 0, _CHUNK))]
            for delivery in self._deliveries([each for each in ids if each.endswith(letters)]):
                if state in (None, delivery.state):
                    found.append(delivery)
                    if len(found) == limit:
                        return found, delivery.id if delivery.id != ids[-1] or len(ids) == _CHUNK else None
            if len(ids) < _CHUNK:
                return found, None
            before = ids[-1]
        return found, before

    def _rows(self, ids: list[str]) -> list[tuple[str, dict[str, str]]]:
        with self._redis.pipeline(transaction=False) as pipe:
            for webhook_id in ids:
                pipe.hgetall(webhook_key(webhook_id))
            found = pipe.execute()
        return [
            (webhook_id, {key.decode(): value.decode() for key, value in fields.items()})
            for webhook_id, fields in zip(ids, found, strict=True)
        ]

    def _deliveries(self, ids: list[str]) -> list[Delivery]:
        rows = [(webhook_id, fields) for webhook_id, fields in self._rows(ids) if fields]
        with self._redis.pipeline(transaction=False) as pipe:
            for webhook_id, fields in rows:
                pipe.zscore(lane_key(fields["lane"]), webhook_id)
            due = pipe.execute()
        deliveries = []
        for (webhook_id, fields), ms in zip(rows, due, strict=True):
            with suppress(RecordUnreadable), reading("webhook", webhook_id):
                deliveries.append(_delivery(webhook_id, fields, ms))
        return deliveries


def _endpoint(endpoint_id: str, text: bytes) -> StoredEndpoint:
    """Raises ``RecordUnreadable``."""
    with reading("endpoint", endpoint_id):
        return StoredEndpoint.model_validate_json(text)


def _row(webhook_id: str, fields: Mapping[str, str]) -> WebhookRow:
    """Raises ``RecordUnreadable``."""
    with reading("webhook", webhook_id):
        return _parsed_row(webhook_id, fields)


def _parsed_row(webhook_id: str, fields: Mapping[str, str]) -> WebhookRow:
    told: dict[str, Any] = {name: fields.get(name) for name in ("lane", "url", "endpoint", "seq", "attempts")}
    return WebhookRow(id=webhook_id, event=Event.model_validate_json(fields["event"]), **told)


def _delivery(webhook_id: str, fields: Mapping[str, str], due_ms: float | None) -> Delivery:
    row = _parsed_row(webhook_id, fields)
    tried = int(fields["tried"])
    texts = [fields[name] for name in (f"attempt:{number}" for number in range(max(1, tried - 31), tried + 1)) if name in fields]
    event = row.event
    return Delivery(
        id=row.id,
        event=event.type,
        job_id=event.job_id,
        sequence=row.seq,
        endpoint=row.endpoint,
        url=row.url,
        state=DeliveryState(fields["state"]),
        created_at=event.occurred_at,
        next_attempt_at=datetime.fromtimestamp(due_ms / 1000, UTC) if due_ms is not None else None,
        attempts=tuple(Attempt.model_validate_json(text) for text in texts),
    )
