"""Directories of edge models: their cards, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_models import edge_model, put_weights, reconfigure, weights_of

from api_schemas.models import EngineKind
from worker.engines.cards import read_card
from worker.engines.edge_model import load_edge_model, place, try_out
from worker.engines.notes import UnsupportedModelError
from worker.tuning import TuningRefused


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return edge_model(tmp_path / "matting")


def test_the_card_says_what_the_directory_says(tmp_path: Path) -> None:
    """An edge model does no operation; licence, revision and description are those of ``outfill.json``, and its memory that of float32."""
    notes: dict[str, Any] = {"description": "Ours.", "revision": "7", "licence": {"id": "MIT", "url": None, "commercial_use": True}}
    directory = edge_model(tmp_path / "matting", **notes)
    card = read_card(directory, "matting")
    assert (card.id, card.engine, card.operations) == ("matting", EngineKind.MATTING, ())
    assert (card.description, card.revision, card.licence.id, card.licence.commercial_use) == ("Ours.", "7", "MIT", True)
    weights = weights_of(directory).values()
    assert card.memory_bytes == sum(4 * each.numel() if each.is_floating_point() else 16 * each.numel() for each in weights)


def test_without_notes_the_weights_pin_it(directory: Path) -> None:
    """Without an ``outfill.json`` the revision is the SHA-256 of the weights, and of its licence nothing is known."""
    card = read_card(directory, "matting")
    assert card.revision == f"sha256:{hashlib.sha256((directory / 'model.safetensors').read_bytes()).hexdigest()}"
    assert card.licence.commercial_use is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["CLIPTextModel"]}, r"\['CLIPTextModel'\], expected VitMatteForImageMatting"),
        ({"architectures": None}, "expected VitMatteForImageMatting"),
        ({"backbone": "owner/name"}, "its backbone is owner/name, expected vitdet"),
        ({"backbone_config": {"model_type": "timm_backbone"}}, "its backbone is timm_backbone"),
        ({"backbone_config": {"model_type": "vitdet", "num_channels": 3}}, "3 input channels, expected 4"),
    ],
)
def test_other_networks_are_refused(directory: Path, changes: dict[str, Any], says: str) -> None:
    """Another architecture, a backbone that would be looked for elsewhere, and one without room for what is known are refused by name."""
    reconfigure(directory, **changes)
    with pytest.raises(UnsupportedModelError, match=says):
        read_card(directory, "matting")


def test_weights_are_one_safetensors_file(directory: Path) -> None:
    """A directory without ``model.safetensors``, or with one that is cut off, is refused."""
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UnsupportedModelError, match="declares"):
        read_card(directory, "matting")
    weights.rename(directory / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"has no model\.safetensors"):
        read_card(directory, "matting")


def test_weights_that_are_missing_are_not_drawn_at_random(directory: Path) -> None:
    """A file that lacks a weight, or has one of another shape, is refused when it is loaded; one that lacks a counter of training is not."""
    weights = weights_of(directory)
    name = "decoder.convstream.convs.0.conv.weight"
    put_weights(directory, {key: value for key, value in weights.items() if key != name})
    with pytest.raises(UnsupportedModelError, match=f"lacks 1 weights: {name}"):
        load_edge_model(directory)
    put_weights(directory, {**weights, name: weights[name][:1].clone()})
    with pytest.raises(UnsupportedModelError, match="does not load"):
        load_edge_model(directory)
    put_weights(directory, {key: value for key, value in weights.items() if "num_batches_tracked" not in key})
    load_edge_model(directory)


def test_a_network_is_tried_out(directory: Path) -> None:
    """One that answers with opacities is taken, one that answers with what is no number is not."""
    try_out(directory)
    weights = weights_of(directory)
    put_weights(directory, {**weights, "decoder.matting_head.matting_convs.3.bias": torch.tensor([float("nan")])})
    with pytest.raises(UnsupportedModelError, match="answers with what is no number"):
        try_out(directory)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_not_there_is_refused_by_the_setting(directory: Path) -> None:
    """Where there is no GPU, placing it on one is refused with the name of the setting that asks for it."""
    with pytest.raises(TuningRefused, match="OUTFILL_WORKER__DEVICE=cuda"):
        place(load_edge_model(directory), "cuda")


def test_a_card_is_read_without_libraries_of_models(directory: Path) -> None:
    """Looking at an edge model imports neither numpy nor torch."""
    script = f"""
import sys
from pathlib import Path
from worker.engines.cards import read_card
read_card(Path({str(directory)!r}), "x")
assert not {{"numpy", "torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
