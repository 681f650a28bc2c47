"""How a worker ends."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import redis
from conftest import eventually

from api_schemas.models import BACKDROP
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Settings
from core.storage import Storage
from worker.claims import Claims
from worker.engines.backdrop import BackdropEngine
from worker.images.subject import Segmenter
from worker.metrics import WorkerMetrics
from worker.paint import PaintWorker


class Forgetful(Catalogue):
    """The real catalogue, from which nobody can withdraw: Redis went away before the worker did."""

    def withdraw(self, worker: str) -> None:
        raise redis.ConnectionError(f"{worker}: connection closed by server")


def test_a_worker_that_is_stopped_while_redis_is_away_ends_in_peace(
    own_redis: redis.Redis, records: JobRecords, settings: Settings, storage: Storage
) -> None:
    """Nothing is lost by it: what it announced lapses. It must not look like a crash."""
    catalogue = Forgetful(own_redis)
    running = PaintWorker(
        settings,
        cards={"backdrop": BACKDROP},
        engines={"backdrop": BackdropEngine()},
        segmenter=Segmenter(Path(sys.prefix) / "share/outfill/models/u2netp.onnx"),
        claims=Claims(own_redis, records, JobQueue(own_redis), lease_s=30, overdue_s=60),
        records=records,
        storage=storage,
        catalogue=catalogue,
        metrics=WorkerMetrics(),
        runtime={"backdrop": {}},
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            running.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: "backdrop" in catalogue.cards() and own_redis.keys("*serving*"))
    running.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert failed == []
