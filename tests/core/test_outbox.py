"""The outbox: what an event owes to whom, and in which order it is sent. Against a real Valkey."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import redis
from pydantic import SecretStr
from queueing import accept, let_lapse, spec_of, take

from api_schemas.errors import DeliveryNotFound, TooManyWebhooks, WebhookNotFound
from api_schemas.events import Event
from api_schemas.jobs import JobSpec, JobStatus, new_id, utc_now
from api_schemas.requests import JobEvent, WebhookTarget
from api_schemas.webhooks import Attempt, DeliveryState, StoredEndpoint, StoredSecret
from core.events import Endpoints, Outbox, webhook_key
from core.jobs import JobRecords, Outcome
from core.queue import JobQueue
from core.settings import Webhooks
from worker.claims import Claims

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def endpoints(own_redis: redis.Redis) -> Endpoints:
    return Endpoints(own_redis)


@pytest.fixture
def outbox(own_redis: redis.Redis) -> Outbox:
    return Outbox(own_redis)


def register(endpoints: Endpoints, tenant: str = "shop", **more: Any) -> StoredEndpoint:
    fields: dict[str, Any] = {"url": "http://127.0.0.1:9/all", "events": (JobEvent.STARTED, JobEvent.CANCELED), "description": "", **more}
    secrets = (StoredSecret(value=SecretStr(SECRET)),)
    endpoint = StoredEndpoint(id=new_id("whk"), created_at=utc_now(), secrets=secrets, **fields)
    endpoints.add(tenant, endpoint, limit=16)
    return endpoint


def cancel(records: JobRecords, queue: JobQueue, *, tenant: str = "shop", url: str | None = None) -> JobSpec:
    """A job that ends at once, and so owes webhooks."""
    spec = spec_of(tenant=tenant)
    target = WebhookTarget(url=url) if url else None
    spec = accept(records, queue, spec.model_copy(update={"request": spec.request.model_copy(update={"webhook": target})}))
    records.cancel(spec.id, tenant)
    return spec


def test_an_event_is_owed_to_every_endpoint_that_wants_it(
    records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox, own_redis: redis.Redis
) -> None:
    """The job's own URL and each endpoint of its tenant that wants the event get one webhook of it, with the job's sequence number."""
    all_events, other_events = register(endpoints), register(endpoints, events=(JobEvent.SUCCEEDED,))
    register(endpoints, enabled=False)
    register(endpoints, tenant="other")
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    spec = accept(records, queue, spec_of())
    records.commit(spec, take(claims).member, Outcome(JobStatus.SUCCEEDED))
    told = {(row.endpoint or row.url, row.event.type, row.seq) for row in outbox.lease(10, 60)}
    assert told == {
        (all_events.id, "job.started", 1),
        (other_events.id, "job.succeeded", 2),
        ("http://127.0.0.1:9/hook", "job.succeeded", 2),
    }


def test_an_end_that_is_committed_twice_is_told_once(
    records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox, own_redis: redis.Redis
) -> None:
    """A repeated commit, and one of an execution that lost the job, owe no endpoint a second webhook."""
    register(endpoints, events=(JobEvent.SUCCEEDED,))
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    spec = accept(records, queue, spec_of())
    zombie = take(claims)
    let_lapse(own_redis, zombie)
    records.requeue(spec, zombie.member, lapsed_before_s=2**33)
    lease = take(claims)
    for member in (zombie.member, lease.member, lease.member, zombie.member):
        records.commit(spec, member, Outcome(JobStatus.SUCCEEDED))
    assert outbox.size() == 2  # the endpoint, and the job's own URL


def test_the_id_tells_the_event_and_the_endpoint(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """One event goes out under one id to each receiver, which a receiver of two of them can tell to be one event."""
    first, second = register(endpoints), register(endpoints)
    cancel(records, queue, url="http://127.0.0.1:9/own")
    ids = {row.endpoint: row.id for row in outbox.lease(10, 60)}
    assert ids == {endpoint: f"{ids[None]}_{endpoint[4:]}" if endpoint else ids[None] for endpoint in (first.id, second.id, None)}


def test_no_lane_and_no_tenant_takes_more_than_its_share(
    records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox
) -> None:
    """Of many rows for one endpoint so many are handed out as it may have in flight, and the next only when one has come back."""
    slow, quick = register(endpoints), register(endpoints, tenant="other")
    for _ in range(10):
        cancel(records, queue)
    cancel(records, queue, tenant="other")
    rows = outbox.lease(50, 60, of_lane=3, of_tenant=4)
    assert [row.endpoint for row in rows].count(slow.id) == 3
    assert [row.endpoint for row in rows].count(quick.id) == 1
    lane = f"shop/{slow.id}"
    assert outbox.lease(50, 60, in_flight={lane: 3}, of_lane=3, of_tenant=4) == []
    outbox.delivered(rows[0])
    assert [row.endpoint for row in outbox.lease(50, 60, in_flight={lane: 2}, of_lane=3, of_tenant=4)] == [slow.id]


def test_a_tenant_with_many_receivers_has_one_share(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """However many endpoints and URLs a tenant has, together they have its places and no more."""
    for _ in range(3):
        register(endpoints)
    for number in range(20):
        cancel(records, queue, url=f"http://host-{number}.example/hook")
    assert len(outbox.lease(100, 60, of_lane=4, of_tenant=7)) == 7


def test_the_last_places_are_for_tenants_that_have_none(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """However many webhooks tenants with some in flight are owed, others find a place each."""
    hanging = {tenant: register(endpoints, tenant=tenant) for tenant in ("a", "b")}
    quick = register(endpoints, tenant="c")
    for tenant in ("a", "b", "c"):
        for _ in range(4):
            cancel(records, queue, tenant=tenant)
    in_flight = {f"{tenant}/{endpoint.id}": 1 for tenant, endpoint in hanging.items()}
    told = [row.endpoint for row in outbox.lease(6, 60, in_flight=in_flight, of_lane=4, of_tenant=4, spare=3)]
    assert len(told) == 3  # those to spare are left: everybody has one by now
    assert quick.id in told
    assert outbox.lease(3, 60, in_flight=in_flight | {f"c/{quick.id}": 1}, of_lane=4, of_tenant=4, spare=3) == []
    (late,) = [row.endpoint for row in outbox.lease(3, 60, in_flight=in_flight, of_lane=4, of_tenant=4, spare=3)]
    assert late == quick.id


def test_who_has_least_in_flight_goes_first(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """With one place left it goes to the tenant that has none, although others have waited longer."""
    slow, late = register(endpoints), register(endpoints, tenant="other")
    for _ in range(5):
        cancel(records, queue)
    cancel(records, queue, tenant="other")
    (row,) = outbox.lease(1, 60, in_flight={f"shop/{slow.id}": 1}, of_lane=4, of_tenant=4)
    assert row.endpoint == late.id


def test_a_row_whose_sender_died_comes_again(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """A lease that is over gives the row to the next steward under the same id, and what the first one says then ends it once."""
    register(endpoints)
    cancel(records, queue)
    (dead,) = outbox.lease(1, 0)
    (again,) = outbox.lease(10, 60)
    assert dead.id == again.id
    outbox.delivered(again)
    outbox.put_off(dead, 0)
    assert outbox.size() == 0
    assert outbox.delivery("shop", again.id).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("off_s", [-3600, 3600], ids=["slow", "fast"])
def test_webhooks_are_due_by_the_clock_of_redis(
    records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    """A process whose clock is an hour off owes, sends, puts off and redelivers as any other: nothing is due later, or again at once."""
    now, moment = time.time, utc_now
    monkeypatch.setattr(time, "time", lambda: now() + off_s)
    monkeypatch.setattr("api_schemas.events.utc_now", lambda: moment() + timedelta(seconds=off_s))
    register(endpoints)
    spec = cancel(records, queue)
    (row,) = outbox.lease(1, 600)
    assert row.event.job_id == spec.id
    assert outbox.lease(1, 600) == []
    outbox.put_off(row, 60)
    due = outbox.delivery("shop", row.id).next_attempt_at
    assert due is not None
    assert 0 < due.timestamp() - now() <= 60
    outbox.redeliver("shop", row)
    assert [again.id for again in outbox.lease(9, 600)] == [row.id]


def test_a_delivery_tells_its_attempts(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """Each attempt is kept with what came of it; the next is shown while there is one."""
    endpoint = register(endpoints)
    spec = cancel(records, queue)
    attempts = [Attempt(at=utc_now(), status_code=status, duration_ms=5) for status in (500, 503, 204)]
    (row,) = outbox.lease(1, 60)
    for attempt in attempts[:2]:
        outbox.put_off(row, 3600, attempt)
    pending = outbox.delivery("shop", row.id)
    assert (pending.state, pending.job_id, pending.endpoint, pending.attempts) == ("pending", spec.id, endpoint.id, tuple(attempts[:2]))
    assert pending.next_attempt_at is not None
    outbox.delivered(row, attempts[2])
    delivered = outbox.delivery("shop", row.id)
    assert (delivered.state, delivered.attempts, delivered.next_attempt_at) == ("delivered", tuple(attempts), None)
    with pytest.raises(DeliveryNotFound):
        outbox.delivery("other", row.id)


def test_a_dead_letter_is_owed_anew_under_its_id(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """Redelivery takes it off the dead letters, gives it the whole schedule, and keeps the log."""
    register(endpoints)
    cancel(records, queue)
    (row,) = outbox.lease(1, 60)
    outbox.bury(row, Attempt(at=utc_now(), error="no connection", duration_ms=1))
    assert [found.id for found in outbox.page("shop", state=DeliveryState.DEAD, endpoint=None, before=None, limit=9)[0]] == [row.id]
    assert outbox.redeliver("shop", row).state is DeliveryState.PENDING
    (again,) = outbox.lease(1, 60)
    assert (again.id, again.attempts, outbox.dead_letters()) == (row.id, 0, 0)
    assert len(outbox.delivery("shop", row.id).attempts) == 1
    assert outbox.page("shop", state=DeliveryState.DEAD, endpoint=None, before=None, limit=9) == ([], None)


def test_pages_of_deliveries_follow_one_another(records: JobRecords, queue: JobQueue, endpoints: Endpoints, outbox: Outbox) -> None:
    """Newest first, none twice, those of one endpoint if it is named."""
    first, second = register(endpoints), register(endpoints)
    for _ in range(3):
        cancel(records, queue)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page, cursor = outbox.page("shop", state=None, endpoint=None, before=cursor, limit=4)
        seen += [delivery.id for delivery in page]
        if cursor is None:
            break
    assert (len(seen), seen) == (6, sorted(set(seen), reverse=True))
    for endpoint in (first, second):
        page, _ = outbox.page("shop", state=None, endpoint=endpoint.id, before=None, limit=9)
        assert [delivery.endpoint for delivery in page] == [endpoint.id] * 3


def test_the_log_forgets(records: JobRecords, queue: JobQueue, endpoints: Endpoints, own_redis: redis.Redis) -> None:
    """What has ended lapses after the set time, and its id leaves the lists with the next webhook that ends."""
    register(endpoints)
    outbox = Outbox(own_redis, Webhooks(kept_s=60))
    cancel(records, queue)
    (row,) = outbox.lease(1, 60)
    outbox.bury(row)
    assert 0 < own_redis.ttl(webhook_key(row.id)) <= 60
    cancel(records, queue)
    (late,) = outbox.lease(1, 60)
    Outbox(own_redis, Webhooks().model_copy(update={"kept_s": -60})).put_off(late, 60)
    ids = [each.id for each in outbox.page("shop", state=None, endpoint=None, before=None, limit=9)[0]]
    assert ids == [late.id, row.id]  # old by its id, and yet it ended just now; the other one is owed
    own_redis.delete(webhook_key(row.id))  # it lapses
    Outbox(own_redis, Webhooks().model_copy(update={"kept_s": -60})).bury(late)
    for state in (None, DeliveryState.DEAD):
        assert outbox.page("shop", state=state, endpoint=None, before=None, limit=9) == ([], None)


def test_a_tenant_has_so_many_endpoints(endpoints: Endpoints) -> None:
    """One more than the limit is refused; another tenant's do not count."""
    first = register(endpoints)
    register(endpoints, tenant="other")
    with pytest.raises(TooManyWebhooks):
        endpoints.add("shop", first.model_copy(update={"id": new_id("whk")}), limit=1)


