"""What a worker leaves when a job goes to another: held up before it could begin, or given back."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from queueing import accept, spec_of, take

from api_schemas.jobs import JobSpec, JobStatus
from core.jobs import JobRecords, Outcome
from core.queue import JobQueue, leases_key
from worker.claims import Claims


def test_a_late_worker_takes_no_lease_but_its_own(
    own_redis: redis.Redis, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease lapsed and the job was given to another before it could begin: the other keeps its lease, and commits."""
    late, other = (Claims(own_redis, JobRecords(own_redis, retention_s=60), queue, lease_s=30, overdue_s=60) for _ in range(2))
    spec, begin, held = accept(records, queue, spec_of()), late._records.begin, []

    def after_a_pause(spec: JobSpec, lease: str) -> Any:
        own_redis.zadd(leases_key(spec.queue), {lease: queue.now_s() - 1})
        assert records.requeue(spec, lease, lapsed_before_s=queue.now_s())
        held.append(take(other))
        return begin(spec, lease)

    monkeypatch.setattr(late._records, "begin", after_a_pause)
    assert late.take(["backdrop"]) is None
    (lease,) = held
    assert own_redis.zrange(leases_key(spec.queue), 0, -1) == [lease.member.encode()]
    assert records.commit(spec, lease.member, Outcome(JobStatus.SUCCEEDED)) == "committed"
    other.settle(lease)
    assert not own_redis.keys("rq:job:*")


def test_jobs_that_were_given_back_leave_no_trace_of_their_worker(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A worker that lives on has no list of what it once held."""
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    claims.start()
    accept(records, queue, spec_of())
    assert claims.hand_back(take(claims))
    claims.beat()
    assert own_redis.keys("rq:worker:*:executions") == own_redis.keys("rq:execution:*") == []


def test_a_start_whose_answer_was_lost_is_made_again(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A worker that tries again to become known to RQ, because the first answer never came, goes on."""
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    claims.start()
    claims.start()
    assert len(own_redis.keys(f"rq:worker:{claims.name}")) == 1


def test_a_job_that_is_canceled_and_deleted_while_it_is_claimed_breaks_no_worker(
    own_redis: redis.Redis, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message of RQ is gone by the time that the worker would settle it: nothing is left, and the next job is taken."""
    claims = Claims(own_redis, JobRecords(own_redis, retention_s=60), queue, lease_s=30, overdue_s=60)
    gone, begin = accept(records, queue, spec_of()), claims._records.begin

    def once_it_is_gone(spec: JobSpec, lease: str) -> Any:
        if spec.id == gone.id:
            records.cancel(spec.id, spec.tenant)
            queue.drop(spec.queue, spec.id)
        return begin(spec, lease)

    monkeypatch.setattr(claims._records, "begin", once_it_is_gone)
    following = accept(records, queue, spec_of())
    lease = take(claims)
    assert lease.spec.id == following.id
    assert own_redis.zrange(leases_key(gone.queue), 0, -1) == [lease.member.encode()]
    assert not own_redis.keys(f"rq:job:{gone.id}*")
