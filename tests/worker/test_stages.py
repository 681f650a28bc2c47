"""A real worker process in which decoding or composing a picture takes too long: the job ends, and the worker goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
from conftest import CORE_TEST_DB, eventually
from queueing import accept, spec_of

from api_schemas.jobs import InputRef, JobSpec, JobStatus
from core.jobs import JobRecord, JobRecords
from core.queue import JobQueue
from core.storage import Storage
from service.local import LocalStack

ROOT = Path(__file__).parents[2]
DECODES_FOR_EVER = """
import sys
sys.path.append("tests")
from imagefiles.sandbox import Sandbox
from worker import __main__ as worker, paint
paint.Sandbox = lambda module, *more, **named: Sandbox("sandboxed_calls", *more, **named)
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""
COMPOSES_FOR_EVER = """
import sys, time
from worker import __main__ as worker
from worker.images.checkpoint import checkpoint
from worker.rounds import Rounds

take = Rounds.take

def endless(self, painted):
    while self._spec.request.metadata["endless"]:
        checkpoint()
        time.sleep(0.01)
    take(self, painted)

Rounds.take = endless
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""
HANGS = """
import sys, threading
from worker import __main__ as worker
from worker.rounds import Rounds

Rounds.take = lambda *_: threading.Event().wait()
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""

Run = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def run(stack: LocalStack, tmp_path: Path) -> Run:
    """Starts a worker with a planted fault on the tests' own database."""

    @contextmanager
    def running(script: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        environment = {
            **os.environ,
            **stack.environment(),
            "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}",
            "OUTFILL_WORKER__SERVE": "backdrop",
            **settings,
        }
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=ROOT, stdout=log, stderr=log)
            try:
                yield worker
            finally:
                worker.kill()
                worker.wait()

    return running


@pytest.fixture
def job(own_redis: redis.Redis, records: JobRecords, storage: Storage, coffee: bytes) -> Callable[..., JobSpec]:
    """Accepts a job with a picture that is there."""
    storage.put("health/stages.png", coffee, "image/png")

    def accepted(*, endless: bool = False, megapixels: int = 0, tenant: str = "shop") -> JobSpec:
        width, height = (1000, 1000 * megapixels) if megapixels else (600, 400)  # as the record has it, by which memory is counted
        image = InputRef(key="health/stages.png", format="png", width=width, height=height, bytes=len(coffee), sha256="0")
        spec = spec_of(tenant=tenant).model_copy(update={"inputs": {"image": image}})
        request = spec.request.model_copy(update={"metadata": {"endless": endless}})
        return accept(records, JobQueue(own_redis), spec.model_copy(update={"request": request}))

    return accepted


def end_of(records: JobRecords, spec: JobSpec) -> JobRecord:
    """The record of a job that has ended."""
    record: JobRecord = eventually(lambda: (it := records.get(spec.id, spec.tenant)).status.terminal and it)
    return record


def test_a_file_that_is_decoded_for_too_long_fails_its_job_alone(run: Run, records: JobRecords, job: Callable[..., JobSpec]) -> None:
    """The job ends with a code that names the image, in its first attempt."""
    spec = job()
    with run(DECODES_FOR_EVER, OUTFILL_LIMITS__DECODING_S="1") as worker:
        record = end_of(records, spec)
        assert worker.poll() is None
    assert record.error is not None
    assert (record.status, record.error.code, record.error.field, record.attempts) == (JobStatus.FAILED, "image_too_costly", "image", 1)


def test_a_job_can_be_canceled_while_its_image_is_decoded(run: Run, records: JobRecords, job: Callable[..., JobSpec]) -> None:
    """Its process is ended, long before its time is over."""
    spec = job()
    with run(DECODES_FOR_EVER, OUTFILL_LIMITS__DECODING_S="600"):
        eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.RUNNING)
        records.cancel(spec.id, spec.tenant)
        assert end_of(records, spec).status is JobStatus.CANCELED


@pytest.mark.parametrize("canceled", [False, True], ids=["too long", "canceled"])
def test_a_picture_that_is_composed_for_too_long_fails_its_job_alone(
    run: Run, records: JobRecords, job: Callable[..., JobSpec], *, canceled: bool
) -> None:
    """The job ends between two steps of composing, by its time or on its owner's word, and the next one is done by the same worker."""
    spec, following = job(endless=True), None
    with run(COMPOSES_FOR_EVER, OUTFILL_WORKER__STAGE_S="600" if canceled else "10") as worker:
        eventually(lambda: records.get(spec.id, spec.tenant).status is JobStatus.RUNNING)
        if canceled:
            records.cancel(spec.id, spec.tenant)
        record = end_of(records, spec)
        following = end_of(records, job())
        assert worker.poll() is None
    assert (record.status, record.error and record.error.code) == (
        (JobStatus.CANCELED, None) if canceled else (JobStatus.FAILED, "stage_too_long")
    )
    assert following.status is JobStatus.SUCCEEDED


def test_a_job_waits_for_memory_and_can_be_canceled_meanwhile(run: Run, records: JobRecords, job: Callable[..., JobSpec]) -> None:
    """A worker with room for one picture begins the next when the first has ended, and lets go of one that nobody wants."""
    first, second, third = job(endless=True, megapixels=1), job(megapixels=1), job(megapixels=1)
    with run(COMPOSES_FOR_EVER, OUTFILL_WORKER__PICTURES_BYTES=str(2**26)):
        eventually(lambda: records.get(third.id, third.tenant).status is JobStatus.RUNNING)
        records.cancel(second.id, second.tenant)
        assert end_of(records, second).status is JobStatus.CANCELED
        assert records.get(third.id, third.tenant).status is JobStatus.RUNNING
        records.cancel(first.id, first.tenant)
        assert end_of(records, third).status is JobStatus.SUCCEEDED


def test_the_pictures_of_one_tenant_keep_no_other_waiting(run: Run, records: JobRecords, job: Callable[..., JobSpec]) -> None:
    """A worker all of whose slots, threads and memory one tenant has still does another's job."""
    many = [job(endless=True, megapixels=1) for _ in range(4)]
    with run(COMPOSES_FOR_EVER, OUTFILL_WORKER__SLOTS="3", OUTFILL_WORKER__PICTURES_BYTES=str(190 * 10**6)):
        eventually(lambda: sum(records.get(spec.id, spec.tenant).status is JobStatus.RUNNING for spec in many) == 3)
        other = job(tenant="other")
        assert end_of(records, other).status is JobStatus.SUCCEEDED
        assert sum(records.get(spec.id, spec.tenant).status is JobStatus.RUNNING for spec in many) == 3


def test_a_stage_that_hangs_ends_the_process(run: Run, records: JobRecords, job: Callable[..., JobSpec]) -> None:
    """Composing that does not come back ends the worker with status 70, and the job is left to others."""
    spec = job()
    with run(HANGS, OUTFILL_WORKER__STAGE_S="20", OUTFILL_WORKER__STALL_S="2") as worker:  # finding the product may take 5 s
        assert worker.wait(timeout=120) == 70
    assert records.get(spec.id, spec.tenant).status is JobStatus.RUNNING
