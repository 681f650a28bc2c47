"""The one place that knows which code runs which kind of model. Heavy imports happen when an engine is built, not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from api_schemas.models import EngineKind, ModelCard
from worker.engines.base import Engine
from worker.engines.diffusion.card import card_for


@dataclass(frozen=True)
class EngineOptions:
    """How this worker runs its models."""

    device: str = "cpu"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_rows: int = 8


def build_engine(card: ModelCard, *, path: Path | None = None, options: EngineOptions | None = None) -> Engine:
    """Load the model of ``card``; ``path`` is its directory in the model store, which models without weights do not need.

    Raises ``ValueError`` for a kind that has no engine, or where ``path`` is missing.
    """
    if card.engine not in FACTORIES:
        raise ValueError(f"{card.id}: models of kind {card.engine} have no engine")
    return FACTORIES[card.engine](card, path, options or EngineOptions())


def discover(directories: Mapping[str, Path]) -> list[ModelCard]:
    """The cards of the pipelines in ``directories``, by model id. Raises ``UnsupportedPipelineError`` for the first that cannot run."""
    return [card_for(path, model_id) for model_id, path in directories.items()]


def _exemplar(_card: ModelCard, _path: Path | None, _options: EngineOptions) -> Engine:
    from worker.engines.exemplar import ExemplarEngine

    return ExemplarEngine()


def _backdrop(_card: ModelCard, _path: Path | None, _options: EngineOptions) -> Engine:
    from worker.engines.backdrop import BackdropEngine

    return BackdropEngine()


def _diffusion(card: ModelCard, path: Path | None, options: EngineOptions) -> Engine:
    from worker.engines.diffusion.engine import DiffusionEngine

    if path is None:
        raise ValueError(f"{card.id}: a diffusion model needs its directory")
    return DiffusionEngine.load(path, card, device=options.device, dtype=options.dtype, max_rows=options.max_rows)


FACTORIES: dict[EngineKind, Callable[[ModelCard, Path | None, EngineOptions], Engine]] = {
    EngineKind.EXEMPLAR: _exemplar,
    EngineKind.BACKDROP: _backdrop,
    EngineKind.DIFFUSION: _diffusion,
}
