"""Objects that no record names do not stay: what dead executions stored, and what a broken acceptance left."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from queueing import accept, let_lapse, spec_of, take

import worker.steward
from api_schemas.errors import Unavailable
from api_schemas.jobs import JobSpec, JobStatus, Report, StoredOutput
from core.catalogue import Catalogue
from core.jobs import LEFTOVERS, JobRecords, Outcome
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage, input_key, output_prefix
from service.submit import _keep
from worker.claims import Claims, Lease
from worker.steward import Steward
from worker.steward_metrics import StewardMetrics

REPORT = Report.model_validate({"preserved": {"max_delta": 0, "changed_pixels": 0, "kept_pixels": 1, "sha256": "0"}, "coverage": 0.5})


@pytest.fixture
def claims(own_redis: redis.Redis, records: JobRecords, queue: JobQueue) -> Claims:
    return Claims(own_redis, records, queue, lease_s=30, overdue_s=60)


@pytest.fixture
def steward(settings: Settings, own_redis: redis.Redis, records: JobRecords, queue: JobQueue, storage: Storage) -> Steward:
    parts: dict[str, Any] = {"records": records, "queue": queue, "storage": storage, "catalogue": Catalogue(own_redis)}
    return Steward(settings, connection=own_redis, metrics=StewardMetrics(), **parts)


def put_outputs(storage: Storage, lease: Lease) -> StoredOutput:
    """Store what an execution made, as it does before it commits."""
    prefix = output_prefix(lease.spec.tenant, lease.spec.id, lease.execution.id)
    key, mask = f"{prefix}0.png", f"{prefix}0.mask.png"
    for each in (key, mask):
        storage.put(each, b"x", "image/png")
    return StoredOutput.model_validate(
        {"key": key, "width": 1, "height": 1, "format": "png", "bytes": 1, "sha256": "0", "layers": {"mask": mask}, "report": REPORT}
    )


def test_what_a_dead_worker_stored_goes_when_its_job_has_ended(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis, storage: Storage
) -> None:
    """A worker that died between storing its outputs and the commit leaves none of them; those that were committed stay, layers too."""
    spec = accept(records, queue, spec_of())
    dead = take(claims)
    put_outputs(storage, dead)
    let_lapse(own_redis, dead)
    steward.reap_lapsed_leases()
    second = take(claims)
    output = put_outputs(storage, second)
    records.commit(spec, second.member, Outcome(JobStatus.SUCCEEDED, outputs=(output,)))
    steward.delete_leftovers()
    assert storage.keys(f"outputs/shop/{spec.id}/") == sorted([output.key, *output.layers.values()])
    assert not own_redis.exists(LEFTOVERS)


def test_what_was_stored_after_the_end_goes_too(
    steward: Steward, records: JobRecords, queue: JobQueue, claims: Claims, own_redis: redis.Redis, storage: Storage
) -> None:
    """The worker of a canceled job that died before it could delete what it had stored leaves nothing."""
    spec = accept(records, queue, spec_of())
    lease = take(claims)
    put_outputs(storage, lease)
    records.commit(spec, lease.member, Outcome(JobStatus.CANCELED))
    let_lapse(own_redis, lease)
    steward.reap_lapsed_leases()
    steward.delete_leftovers()
    assert storage.keys(f"outputs/shop/{spec.id}/") == []


def test_nothing_is_deleted_while_the_job_runs(
    steward: Steward,
    records: JobRecords,
    queue: JobQueue,
    claims: Claims,
    own_redis: redis.Redis,
    storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What may still be committed stays; it is looked at again once the job has ended."""
    monkeypatch.setattr(worker.steward, "LEFTOVERS_PAUSE", timedelta(0))
    spec = accept(records, queue, spec_of())
    dead = take(claims)
    put_outputs(storage, dead)
    let_lapse(own_redis, dead)
    steward.reap_lapsed_leases()
    running = take(claims)
    put_outputs(storage, running)
    steward.delete_leftovers()
    assert len(storage.keys(f"outputs/shop/{spec.id}/")) == 4
    records.commit(spec, running.member, Outcome(JobStatus.CANCELED))
    steward.delete_leftovers()
    assert storage.keys(f"outputs/shop/{spec.id}/") == []


def test_an_acceptance_that_s3_broke_off_leaves_nothing(
    steward: Steward, records: JobRecords, queue: JobQueue, own_redis: redis.Redis, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where S3 takes the first input and then nothing more, not even a delete, the steward deletes that input once S3 is back."""
    spec = spec_of()
    key = input_key("shop", spec.id, "image")

    def store(_: JobSpec) -> None:
        storage.put(key, b"x", "image/png")
        raise Unavailable("the object store does not take objects")

    def refuse(*_: object) -> None:
        raise Unavailable("the object store does not delete")

    with monkeypatch.context() as away:
        away.setattr(storage, "delete", refuse)
        with pytest.raises(Unavailable):
            _keep(cast("Any", SimpleNamespace(settings=Settings(), records=records, queue=queue, storage=storage)), spec, store, None)
    assert records.find(spec.id) is None
    assert storage.keys(f"inputs/shop/{spec.id}/") == [key]
    steward.delete_leftovers()
    assert storage.keys(f"inputs/shop/{spec.id}/") == []
    assert not own_redis.exists(LEFTOVERS)
