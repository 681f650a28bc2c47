"""The one place that knows which code runs which kind of model. Heavy imports happen when an engine is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import structlog

from api_schemas.models import EngineKind, ModelCard
from worker.engines.base import Engine
from worker.engines.diffusion.card import UnsupportedPipelineError, card_for
from worker.engines.weights import store_directories
from worker.tuning import Wishes, choose, read_device

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How this worker runs its models."""

    device: str = "cpu"
    wishes: Wishes = field(default_factory=Wishes)


def build_engine(card: ModelCard, *, path: Path | None = None, options: EngineOptions | None = None) -> Engine:
    """Load the model of ``card``; ``path`` is its directory in the model store, which models without weights do not need.

    Raises ``ValueError`` for a kind that has no engine, or where ``path`` is missing, and ``TuningRefused`` for a wish that the device
    cannot grant.
    """
    if card.engine not in FACTORIES:
        raise ValueError(f"{card.id}: models of kind {card.engine} have no engine")
    return FACTORIES[card.engine](card, path, options or EngineOptions())


def discover(directories: Mapping[str, Path], store: Path | None = None) -> list[ModelCard]:
    """The cards of the pipelines in ``directories``, by model id, and then of those in ``store`` whose names are not taken.

    Raises ``UnsupportedPipelineError`` for the first of ``directories`` that cannot run; one of the store is logged and left out.
    """
    cards = [card_for(path, model_id) for model_id, path in directories.items()]
    for model_id, path in (store_directories(store) if store else {}).items():
        if model_id in directories:
            continue
        try:
            cards.append(card_for(path, model_id))
        except UnsupportedPipelineError as error:
            _log.warning("model_skipped", model=model_id, reason=str(error))
    return cards


def _exemplar(_card: ModelCard, _path: Path | None, _options: EngineOptions) -> Engine:
    from worker.engines.exemplar import ExemplarEngine

    return ExemplarEngine()


def _backdrop(_card: ModelCard, _path: Path | None, _options: EngineOptions) -> Engine:
    from worker.engines.backdrop import BackdropEngine

    return BackdropEngine()


def _diffusion(card: ModelCard, path: Path | None, options: EngineOptions) -> Engine:
    from worker.engines.diffusion.engine import DiffusionEngine
    from worker.engines.diffusion.residency import model_facts

    if path is None:
        raise ValueError(f"{card.id}: a diffusion model needs its directory")
    tuning = choose(read_device(options.device), model_facts(path), options.wishes)
    _log.info("model_tuned", model=card.id, device=options.device, tuning=asdict(tuning))
    return DiffusionEngine.load(path, card, device=options.device, tuning=tuning)


FACTORIES: dict[EngineKind, Callable[[ModelCard, Path | None, EngineOptions], Engine]] = {
    EngineKind.EXEMPLAR: _exemplar,
    EngineKind.BACKDROP: _backdrop,
    EngineKind.DIFFUSION: _diffusion,
}
