"""A burst is spread over the workers that ask for it. Against a real Valkey."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from queueing import accept, spec_of, take

from core.jobs import JobRecords
from core.queue import Claimant, JobQueue, LeftToAnother, Room
from worker.claims import Claims, Lease

MODELS = ["backdrop"]


@pytest.fixture
def workers(own_redis: redis.Redis, queue: JobQueue) -> list[Claims]:
    """Two workers that are idle, have asked, and count as about to ask again for longer than a test takes."""

    def worker() -> Claims:
        records = JobRecords(own_redis, retention_s=60)
        return Claims(own_redis, records, queue, lease_s=30, overdue_s=60, poll_s=60)

    both = [worker(), worker()]
    for claims in both:
        assert claims.take(MODELS) is None
    return both


def burst(records: JobRecords, queue: JobQueue, jobs: int) -> None:
    for _ in range(jobs):
        accept(records, queue, spec_of())


def test_a_burst_is_shared_evenly(workers: list[Claims], records: JobRecords, queue: JobQueue) -> None:
    """However fast one worker asks, an idle one gets as many jobs of a burst."""
    burst(records, queue, 8)
    hasty, calm = workers
    for _ in range(4):
        assert isinstance(hasty.take(MODELS), Lease)
        for _ in range(3):
            with pytest.raises(LeftToAnother):
                hasty.take(MODELS)
        take(calm)
    assert (len(hasty.held()), len(calm.held())) == (4, 4)


def test_a_job_is_left_only_to_a_worker_that_will_ask(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> None:
    """A worker that has not asked again in its time is not waited for, and is forgotten."""
    assert queue.claim(MODELS, 1, overdue_s=60, claimant=Claimant("gone", 0, asks_again_s=-1.0)) == []
    burst(records, queue, 1)
    here = Claimant("here", 1, asks_again_s=60.0)
    assert len(queue.claim(MODELS, 1, overdue_s=60, claimant=here)) == 1
    assert own_redis.hkeys("outfill:asking") == [b"here"]


@pytest.mark.parametrize("asks", [{"models": ["other"]}, {"models": MODELS, "spare_bulk": True}])
def test_a_job_is_not_left_to_a_worker_that_cannot_take_it(
    workers: list[Claims], records: JobRecords, queue: JobQueue, asks: dict[str, Any]
) -> None:
    """An idle worker that serves other models, or has its fill of bulk jobs, keeps no job from one that is busy."""
    for _ in range(3):
        accept(records, queue, spec_of(priority="bulk"))
    busy, idle = workers
    take(busy)
    with pytest.raises(LeftToAnother):
        busy.take(MODELS)
    assert idle.take(**asks) is None
    assert isinstance(busy.take(MODELS), Lease)


def test_what_is_left_to_another_holds_nothing_else_up(workers: list[Claims], records: JobRecords, queue: JobQueue) -> None:
    """A busy worker that leaves the jobs of one model to an idle worker takes those of a model that only it serves."""
    busy, idle = workers
    accept(records, queue, spec_of())
    take(busy)
    assert idle.take(["backdrop"]) is None
    left, other = accept(records, queue, spec_of()), accept(records, queue, spec_of(model="other"))
    lease = busy.take(["backdrop", "other"])
    assert lease is not None
    assert lease.spec.id == other.id
    assert take(idle).spec.id == left.id


@pytest.mark.parametrize("room", [Room(1), Room(8, {"backdrop": 1})])
def test_nothing_is_left_to_a_worker_that_is_full(workers: list[Claims], records: JobRecords, queue: JobQueue, room: Room) -> None:
    """A worker that has just taken the last job for which it had room is not waited for."""
    busy, small = workers
    burst(records, queue, 4)
    take(busy)
    assert isinstance(small.take(MODELS, room=room), Lease)
    take(busy)
    assert (len(busy.held()), len(small.held())) == (2, 1)
    take(busy)


def test_what_workers_ask_is_not_logged(workers: list[Claims], own_redis: redis.Redis) -> None:
    """The questions of idle workers are in Redis and not in its log."""
    queue = JobQueue(own_redis, fsync_timeout_ms=5000)

    def logged() -> int:
        queue.wait_until_durable()
        return int(own_redis.info("persistence")["aof_current_size"])

    assert own_redis.hlen("outfill:asking") == 2
    before = logged()
    for _ in range(10):
        for claims in workers:
            claims.take(MODELS)
    counted = 20 * len("*2\r\n$4\r\nINCR\r\n$14\r\noutfill:claims\r\n")
    assert 0 < logged() - before < 2 * counted
