"""Edge models of a model store: directories with a ViTMatte, which draws the edges of products.

A supported directory is one that ``save_pretrained`` of a ``VitMatteForImageMatting`` writes, with all weights in one safetensors file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from api_schemas.models import EngineKind, ModelCard
from worker.engines.notes import Notes, UnsupportedModelError, digest_of, read_json, read_notes
from worker.engines.weights import EDGE_CONFIG, NotSafetensorsError, half_precision_bytes
from worker.tuning import TuningRefused

if TYPE_CHECKING:
    from worker.engines.vitmatte import VitMatte

EDGE_WEIGHTS = "model.safetensors"
ARCHITECTURE = "VitMatteForImageMatting"
_BACKBONE, _CHANNELS = "vitdet", 4
"""Red, green and blue, and what is known of the opacity."""


def edge_card(path: Path, model_id: str) -> ModelCard:
    """The card of the edge model in directory ``path``, which does no operation by itself. Nothing is loaded.

    Raises ``UnsupportedModelError``, which says what is missing or wrong.
    """
    _check_config(path, read_json(path / EDGE_CONFIG))
    weights = path / EDGE_WEIGHTS
    if not weights.is_file():
        raise UnsupportedModelError(f"{path}: it has no {EDGE_WEIGHTS}; other formats, and weights in several files, are not loaded")
    notes = read_notes(path, Notes)
    try:
        memory_bytes = 2 * half_precision_bytes([weights])
    except NotSafetensorsError as error:
        raise UnsupportedModelError(str(error)) from error
    return ModelCard(
        id=model_id,
        engine=EngineKind.MATTING,
        operations=(),
        description=notes.description or "A matting network (ViTMatte): draws the edges of products.",
        licence=notes.licence,
        revision=notes.revision or f"sha256:{digest_of(weights)}",
        memory_bytes=memory_bytes,
    )


def load_edge_model(path: Path) -> VitMatte:
    """The network in directory ``path``, on the CPU. Raises ``UnsupportedModelError``."""
    from worker.engines.vitmatte import VitMatte

    try:
        return VitMatte(path)
    except Exception as error:  # transformers, safetensors and torch raise errors of their own, one for each kind of damage
        raise UnsupportedModelError(f"{path}: the network does not load: {error}") from error


def place(network: VitMatte, device: str) -> None:
    """Move ``network`` to ``device``. Raises ``TuningRefused`` where that is not there, or has no room for it."""
    from worker.engines.device import read_device
    from worker.engines.out_of_memory import is_out_of_memory

    read_device(device)
    try:
        network.to(device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise TuningRefused(f"{device} has no room for the edge model: {error}") from error
        raise


def try_out(path: Path) -> None:
    """Draw one edge with the network in directory ``path``, on the CPU. Raises ``UnsupportedModelError`` where it does not answer with opacities."""
    import numpy as np

    network = load_edge_model(path)
    ramp = np.linspace(0, 1, 64, dtype=np.float32)
    matte = np.broadcast_to(ramp, (64, 64)).copy()
    picture = np.repeat(np.rint(matte * 255).astype(np.uint8)[..., None], 3, axis=2)
    try:
        opacity = network(picture, matte, 1.0)
    except Exception as error:
        raise UnsupportedModelError(f"{path}: the network does not run: {error}") from error
    if opacity.shape != matte.shape or not np.isfinite(opacity).all():
        raise UnsupportedModelError(f"{path}: the network answers with what is no number")


def _check_config(path: Path, config: dict[str, Any]) -> None:
    architectures = config.get("architectures")
    if architectures != [ARCHITECTURE]:
        raise UnsupportedModelError(f"{path}: the architectures in its {EDGE_CONFIG} are {architectures}, expected {ARCHITECTURE}")
    backbone = config.get("backbone_config") or {}
    # A backbone that is only named would be looked for on the hub, or in another library.
    if config.get("backbone") or backbone.get("model_type") != _BACKBONE:
        named = config.get("backbone") or backbone.get("model_type")
        raise UnsupportedModelError(f"{path}: its backbone is {named}, expected {_BACKBONE}")
    if backbone.get("num_channels") != _CHANNELS:
        raise UnsupportedModelError(f"{path}: its backbone has {backbone.get('num_channels')} input channels, expected {_CHANNELS}")