def test_endpoints_are_their_tenants_own(endpoints: Endpoints) -> None:
    """Another tenant neither reads, changes nor removes one."""
    endpoint = register(endpoints)
    with pytest.raises(WebhookNotFound):
        endpoints.get("other", endpoint.id)
    with pytest.raises(WebhookNotFound):
        endpoints.change("other", endpoint.id, lambda old: old)
    with pytest.raises(WebhookNotFound):
        endpoints.remove("other", endpoint.id)
    assert endpoints.of("shop") == [endpoint]


def test_secrets_are_in_no_repr(endpoints: Endpoints) -> None:
    """What is logged of an endpoint shows none of its secrets; what is stored has them."""
    endpoint = register(endpoints)
    assert SECRET not in repr(endpoint)
    assert endpoints.get("shop", endpoint.id).secrets[0].value.get_secret_value() == SECRET


def test_a_test_event_is_owed_once(endpoints: Endpoints, outbox: Outbox) -> None:
    """A ping that is asked for again by a retried call is one webhook."""
    endpoint = register(endpoints)
    event = Event.now("webhook.ping", tenant="shop")
    outbox.ping(event, endpoint.id)
    outbox.ping(event, endpoint.id)
    (row,) = outbox.lease(5, 60)
    assert (row.event.type, row.endpoint, row.event.job_id) == ("webhook.ping", endpoint.id, None)
