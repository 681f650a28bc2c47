"""The steward's duties, one by one, against a real Valkey and a real S3."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
from conftest import eventually
from queueing import accept, let_lapse, spec_of, take
from ulid import ULID

import worker.steward
from api_schemas.errors import Unavailable
from api_schemas.jobs import JobStatus, StoredOutput, utc_now
from core.catalogue import Catalogue
from core.events import OUTBOX, Outbox
from core.jobs import INPUTS_EXPIRY, OUTPUTS_EXPIRY, JobRecords, Outcome, job_key, public
from core.queue import JobQueue, leases_key, queue_key
from core.settings import Limits, Settings
from core.storage import Storage, archive_key, input_key
from worker.claims import Claims
from worker.steward import LOCK, Steward
from worker.steward_metrics import StewardMetrics


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    return Claims(own_redis, records, queue, lease_s=30, overdue_s=60)


@pytest.fixture
def steward(settings: Settings, own_redis: redis.Redis, records: JobRecords, queue: JobQueue, storage: Storage) -> Steward:
    return Steward(
        settings,
        connection=own_redis,
        records=records,
        queue=queue,
        storage=storage,
        catalogue=Catalogue(own_redis),
        metrics=StewardMetrics(),
    )


def test_a_lapsed_job_is_requeued_at_the_front(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A dead worker's job waits again, before the others, and keeps its count of attempts."""
    spec, _ = accept(records, queue, spec_of()), accept(records, queue, spec_of())
    let_lapse(own_redis, take(claims))
    steward.reap_lapsed_leases()
    record = records.get(spec.id, "shop")
    assert (record.status, record.attempts) == (JobStatus.QUEUED, 1)
    assert take(claims).spec.id == spec.id


