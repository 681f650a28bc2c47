"""What a job would be, told without making it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from conftest import Api, Traces, box_mask
from queueing import accept, spec_of, take

from api_schemas.jobs import JobStatus
from api_schemas.requests import Priority
from core.jobs import JobRecords, Outcome, durations_key
from core.queue import JobQueue
from core.storage import Storage
from service.dry_run import seconds_until_done
from worker.claims import Claims

DRY = {"dry_run": True}
REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "file:photo", "background": {"color": "#ffffff"}}


def test_a_dry_run_tells_the_recipe_and_stores_nothing(api: Api, coffee: bytes, live_redis: redis.Redis, storage: Storage) -> None:
    """200 with every resolved setting, which are those of the job that is then posted with its seed; nothing of it is kept."""
    mask, _ = box_mask(coffee)
    request: dict[str, Any] = {"operation": "inpaint", "image": "file:photo", "mask": "file:mask", "prompt": "a vase", "steps": 2}
    traces = Traces(live_redis, storage)
    answer = api.post(request, query=DRY, photo=coffee, mask=mask)
    assert answer.status_code == 200
    assert not traces.new()
    told = answer.json()
    assert (told["operation"], told["model"]) == ("inpaint", "tiny")
    job = api.accept({**request, "seed": told["recipe"]["seed"]}, photo=coffee, mask=mask)
    assert job["recipe"] == told["recipe"]
    assert traces.new()  # which shows that the look before sees


def test_a_dry_run_estimates_by_what_was_measured(api: Api, coffee: bytes) -> None:
    """Once a job of the model has ended, the estimate is a number of seconds, and the position that of a queue."""
    api.run(REPLACE, photo=coffee)
    told = api.post(REPLACE, query=DRY, photo=coffee).json()
    assert told["estimate_s"] >= 0
    assert told["position"] >= 0


@pytest.mark.parametrize(("wanted", "field"), [({"key": "k"}, "Idempotency-Key"), ({"wait_s": 5}, "Prefer")])
def test_a_dry_run_takes_no_header_about_a_job(api: Api, coffee: bytes, wanted: dict[str, Any], field: str) -> None:
    """An idempotency key and a wish to wait would be ignored, so they are refused."""
    answer = api.post(REPLACE, query=DRY, photo=coffee, **wanted)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_the_last_jobs_of_a_model_are_measured(own_redis: redis.Redis) -> None:
    """Of a model's jobs those that succeeded are measured, each once, and the last 32 are kept."""
    records, queue = JobRecords(own_redis, retention_s=60), JobQueue(own_redis)
    claims = Claims(own_redis, records, queue, lease_s=30, overdue_s=60)
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
        spec = accept(records, queue, spec_of())
        lease = take(claims)
        for _ in range(2):  # the second call is a retried one
            records.commit(spec, lease.member, Outcome(status))
        claims.settle(lease)
    assert len(records.durations("backdrop")) == 1
    own_redis.lpush(durations_key("backdrop"), *range(40))
    spec = accept(records, queue, spec_of())
    records.commit(spec, take(claims).member, Outcome(JobStatus.SUCCEEDED))
    assert len(records.durations("backdrop")) == 32
    assert own_redis.ttl(durations_key("backdrop")) > 0


def test_the_estimate_counts_what_goes_first(own_redis: redis.Redis) -> None:
    """A median job for each one that runs or waits at this priority or above, shared by the workers, and the job itself; else null."""
    records, queue = JobRecords(own_redis, retention_s=60), JobQueue(own_redis)

    def estimate(priority: Priority, workers: int) -> float | None:
        return seconds_until_done(records, queue, "backdrop", priority, workers=workers)

    assert estimate(Priority.STANDARD, 1) is None  # nothing was measured
    own_redis.rpush(durations_key("backdrop"), 1000, 2000, 9000)
    assert estimate(Priority.STANDARD, 0) is None  # nobody would run it
    assert estimate(Priority.STANDARD, 1) == 2
    for priority in ("interactive", "standard", "standard", "bulk"):
        accept(records, queue, spec_of(priority=priority))
    assert [estimate(priority, 1) for priority in (Priority.INTERACTIVE, Priority.STANDARD, Priority.BULK)] == [4, 8, 10]
    assert estimate(Priority.STANDARD, 2) == 5
    take(Claims(own_redis, records, queue, lease_s=30, overdue_s=60))  # the interactive one runs now
    assert estimate(Priority.INTERACTIVE, 1) == 4
