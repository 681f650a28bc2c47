"""The one place that knows which code runs which kind of model. Heavy imports happen when an engine is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import structlog

from api_schemas.models import EngineKind, ModelCard
from worker.engines.base import Engine
from worker.engines.cards import read_card, why_not_served
from worker.engines.diffusion.card import loras_bytes
from worker.engines.notes import UnsupportedModelError
from worker.engines.weights import store_directories
from worker.tuning import Tuning, TuningRefused, Wishes, choose_all

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How this worker runs its models."""

    device: str = "cpu"
    wishes: Wishes = field(default_factory=Wishes)
    spoken_for_bytes: int = 0
    """Memory of the device that is free now, and not for these models."""


@dataclass(frozen=True)
class Place:
    """A device that models share."""

    device: str
    kept_bytes: int
    """Memory of it that is left for the LoRAs of all of them."""


def build_engine(card: ModelCard, *, path: Path | None = None, options: EngineOptions | None = None) -> Engine:
    """Load the model of ``card`` alone on its device; as ``build_engines`` does."""
    return build_engines([(card, path)], options)[card.id]


def build_engines(models: Sequence[tuple[ModelCard, Path | None]], options: EngineOptions | None = None) -> dict[str, Engine]:
    """Load models that share a device, by id; the paths are their directories in the model store, which models without weights do not need.

    All are judged before the first is loaded, so that none takes room that another needs. Raises ``ValueError`` for a kind that has no
    engine, or where a path is missing, and ``TuningRefused`` for a wish that the device cannot grant.
    """
    options = options or EngineOptions()
    for card, _ in models:
        if card.engine not in FACTORIES:
            raise ValueError(f"{card.id}: models of kind {card.engine} have no engine")
    directories = {card.id: path for card, path in models if card.engine is EngineKind.DIFFUSION and path is not None}
    tunings = _tune(directories, options)
    place = Place(options.device, sum(map(loras_bytes, directories.values())))
    return {card.id: FACTORIES[card.engine](card, path, place, tunings.get(card.id)) for card, path in models}


def _tune(directories: Mapping[str, Path], options: EngineOptions) -> dict[str, Tuning]:
    if not directories:
        return {}
    from worker.engines.device import read_device
    from worker.engines.diffusion.residency import model_facts

    device = read_device(options.device, options.wishes)
    device = replace(device, free_bytes=device.free_bytes - options.spoken_for_bytes)
    if device.xformers_fault:
        _log.warning("xformers_does_not_run", reason=device.xformers_fault, instead="the fastest of torch's kernels")
    if device.kind == "cuda" and device.compile_obstacle:
        _log.warning("compile_failed", reason=device.compile_obstacle, instead="models run uncompiled")
    tunings = choose_all(device, {model: model_facts(path) for model, path in directories.items()}, options.wishes)
    for model, tuning in tunings.items():
        _log.info("model_tuned", model=model, device=options.device, tuning=asdict(tuning))
    return tunings


def discover(directories: Mapping[str, Path], store: Path | None = None, *, allow_noncommercial: bool = False) -> list[ModelCard]:
    """The cards of the models in ``directories``, by model id, and then of those in ``store`` whose names are not taken.

    Raises ``UnsupportedModelError`` for the first of ``directories`` that cannot be served; one of the store is logged and left out.
    """

    def served(path: Path, model_id: str) -> ModelCard:
        card = read_card(path, model_id)
        if reason := why_not_served(card, allow_noncommercial=allow_noncommercial):
            raise UnsupportedModelError(f"{path}: {reason}")
        return card

    cards = [served(path, model_id) for model_id, path in directories.items()]
    for model_id, path in (store_directories(store) if store else {}).items():
        if model_id in directories:
            continue
        try:
            cards.append(served(path, model_id))
        except UnsupportedModelError as error:
            _log.warning("model_skipped", model=model_id, reason=str(error))
    return cards


def _exemplar(_card: ModelCard, _path: Path | None, _place: Place, _tuning: Tuning | None) -> Engine:
    from worker.engines.exemplar import ExemplarEngine

    return ExemplarEngine()


def _backdrop(_card: ModelCard, _path: Path | None, _place: Place, _tuning: Tuning | None) -> Engine:
    from worker.engines.backdrop import BackdropEngine

    return BackdropEngine()


def _diffusion(card: ModelCard, path: Path | None, place: Place, tuning: Tuning | None) -> Engine:
    from worker.engines.diffusion.engine import DiffusionEngine
    from worker.engines.out_of_memory import is_out_of_memory

    if path is None or tuning is None:
        raise ValueError(f"{card.id}: a diffusion model needs its directory and a tuning")
    try:
        return DiffusionEngine.load(path, card, device=place.device, kept_bytes=place.kept_bytes, tuning=tuning)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise TuningRefused(f"{card.id}: {place.device} has no room for its weights: {error}") from error
        raise


Factory = Callable[[ModelCard, Path | None, Place, Tuning | None], Engine]
"""Takes a card, the model's directory, a place on a device, and the tuning of those that have one."""
FACTORIES: dict[EngineKind, Factory] = {
    EngineKind.EXEMPLAR: _exemplar,
    EngineKind.BACKDROP: _backdrop,
    EngineKind.DIFFUSION: _diffusion,
}
