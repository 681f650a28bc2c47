"""A real worker process hears that a job is not wanted any more, wherever in the worker the job is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from conftest import CORE_TEST_DB, eventually
from queueing import accept, spec_of

from api_schemas.jobs import InputRef, JobSpec, JobStatus, utc_now
from core.jobs import JobRecords, job_key
from core.queue import JobQueue, leases_key
from core.storage import Storage
from service.local import LocalStack

ENDLESS = """
import sys, threading
from api_schemas.models import EngineKind
from worker import __main__ as worker
from worker.engines import registry
from worker.engines.backdrop import BackdropEngine

class Endless(BackdropEngine):
    reentrant = False

    def step(self, slots):
        threading.Event().wait(0.01)

registry.FACTORIES[EngineKind.BACKDROP] = lambda *_: Endless()
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""
"""A worker none of whose pictures is ever done."""

Run = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def run(stack: LocalStack, tmp_path: Path) -> Run:
    """Starts such a worker on the tests' own database."""

    @contextmanager
    def running(**settings: str) -> Iterator[None]:
        environment = {
            **os.environ,
            **stack.environment(),
            "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}",
            "OUTFILL_WORKER__SERVE": "backdrop",
            **settings,
        }
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", ENDLESS], env=environment, cwd=Path(__file__).parents[2], stdout=log, stderr=log
            )
            try:
                yield
                assert worker.poll() is None, (tmp_path / "worker.log").read_text()
            finally:
                worker.kill()
                worker.wait()

    return running


@pytest.fixture
def endless(own_redis: redis.Redis, records: JobRecords, storage: Storage, coffee: bytes) -> Callable[..., JobSpec]:
    """Accepts a job with a picture that is there."""
    storage.put("health/wanted.png", coffee, "image/png")
    image = InputRef(key="health/wanted.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    return lambda **changes: accept(records, JobQueue(own_redis), spec_of(**changes).model_copy(update={"inputs": {"image": image}}))


@pytest.mark.parametrize("deadline_s", [None, 3.0], ids=["canceled", "too late"])
def test_a_job_that_waits_to_be_alone_still_ends(
    run: Run, records: JobRecords, own_redis: redis.Redis, endless: Callable[..., JobSpec], deadline_s: float | None
) -> None:
    """A second attempt waits until its worker holds nothing else; meanwhile its owner can cancel it, and its deadline holds."""
    first = endless()
    with run():
        eventually(lambda: records.get(first.id, first.tenant).status is JobStatus.RUNNING)
        deadline = None if deadline_s is None else utc_now() + timedelta(seconds=deadline_s)
        again = spec_of(deadline_at=deadline).model_copy(update={"inputs": first.inputs})
        records.create(again)
        own_redis.hset(job_key(again.id), "attempts", 1)
        JobQueue(own_redis).push(again)
        assert records.accepted(again.id)
        eventually(lambda: records.get(again.id, again.tenant).status is JobStatus.RUNNING)
        if deadline is None:
            records.cancel(again.id, again.tenant)
        record = eventually(lambda: (it := records.get(again.id, again.tenant)).status is not JobStatus.RUNNING and it)
        assert (record.error and record.error.code) == (None if deadline is None else "deadline_exceeded")
        assert record.attempts == 2
        assert records.get(first.id, first.tenant).status is JobStatus.RUNNING


def test_a_job_whose_picture_cannot_be_fetched_can_be_canceled(run: Run, records: JobRecords, endless: Callable[..., JobSpec]) -> None:
    """While S3 is away a worker tries again for minutes, but not for what nobody wants."""
    spec = endless()
    with run(OUTFILL_S3__ENDPOINT_URL="http://127.0.0.1:9"):
        eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.RUNNING)
        records.cancel(spec.id, spec.tenant)
        assert eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.CANCELED)


def test_a_lost_lease_ends_the_painting(run: Run, records: JobRecords, own_redis: redis.Redis, endless: Callable[..., JobSpec]) -> None:
    """Once the steward gave the job to the queue again, the worker that held it lets go and can take it anew."""
    spec = endless()
    with run(OUTFILL_WORKER__SLOTS="1"):
        eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.RUNNING)
        held = next(iter(leases(own_redis, spec)))
        assert records.requeue(spec, held)
        eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.RUNNING and leases(own_redis, spec) - {held})


def leases(connection: redis.Redis, spec: JobSpec) -> set[str]:
    """Who holds jobs of the queue of ``spec``."""
    members = connection.zrange(leases_key(spec.queue), 0, -1)
    return {member.decode() for member in members if isinstance(member, bytes)}
