"""Tenants in the queue: they take turns, are held to their limits, and hold nobody else up. Against a real Valkey."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from queueing import accept, let_lapse, spec_of, take

from api_schemas.errors import TooManyQueued
from api_schemas.jobs import JobSpec, JobStatus
from core.events import policy_key
from core.jobs import JobRecords, Outcome, job_key, tenant_counts_key
from core.queue import Claimant, JobQueue, Room, intermediate_key, line_key, queue_key, running_key, turns_key
from core.settings import Limits
from worker.claims import Claims


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    return Claims(own_redis, records, queue, lease_s=30, overdue_s=60)


def accept_many(records: JobRecords, queue: JobQueue, tenant: str, count: int) -> list[JobSpec]:
    return [accept(records, queue, spec_of(tenant=tenant)) for _ in range(count)]


def order(queue: JobQueue, tenants: dict[str, str], count: int, *, running_jobs: int = 0) -> str:
    """Whose jobs are claimed, one letter each."""
    return "".join(tenants[job_id] for _, job_id in queue.claim(["backdrop"], count, overdue_s=60, running_jobs=running_jobs))


def owners(*specs: JobSpec) -> dict[str, str]:
    return {spec.id: spec.tenant for spec in specs}


def test_a_tenant_that_floods_a_queue_holds_nobody_up(records: JobRecords, queue: JobQueue) -> None:
    """Tenants take turns: who comes after a thousand jobs of another is served with its next."""
    flood = accept_many(records, queue, "f", 1000)
    late = accept_many(records, queue, "n", 2)
    assert queue.position(late[0]) == 1
    assert queue.position(late[1]) == 3
    assert queue.position(flood[2]) == 4
    assert (queue.next_position(late[0].queue, "n"), queue.next_position(late[0].queue, "other")) == (5, 2)
    tenants = owners(*flood, *late)
    claimed = [job_id for _, job_id in queue.claim(["backdrop"], 6, overdue_s=60)]
    assert "".join(tenants[job_id] for job_id in claimed) == "fnfnff"
    assert claimed[::2][:2] + claimed[4:] == [spec.id for spec in flood[:4]]  # each tenant's own order stands


def test_a_tenant_that_comes_one_by_one_does_not_overtake_for_ever(records: JobRecords, queue: JobQueue) -> None:
    """A tenant whose line empties and fills again gets every other turn, not every one."""
    flood = accept_many(records, queue, "f", 10)
    served = ""
    for _ in range(6):
        single = accept(records, queue, spec_of(tenant="a"))
        served += order(queue, owners(*flood, single), 2)
    assert served.count("f") >= 5


def test_a_tenant_at_its_limit_is_passed_over(records: JobRecords, queue: JobQueue, claims: Claims) -> None:
    """Of a tenant with a cap of two, two are held; the jobs of others behind it are claimed; when one ends the next is let in."""
    capped, other = accept_many(records, queue, "c", 5), accept_many(records, queue, "o", 3)
    records_of = owners(*capped, *other)
    records.set_policy("c", {"running_jobs": 2})
    leases = [claims.take(["backdrop"]) for _ in range(6)]
    held = [lease for lease in leases if lease is not None]
    assert sorted(records_of[lease.spec.id] for lease in held) == ["c", "c", "o", "o", "o"]
    mine = next(lease for lease in held if lease.spec.tenant == "c")
    records.commit(mine.spec, mine.member, Outcome(JobStatus.SUCCEEDED))
    assert take(claims).spec.id == capped[2].id
    assert claims.take(["backdrop"]) is None


def test_the_default_limit_holds_where_a_tenant_has_none_of_its_own(records: JobRecords, queue: JobQueue) -> None:
    """The settings' cap is for every tenant apart; 0 in a tenant's policy lifts it."""
    specs = [*accept_many(records, queue, "a", 3), *accept_many(records, queue, "b", 3)]
    records.set_policy("b", {"running_jobs": 0})
    assert sorted(order(queue, owners(*specs), 6, running_jobs=1)) == ["a", "b", "b", "b"]


def test_concurrent_claims_never_exceed_the_limit(records: JobRecords, queue: JobQueue) -> None:
    """Claims that come at once take no more of a tenant than may be held."""
    accept_many(records, queue, "c", 40)
    records.set_policy("c", {"running_jobs": 5})
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: queue.claim(["backdrop"], 1, overdue_s=60), range(40)))
    assert sum(map(len, taken)) == 5


def test_a_killed_workers_jobs_leave_their_places(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """Neither a lease that lapses nor an id that was claimed and never leased counts against its tenant for ever."""
    accept_many(records, queue, "c", 3)
    records.set_policy("c", {"running_jobs": 1})
    lease = take(claims)
    assert claims.take(["backdrop"]) is None
    let_lapse(own_redis, lease)
    assert records.requeue(lease.spec, lease.member, lapsed_before_s=time.time())
    ((name, job_id),) = queue.claim(["backdrop"], 1, overdue_s=60)  # by a worker that dies now
    assert job_id == lease.spec.id
    assert queue.claim(["backdrop"], 1, overdue_s=60) == []
    queue.give_back_strays(name)
    assert queue.give_back_strays(name) == 1
    assert own_redis.scard(running_key("c")) == 0
    assert take(claims).spec.id == lease.spec.id


def test_every_way_out_clears_the_line_and_the_counts(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """Jobs that succeed, are canceled waiting or running, or are deleted leave no line, no turn, no place and no count."""
    done, waiting, running, gone = accept_many(records, queue, "t", 4)
    records.delete(gone)
    records.cancel(waiting.id, "t")
    for expected in (done, running):
        lease = take(claims)
        assert lease.spec.id == expected.id
        end = JobStatus.SUCCEEDED if expected is done else JobStatus.CANCELED
        records.commit(lease.spec, lease.member, Outcome(end))
        claims.settle(lease)
    for key in (queue_key(done.queue), intermediate_key(done.queue), line_key(done.queue, "t"), turns_key(done.queue), running_key("t")):
        assert not own_redis.exists(key), key
    assert own_redis.hget(tenant_counts_key("t"), "queued") == b"0"


def test_a_record_that_cannot_be_read_holds_no_place(records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis) -> None:
    """What this release cannot run does not count against its tenant's running jobs."""
    (bad,) = accept_many(records, queue, "t", 1)
    own_redis.hset(job_key(bad.id), "spec", "{}")
    assert claims.take(["backdrop"]) is None
    assert own_redis.scard(running_key("t")) == 0


