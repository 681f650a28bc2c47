"""``outfill models pull FILE.safetensors --config DIR``: single-file checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoints import ldm_checkpoint, write_checkpoint

from worker.engines.diffusion.card import card_for

if TYPE_CHECKING:
    from model_store import Models

pytest_plugins = ("model_store",)

WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")
NO_NETWORK = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"the network was asked: {event} {arguments}")
sys.addaudithook(refuse)
from worker.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def config(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline without its weights."""
    directory = tmp_path_factory.mktemp("single") / "config"
    return Path(shutil.copytree(tiny_model, directory, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, config: Path) -> Path:
    """The tiny pipeline as one file in the original layout."""
    return write_checkpoint(tiny_model, config.parent / "one.safetensors")


def test_a_single_file_becomes_the_same_pipeline_without_a_network(
    checkpoint: Path, config: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Every tensor of the converted directory equals the original's, nothing connects anywhere, and the tokenizer reads the same."""
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    store = tmp_path / "store"
    environment = {**os.environ, "OUTFILL_MODELS__STORE": str(store), "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", NO_NETWORK, "models", "pull", str(checkpoint), "--config", str(config), "--as", "one"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    for name in WEIGHTS:
        original, converted = load_file(tiny_model / f"{name}.safetensors"), load_file(store / "one" / f"{name}.safetensors")
        assert set(converted) == set(original)
        assert all(tensor.dtype == converted[key].dtype and tensor.equal(converted[key]) for key, tensor in original.items())
    card = card_for(store / "one", "one")
    assert card.native_size == 64
    assert card.revision.startswith("sha256:")
    before, after = (CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True) for path in (tiny_model, store / "one"))
    text = "a mug, on a table"
    assert before(text, padding="max_length").input_ids == after(text, padding="max_length").input_ids
    before_vae, after_vae = (json.loads((path / "vae/config.json").read_text()) for path in (tiny_model, store / "one"))
    assert {key for key in before_vae if not key.startswith("_") and before_vae[key] != after_vae[key]} == set()
    assert (
        subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=store / "one", check=False, capture_output=True).returncode == 0
    )


def test_the_precision_of_the_checkpoint_is_kept(models: Models, store: Path, config: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A checkpoint in half precision is stored in half precision."""
    import torch
    from safetensors.torch import load_file, save_file

    halved = {name: tensor.half().contiguous() for name, tensor in ldm_checkpoint(tiny_model).items()}
    save_file(halved, tmp_path / "half.safetensors")
    done = models("pull", tmp_path / "half.safetensors", "--config", config, "--as", "half")
    assert done.status == 0, done.errors
    for name in WEIGHTS:
        original, converted = load_file(tiny_model / f"{name}.safetensors"), load_file(store / "half" / f"{name}.safetensors")
        assert all(tensor.dtype == torch.float16 and tensor.equal(original[key].half()) for key, tensor in converted.items())


@pytest.mark.parametrize(
    "key",
    [
        "model.diffusion_model.out.2.weight",
        "first_stage_model.decoder.conv_in.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ],
)
def test_a_missing_tensor_is_noticed(models: Models, store: Path, config: Path, tiny_model: Path, tmp_path: Path, key: str) -> None:
    """A checkpoint without one of its tensors is refused: no weight is ever left to chance."""
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in ldm_checkpoint(tiny_model).items() if name != key}
    save_file(tensors, tmp_path / "short.safetensors")
    done = models("pull", tmp_path / "short.safetensors", "--config", config, "--as", "short")
    assert done.status == 1
    assert "short.safetensors does not fit" in done.errors
    assert [path.name for path in store.iterdir()] == [".lock"]


def test_a_layer_that_the_configuration_lacks_is_noticed(
    models: Models, store: Path, config: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A tensor of the UNet that the configuration has no place for is not dropped unnoticed."""
    import torch
    from safetensors.torch import save_file

    more = {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(2, 2)}
    save_file({name: tensor.contiguous() for name, tensor in (ldm_checkpoint(tiny_model) | more).items()}, tmp_path / "more.safetensors")
    done = models("pull", tmp_path / "more.safetensors", "--config", config, "--as", "more")
    assert done.status == 1
    assert "its UNet has 209 tensors, the configuration describes 208" in done.errors


def test_weights_in_the_configuration_are_not_used(models: Models, config: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A component that is missing in the checkpoint is not taken from elsewhere, least of all from a pickle."""
    from safetensors.torch import save_file

    other = Path(shutil.copytree(tiny_model, tmp_path / "with-weights"))
    (other / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    tensors = {name: tensor.contiguous() for name, tensor in ldm_checkpoint(tiny_model).items() if not name.startswith("cond_stage")}
    save_file(tensors, tmp_path / "no-text.safetensors")
    done = models("pull", tmp_path / "no-text.safetensors", "--config", other, "--as", "shop")
    assert done.status == 1
    assert "CLIPTextModel" in done.errors


def test_a_configuration_names_no_other_code(models: Models, checkpoint: Path, config: Path, tmp_path: Path) -> None:
    """A model_index.json that names another class or another library is refused before anything is imported."""
    other = Path(shutil.copytree(config, tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps({**index, "unet": ["antigravity", "UNet2DConditionModel"]}))
    assert "UNet2DConditionModel of antigravity" in models("pull", checkpoint, "--config", other, "--as", "shop").errors
    (other / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxFillPipeline"}))
    assert "FluxFillPipeline" in models("pull", checkpoint, "--config", other, "--as", "shop").errors


def test_options_of_directories_are_not_for_files(models: Models, checkpoint: Path, config: Path, tiny_model: Path) -> None:
    """--variant with a file, --config with a directory, and a digest that the file does not have are refused."""
    assert "--variant is not" in models("pull", checkpoint, "--config", config, "--as", "x", "--variant", "fp16").errors
    assert "is not a .safetensors file" in models("pull", tiny_model, "--config", config, "--as", "x").errors
    assert "expected 000" in models("pull", checkpoint, "--config", config, "--as", "x", "--sha256", "0" * 64).errors
