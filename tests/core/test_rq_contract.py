"""What we call of RQ that it does not promise: an upgrade that moves any of it fails here, loudly."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
import redis
from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.worker import SimpleWorker

from core.queue import intermediate_key, leases_key, message_keys, queue_key


def test_rq_is_the_version_that_was_read() -> None:
    """The pin holds."""
    assert version("rq") == "3.0.0"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (SimpleWorker, "prepare_job_execution", ["self", "job", "remove_from_intermediate_queue"]),
        (SimpleWorker, "_finalize_success", ["self", "job", "queue", "execution", "return_value"]),
        (SimpleWorker, "cleanup_execution", ["self", "job", "pipeline", "execution"]),
        (SimpleWorker, "get_heartbeat_ttl", ["self", "job", "working_time"]),
        (SimpleWorker, "heartbeat", ["self", "timeout", "pipeline"]),
        (SimpleWorker, "register_birth", ["self"]),
        (SimpleWorker, "register_death", ["self"]),
        (SimpleWorker, "_shutdown", ["self"]),
        (Execution, "create", ["job", "ttl", "pipeline", "worker_name"]),
    ],
)
def test_rq_has_the_methods_that_we_call(owner: type, name: str, parameters: list[str]) -> None:
    """Each method exists and takes what we give it."""
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_rq_names_its_keys_as_our_scripts_do(own_redis: redis.Redis) -> None:
    """Our Lua scripts and RQ mean the same keys."""
    queue = Queue("m.standard", connection=own_redis)
    job = Job.create("outfill.paint", id="job_1", connection=own_redis, origin=queue.name)
    assert queue.key == queue_key("m.standard")
    assert queue.intermediate_queue_key == intermediate_key("m.standard")
    assert job.started_job_registry.key == leases_key("m.standard")
    assert (job.key, ExecutionRegistry("job_1", own_redis).key) == message_keys("job_1")