def test_a_living_job_is_left_alone(steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """A job whose worker beats is not touched."""
    spec = accept(records, queue, spec_of())
    take(claims)
    steward.reap_lapsed_leases()
    assert records.get(spec.id, "shop").status is JobStatus.RUNNING


def test_a_job_that_kills_its_workers_fails_in_the_end(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis, settings: Settings
) -> None:
    """After max_attempts the job fails with a code, and nothing of it is left in the queue."""
    spec = accept(records, queue, spec_of())
    for _ in range(settings.worker.max_attempts):
        let_lapse(own_redis, take(claims))
        steward.reap_lapsed_leases()
    record = records.get(spec.id, "shop")
    assert (record.status, record.error and record.error.code) == (JobStatus.FAILED, "attempts_exhausted")
    assert not own_redis.keys("rq:job:*")
    assert own_redis.zcard(leases_key(spec.queue)) == own_redis.llen(queue_key(spec.queue)) == 0


def test_a_canceled_job_of_a_dead_worker_ends_canceled(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A cancel that its worker did not live to hear is carried out by the steward."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    records.cancel(spec.id, "shop")
    let_lapse(own_redis, lease)
    steward.reap_lapsed_leases()
    assert records.get(spec.id, "shop").status is JobStatus.CANCELED


def test_what_a_worker_left_after_its_commit_is_cleared(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A worker that died between the commit and RQ's bookkeeping leaves nothing for ever."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED))
    let_lapse(own_redis, lease)
    steward.reap_lapsed_leases()
    assert records.get(spec.id, "shop").status is JobStatus.SUCCEEDED
    assert own_redis.zcard(leases_key(spec.queue)) == 0
    assert not own_redis.keys("rq:job:*")


def test_a_job_that_waited_past_its_deadline_expires(steward: Steward, records: JobRecords, queue: JobQueue) -> None:
    """A queued job whose deadline passed ends expired, and says why."""
    spec = accept(records, queue, spec_of(deadline_at=utc_now() - timedelta(seconds=1)))
    steward.expire_deadlines()
    record = records.get(spec.id, "shop")
    assert (record.status, record.error and record.error.code) == (JobStatus.EXPIRED, "deadline_exceeded")


def test_a_half_accepted_job_is_taken_back_and_an_accepted_one_is_not(
    steward: Steward, records: JobRecords, queue: JobQueue, storage: Storage, own_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the API died before it queued the job, record and inputs go; where it died after, the job stays."""
    monkeypatch.setattr(worker.steward, "ACCEPTANCE_LIMIT", timedelta(0))
    half, whole = spec_of(), spec_of()
    key = input_key("shop", half.id, "image")
    records.create(half)
    storage.put(key, b"x", "image/png")
    records.create(whole)
    queue.push(whole)
    steward.take_back_unaccepted()
    assert records.find(half.id) is None
    assert storage.keys(f"inputs/shop/{half.id}/") == []
    assert records.get(whole.id, "shop").status is JobStatus.QUEUED
    assert not own_redis.exists("outfill:accepting")


def test_old_jobs_and_uploads_are_deleted_with_their_objects(
    steward: Steward, queue: JobQueue, storage: Storage, own_redis: redis.Redis
) -> None:
    """Past retention neither record nor object is left."""
    records = JobRecords(own_redis, retention_s=-1)
    request = spec_of().request.model_copy(update={"webhook": None})
    spec = spec_of().model_copy(update={"request": request})
    ref = spec.inputs["image"].model_copy(update={"key": input_key("shop", spec.id, "image")})
    spec = accept(records, queue, spec.model_copy(update={"inputs": {"image": ref}}))
    storage.put(ref.key, b"x", "image/png")
    records.end_queued(spec, Outcome(JobStatus.CANCELED))
    records.expect_upload("shop", "upl_1", utc_now() - timedelta(seconds=1), 1)
    storage.put("uploads/shop/upl_1", b"x", "image/png")
    steward.delete_old_jobs()
    steward.delete_old_uploads()
    assert records.find(spec.id) is None
    assert storage.keys(f"inputs/shop/{spec.id}/") == storage.keys("uploads/shop/") == []


def test_a_job_that_owes_webhooks_is_deleted_when_they_were_sent(
    steward: Steward, queue: JobQueue, own_redis: redis.Redis, storage: Storage
) -> None:
    """Past its retention it is kept for what they tell; once the last was delivered or given up it goes."""
    records, outbox = JobRecords(own_redis, retention_s=-1), Outbox(own_redis)
    spec = accept(records, queue, spec_of())
    records.end_queued(spec, Outcome(JobStatus.CANCELED))
    steward.delete_old_jobs()
    assert records.find(spec.id) is not None
    assert records.past_retention(utc_now()) == []
    (row,) = outbox.lease(1, 60)
    outbox.delivered(row)
    assert records.past_retention(utc_now() + worker.steward.OWED_PAUSE) == [spec.id]
    own_redis.zadd("outfill:expiry", {spec.id: 0})
    steward.delete_old_jobs()
    assert records.find(spec.id) is None


def test_jobs_without_room_go_with_their_objects_and_webhooks(
    steward: Steward, queue: JobQueue, own_redis: redis.Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what a tenant may keep they are deleted once their webhooks were sent, or after ten minutes with those that they owe; the newest
    stays with all that is its own.
    """
    records, outbox = JobRecords(own_redis, retention_s=3600, limits=Limits(canceled_jobs=1)), Outbox(own_redis)
    specs = []
    for _ in range(3):
        spec = spec_of()
        ref = spec.inputs["image"].model_copy(update={"key": input_key("shop", spec.id, "image")})
        specs.append(accept(records, queue, spec.model_copy(update={"inputs": {"image": ref}})))
        storage.put(ref.key, b"x", "image/png")
        records.cancel(spec.id, "shop")
    told, owing, newest = specs
    (row,) = [row for row in outbox.lease(9, 60) if row.event.job_id == told.id]
    outbox.delivered(row)
    steward.delete_old_jobs()
    assert [records.find(spec.id) is None for spec in specs] == [True, False, False]
    monkeypatch.setattr(worker.steward, "OWED_LIMIT", timedelta(0))
    own_redis.zadd("outfill:expiry", {owing.id: 0})
    steward.delete_old_jobs()
    assert [records.find(spec.id) is None for spec in specs] == [True, True, False]
    assert storage.keys("inputs/shop/") == [newest.inputs["image"].key]
    storage.delete([newest.inputs["image"].key])
    assert len(cast("list[bytes]", own_redis.keys("outfill:webhook:*"))) == outbox.size() == 1
    assert not own_redis.exists("outfill:leaving:shop")


def test_thousands_that_never_began_go_in_one_round(
    steward: Steward, queue: JobQueue, own_redis: redis.Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are read at once are deleted in one round, and the store is asked once for each reading and lists nothing."""
    records = JobRecords(own_redis, retention_s=-1)
    request, calls = spec_of().request.model_copy(update={"webhook": None}), []
    monkeypatch.setattr(worker.steward, "DUE", 20)
    monkeypatch.setattr(steward._records, "past_retention", lambda now: records._due("outfill:expiry", now, 20))
    monkeypatch.setattr(steward._storage, "delete", lambda keys: calls.append(len(list(keys))))
    monkeypatch.setattr(steward._storage, "keys", lambda _: pytest.fail("listed"))
    for _ in range(50):
        spec = accept(records, queue, spec_of().model_copy(update={"request": request}))
        records.cancel(spec.id, "shop")
    steward.delete_old_jobs()
    assert calls == [2 * 20, 2 * 20, 2 * 10]  # the input of each, and its archive
    assert not own_redis.keys("outfill:job:*")


def test_jobs_that_ran_go_by_the_keys_of_their_records(
    steward: Steward, queue: JobQueue, own_redis: redis.Redis, storage: Storage, claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs, outputs, layers and archives go in one call for many jobs, and the store is asked for no list; what another job has stays."""
    records = JobRecords(own_redis, retention_s=-1)
    monkeypatch.setattr(steward._storage, "keys", lambda _: pytest.fail("listed"))
    calls: list[list[str]] = []
    delete = storage.delete

    def count(keys: Iterable[str]) -> None:
        calls.append(list(keys))
        delete(calls[-1])

    monkeypatch.setattr(steward._storage, "delete", count)
    request = spec_of().request.model_copy(update={"webhook": None})
    objects = [ended_with_objects(records, queue, claims, storage, request) for _ in range(3)]
    storage.put("outputs/shop/other/e/0.png", b"x", "image/png")
    steward.delete_old_jobs()
    assert [sorted(call) for call in calls] == [sorted(key for keys in objects for key in keys)]
    monkeypatch.undo()
    left = {key for prefix in ("inputs/shop/", "outputs/shop/", "records/shop/") for key in storage.keys(prefix)}
    assert "outputs/shop/other/e/0.png" in left
    assert not left & {key for keys in objects for key in keys}
    assert not own_redis.keys("outfill:job:*")
    storage.delete(["outputs/shop/other/e/0.png"])


def ended_with_objects(records: JobRecords, queue: JobQueue, claims: Claims, storage: Storage, request: Any) -> list[str]:
    """A job that succeeded, and the keys of its objects, which are there."""
    spec = spec_of()
    ref = spec.inputs["image"].model_copy(update={"key": input_key("shop", spec.id, "image")})
    spec = accept(records, queue, spec.model_copy(update={"inputs": {"image": ref}, "request": request}))
    lease, prefix = take(claims), f"outputs/shop/{spec.id}/e/"
    output = stored_output(f"{prefix}0.png").model_copy(update={"layers": {"mask": f"{prefix}0.mask.png"}})
    keys = [ref.key, output.key, *output.layers.values()]
    keys.append(archive_key("shop", spec.id, lease.execution.id))
    for key in keys:
        storage.put(key, b"x", "image/png")
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED, outputs=(output,))) == "committed"
    return keys


def stored_output(key: str) -> StoredOutput:
    return StoredOutput.model_validate(
        {
            "key": key,
            "width": 1,
            "height": 1,
            "format": "png",
            "bytes": 1,
            "sha256": "0",
            "report": {"preserved": {"max_delta": 0, "changed_pixels": 0, "kept_pixels": 1, "sha256": "0"}, "coverage": 0.5},
        }
    )


def test_what_is_due_and_not_deleted_is_measured(
    steward: Steward, queue: JobQueue, own_redis: redis.Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store deletes nothing the backlog is counted by kind, with how long its first has been due; afterwards it is nought."""
    records = JobRecords(own_redis, retention_s=-90)
    request = spec_of().request.model_copy(update={"webhook": None})
    for _ in range(3):
        spec = accept(records, queue, spec_of().model_copy(update={"request": request}))
        records.cancel(spec.id, "shop")
    records.expect_upload("shop", "upl_1", utc_now() - timedelta(seconds=10), 1)

    def backlog() -> list[float]:
        steward.set_gauges()
        registry = steward._metrics.registry
        names = ("outfill_deletions_due", "outfill_deletions_late_seconds")
        return [registry.get_sample_value(name, {"kind": kind}) or 0.0 for kind in ("jobs", "uploads") for name in names]

    def refuse(_: object) -> None:
        raise Unavailable("the object store does not delete")

    with monkeypatch.context() as patch:
        patch.setattr(steward._storage, "delete", refuse)
        for duty in (steward.delete_old_jobs, steward.delete_old_uploads):
            steward._try(duty)
        jobs, jobs_late, uploads, uploads_late = backlog()
    assert (jobs, uploads) == (3, 1)
    assert jobs_late >= 90
    assert uploads_late >= 10
    steward.delete_old_jobs()
    steward.delete_old_uploads()
    assert backlog() == [0, 0, 0, 0]


def test_an_upload_that_no_job_may_use_is_deleted(steward: Steward, storage: Storage, settings: Settings) -> None:
    """What is larger than an image may be goes before it expires; what may be used stays."""
    large, small = "uploads/shop/upl_large", "uploads/shop/upl_small"
    storage.put(large, bytes(settings.limits.max_image_bytes + 1), "image/png")
    storage.put(small, b"x", "image/png")
    steward.delete_oversized_uploads()
    assert storage.keys("uploads/shop/") == [small]
    storage.delete([small])


@pytest.mark.parametrize("by", ["settings", "tenant"])
def test_inputs_and_outputs_may_go_before_their_record(
    steward: Steward, queue: JobQueue, storage: Storage, own_redis: redis.Redis, claims: Claims, by: str
) -> None:
    """Inputs and outputs are deleted at their own time, by the settings or the tenant's policy; the record stays and says so."""
    times: dict[str, Any] = {"inputs_s": 0, "outputs_s": 0}
    records = JobRecords(own_redis, retention_s=60, **(times if by == "settings" else {}))
    if by == "tenant":
        records.set_policy("shop", times)
    spec = spec_of()
    ref = spec.inputs["image"].model_copy(update={"key": input_key("shop", spec.id, "image")})
    spec = accept(records, queue, spec.model_copy(update={"inputs": {"image": ref}}))
    kept = accept(records, queue, spec_of(tenant="other"))
    lease = take(claims)
    output = stored_output(f"outputs/shop/{spec.id}/e/0.png")
    for key in (spec.inputs["image"].key, output.key, input_key("other", kept.id, "image")):
        storage.put(key, b"x", "image/png")
    records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED, outputs=(output,)))
    assert public(records.get(spec.id, "shop"), storage).outputs[0].url
    steward.delete_old_inputs()
    assert storage.keys(f"inputs/shop/{spec.id}/") == []
    assert storage.keys(f"outputs/shop/{spec.id}/") == [output.key]
    steward.delete_old_outputs()
    assert storage.keys(f"outputs/shop/{spec.id}/") == []
    assert storage.keys(f"inputs/other/{kept.id}/") != []
    (shown,) = public(records.get(spec.id, "shop"), storage).outputs
    assert (shown.url, shown.width) == (None, 1)
    assert records.past_retention(utc_now() + timedelta(seconds=59)) == []
    assert not own_redis.exists(INPUTS_EXPIRY, OUTPUTS_EXPIRY)
    storage.delete([input_key("other", kept.id, "image")])


def test_a_tenant_may_keep_its_records_for_a_time_of_its_own(records: JobRecords, queue: JobQueue) -> None:
    """The tenant's policy outdoes the settings, shorter or longer."""
    spec, other = accept(records, queue, spec_of()), accept(records, queue, spec_of(tenant="other"))
    records.set_policy("shop", {"records_s": 5})
    for job in (spec, other):
        records.end_queued(job, Outcome(JobStatus.CANCELED))
    assert records.past_retention(utc_now() + timedelta(seconds=6)) == [spec.id]
    assert set(records.past_retention(utc_now() + timedelta(seconds=61))) == {spec.id, other.id}


def test_one_bad_record_keeps_no_other_waiting(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A record that cannot be read does not keep the jobs of a dead worker from being requeued."""
    bad, good = accept(records, queue, spec_of()), accept(records, queue, spec_of())
    for lease in (take(claims), take(claims)):
        let_lapse(own_redis, lease)
    own_redis.hset(job_key(bad.id), "spec", "{}")
    steward.reap_lapsed_leases()
    assert records.get(good.id, "shop").status is JobStatus.QUEUED


def test_of_two_stewards_one_is_active(
    settings: Settings, own_redis: redis.Redis, records: JobRecords, queue: JobQueue, storage: Storage
) -> None:
    """The second takes over only when the first lets go."""
    first, second = (
        Steward(
            settings,
            connection=own_redis,
            records=records,
            queue=queue,
            storage=storage,
            catalogue=Catalogue(own_redis),
            metrics=StewardMetrics(),
        )
        for _ in range(2)
    )
    assert first._renew_or_acquire()
    assert not second._renew_or_acquire()
    own_redis.delete(LOCK)  # as when its holder died and the lock lapsed
    assert second._renew_or_acquire()
    first._active.set()
    assert not first._renew_or_acquire()


def test_a_steward_whose_acquiring_was_not_answered_is_active_all_the_same(steward: Steward, own_redis: redis.Redis) -> None:
    """Where the answer to taking the lock was lost, the next try finds that the lock is held, by itself."""
    assert own_redis.set(LOCK, steward._token, nx=True, px=10_000)  # as if nobody had heard of it
    assert steward._renew_or_acquire()


def test_a_lapsed_lease_does_not_wait_for_s3(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While S3 does not answer, the jobs of a dead worker are given back nevertheless."""
    spec, answers = accept(records, queue, spec_of()), threading.Event()
    monkeypatch.setattr(steward._storage, "keys", lambda _: answers.wait(60) and [])
    records.expect_leftovers(spec_of())  # what makes it ask S3
    let_lapse(own_redis, take(claims))

    def let_s3_answer_once_it_is_given_back() -> None:
        while records.get(spec.id, "shop").status is not JobStatus.QUEUED:
            time.sleep(0.05)
        answers.set()
        steward.stop()

    async def keep() -> None:
        await asyncio.gather(steward.run(), asyncio.to_thread(let_s3_answer_once_it_is_given_back))

    asyncio.run(keep())


def test_a_round_that_hangs_shows(steward: Steward, records: JobRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the last round stands still for the kind that hangs, and goes on for the other."""
    asks, answers = threading.Event(), threading.Event()

    def keys(_: str) -> list[str]:
        asks.set()
        answers.wait(60)
        return []

    monkeypatch.setattr(steward._storage, "keys", keys)
    records.expect_leftovers(spec_of())  # what makes it ask S3

    def ended(kind: str) -> float:
        found = steward._metrics.registry.get_sample_value("outfill_steward_last_round_timestamp_seconds", {"round": kind})
        assert found is not None
        return found

    def watch() -> None:
        assert asks.wait(60)
        storage, jobs = ended("storage"), ended("jobs")
        eventually(lambda: ended("jobs") > jobs)
        assert ended("storage") == storage
        answers.set()
        eventually(lambda: ended("storage") > storage)
        steward.stop()

    async def keep() -> None:
        await asyncio.gather(steward.run(), asyncio.to_thread(watch))

    asyncio.run(keep())


def test_the_gauges_tell_to_how_many_and_how_late_webhooks_go(
    steward: Steward, records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """How many receivers are owed something, and since when the first of it has been due."""
    registry = steward._metrics.registry
    steward.set_gauges()
    assert (registry.get_sample_value("outfill_webhook_lanes"), registry.get_sample_value("outfill_webhooks_late_seconds")) == (0, 0)
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, spec.tenant)
    (lane,) = cast("list[bytes]", own_redis.zrange(OUTBOX, 0, -1))
    own_redis.zincrby(OUTBOX, -90_000, lane)
    steward.set_gauges()
    late = registry.get_sample_value("outfill_webhooks_late_seconds")
    assert registry.get_sample_value("outfill_webhook_lanes") == 1
    assert late is not None
    assert late >= 90


def test_a_tenant_that_waits_for_itself_makes_no_queue_old(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """The age of a queue is that of the first job that a worker may take: not of a tenant's of which workers hold as many as they may."""

    def age() -> float:
        steward.set_gauges()
        found = steward._metrics.registry.get_sample_value("outfill_queue_oldest_age_seconds", {"queue": "backdrop.standard"})
        assert found is not None
        return found

    hour_ago = str(ULID.from_timestamp(time.time() - 3600))
    records.set_policy("shop", {"running_jobs": 1})
    accept(records, queue, spec_of())
    take(claims)
    accept(records, queue, spec_of(id=f"job_{hour_ago}"))
    assert age() == 0
    records.set_policy("shop", {"running_jobs": 2})
    assert 3600 <= age() < 3700


def test_the_gauges_tell_states_depth_and_age(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """Jobs by state, jobs waiting, and the age of the first of them."""
    from prometheus_client import generate_latest

    accept(records, queue, spec_of())
    accept(records, queue, spec_of())
    take(claims)
    steward.set_gauges()
    text = generate_latest(steward._metrics.registry).decode()
    assert 'outfill_jobs{state="queued"} 1.0' in text
    assert 'outfill_jobs{state="running"} 1.0' in text
    assert 'outfill_queue_depth{queue="backdrop.standard"} 1.0' in text
