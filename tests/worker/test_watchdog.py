"""The watchdog of a real worker process, whose engine hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import redis
from conftest import CORE_TEST_DB
from queueing import accept, spec_of

from api_schemas.jobs import InputRef, JobStatus
from core.jobs import JobRecords
from core.queue import JobQueue, leases_key
from core.storage import Storage
from service.local import LocalStack

HANGS = """
import sys, threading
from api_schemas.models import EngineKind
from worker import __main__ as worker
from worker.engines import registry
from worker.engines.backdrop import BackdropEngine

class Hanging(BackdropEngine):
    reentrant = False

    def step(self, slots):
        threading.Event().wait()

registry.FACTORIES[EngineKind.BACKDROP] = lambda *_: Hanging()
sys.argv = ["worker", "paint"]
sys.exit(worker.main())
"""


def test_a_hanging_step_ends_the_process_and_leaves_the_job_to_others(
    stack: LocalStack, own_redis: redis.Redis, storage: Storage, coffee: bytes
) -> None:
    """A worker whose engine does not come back exits with status 70; the job still runs as far as its record tells, under a lease to lapse."""
    records, queue = JobRecords(own_redis, retention_s=60), JobQueue(own_redis)
    storage.put("health/watchdog.png", coffee, "image/png")
    image = InputRef(key="health/watchdog.png", format="png", width=600, height=400, bytes=len(coffee), sha256="0")
    spec = accept(records, queue, spec_of().model_copy(update={"inputs": {"image": image}}))
    environment = {
        **os.environ,
        **stack.environment(),
        "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}",
        "OUTFILL_WORKER__SERVE": "backdrop",
        "OUTFILL_WORKER__STALL_S": "0.5",
    }
    worker = subprocess.run(
        [sys.executable, "-c", HANGS],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert worker.returncode == 70, worker.stderr
    assert "worker_stalled" in worker.stderr
    record = records.get(spec.id, spec.tenant)
    assert (record.status, record.attempts) == (JobStatus.RUNNING, 1)
    assert own_redis.zcard(leases_key(spec.queue)) == 1
