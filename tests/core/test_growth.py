"""What a tenant leaves behind is bounded: ended jobs, waiting requests, uploads, idempotency keys, pings, deliveries. Against a real Valkey."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
from pydantic import SecretStr
from queueing import accept, let_lapse, spec_of, take

from api_schemas.errors import OutfillError, TooManyLeaving, TooManyPings, TooManyQueued, TooManyReservations, TooManyUploads
from api_schemas.events import PING, Event, WebhookRow
from api_schemas.jobs import InputRef, JobSpec, JobStatus, new_id, utc_now
from api_schemas.requests import JobEvent
from api_schemas.webhooks import MAX_OLD_SECRETS, DeliveryState, StoredEndpoint, StoredSecret
from core.events import PINGS_KEPT, Endpoints, Outbox, pings_key, told_key, webhook_key
from core.jobs import JobRecords, Outcome, Reservation, leaving_key, reserving_key, tenant_counts_key, uploads_key
from core.queue import JobQueue
from core.settings import Limits, Webhooks
from worker.claims import Claims

LATER = timedelta(hours=1)


def limited(connection: redis.Redis, **limits: int) -> JobRecords:
    """Records with these limits, kept for a day."""
    return JobRecords(connection, retention_s=86400, limits=Limits(**limits))


def counted(connection: redis.Redis, tenant: str = "shop") -> dict[str, int]:
    """What is counted of a tenant and not 0."""
    found = cast("dict[bytes, bytes]", connection.hgetall(tenant_counts_key(tenant)))
    return {name.decode(): int(value) for name, value in found.items() if int(value)}


def quiet(**changes: Any) -> JobSpec:
    """A job that tells nobody of its end, with an input of a hundred bytes."""
    spec = spec_of(**changes)
    return spec.model_copy(
        update={
            "request": spec.request.model_copy(update={"webhook": None}),
            "inputs": {"image": InputRef(key=f"inputs/shop/{spec.id}/image", format="png", width=1, height=1, bytes=100, sha256="0")},
        }
    )


def canceled(records: JobRecords, queue: JobQueue, count: int) -> list[JobSpec]:
    """Jobs that were canceled one after the other."""
    specs = [accept(records, queue, quiet()) for _ in range(count)]
    for spec in specs:
        records.cancel(spec.id, spec.tenant)
    return specs


def stays(records: JobRecords, specs: list[JobSpec]) -> list[bool]:
    """Which of the jobs are kept for their time."""
    going = records.past_retention(utc_now() + LATER)
    return [spec.id not in going for spec in specs]


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    return Claims(own_redis, records, queue, lease_s=30, overdue_s=60)


# -- jobs that have ended ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["settings", "tenant"])
def test_the_oldest_canceled_jobs_leave(queue: JobQueue, own_redis: redis.Redis, by: str) -> None:
    """Beyond the number that is kept, of the settings or the tenant's own, the oldest are due for deletion, and still shown until then."""
    records = limited(own_redis, canceled_jobs=3 if by == "settings" else 100)
    records.set_policy("shop", {"canceled_jobs": 3} if by == "tenant" else {})
    specs = canceled(records, queue, 5)
    assert stays(records, specs) == [False, False, True, True, True]
    assert [records.get(spec.id, "shop").leaving for spec in specs] == [True, True, False, False, False]
    assert [member.decode() for member in cast("list[bytes]", own_redis.zrange(leaving_key("shop"), 0, -1))] == [
        spec.id for spec in specs[:2]
    ]


def test_canceled_jobs_have_so_many_bytes(queue: JobQueue, own_redis: redis.Redis) -> None:
    """However large their records are, those that stay take no more bytes than are allowed, and the newest is among them."""
    records = limited(own_redis, canceled_bytes=20_000)
    specs = canceled(records, queue, 20)
    kept = stays(records, specs)
    assert 0 < counted(own_redis)["canceled_bytes"] <= 20_000
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (False, True)


