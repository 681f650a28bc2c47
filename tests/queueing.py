"""Jobs for tests that talk to the queue themselves."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import redis

from api_schemas.jobs import InputRef, JobSpec, new_id, utc_now
from api_schemas.models import BACKDROP, U2NETP, ModelCard
from api_schemas.requests import job_request
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue, leases_key
from core.settings import Settings
from core.storage import Storage
from worker.claims import Claims, Lease
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Engine
from worker.images.subject import Segmenter
from worker.metrics import WorkerMetrics
from worker.paint import PaintWorker


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


def backdrop_worker(
    connection: redis.Redis,
    settings: Settings,
    storage: Storage,
    *,
    catalogue: Catalogue | None = None,
    metrics: WorkerMetrics | None = None,
    edge: ModelCard | None = None,
    engine: Engine | None = None,
) -> PaintWorker:
    """A paint worker for the test's own process, which paints backdrops with ``engine``."""
    records, queue = JobRecords(connection, retention_s=60), JobQueue(connection)
    return PaintWorker(
        settings,
        cards={"backdrop": BACKDROP},
        engines={"backdrop": engine or BackdropEngine()},
        segmenters={"u2netp": Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx", most_looks=1)},
        revisions={"u2netp": U2NETP.revision},
        edge=edge,
        claims=Claims(connection, records, queue, lease_s=30, overdue_s=60),
        records=records,
        storage=storage,
        catalogue=catalogue or Catalogue(connection),
        metrics=metrics or WorkerMetrics(),
        runtime={"backdrop": {}},
    )
