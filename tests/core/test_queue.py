"""The queue: once in, claimed in order, never lost. Against a real Valkey."""

from __future__ import annotations

import time

import pytest
import redis
from queueing import accept, spec_of, take
from ulid import ULID

from api_schemas.errors import Unavailable
from api_schemas.jobs import JobStatus
from core.jobs import JobRecords, Outcome
from core.queue import JobQueue, intermediate_key, message_keys, queue_key
from worker.claims import Claims


def old_id(age_s: float) -> str:
    """The id of a job made some time ago."""
    return f"job_{ULID.from_timestamp(time.time() - age_s)}"


def parts(connection: redis.Redis) -> tuple[JobRecords, JobQueue]:
    return JobRecords(connection, retention_s=60), JobQueue(connection, fsync_timeout_ms=2000)


def test_pushing_twice_queues_once(own_redis: redis.Redis) -> None:
    """A push that is retried after a lost answer does not list the job twice."""
    records, queue = parts(own_redis)
    spec = spec_of()
    records.create(spec)
    queue.push(spec)
    queue.push(spec)
    assert own_redis.lrange(queue_key(spec.queue), 0, -1) == [spec.id.encode()]


def test_a_push_that_is_retried_after_the_end_leaves_nothing(own_redis: redis.Redis) -> None:
    """A job that was done while its caller was told that nothing is sure yet is not queued again by his retry."""
    records, queue = parts(own_redis)
    spec = accept(records, queue, spec_of())
    records.end_queued(spec, Outcome(JobStatus.CANCELED))
    queue.push(spec)
    assert not own_redis.exists(queue_key(spec.queue), *message_keys(spec.id))
    assert queue.claim(["backdrop"], 1, overdue_s=60) == []


def test_a_push_whose_answer_was_lost_leaves_the_message_of_a_job_that_runs(own_redis: redis.Redis) -> None:
    """Where the job was begun before the push is repeated, its worker's message stays."""
    records, queue = parts(own_redis)
    spec = accept(records, queue, spec_of())
    lease = take(Claims(own_redis, records, queue, lease_s=30, overdue_s=60))
    assert queue.line_up(spec)
    queue.drop(spec.queue, spec.id, spec.tenant)
    assert records.get(spec.id, spec.tenant).status is JobStatus.RUNNING
    assert own_redis.exists(*message_keys(lease.spec.id)) == len(message_keys(spec.id))


def test_what_was_queued_again_after_its_end_is_found(own_redis: redis.Redis) -> None:
    """Where the process died in the middle of that, the housekeeper sees the job and forgets it."""
    records, queue = parts(own_redis)
    spec = accept(records, queue, spec_of())
    records.end_queued(spec, Outcome(JobStatus.CANCELED))
    queue.rq_queue(spec.queue).enqueue_call("outfill.paint", job_id=spec.id, unique=True, timeout=-1, result_ttl=0)
    assert queue.out_of_line(spec.queue) == [spec.id]
    queue.drop(spec.queue, spec.id)
    assert not own_redis.exists(queue_key(spec.queue), *message_keys(spec.id))


def test_interactive_goes_before_standard_before_bulk(own_redis: redis.Redis) -> None:
    """Priorities are served in their order, each first come, first served."""
    records, queue = parts(own_redis)
    ids = {name: [accept(records, queue, spec_of(priority=name)).id for _ in range(2)] for name in ("bulk", "standard", "interactive")}
    taken = [job_id for _, job_id in queue.claim(["backdrop"], 10, overdue_s=60)]
    assert taken == ids["interactive"] + ids["standard"] + ids["bulk"]


def test_jobs_that_have_waited_too_long_get_one_claim_in_four(own_redis: redis.Redis) -> None:
    """Overdue bulk jobs do not starve behind interactive ones, nor hold them up: they get a quarter of the claims."""
    records, queue = parts(own_redis)
    bulk = {accept(records, queue, spec_of(id=old_id(61 + number), priority="bulk")).id for number in range(8)}
    for _ in range(8):
        accept(records, queue, spec_of(priority="interactive"))
    taken = [job_id in bulk for _, job_id in queue.claim(["backdrop"], 8, overdue_s=60)]
    assert sum(taken) == 2


def test_a_connection_lost_before_the_fsync_is_not_taken_for_a_fsync(own_redis: redis.Redis) -> None:
    """When Redis confirms nothing on disk, the push says so."""
    records = JobRecords(own_redis, retention_s=60)
    queue = JobQueue(own_redis, fsync_timeout_ms=50)
    own_redis.config_set("appendfsync", "no")
    try:
        spec = spec_of()
        records.create(spec)
        with pytest.raises(Unavailable):
            queue.push(spec)
    finally:
        own_redis.config_set("appendfsync", "everysec")


def test_among_models_the_oldest_head_goes_first(own_redis: redis.Redis) -> None:
    """With several models in one priority, the one whose job has waited longest is served."""
    records, queue = parts(own_redis)
    newer, older = spec_of(id=old_id(1)), spec_of(id=old_id(2)).model_copy(update={"model": "other"})
    accept(records, queue, newer)
    accept(records, queue, older)
    assert [job_id for _, job_id in queue.claim(["backdrop", "other"], 2, overdue_s=60)] == [older.id, newer.id]


def test_only_the_models_asked_for_are_claimed(own_redis: redis.Redis) -> None:
    """A worker gets no job of a model that it does not serve."""
    records, queue = parts(own_redis)
    accept(records, queue, spec_of())
    assert queue.claim(["other"], 5, overdue_s=60) == []


def test_a_claimed_id_without_a_lease_comes_back(own_redis: redis.Redis) -> None:
    """What a worker claimed before it died stands on the intermediate list for one round and is then at the front again."""
    records, queue = parts(own_redis)
    first, second = accept(records, queue, spec_of()), accept(records, queue, spec_of())
    queue.claim(["backdrop"], 1, overdue_s=60)
    assert own_redis.lrange(intermediate_key(first.queue), 0, -1) == [first.id.encode()]
    assert queue.give_back_strays(first.queue) == 0
    assert queue.give_back_strays(first.queue) == 1
    assert own_redis.lrange(queue_key(first.queue), 0, -1) == [first.id.encode(), second.id.encode()]
    assert own_redis.llen(intermediate_key(first.queue)) == 0


def test_a_place_in_the_queue_is_told(own_redis: redis.Redis) -> None:
    """The position counts the jobs ahead; a job that left has none."""
    records, queue = parts(own_redis)
    first, second = accept(records, queue, spec_of()), accept(records, queue, spec_of())
    assert (queue.position(first), queue.position(second)) == (0, 1)
    queue.claim(["backdrop"], 1, overdue_s=60)
    assert queue.position(first) is None
