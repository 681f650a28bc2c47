"""Idempotency keys in Redis: held by one request, then by its job. Against a real Valkey."""

from __future__ import annotations

from dataclasses import replace

import redis
from queueing import accept, spec_of

from core.jobs import JobRecords, Reservation, job_key, reservation_key
from core.queue import JobQueue

FIRST = Reservation("shop", "shop", "k", request="digest", token="res_1")
SECOND = replace(FIRST, token="res_2")
ROW = reservation_key("shop", "k")
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def lapse(connection: redis.Redis) -> None:
    """Make the key's lease end, as a minute would."""
    connection.delete(ROW)


def test_the_first_request_gets_the_key_and_the_second_sees_it(records: JobRecords, own_redis: redis.Redis) -> None:
    """A key has one holder, for at most a minute unless a job is bound to it; asking again changes nothing."""
    assert records.reserve(FIRST) == FIRST
    assert records.reserve(SECOND) == FIRST
    assert records.reserve(replace(SECOND, request="other")) == FIRST
    assert 0 < own_redis.pttl(ROW) <= MINUTE_MS


def test_a_key_belongs_to_one_tenant(records: JobRecords) -> None:
    """The same key of two tenants is two keys."""
    records.reserve(FIRST)
    other = replace(SECOND, key_id="other")
    assert records.reserve(other) == other


def test_a_key_is_kept_for_its_job_for_a_day(records: JobRecords, own_redis: redis.Redis) -> None:
    """Once bound, the key leads to the job for 24 hours, and its request cannot free it any more."""
    spec = spec_of()
    records.create(spec)
    records.reserve(FIRST)
    assert records.bind(FIRST, spec.id)
    assert records.bind(FIRST, spec.id)  # a retried call
    records.release(FIRST)
    assert records.reserve(SECOND) == replace(FIRST, job_id=spec.id)
    assert MINUTE_MS < own_redis.pttl(ROW) <= DAY_MS


def test_only_its_holder_frees_a_key(records: JobRecords) -> None:
    """A request that lost its key to another one does not free the other's."""
    records.reserve(FIRST)
    records.release(SECOND)
    assert records.reserve(SECOND) == FIRST
    records.release(FIRST)
    assert records.reserve(SECOND) == SECOND


def test_a_request_that_outlives_its_lease_makes_no_second_job(records: JobRecords, own_redis: redis.Redis) -> None:
    """After its lease a slow request may go on only if nobody took the key meanwhile."""
    spec = spec_of()
    records.create(spec)
    records.reserve(FIRST)
    lapse(own_redis)
    assert records.bind(FIRST, spec.id)
    lapse(own_redis)
    records.reserve(SECOND)
    assert not records.bind(FIRST, spec.id)
    assert records.reserve(FIRST) == SECOND


def test_binding_brings_no_record_back(records: JobRecords, own_redis: redis.Redis) -> None:
    """A job that was taken back while its inputs were being stored is not bound."""
    records.reserve(FIRST)
    assert not records.bind(FIRST, "job_gone")
    assert not own_redis.exists(job_key("job_gone"))


def test_a_deleted_job_frees_its_key_and_no_other(records: JobRecords, queue: JobQueue, own_redis: redis.Redis) -> None:
    """With the job goes the key that led to it, unless the key leads to a later job by then."""
    first, second = accept(records, queue, spec_of()), accept(records, queue, spec_of())
    records.bind(FIRST, first.id)
    lapse(own_redis)
    records.bind(SECOND, second.id)
    records.delete(first)
    assert records.reserve(FIRST).job_id == second.id
    records.delete(second)
    assert not own_redis.exists(ROW)


def test_an_accepted_job_is_not_taken_back(records: JobRecords, queue: JobQueue) -> None:
    """A request that breaks off does not take a job back that a retry of it was answered with."""
    spec = spec_of()
    records.create(spec)
    queue.push(spec)
    assert records.accepting(spec.id)
    assert records.accepted(spec.id)
    assert not records.delete(spec, only_if="unaccepted")
    assert records.find(spec.id) is not None