def test_concurrent_acceptances_never_exceed_the_queue_limit(own_redis: redis.Redis) -> None:
    """Of forty that come at once ten are recorded and thirty refused with the limit; a job that leaves makes room for one."""
    records = JobRecords(own_redis, retention_s=60, limits=Limits(queued_jobs=10))
    specs = [spec_of(tenant="t") for _ in range(40)]

    def try_one(spec: JobSpec) -> bool:
        try:
            records.create(spec)
        except TooManyQueued:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        recorded = [spec for spec, kept in zip(specs, pool.map(try_one, specs), strict=True) if kept]
    assert len(recorded) == 10
    with pytest.raises(TooManyQueued) as refused:
        records.create(spec_of(tenant="t"))
    assert (refused.value.limit, refused.value.status) == (10, 429)
    records.create(recorded[0])  # a retried call takes no second place
    records.end_queued(recorded[0], Outcome(JobStatus.CANCELED))
    assert try_one(spec_of(tenant="t"))
    assert not try_one(spec_of(tenant="t"))
    assert try_one(spec_of(tenant="other"))
    records.set_policy("t", {"queued_jobs": 11})
    assert try_one(spec_of(tenant="t"))
    assert own_redis.hget(policy_key("t"), "queued_jobs") == b"11"


def test_a_job_that_nobody_lined_up_is_found(records: JobRecords, queue: JobQueue) -> None:
    """Where the API died between RQ's push and the line, the housekeeper sees the job and lines it up."""
    spec = spec_of()
    records.create(spec)
    queue.rq_queue(spec.queue).enqueue_call("outfill.paint", job_id=spec.id, unique=True, timeout=-1, result_ttl=0)
    assert queue.claim(["backdrop"], 1, overdue_s=60) == []
    assert queue.out_of_line(spec.queue) == [spec.id]
    queue.line_up(spec)
    assert queue.out_of_line(spec.queue) == []
    assert queue.claim(["backdrop"], 1, overdue_s=60) == [(spec.queue, spec.id)]


def test_bulk_jobs_can_be_left_for_later(records: JobRecords, queue: JobQueue) -> None:
    """A worker that is full of bulk jobs but for one slot claims others only, overdue ones too."""
    accept(records, queue, spec_of(priority="bulk"))
    standard = accept(records, queue, spec_of())
    assert [job_id for _, job_id in queue.claim(["backdrop"], 5, overdue_s=-60, spare_bulk=True)] == [standard.id]


def test_a_worker_that_is_full_takes_those_of_tenants_that_have_none_there(
    records: JobRecords, queue: JobQueue, own_redis: redis.Redis
) -> None:
    """A place is left for who holds none of its slots, however many jobs of others wait before, and no other worker waits for it meanwhile."""
    flood, late = accept_many(records, queue, "f", 20), accept(records, queue, spec_of(tenant="n"))
    full = Claimant("w", 8, 1.0, Room(1, {"backdrop": 1}, frozenset({"f"})))
    assert queue.claim(["backdrop"], 1, overdue_s=60, claimant=full) == [(late.queue, late.id)]
    assert queue.claim(["backdrop"], 1, overdue_s=60, claimant=full) == []
    assert queue.claim(["backdrop"], 1, overdue_s=60, claimant=Claimant("v", 9, 1.0)) == [(late.queue, flood[0].id)]
