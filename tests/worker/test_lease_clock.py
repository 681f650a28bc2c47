"""Leases go by one clock, that of Redis, whatever the clocks of workers and stewards say."""

from __future__ import annotations

import time

import pytest
import redis
import rq.executions
import rq.registry
import rq.utils
from queueing import accept, let_lapse, spec_of, take

from core.jobs import JobRecords
from core.queue import JobQueue, leases_key
from worker.claims import Claims

LEASE_S = 30


@pytest.fixture(params=[-3600, 3600], ids=["slow", "fast"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ in this process reads a clock that is an hour off."""
    stamp = rq.utils.current_timestamp
    for module in (rq.registry, rq.executions):
        monkeypatch.setattr(module, "current_timestamp", lambda: stamp() + request.param)


def test_a_worker_whose_clock_is_wrong_holds_its_jobs_as_long_as_any(
    own_redis: redis.Redis, records: JobRecords, queue: JobQueue, wrong_clock: None
) -> None:
    """Its leases lapse after the set time, when they are taken and when they are extended: neither at once nor hours after its death."""
    claims = Claims(own_redis, records, queue, lease_s=LEASE_S, overdue_s=60)
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    for _ in ("taken", "extended"):
        score = own_redis.zscore(leases_key(spec.queue), lease.member)
        assert score is not None
        assert 0 < score - time.time() <= LEASE_S
        let_lapse(own_redis, lease)
        claims.beat()


def test_a_steward_whose_clock_is_wrong_takes_no_living_job(
    own_redis: redis.Redis, records: JobRecords, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has lapsed is told by the clock of Redis too."""
    own = time.time
    monkeypatch.setattr(time, "time", lambda: own() + 3600)
    assert abs(queue.now_s() - own()) < 60