def test_what_a_job_takes_is_counted_with_all_that_goes_with_it(queue: JobQueue, own_redis: redis.Redis) -> None:
    """A webhook with a long URL and an idempotency key make a job that much heavier."""
    records = limited(own_redis)
    canceled(records, queue, 1)
    light = counted(own_redis)["canceled_bytes"]
    spec = quiet()
    webhook = spec_of().request.webhook
    assert webhook is not None
    target = webhook.model_copy(update={"url": f"http://127.0.0.1:9/{'x' * 2000}"})
    spec = accept(records, queue, spec.model_copy(update={"request": spec.request.model_copy(update={"webhook": target})}))
    reservation = Reservation("shop", "key", "k" * 200, request="digest", token="res_1")
    records.reserve(reservation)
    records.bind(reservation, spec.id)
    records.cancel(spec.id, "shop")
    assert counted(own_redis)["canceled_bytes"] - 2 * light > 2 * 2000 + 2 * 200


def test_canceled_jobs_drive_out_no_others(queue: JobQueue, own_redis: redis.Redis) -> None:
    """A job that succeeded stays, however many are canceled after it; the oldest that succeeded leave by a number of their own."""
    records = limited(own_redis, canceled_jobs=1, ended_jobs=2)
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    done = []
    for _ in range(2):
        done.append(accept(records, queue, quiet()))
        assert records.commit(done[-1], take(claims).member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    canceled(records, queue, 4)
    assert stays(records, done) == [True, True]
    done.append(accept(records, queue, quiet()))
    assert records.commit(done[-1], take(claims).member, Outcome(JobStatus.FAILED)) == "committed"
    assert stays(records, done) == [False, True, True]


def test_the_oldest_jobs_leave_where_their_objects_are_too_large(queue: JobQueue, own_redis: redis.Redis) -> None:
    """Inputs and outputs have a bound in bytes; what was deleted before its record counts no more."""
    records = limited(own_redis, stored_bytes=250)
    specs = canceled(records, queue, 2)
    records.forget_inputs(specs[0])
    assert counted(own_redis)["stored_bytes"] == 100
    specs += canceled(records, queue, 2)
    assert stays(records, specs) == [False, False, True, True]
    assert counted(own_redis)["stored_bytes"] == 200


def test_who_ends_jobs_faster_than_they_are_deleted_makes_no_new_ones(queue: JobQueue, own_redis: redis.Redis) -> None:
    """While too much is to be deleted a new job is refused, for this tenant alone; when it is gone there is room, and nothing is counted."""
    records = limited(own_redis, canceled_jobs=1, leaving_bytes=1)
    canceled(records, queue, 2)
    with pytest.raises(TooManyLeaving) as refused:
        records.create(quiet())
    assert (refused.value.status, refused.value.retry_after_s) == (429, 5)
    records.create(quiet(tenant="other"))
    for status in ("canceled", "leaving"):
        for member in cast("list[bytes]", own_redis.zrange(f"outfill:{status}:shop", 0, -1)):
            record = records.find(member.decode())
            assert record is not None
            assert records.delete(record.spec, only_if="ended")
    records.create(quiet())
    assert {name for name in counted(own_redis) if name not in ("queued", "queued_bytes")} == set()
    assert not own_redis.exists(leaving_key("shop"))


def test_a_bound_that_was_lowered_is_reached_in_steps(queue: JobQueue, own_redis: redis.Redis) -> None:
    """No end of a job makes more than a hundred others leave, so that none holds Redis up."""
    records = limited(own_redis, canceled_jobs=1000)
    specs = canceled(records, queue, 150)
    records.set_policy("shop", {"canceled_jobs": 1})
    specs += canceled(records, queue, 1)
    assert stays(records, specs).count(True) == 51
    specs += canceled(records, queue, 1)
    assert stays(records, specs).count(True) == 1


# -- what waits -------------------------------------------------------------------------------------------------------------------


def test_requests_that_wait_have_so_many_bytes(queue: JobQueue, own_redis: redis.Redis) -> None:
    """A job whose request has no room is refused; there is room again for what was begun, canceled or taken back, and none for what is given back."""
    spec = quiet()
    size = len(spec.model_dump_json(exclude_none=True).encode())
    records = limited(own_redis, queued_bytes=2 * size + 10)
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    first, second = accept(records, queue, spec), accept(records, queue, quiet())
    with pytest.raises(TooManyQueued, match="bytes"):
        records.create(quiet())
    lease = take(claims)
    records.create(third := quiet())
    let_lapse(own_redis, lease)
    assert records.requeue(first, lease.member, lapsed_before_s=1e12)
    assert counted(own_redis)["queued_bytes"] == 3 * size
    assert records.delete(third, only_if="unaccepted")
    records.cancel(first.id, "shop")
    assert counted(own_redis)["queued_bytes"] == size
    records.cancel(second.id, "shop")
    assert "queued_bytes" not in counted(own_redis)


# -- uploads ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limits", "size"), [({"uploads": 10}, 1), ({"upload_bytes": 10_000}, 1000)])
def test_concurrent_uploads_never_exceed_their_bound(own_redis: redis.Redis, limits: dict[str, int], size: int) -> None:
    """Of forty that come at once ten are expected, in items or in bytes, and the others are told when the first of these expires."""
    records = limited(own_redis, **limits)
    expires_at = utc_now() + LATER

    def expect(upload_id: str) -> bool:
        try:
            records.expect_upload("shop", upload_id, expires_at, size)
        except TooManyUploads:
            return False
        return True

    ids = [new_id("upl") for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        taken = [upload_id for upload_id, kept in zip(ids, pool.map(expect, ids), strict=True) if kept]
    assert len(taken) == 10
    with pytest.raises(TooManyUploads) as refused:
        records.expect_upload("shop", new_id("upl"), expires_at, size)
    assert refused.value.retry_after_s is not None
    assert 3000 < refused.value.retry_after_s <= 3600
    assert expect(taken[0])  # a retried call takes no second place
    records.expect_upload("other", new_id("upl"), expires_at, size)
    records.forget_upload("shop", taken[0])
    records.forget_upload("shop", taken[0])
    assert expect(new_id("upl"))
    assert not expect(new_id("upl"))
    records.set_policy("shop", {name: 2 * most for name, most in limits.items()})
    assert expect(new_id("upl"))


def test_nothing_is_left_of_uploads_that_are_gone(own_redis: redis.Redis) -> None:
    """What was expected and forgotten takes no room in any list."""
    records = limited(own_redis)
    ids = [new_id("upl") for _ in range(3)]
    for upload_id in ids:
        records.expect_upload("shop", upload_id, utc_now(), 5)
    assert counted(own_redis)["upload_bytes"] == 15
    assert sorted(records.expired_uploads(utc_now() + LATER)) == [("shop", upload_id) for upload_id in sorted(ids)]
    for upload_id in ids:
        records.forget_upload("shop", upload_id)
    assert counted(own_redis) == {}
    assert not own_redis.exists(uploads_key("shop"), "outfill:uploads")


# -- idempotency keys -------------------------------------------------------------------------------------------------------------


def test_keys_without_a_job_are_so_many(own_redis: redis.Redis) -> None:
    """One more is refused, whichever API key it came with; what is bound, freed or lapsed makes room; the same key asks for none."""
    records = limited(own_redis, reservations=2)
    first, second, third, fourth, fifth = (
        Reservation("shop", f"key_{number % 2}", f"k{number}", request="digest", token=f"res_{number}") for number in range(5)
    )
    records.reserve(first)
    records.reserve(second)
    assert records.reserve(replace(second, token="res_9")) == second
    with pytest.raises(TooManyReservations):
        records.reserve(third)
    records.reserve(replace(third, tenant="other"))
    records.create(spec := quiet())
    assert records.bind(first, spec.id)
    assert records.reserve(fourth) == fourth
    records.release(second)
    assert records.reserve(fifth) == fifth
    with pytest.raises(TooManyReservations):
        records.reserve(second)
    own_redis.zadd(reserving_key("shop"), {f"outfill:reservation:{fourth.key_id}:{fourth.key}": 1})  # its minute is over
    assert records.reserve(second) == second


# -- test events and deliveries ---------------------------------------------------------------------------------------------------


def register(endpoints: Endpoints) -> StoredEndpoint:
    endpoint = StoredEndpoint(
        id=new_id("whk"),
        created_at=utc_now(),
        url="http://127.0.0.1:9/",
        events=(JobEvent.CANCELED,),
        description="",
        secrets=(StoredSecret(value=SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),),
    )
    endpoints.add("shop", endpoint, limit=100)
    return endpoint


def pinging(outbox: Outbox, endpoint: StoredEndpoint) -> Callable[[], str]:
    """Asks for a test event; its id."""
    return lambda: outbox.ping(Event.now(PING, tenant="shop"), endpoint.id).id


def test_a_few_test_events_wait_for_an_endpoint(own_redis: redis.Redis) -> None:
    """One more is refused until one was delivered or given up, and told when the next is tried; other endpoints have places of their own."""
    endpoints, outbox = Endpoints(own_redis), Outbox(own_redis, Webhooks(pings=3))
    endpoint = register(endpoints)
    ping, other = pinging(outbox, endpoint), pinging(outbox, register(endpoints))
    for _ in range(3):
        ping()
    for row in outbox.lease(3, 60):
        outbox.put_off(row, 1800)
    with pytest.raises(TooManyPings) as refused:
        ping()
    assert refused.value.retry_after_s is not None
    assert 1700 < refused.value.retry_after_s <= 1800
    other()
    JobRecords(own_redis, retention_s=60).set_policy("shop", {"pings": 4})
    ping()
    with pytest.raises(TooManyPings):
        ping()
    (row,) = [row for row in outbox.lease(9, 60) if row.endpoint == endpoint.id]
    outbox.bury(row)
    ping()


def test_test_events_that_ended_are_forgotten_but_for_the_last(own_redis: redis.Redis) -> None:
    """Of those that were delivered or given up the newest are listed, and nothing is left of older ones or of those of endpoints that are gone."""
    endpoints, outbox = Endpoints(own_redis), Outbox(own_redis)
    endpoint, gone = register(endpoints), register(endpoints)
    lost = pinging(outbox, gone)()
    endpoints.remove("shop", gone.id)
    ids = []
    for number in range(PINGS_KEPT + 10):
        ids.append(pinging(outbox, endpoint)())
        for row in outbox.lease(9, 60):
            outbox.bury(row) if number % 2 else outbox.delivered(row)
    assert not own_redis.exists(webhook_key(lost))
    listed = [delivery.id for delivery in outbox.page("shop", state=None, endpoint=None, before=None, limit=100)[0]]
    assert listed == ids[: -PINGS_KEPT - 1 : -1]
    assert (
        own_redis.zcard(pings_key("shop"))
        == own_redis.zcard(told_key("shop"))
        == len(cast("list[bytes]", own_redis.keys("outfill:webhook:*")))
    )
    assert outbox.dead_letters() == len(outbox.page("shop", state=DeliveryState.DEAD, endpoint=None, before=None, limit=100)[0])


@pytest.mark.parametrize("by", ["settings", "tenant"])
def test_the_log_of_deliveries_has_so_many_rows(records: JobRecords, queue: JobQueue, own_redis: redis.Redis, by: str) -> None:
    """The oldest that ended go from all lists; what is owed, or owed anew, is not among them."""
    outbox = Outbox(own_redis, Webhooks(deliveries=3 if by == "settings" else 100))
    records.set_policy("shop", {"deliveries": 3} if by == "tenant" else {})

    def owed() -> WebhookRow:
        records.cancel(accept(records, queue, spec_of()).id, "shop")
        (row,) = outbox.lease(1, 60)
        return row

    waiting, anew, *others = (owed() for _ in range(6))
    for row in (anew, *others[:2]):
        outbox.bury(row)
    outbox.redeliver("shop", anew)
    for row in others[2:]:
        outbox.delivered(row)
    listed = [delivery.id for delivery in outbox.page("shop", state=None, endpoint=None, before=None, limit=9)[0]]
    assert sorted(listed) == sorted(row.id for row in (waiting, anew, *others[1:]))
    assert (outbox.dead_letters(), outbox.size()) == (1, 2)
    assert not own_redis.exists(webhook_key(others[0].id))


def test_an_endpoint_keeps_a_few_old_secrets() -> None:
    """However often a secret is replaced, the newest of those that sign still are kept and the others sign no more."""
    now = utc_now()
    endpoint = StoredEndpoint(
        id="whk",
        created_at=now,
        url="http://a/",
        events=(JobEvent.FAILED,),
        description="",
        secrets=(StoredSecret(value=SecretStr("first")),),
    )
    for number in range(20):
        endpoint = endpoint.rotated(SecretStr(f"{number}"), now, now + LATER)
    signing = [secret.get_secret_value() for secret in endpoint.signing(now)]
    assert signing == [f"{number}" for number in range(19, 18 - MAX_OLD_SECRETS, -1)]


def test_each_refusal_says_when_to_come_again() -> None:
    """Every bound is 429, with a time."""
    for refusal in (TooManyLeaving, TooManyPings, TooManyReservations, TooManyUploads):
        error: OutfillError = refusal("x", retry_after_s=7)
        assert (error.status, error.retry_after_s) == (429, 7)
