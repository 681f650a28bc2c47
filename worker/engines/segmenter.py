"""Segmenters of a model store: directories with one ONNX file and the ``segmenter.json`` that says how its pictures are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from api_schemas.models import EngineKind, ModelCard
from api_schemas.requests import Operation
from worker.engines.notes import Notes, UnsupportedModelError, digest_of, faults, read_notes
from worker.engines.onnx_file import check_onnx
from worker.engines.weights import SEGMENTER_FACTS
from worker.images.facts import NetworkFacts

if TYPE_CHECKING:
    from worker.images.network import Network, Provider

SUFFIX = ".onnx"
_SLACK = 0.05
"""How far a probability may be beyond 0..1: quantised networks round."""


def segmenter_card(path: Path, model_id: str) -> ModelCard:
    """The card of the segmenter in directory ``path``. ``native_size`` is the side of its input in pixels; nothing is loaded.

    Raises ``UnsupportedModelError``, which says what is missing or wrong and in which file.
    """
    facts, weights = read_facts(path / SEGMENTER_FACTS), weights_of(path)
    notes = read_notes(path, Notes)
    check_onnx(weights)
    return ModelCard(
        id=model_id,
        engine=EngineKind.CUTOUT,
        operations=(Operation.REMOVE_BACKGROUND,),
        description=notes.description or f"A segmentation network of {facts.side} pixels: finds the product.",
        licence=notes.licence,
        revision=notes.revision or f"sha256:{digest_of(weights)}",
        native_size=facts.side,
        memory_bytes=weights.stat().st_size,
    )


def load_network(path: Path, providers: Sequence[Provider]) -> Network:
    """The network in directory ``path``, ready to run on ``providers``. Raises ``UnsupportedModelError``."""
    from worker.images.network import Network

    weights = weights_of(path)
    check_onnx(weights)
    try:
        return Network(weights, read_facts(path / SEGMENTER_FACTS), providers=providers)
    except ValueError as error:
        raise UnsupportedModelError(f"{path}: {error}") from error


def try_out(path: Path) -> None:
    """Run the network in directory ``path`` once, on the CPU, and see whether it answers as its facts say. Raises ``UnsupportedModelError``."""
    import numpy as np

    from worker.images.network import CPU

    network = load_network(path, (CPU,))
    side = network.facts.side
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (side, side, 3)).copy()
    try:
        answer = network.answer(picture)
    except Exception as error:
        raise UnsupportedModelError(f"{path}: the network does not run: {error}") from error
    low, high = float(answer.min()), float(answer.max())
    if not np.isfinite(answer).all():
        raise UnsupportedModelError(f"{path}: the network answers with what is no number")
    if network.facts.output == "probability" and (low < -_SLACK or high > 1 + _SLACK):
        raise UnsupportedModelError(
            f"{path}: it answers with values of {low:.3g} to {high:.3g}, which are no probabilities; are they logits?"
        )
    if network.facts.output == "logits" and low >= 0 and high <= 1:
        raise UnsupportedModelError(f"{path}: it answers with values of {low:.3g} to {high:.3g}, which are probabilities and no logits")


def weights_of(path: Path) -> Path:
    """The one ONNX file in directory ``path``. Raises ``UnsupportedModelError`` where there is none, or several."""
    found = sorted(file.name for file in path.glob(f"*{SUFFIX}") if not file.name.startswith("."))
    if len(found) != 1:
        raise UnsupportedModelError(f"{path}: a segmenter has one {SUFFIX} file; there are: {', '.join(found) or 'none'}")
    return path / found[0]


def read_facts(file: Path) -> NetworkFacts:
    """The facts in a JSON file. Raises ``UnsupportedModelError``, which names the field that is wrong."""
    try:
        return NetworkFacts.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UnsupportedModelError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise UnsupportedModelError(f"{file}: {faults(error)}") from error
