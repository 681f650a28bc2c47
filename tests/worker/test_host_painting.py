"""Engines without a device paint in threads in which tenants take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis
from conftest import eventually
from queueing import accept, backdrop_worker, spec_of

from api_schemas.jobs import InputRef, JobSpec, JobStatus
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Slot
from worker.images.checkpoint import checkpoint
from worker.metrics import WorkerMetrics

Run = Callable[..., AbstractContextManager[None]]


class Held(BackdropEngine):
    """Paints when it may go on; until then it looks at checkpoints, as engines do whose pictures take long."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go_on = threading.Semaphore(0), threading.Event()

    def step(self, slots: Sequence[Slot]) -> None:
        self.begun.release()
        while not self.may_go_on.wait(0.01):
            checkpoint()
        super().step(slots)


class HeldOnce(Held):
    """The first picture is held, others are painted at once."""

    def step(self, slots: Sequence[Slot]) -> None:
        if self.calls["eager"]:
            BackdropEngine.step(self, slots)
            return
        self.calls["eager"] += 1
        super().step(slots)


class Broken(BackdropEngine):
    """Fails on all pictures."""

    def step(self, slots: Sequence[Slot]) -> None:
        slots[0].error = RuntimeError("no such colour")


@pytest.fixture
def records(own_redis: redis.Redis) -> JobRecords:
    """Records of a database of their own."""
    return JobRecords(own_redis, retention_s=60)


@pytest.fixture
def job(own_redis: redis.Redis, records: JobRecords, storage: Storage, coffee: bytes) -> Callable[..., JobSpec]:
    """Accepts a job."""
    storage.put("health/held.png", coffee, "image/png")
    image = InputRef(key="health/held.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    return lambda **changes: accept(records, JobQueue(own_redis), spec_of(**changes).model_copy(update={"inputs": {"image": image}}))


@pytest.fixture
def run(own_redis: redis.Redis, settings: Settings, storage: Storage) -> Run:
    """Runs a worker with an engine in this process; it is told to stop at the end."""

    @contextmanager
    def running(engine: BackdropEngine, metrics: WorkerMetrics | None = None) -> Iterator[None]:
        worker = backdrop_worker(own_redis, settings, storage, engine=engine, metrics=metrics)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield
        finally:
            worker.stop()
            if isinstance(engine, Held):
                engine.may_go_on.set()
            thread.join(60)
            assert not thread.is_alive()

    return running


def status(records: JobRecords, spec: JobSpec) -> JobStatus:
    return records.get(spec.id, spec.tenant).status


def test_a_picture_that_takes_long_keeps_no_other_tenants_waiting(run: Run, job: Callable[..., JobSpec], records: JobRecords) -> None:
    """While one tenant's picture is painted, another's is painted and delivered."""
    engine = HeldOnce()
    with run(engine):
        first = job(tenant="large")
        assert engine.begun.acquire(timeout=60)
        second = job(tenant="small")
        eventually(lambda: status(records, second) is JobStatus.SUCCEEDED)
        assert status(records, first) is JobStatus.RUNNING
    assert status(records, first) is JobStatus.SUCCEEDED  # what was begun is finished


def test_painting_stops_once_the_job_is_canceled(run: Run, job: Callable[..., JobSpec], records: JobRecords) -> None:
    """A picture under way ends at its engine's next checkpoint."""
    engine = Held()
    with run(engine):
        spec = job()
        assert engine.begun.acquire(timeout=60)
        records.cancel(spec.id, spec.tenant)
        eventually(lambda: status(records, spec) is JobStatus.CANCELED)


def test_an_engine_that_fails_fails_the_job(run: Run, job: Callable[..., JobSpec], records: JobRecords) -> None:
    """Its error is the model's, not the caller's."""
    with run(Broken()):
        spec = job()
        eventually(lambda: status(records, spec) is JobStatus.FAILED)
    error = records.get(spec.id, spec.tenant).error
    assert error is not None
    assert (error.code, error.message) == ("engine_failed", "the model failed on this picture")


def test_painting_is_measured(run: Run, job: Callable[..., JobSpec], records: JobRecords) -> None:
    """Its steps are counted and timed like those of models on a device."""
    metrics = WorkerMetrics()
    with run(BackdropEngine(), metrics):
        spec = job()
        eventually(lambda: status(records, spec) is JobStatus.SUCCEEDED)
    for name in ("outfill_step_seconds_count", "outfill_batch_size_count"):
        assert metrics.registry.get_sample_value(name, {"model": "backdrop"}) == 1
