"""``python -m worker paint | steward | check | models``: puts a process together."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from api_schemas.models import EMBEDDED_MODELS, U2NETP, EngineKind, ModelCard
from core import logging, queue
from core.catalogue import Catalogue
from core.jobs import JobRecords
from core.queue import JobQueue
from core.settings import Models, Settings
from core.storage import Storage
from worker.engines.notes import UnsupportedModelError
from worker.engines.weights import EMBEDDED, is_model
from worker.store import commands
from worker.tuning import TuningRefused, Wishes

if TYPE_CHECKING:
    from worker.engines.base import Engine
    from worker.engines.vitmatte import VitMatte
    from worker.images.network import Network
    from worker.images.subject import Segmenter

PROCESSES = {
    "paint": "paint jobs",
    "steward": "keep house",
    "check": "exit 0 if this host's paint worker is ready",
}
SEGMENTER_FILE = "u2netp.onnx"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one process; the exit status is its own."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Outfill's worker processes.")
    processes = parser.add_subparsers(dest="process", required=True)
    for name, purpose in PROCESSES.items():
        processes.add_parser(name, help=purpose)
    commands.add_arguments(processes.add_parser("models", help="the model store", prog="outfill models"))
    arguments = parser.parse_args(argv)
    process = arguments.process
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    if process != "models" or not commands.needs_network(arguments):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    settings = Settings.read()
    if process == "models":
        return commands.run(arguments, settings)
    logging.configure(settings.logging, process)
    match process:
        case "paint":
            return paint(settings)
        case "steward":
            return steward(settings)
        case _:
            return check(settings)


def paint(settings: Settings) -> int:
    """Load the models and work until SIGTERM; 1 where one of them cannot run. A second SIGTERM gives back what is being painted."""
    try:
        return _paint(settings)
    except (TuningRefused, UnsupportedModelError) as error:
        structlog.get_logger(__name__).error("start_refused", reason=str(error))
        return 1


def _paint(settings: Settings) -> int:
    from worker.claims import Claims
    from worker.engines.registry import discover
    from worker.metrics import WorkerMetrics
    from worker.paint import PaintWorker

    weights = settings.models.store / SEGMENTER_FILE
    if not weights.is_file():
        hint = "run make setup, or set OUTFILL_MODELS__STORE"
        structlog.get_logger(__name__).error("segmenter_missing", path=str(weights), hint=hint)
        return 1
    metrics = WorkerMetrics()
    _serve_metrics(settings, metrics.registry)  # before the minutes that loading and compiling may take
    models = settings.models
    installed = discover(models.directories, models.store, allow_noncommercial=models.allow_noncommercial)
    cards = _cards_to_serve(settings, installed)
    edge_card = _edge_card(installed, models)
    needs_torch = edge_card is not None or any(card.engine is EngineKind.DIFFUSION for card in cards.values())
    device = _device(settings) if needs_torch else "cpu"
    with metrics.load.time():
        edge = _edge_model(edge_card, models)
        segmenters = _segmenters(cards, installed, settings, device if needs_torch else settings.worker.device, edge)
        cards = {name: card for name, card in cards.items() if card.engine is not EngineKind.CUTOUT or name in segmenters}
        engines = _load(cards.values(), settings, device, edge_card)
        if edge is not None:
            from worker.engines.edge_model import place

            place(edge, device)  # after the trials of the device: some GPUs take the context of one process alone
    connection = queue.connect(settings.redis)
    records = JobRecords.of(connection, settings)
    claims = Claims(
        connection,
        records,
        JobQueue(connection),
        lease_s=settings.worker.lease_s,
        overdue_s=settings.worker.overdue_s,
        running_jobs=settings.limits.running_jobs,
        poll_s=settings.worker.poll_s,
    )
    worker = PaintWorker(
        settings,
        cards=cards,
        engines=engines,
        segmenters=segmenters,
        revisions={card.id: card.revision for card in (*EMBEDDED_MODELS, *installed) if card.id in segmenters},
        edge=edge_card,
        claims=claims,
        records=records,
        storage=Storage(settings.s3),
        catalogue=Catalogue(connection),
        metrics=metrics,
        runtime={name: _runtime(device, engines[name].dtype if name in engines else None) for name in cards},
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    if not worker.run():
        os._exit(0)  # an interpreter that ends beneath a compiler's thread may crash
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
            records=JobRecords.of(connection, settings),
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
    cards = {name: card for name, card in cards.items() if card.engine is not EngineKind.MATTING}  # which no request can ask for
    unknown = set(settings.worker.serve) - set(cards)
    if unknown:
        raise SystemExit(f"OUTFILL_WORKER__SERVE names models that are not installed, or not served: {', '.join(sorted(unknown))}")
    return {name: card for name, card in cards.items() if not settings.worker.serve or name in settings.worker.serve}


def _edge_card(installed: Sequence[ModelCard], models: Models) -> ModelCard | None:
    """The card of the edge model that the settings name; ``None`` where they name none. Raises ``UnsupportedModelError``."""
    if not models.edge_model:
        return None
    for card in installed:
        if card.id == models.edge_model and card.engine is EngineKind.MATTING:
            return card
    raise UnsupportedModelError(f"OUTFILL_MODELS__EDGE_MODEL names an edge model that is not installed, or not served: {models.edge_model}")


def _edge_model(card: ModelCard | None, models: Models) -> VitMatte | None:
    """The network of ``card``, on the CPU. Raises ``UnsupportedModelError`` where it does not load."""
    if card is None:
        return None
    from worker.engines.edge_model import load_edge_model

    return load_edge_model(models.directories.get(card.id, models.store / card.id))


def _device(settings: Settings) -> str:
    import torch

    if settings.worker.threads:
        torch.set_num_threads(settings.worker.threads)
    if settings.worker.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.worker.device


def _load(cards: Iterable[ModelCard], settings: Settings, device: str, edge_card: ModelCard | None) -> dict[str, Engine]:
    from worker.engines.registry import EngineOptions, build_engines

    models = [(card, _directory(card, settings.models)) for card in cards if card.engine is not EngineKind.CUTOUT]
    return build_engines(models, EngineOptions(device, _wishes(settings), (edge_card and edge_card.memory_bytes) or 0))


def _segmenters(
    cards: Mapping[str, ModelCard], installed: Sequence[ModelCard], settings: Settings, device: str, edge: VitMatte | None = None
) -> dict[str, Segmenter]:
    """Everything that finds products: what is served of ``cards``, and u2netp and the default, which jobs of any model may need.

    Edges are drawn by ``edge`` where there is one. A segmenter of the store that does not load is logged and left out. Raises
    ``UnsupportedModelError`` for one that the settings name.
    """
    from worker.images.matting import redraw_edge
    from worker.images.subject import Segmenter

    known = {U2NETP.id, *(card.id for card in installed if card.engine is EngineKind.CUTOUT)}
    default = settings.models.subject_model
    if default not in known:
        raise UnsupportedModelError(f"OUTFILL_MODELS__SUBJECT_MODEL names a segmenter that is not installed, or not served: {default}")
    named = {U2NETP.id, default, *settings.models.directories, *settings.worker.serve}
    found = {}
    for name in sorted(known & {U2NETP.id, default, *cards}):
        try:
            found[name] = Segmenter(_network(name, settings, device), settings.worker.subject_looks, edge or redraw_edge)
        except UnsupportedModelError as error:
            if name in named:
                raise
            structlog.get_logger(__name__).warning("model_skipped", model=name, reason=str(error))
    return found


def _network(name: str, settings: Settings, device: str) -> Network:
    import onnxruntime

    from worker.engines.segmenter import load_network
    from worker.images.network import Network, providers_for

    providers = providers_for(device, onnxruntime.get_available_providers())
    directory = settings.models.directories.get(name, settings.models.store / name)
    if name == U2NETP.id and not is_model(directory):
        return Network(settings.models.store / SEGMENTER_FILE, providers=providers)
    return load_network(directory, providers)


def _directory(card: ModelCard, models: Models) -> Path | None:
    """Where the weights of ``card`` are; ``None`` for a model that has none."""
    named, stored, embedded = models.directories.get(card.id), models.store / card.id, EMBEDDED / card.id
    return named or next((path for path in (stored, embedded) if is_model(path)), None)


def _runtime(device: str, dtype: str | None) -> dict[str, Any]:
    """What the recipe of a job tells of where it was painted."""
    return {"device": device, **({"dtype": dtype} if dtype else {}), "versions": _versions()}


def _wishes(settings: Settings) -> Wishes:
    return Wishes(**{wish.name: getattr(settings.worker, wish.name) for wish in fields(Wishes)})


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("outfill", "torch", "diffusers", "transformers", "onnxruntime", "opencv-contrib-python-headless", "patchmatch-cython"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _serve_metrics(settings: Settings, registry: CollectorRegistry) -> None:
    if settings.metrics.port:
        start_http_server(settings.metrics.port, settings.metrics.host, registry)


if __name__ == "__main__":
    sys.exit(main())
