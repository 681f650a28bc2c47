"""Figures of the jobs that a worker ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from conftest import eventually
from queueing import accept, backdrop_worker, spec_of

from api_schemas.jobs import InputRef, JobSpec, JobStatus, utc_now
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from worker.metrics import WorkerMetrics

AGE_S = 100.0


@pytest.fixture
def metrics(own_redis: redis.Redis, records: JobRecords, settings: Settings, storage: Storage) -> Iterator[WorkerMetrics]:
    """The metrics of a worker that runs in this process."""
    figures = WorkerMetrics()
    running = backdrop_worker(own_redis, settings, storage, metrics=figures)
    thread = threading.Thread(target=running.run)
    thread.start()
    yield figures
    running.stop()
    thread.join(60)
    assert not thread.is_alive()


def queued(spec: JobSpec, coffee: bytes, own_redis: redis.Redis, records: JobRecords, storage: Storage) -> JobSpec:
    """``spec`` on the photo ``coffee``, accepted ``AGE_S`` ago."""
    storage.put("health/figures.png", coffee, "image/png")
    image = InputRef(key="health/figures.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    aged = {"inputs": {"image": image}, "created_at": utc_now() - timedelta(seconds=AGE_S)}
    return accept(records, JobQueue(own_redis), spec.model_copy(update=aged))


def test_a_job_s_pixels_and_its_time_since_acceptance_are_counted(
    metrics: WorkerMetrics, own_redis: redis.Redis, records: JobRecords, storage: Storage, coffee: bytes
) -> None:
    """A job that succeeded adds the pixels of its output, and its time since it was accepted, by operation, priority and status."""
    spec = queued(spec_of(priority="interactive"), coffee, own_redis, records, storage)
    labels = {"operation": "replace_background", "model": "backdrop"}
    eventually(lambda: metrics.registry.get_sample_value("outfill_pixels_total", labels))
    [output] = records.get(spec.id, spec.tenant).outputs
    assert metrics.registry.get_sample_value("outfill_pixels_total", labels) == output.width * output.height > 0
    ended = {"operation": "replace_background", "priority": "interactive", "status": "succeeded"}
    assert metrics.registry.get_sample_value("outfill_job_seconds_count", ended) == 1
    took = metrics.registry.get_sample_value("outfill_job_seconds_sum", ended)
    assert took is not None
    assert took >= AGE_S


def test_a_failed_job_has_its_time_and_no_pixels(
    metrics: WorkerMetrics, own_redis: redis.Redis, records: JobRecords, storage: Storage
) -> None:
    """A job that failed counts its time under its status, and no pixels."""
    spec = queued(spec_of(), b"no picture", own_redis, records, storage)
    eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.FAILED)
    ended = {"operation": "replace_background", "priority": "standard", "status": "failed"}
    eventually(lambda: metrics.registry.get_sample_value("outfill_job_seconds_count", ended) == 1)
    assert metrics.registry.get_sample_value("outfill_pixels_total", {"operation": "replace_background", "model": "backdrop"}) is None
