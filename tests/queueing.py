"""Jobs for tests that talk to the queue themselves."""

from __future__ import annotations

import time
from typing import Any

import redis

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.requests import job_request
from core.jobs import JobRecords
from core.queue import JobQueue, leases_key
from worker.claims import Claims, Lease


def spec_of(**changes: Any) -> JobSpec:
    """A job as ``submit`` would record it."""
    request = {
        "operation": "replace_background",
        "image": "image",
        "background": {"color": "#ffffff"},
        "model": "backdrop",
        "webhook": {"url": "http://127.0.0.1:9/hook"},
    }
    priority = changes.pop("priority", "standard")
    return JobSpec(
        id=changes.pop("id", new_id("job")),
        tenant=changes.pop("tenant", "shop"),
        model=changes.pop("model", "backdrop"),
        model_revision="1",
        request=job_request.validate_python({**request, "priority": priority}),
        inputs={"image": InputRef(key="k", format="png", width=1, height=1, bytes=1, sha256="0")},
        created_at=utc_now(),
        **changes,
    )


def accept(records: JobRecords, queue: JobQueue, spec: JobSpec) -> JobSpec:
    """Record and queue a job."""
    records.create(spec)
    queue.push(spec)
    assert records.accepted(spec.id)
    return spec


def take(claims: Claims) -> Lease:
    """Claim the next job, which must be there."""
    lease = claims.take(["backdrop"])
    assert isinstance(lease, Lease)
    return lease


def let_lapse(connection: redis.Redis, lease: Lease) -> None:
    """Make a lease look as if its worker had been silent for a minute."""
    connection.zadd(leases_key(lease.spec.queue), {lease.member: time.time() - 60})
