"""The job record: one way into a terminal state, fenced by a lease. Against a real Valkey."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any, cast

import pytest
import redis
from queueing import accept, let_lapse, spec_of, take

from api_schemas.errors import ErrorInfo, JobAlreadyFinished, JobNotFound
from api_schemas.jobs import JobStatus, utc_now
from core.events import Outbox, stream_key
from core.jobs import Glance, JobRecords, Outcome, job_key
from core.queue import JobQueue, execution_key, leases_key, queue_key
from worker.claims import Claims


@pytest.fixture
def queue(own_redis: redis.Redis) -> JobQueue:
    return JobQueue(own_redis, fsync_timeout_ms=2000)


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    worker = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    worker.start()
    return worker


def test_a_job_is_queued_begun_and_committed_once(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """The states follow one another, the attempt is counted, and nothing of the message is left in Redis."""
    spec = accept(records, queue, spec_of())
    assert records.get(spec.id, "shop").status is JobStatus.QUEUED
    lease = take(claims)
    running = records.get(spec.id, "shop")
    assert (running.status, running.attempts) == (JobStatus.RUNNING, 1)
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    claims.settle(lease)
    assert records.get(spec.id, "shop").status is JobStatus.SUCCEEDED
    assert own_redis.zcard(leases_key(spec.queue)) == 0
    assert not own_redis.keys("rq:job:*")
    assert not own_redis.keys("rq:execution*")
    assert records.counts()[JobStatus.SUCCEEDED] == 1
    assert sum(records.counts().values()) == 1


def test_a_commit_whose_answer_was_lost_may_be_tried_again(
    records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A second commit by the same execution changes nothing, says so, and owes no second webhook."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "repeated"
    assert records.commit(spec, lease.member, Outcome(JobStatus.FAILED)) == "repeated"
    assert records.get(spec.id, "shop").status is JobStatus.SUCCEEDED
    assert Outbox(own_redis).size() == 1


def test_a_zombie_cannot_commit(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """Once a lapsed job was requeued, the execution that had it commits nothing, before or after the next one does."""
    spec = accept(records, queue, spec_of())
    zombie = take(claims)
    let_lapse(own_redis, zombie)
    assert records.requeue(spec, zombie.member, lapsed_before_s=time.time())
    assert records.commit(spec, zombie.member, Outcome(JobStatus.SUCCEEDED)) == "lost"
    heir = take(claims)
    assert records.commit(spec, zombie.member, Outcome(JobStatus.FAILED)) == "lost"
    assert records.commit(spec, heir.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    assert records.commit(spec, zombie.member, Outcome(JobStatus.FAILED)) == "lost"
    record = records.get(spec.id, "shop")
    assert (record.status, record.attempts) == (JobStatus.SUCCEEDED, 2)


def test_an_heir_settles_although_the_first_execution_lapsed_in_rq(
    records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """RQ's own trace of a lapsed execution does not keep its successor from clearing the message away."""
    spec = accept(records, queue, spec_of())
    first = take(claims)
    let_lapse(own_redis, first)
    own_redis.delete(execution_key(first.member))  # as RQ's own expiry does
    assert records.requeue(spec, first.member, lapsed_before_s=time.time())
    heir = take(claims)
    assert records.commit(spec, heir.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    claims.settle(heir)
    assert not own_redis.keys("rq:job:*")
    assert not own_redis.keys("rq:execution*")


def test_a_living_lease_is_not_reaped(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """A lease that has not lapsed can be neither requeued nor ended by the steward."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    assert not records.requeue(spec, lease.member, lapsed_before_s=time.time())
    assert not records.end_abandoned(spec, lease.member, Outcome(JobStatus.FAILED), lapsed_before_s=time.time())
    assert records.get(spec.id, "shop").status is JobStatus.RUNNING


def test_a_job_handed_back_costs_no_attempt_and_goes_first(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """A worker that stops puts its job before the others, and the attempt does not count."""
    first = accept(records, queue, spec_of())
    accept(records, queue, spec_of())
    lease = take(claims)
    assert claims.hand_back(lease)
    assert records.get(first.id, "shop").attempts == 0
    assert take(claims).spec.id == first.id


def test_a_waiting_job_is_canceled_at_once(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """Canceling a queued job ends it, takes it off the queue, and no worker gets it."""
    spec = accept(records, queue, spec_of())
    assert records.cancel(spec.id, "shop").status is JobStatus.CANCELED
    assert own_redis.llen(queue_key(spec.queue)) == 0
    assert claims.take(["backdrop"]) is None
    assert records.cancel(spec.id, "shop").status is JobStatus.CANCELED


def test_a_running_job_is_told_to_cancel(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """Canceling a running job asks its worker, which hears of it with the next beat; a success that comes too late is not taken."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    assert records.cancel(spec.id, "shop").status is JobStatus.RUNNING
    assert records.beat(spec.id, lease.member, 1, 2) == "cancel"
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "canceled"
    assert records.get(spec.id, "shop").status is JobStatus.RUNNING
    assert records.commit(spec, lease.member, Outcome(JobStatus.CANCELED)) == "committed"
    assert records.get(spec.id, "shop").status is JobStatus.CANCELED


def test_a_finished_job_cannot_be_canceled(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """Terminal is final."""
    spec = accept(records, queue, spec_of())
    assert records.commit(spec, take(claims).member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    with pytest.raises(JobAlreadyFinished):
        records.cancel(spec.id, "shop")


def test_another_tenants_job_does_not_exist(records: JobRecords, queue: JobQueue) -> None:
    """A job is found by its own tenant only, and listed by it only."""
    spec = accept(records, queue, spec_of())
    with pytest.raises(JobNotFound):
        records.get(spec.id, "other")
    assert records.page("other", limit=10) == ([], None)


def test_jobs_are_listed_newest_first_in_pages(records: JobRecords, queue: JobQueue) -> None:
    """Each page goes on where the last one ended, none is shown twice, and the last one says that it is."""
    ids = [accept(records, queue, spec_of()).id for _ in range(6)]
    first, following = records.page("shop", limit=3)
    rest, end = records.page("shop", before=following, limit=3)
    assert [record.spec.id for record in first + rest] == sorted(ids, reverse=True)
    assert (following, end) == (first[-1].spec.id, None)


def test_a_page_looks_past_jobs_that_are_not_wanted(records: JobRecords) -> None:
    """A filter fills its page from as many records as it takes, up to a thousand; then it says where to go on."""
    ids = sorted(spec.id for spec in (spec_of() for _ in range(1205)))
    rare = {ids[0], ids[1100], ids[700]}
    for job_id in ids:
        spec = spec_of(id=job_id)
        records.create(spec.model_copy(update={"request": spec.request.model_copy(update={"metadata": {"rare": job_id in rare}})}))

    def wanted(job: Glance) -> bool:
        return (job.status, job.operation, job.metadata["rare"]) == ("queued", "replace_background", True)

    found, following = records.page("shop", limit=3, wanted=wanted)
    assert [record.spec.id for record in found] == [ids[1100], ids[700]]
    assert following == ids[205]
    found, end = records.page("shop", before=following, limit=3, wanted=wanted)
    assert ([record.spec.id for record in found], end) == ([ids[0]], None)
    some, _ = records.page("shop", since=ids[10], before=ids[12], limit=9)
    assert [record.spec.id for record in some] == [ids[11], ids[10]]


def test_every_event_has_a_number_and_a_webhook_if_it_was_asked_for(
    records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """Started and succeeded are events 1 and 2; only the terminal one, which is the default, is owed as a webhook."""
    spec = accept(records, queue, spec_of())
    records.commit(spec, take(claims).member, Outcome(JobStatus.SUCCEEDED))
    events = [fields for _, fields in cast("Any", own_redis).xrange(stream_key(spec.id))]
    assert [(event[b"event"], event[b"seq"]) for event in events] == [(b"job.started", b"1"), (b"job.succeeded", b"2")]
    (row,) = Outbox(own_redis).lease(10, 60)
    assert (row.event.job_id, row.event.type, row.seq, row.attempts) == (spec.id, "job.succeeded", 2, 0)


def test_a_leased_webhook_comes_again_only_after_its_lease(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """What one sender has is not given to another, and comes back if it is not settled."""
    spec = accept(records, queue, spec_of())
    records.cancel(spec.id, "shop")
    outbox = Outbox(own_redis)
    (row,) = outbox.lease(10, 60)
    assert outbox.lease(10, 60) == []
    outbox.put_off(row, -1)
    (again,) = outbox.lease(10, 60)
    assert (again.id, again.attempts) == (row.id, 1)
    outbox.bury(again)
    assert (outbox.size(), outbox.dead_letters()) == (0, 1)


def test_a_failure_is_kept_with_its_code(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """A failed job tells the code and the field to blame."""
    spec = accept(records, queue, spec_of())
    error = ErrorInfo(code="image_corrupt", message="truncated", field="image")
    records.commit(spec, take(claims).member, Outcome(JobStatus.FAILED, error=error))
    assert records.get(spec.id, "shop").error == error


def test_deleting_leaves_nothing(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """After deletion no key of the job is left, and the counts are zero."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED))
    claims.settle(lease)
    records.delete(spec)
    assert not [key for key in cast("list[bytes]", own_redis.keys("*")) if spec.id.encode() in key]
    assert set(records.counts().values()) == {0}
    assert not own_redis.exists(job_key(spec.id))


def test_a_job_that_its_owner_deletes_takes_its_webhooks(
    records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis
) -> None:
    """A job that has ended goes with the webhooks that it is owed and its dead letters, also before its worker has let go of it; one that
    was being sent meanwhile comes back in no list.
    """
    spec = accept(records, queue, spec_of())
    assert not records.delete(spec, only_if="ended")
    lease = take(claims)
    assert not records.delete(spec, only_if="ended")
    records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED))
    outbox = Outbox(own_redis)
    (row,) = outbox.lease(10, 60)
    assert records.delete(spec, only_if="ended")
    outbox.bury(row)
    claims.settle(lease)
    assert (outbox.size(), outbox.dead_letters()) == (0, 0)
    assert not [key for key in cast("list[bytes]", own_redis.keys("*")) if spec.id.encode() in key or row.id.encode() in key]
    assert own_redis.zcard(leases_key(spec.queue)) == 0
    assert not records.delete(spec, only_if="ended")
    assert set(records.counts().values()) == {0}


def test_a_job_that_was_begun_is_not_taken_back(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """What is deleted only if it still waits stays once a worker has begun it."""
    spec = accept(records, queue, spec_of())
    take(claims)
    assert not records.delete(spec, only_if="unaccepted")
    assert records.get(spec.id, "shop").status is JobStatus.RUNNING


def test_late_beats_and_cancels_bring_no_record_back(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """Progress told for a job that was deleted, or by an execution that lost it, is dropped."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    assert records.beat(spec.id, lease.member, 1, 2) == "running"
    assert records.beat(spec.id, "another:execution", 2, 2) == "lost"
    records.delete(spec)
    assert records.beat(spec.id, lease.member, 2, 2) == "lost"
    with pytest.raises(JobNotFound):
        records.cancel(spec.id, "shop")
    assert not own_redis.exists(job_key(spec.id))


def test_deadlines_and_retention_come_due(records: JobRecords, queue: JobQueue) -> None:
    """A job with a deadline is due after it; an ended job is due for deletion after its retention."""
    spec = accept(records, queue, spec_of(deadline_at=utc_now() + timedelta(seconds=5)))
    assert records.past_deadline(utc_now()) == []
    assert records.past_deadline(utc_now() + timedelta(seconds=6)) == [spec.id]
    records.end_queued(spec, Outcome(JobStatus.EXPIRED))
    assert records.past_deadline(utc_now() + timedelta(seconds=6)) == []
    assert records.past_retention(utc_now()) == []
    assert records.past_retention(utc_now() + timedelta(seconds=61)) == [spec.id]


def test_the_message_in_redis_is_json_and_names_no_code_to_run(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """RQ's payload is a JSON list with a constant name and no arguments."""
    import zlib

    spec = accept(records, queue, spec_of())
    data = zlib.decompress(cast("bytes", own_redis.hget(f"rq:job:{spec.id}", "data")))
    assert json.loads(data)[0] == "outfill.paint"
    assert json.loads(data)[2:] == [[], {}]
