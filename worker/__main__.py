"""``python -m worker paint | steward | check``: puts a process together."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from api_schemas.models import EMBEDDED_MODELS, EngineKind, ModelCard
from core import logging, queue
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Precision, Settings
from core.storage import Storage

SEGMENTER_FILE = "u2netp.onnx"
_NO_DEVICE: tuple[str, Precision] = ("cpu", "float32")


def main() -> int:
    """Run one process; the exit status is its own."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Outfill's worker processes.")
    parser.add_argument("process", choices=["paint", "steward", "check"], help="check: exit 0 if this host's paint worker is ready")
    process = parser.parse_args().process
    settings = Settings()
    logging.configure(settings.logging, process)
    match process:
        case "paint":
            return paint(settings)
        case "steward":
            return steward(settings)
        case _:
            return check(settings)


def paint(settings: Settings) -> int:
    """Load the models and work until SIGTERM. A second SIGTERM gives back what is being painted."""
    from worker.claims import Claims
    from worker.engines.registry import EngineOptions, build_engine, discover
    from worker.images.subject import Segmenter
    from worker.metrics import WorkerMetrics
    from worker.paint import PaintWorker

    log = structlog.get_logger(__name__)
    weights = settings.models.store / SEGMENTER_FILE
    if not weights.is_file():
        log.error("segmenter_missing", path=str(weights), hint="run make setup, or set OUTFILL_MODELS__STORE")
        return 1
    metrics = WorkerMetrics()
    cards = _cards_to_serve(settings, discover(settings.models.directories))
    needs_torch = any(card.engine is EngineKind.DIFFUSION for card in cards.values())
    device, dtype = _device(settings) if needs_torch else _NO_DEVICE
    engines = {}
    for card in cards.values():
        if card.engine is EngineKind.CUTOUT:
            continue
        began = time.perf_counter()
        options = EngineOptions(device=device, dtype=dtype)
        engines[card.id] = build_engine(card, path=settings.models.directories.get(card.id), options=options)
        metrics.model_load.labels(card.id).set(time.perf_counter() - began)
    connection = queue.connect(settings.redis)
    records = JobRecords(connection, retention_s=settings.retention.jobs_s)
    claims = Claims(connection, records, JobQueue(connection), lease_s=settings.worker.lease_s, overdue_s=settings.worker.overdue_s)
    worker = PaintWorker(
        settings,
        cards=cards,
        engines=engines,
        segmenter=Segmenter(weights),
        claims=claims,
        records=records,
        storage=Storage(settings.s3),
        catalogue=Catalogue(connection),
        metrics=metrics,
        runtime={"device": device, "dtype": dtype, "versions": _versions()},
    )
    _serve_metrics(settings, metrics.registry)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    return 0


def steward(settings: Settings) -> int:
    """Keep house until SIGTERM."""
    from worker.steward import Steward
    from worker.steward_metrics import StewardMetrics

    async def run() -> None:
        connection, metrics = queue.connect(settings.redis), StewardMetrics()
        keeper = Steward(
            settings,
            connection=connection,
            records=JobRecords(connection, retention_s=settings.retention.jobs_s),
            queue=JobQueue(connection),
            storage=Storage(settings.s3),
            catalogue=Catalogue(connection),
            metrics=metrics,
        )
        _serve_metrics(settings, metrics.registry)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, keeper.stop)
        await keeper.run()

    asyncio.run(run())
    return 0


def check(settings: Settings) -> int:
    """Whether a paint worker of this host has announced itself of late. For container health checks."""
    live = Catalogue(queue.connect(settings.redis)).live_workers()
    return 0 if any(name.startswith(f"{socket.gethostname()}-") for name in live) else 1


def _cards_to_serve(settings: Settings, installed: list[ModelCard]) -> dict[str, ModelCard]:
    cards = {card.id: card for card in (*EMBEDDED_MODELS, *installed)}
    unknown = set(settings.worker.serve) - set(cards)
    if unknown:
        raise SystemExit(f"OUTFILL_WORKER__SERVE names models that are not installed: {', '.join(sorted(unknown))}")
    return {name: card for name, card in cards.items() if not settings.worker.serve or name in settings.worker.serve}


def _device(settings: Settings) -> tuple[str, Precision]:
    import torch

    device = settings.worker.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = settings.worker.dtype
    dtype: Precision = ("float16" if device.startswith("cuda") else "float32") if chosen == "auto" else chosen
    if settings.worker.threads:
        torch.set_num_threads(settings.worker.threads)
    return device, dtype


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("outfill", "torch", "diffusers", "onnxruntime", "opencv-contrib-python-headless", "patchmatch-cython"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _serve_metrics(settings: Settings, registry: CollectorRegistry) -> None:
    if settings.metrics.port:
        start_http_server(settings.metrics.port, settings.metrics.host, registry)


if __name__ == "__main__":
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
