"""Edge models in the model store: pulled, listed, verified, discovered, named by the settings; and no model that a request could name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage
import torch
from edge_models import edge_model, put_weights, reconfigure, weights_of
from onnx_graphs import network
from structlog.testing import capture_logs

from core.settings import Settings
from worker.__main__ import _cards_to_serve, _edge_card, _edge_model, _segmenters
from worker.engines.notes import UnsupportedModelError
from worker.engines.registry import discover
from worker.images.codec import decode

if TYPE_CHECKING:
    from model_store import Models

pytest_plugins = ("model_store",)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An edge model to publish, with what such repositories hold besides."""
    directory = edge_model(tmp_path / "source")
    for name in ("preprocessor_config.json", "README.md", "pytorch_model.bin", "code.py"):
        (directory / name).write_text("{}")
    return directory


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a worker whose store has an edge model, which they name."""
    edge_model(tmp_path / "store" / "matting")
    (tmp_path / "store" / "u2netp.onnx").symlink_to(Settings().models.store / "u2netp.onnx")
    monkeypatch.setenv("OUTFILL_MODELS__STORE", str(tmp_path / "store"))
    monkeypatch.setenv("OUTFILL_MODELS__EDGE_MODEL", "matting")
    return Settings()


def test_a_directory_is_pulled_listed_and_verified(models: Models, store: Path, source: Path) -> None:
    """An edge model is tried out and copied, configuration and weights alone; the pull says which setting uses it, `list` and `verify` know it."""
    done = models("pull", source, "--as", "matting", "--licence", "MIT", "--commercial-use", "yes")
    assert done.status == 0, done.errors
    assert "trying the network out" in done.output
    assert "workers draw edges with it once OUTFILL_MODELS__EDGE_MODEL names it when they start again" in done.output
    assert "none by itself" in done.output
    assert {path.name for path in (store / "matting").iterdir()} == {"config.json", "model.safetensors", "outfill.json", "SHA256SUMS"}
    revision = f"sha256:{hashlib.sha256((source / 'model.safetensors').read_bytes()).hexdigest()}"
    assert json.loads((store / "matting" / "outfill.json").read_text()) == {
        "source": str(source),
        "revision": revision,
        "licence": {"id": "MIT", "commercial_use": True},
    }
    _, row = models("list").output.splitlines()
    assert row.split()[:5] == ["matting", revision, "MIT", "yes", "any"]
    assert models("verify").status == 0
    reconfigure(store / "matting", hidden_size=1)
    assert "config.json: changed" in models("verify", "matting").output


def test_what_does_not_draw_edges_is_not_installed(models: Models, store: Path, source: Path) -> None:
    """Another architecture, weights that are missing or no numbers, and weights that come only as pickle are refused with the reason."""
    weights = weights_of(source)
    name = "decoder.matting_head.matting_convs.3.bias"
    put_weights(source, {**weights, name: torch.tensor([float("nan")])})
    assert "answers with what is no number" in models("pull", source, "--as", "matting").errors
    put_weights(source, {key: value for key, value in weights.items() if key != name})
    assert f"{source}: the network does not load: its file lacks 1 weights: {name}" in models("pull", source, "--as", "matting").errors
    put_weights(source, weights)
    reconfigure(source, architectures=["CLIPTextModel"])
    assert "expected VitMatteForImageMatting" in models("pull", source, "--as", "matting").errors
    (source / "model.safetensors").unlink()
    assert "pytorch_model.bin: these weights come only as pickle" in models("pull", source, "--as", "matting").errors
    (source / "pytorch_model.bin").unlink()
    assert "it is no diffusers directory, no segmenter and no edge model" in models("pull", source, "--as", "matting").errors
    assert [path.name for path in store.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--variant", "fp16"), "--variant is not for edge models"),
        (("--facts", "isnet"), "--facts and --file are for segmenters"),
        (("--file", "model.safetensors"), "--facts and --file are for segmenters"),
    ],
)
def test_options_of_another_kind_are_refused(models: Models, source: Path, arguments: tuple[str, ...], reason: str) -> None:
    """An option that would mean nothing is an error, not ignored."""
    done = models("pull", source, *arguments, "--as", "matting")
    assert done.status == 1
    assert reason in done.errors


def test_a_configuration_beside_a_network_makes_no_edge_model(models: Models, store: Path, source: Path) -> None:
    """A segmenter that is published with a ``config.json`` and safetensors besides is pulled as a segmenter."""
    (source / "net.onnx").write_bytes(network(side="any"))
    assert models("pull", source, "--as", "net", "--facts", "u2net").status == 0
    assert not (store / "net" / "config.json").exists()


def test_a_licence_that_forbids_commercial_use_holds_for_edge_models(
    models: Models, source: Path, installed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pull says that workers do not use it; one of the store is left out and not found by its name, and one in the settings' table stops the start, unless it is allowed."""
    done = models("pull", source, "--as", "nc", "--licence", "CC-BY-NC-4.0", "--commercial-use", "no")
    assert "workers do not serve it: its licence (CC-BY-NC-4.0) forbids commercial use" in done.output
    store = tmp_path / "store"
    with capture_logs() as logs:
        cards = discover({}, store)
    assert [line["model"] for line in logs] == ["nc"]
    monkeypatch.setenv("OUTFILL_MODELS__EDGE_MODEL", "nc")
    with pytest.raises(UnsupportedModelError, match=r"OUTFILL_MODELS__EDGE_MODEL .* not installed, or not served: nc"):
        _edge_card(cards, Settings().models)
    with pytest.raises(UnsupportedModelError, match="OUTFILL_MODELS__ALLOW_NONCOMMERCIAL=true"):
        discover({"nc": store / "nc"})
    assert _edge_card(discover({}, store, allow_noncommercial=True), Settings().models)


def test_edges_are_drawn_by_the_model_that_the_settings_name(installed: Settings) -> None:
    """With an edge model the matte of a photo is another one at its edge, and the same away from it; without one nothing is loaded."""
    found = discover({}, installed.models.store)
    card = _edge_card(found, installed.models)
    edge = _edge_model(card, installed.models)
    photo = decode((Path(skimage.__file__).parent / "data" / "coffee.png").read_bytes(), max_pixels=10**6).pixels
    plain, drawn = (_segmenters({}, found, installed, "cpu", each)["u2netp"].matte(photo).astype(int) for each in (None, edge))
    differs = np.abs(plain - drawn) > 32
    assert 0 < differs.mean() < 0.2
    assert (drawn == 255).mean() > 0.1
    assert (drawn == 0).mean() > 0.1
    silent = installed.models.model_copy(update={"edge_model": ""})
    assert _edge_card(found, silent) is None
    assert _edge_model(None, silent) is None


def test_it_may_lie_anywhere(installed: Settings, tmp_path: Path) -> None:
    """One that ``OUTFILL_MODELS__DIRECTORIES`` names is found by that name, and goes before one of the store."""
    other = edge_model(tmp_path / "elsewhere", revision="theirs")
    models = installed.models.model_copy(update={"directories": {"matting": other}})
    card = _edge_card(discover(models.directories, models.store), models)
    assert card is not None
    assert card.revision == "theirs"
    (models.store / "matting" / "model.safetensors").unlink()
    assert _edge_model(card, models) is not None


@pytest.mark.parametrize("name", ["nowhere", "u2netp"])
def test_what_is_no_edge_model_is_refused(installed: Settings, name: str) -> None:
    """A name that is not installed, or is another kind of model's, is refused with the name of the setting."""
    models = installed.models.model_copy(update={"edge_model": name})
    with pytest.raises(
        UnsupportedModelError, match=f"OUTFILL_MODELS__EDGE_MODEL names an edge model that is not installed, or not served: {name}"
    ):
        _edge_card(discover({}, models.store), models)


def test_no_request_can_name_it(installed: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker announces no edge model, and one that is to serve it alone does not start."""
    found: list[Any] = discover({}, installed.models.store)
    assert [card.id for card in found] == ["matting"]
    assert "matting" not in _cards_to_serve(installed, found)
    monkeypatch.setenv("OUTFILL_WORKER__SERVE", "matting")
    with pytest.raises(SystemExit, match="OUTFILL_WORKER__SERVE names models that are not installed, or not served: matting"):
        _cards_to_serve(Settings(), found)
