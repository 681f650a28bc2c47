"""The store as it lies on disk: what is listed, verified, announced and served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from conftest import CORE_TEST_DB, Api, eventually
from structlog.testing import capture_logs

from core.catalogue import Catalogue
from core.settings import Models as ModelSettings
from service.local import LocalStack
from worker.engines.diffusion.card import card_for
from worker.engines.registry import discover
from worker.engines.weights import NotSafetensorsError, half_precision_bytes, read_header, store_directories
from worker.store.digests import git_blob

if TYPE_CHECKING:
    from model_store import Models

pytest_plugins = ("model_store",)

COMPONENTS = ("unet", "vae", "text_encoder")


@pytest.fixture
def filled(models: Models, store: Path, tiny_model: Path) -> Path:
    """A store with a pulled model, one that no engine runs, a file, and what an unfinished pull left."""
    assert models("pull", tiny_model, "--as", "shop").status == 0
    shutil.copytree(store / "shop", store / "alien")
    index = json.loads((store / "alien" / "model_index.json").read_text())
    (store / "alien" / "model_index.json").write_text(json.dumps({**index, "_class_name": "FluxFillPipeline"}))
    shutil.copytree(store / "shop", store / ".pull-x" / "half")
    (store / "notes").mkdir()
    return store


def test_what_is_in_the_store_is_listed(models: Models, filled: Path) -> None:
    """`models list` shows what a person chooses by, and says why a directory cannot be served."""
    done = models("list")
    heading, row, refusal = done.output.splitlines()
    assert heading.split() == ["model", "revision", "licence", "commercial", "use", "native", "size", "memory"]
    assert row.split() == ["shop", card_for(filled / "shop", "shop").revision, "CC0-1.0", "yes", "64", "2.4", "MiB"]
    assert "alien cannot be served" in refusal
    assert "FluxFillPipeline" in refusal
    assert done.status == 0


def test_looking_at_the_store_loads_no_library_of_models(filled: Path) -> None:
    """Pulling a directory, listing and verifying import neither torch nor diffusers nor the hub's client."""
    script = f"""
import sys
from worker.__main__ import main
assert main(["models", "pull", {str(filled / "shop")!r}, "--as", "copy"]) == main(["models", "list"]) == main(["models", "verify", "copy"]) == 0
assert not {{"torch", "diffusers", "transformers", "huggingface_hub", "numpy"}} & set(sys.modules)
"""
    environment = {**os.environ, "OUTFILL_MODELS__STORE": str(filled)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda shop: (shop / "vae" / "config.json").write_bytes(b"{}"), "vae/config.json: changed"),
        (lambda shop: (shop / "vae" / "config.json").unlink(), "vae/config.json: missing"),
        (lambda shop: (shop / "vae" / "more.safetensors").write_bytes(b""), "vae/more.safetensors: not in SHA256SUMS"),
        (lambda shop: (shop / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
    ],
)
def test_a_model_that_differs_fails_verification(models: Models, filled: Path, spoil: object, line: str) -> None:
    """`models verify` exits 1 and names each file that differs; models that are as pulled are said to be."""
    shutil.copytree(filled / "shop", filled / "untouched")
    shutil.rmtree(filled / "alien")
    assert models("verify").status == 0
    assert callable(spoil)
    spoil(filled / "shop")
    done = models("verify")
    assert done.status == 1
    assert line in done.output
    assert "untouched: as pulled" in done.output
    assert models("verify", "untouched").status == 0
    assert models("verify", "shop").status == 1


def test_outfill_json_may_be_edited(models: Models, filled: Path) -> None:
    """What the person who installs a model writes into outfill.json is no difference."""
    (filled / "shop" / "outfill.json").write_text('{"description": "Ours."}')
    assert models("verify", "shop").status == 0
    assert card_for(filled / "shop", "shop").description == "Ours."


def test_a_model_that_is_not_there_cannot_be_verified(models: Models, filled: Path) -> None:
    """Verifying a name that the store does not have is an error, not a success."""
    assert models("verify", "none").status == 1


def test_only_finished_model_directories_count(filled: Path, tmp_path: Path) -> None:
    """Hidden directories and those without model_index.json are no models; a store that is not there has none."""
    assert list(store_directories(filled)) == ["alien", "shop"]
    assert store_directories(tmp_path / "nowhere") == {}


def test_the_store_is_discovered_besides_named_directories(filled: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A named directory wins over the store's, and an unsupported one of the store is logged and left out."""
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    (other / "outfill.json").write_text('{"description": "Named in the settings."}')
    with capture_logs() as logs:
        assert [card.id for card in discover({}, filled)] == ["shop"]
    assert [(line["event"], line["model"]) for line in logs] == [("model_skipped", "alien")]
    named = {card.id: card for card in discover({"shop": other, "extra": tiny_model}, filled)}
    assert set(named) == {"shop", "extra"}
    assert named["shop"].description == "Named in the settings."
    with pytest.raises(ValueError, match="FluxFillPipeline"):
        discover({"alien": filled / "alien"}, filled)


def test_a_worker_serves_the_store(stack: LocalStack, own_redis: redis.Redis, filled: Path) -> None:
    """A worker that starts announces every model of its store that it can run, and goes on without the one that it cannot."""
    (filled / "u2netp.onnx").symlink_to(ModelSettings().store / "u2netp.onnx")
    environment = {
        **os.environ,
        **stack.environment(),
        "OUTFILL_REDIS__URL": f"redis://127.0.0.1:{stack.redis_port}/{CORE_TEST_DB}",
        "OUTFILL_MODELS__STORE": str(filled),
        "OUTFILL_MODELS__DIRECTORIES": "{}",
    }
    with subprocess.Popen([sys.executable, "-m", "worker", "paint"], env=environment, stderr=subprocess.PIPE, text=True) as worker:
        try:
            catalogue = Catalogue(own_redis)
            eventually(lambda: worker.poll() is not None or catalogue.live_workers(), timeout_s=120)
            announced = {info.card.id for info in catalogue.models()} if worker.poll() is None else set()
        finally:
            worker.send_signal(signal.SIGTERM)
            _, log = worker.communicate(timeout=60)
    assert "shop" in announced, log
    assert "alien" not in announced
    assert "model_skipped" in log


def test_memory_is_that_of_the_weights_in_half_precision(tiny_model: Path, tmp_path: Path) -> None:
    """memory_bytes counts two bytes for each parameter that is loaded, whatever the files' precision and variants."""
    from safetensors.torch import load_file, save_file

    files = [next((tiny_model / component).glob("*.safetensors")) for component in COMPONENTS]
    parameters = sum(tensor.numel() for file in files for tensor in load_file(file).values())
    assert card_for(tiny_model, "tiny").memory_bytes == 2 * parameters
    halved = Path(shutil.copytree(tiny_model, tmp_path / "halved"))
    unet = halved / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(unet).items()}, unet)
    shutil.copyfile(unet, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert card_for(halved, "tiny").memory_bytes == 2 * parameters


def test_memory_is_told_to_callers(api: Api, tiny_model: Path) -> None:
    """GET /v1/models has memory_bytes for a model with weights, and null for embedded ones."""
    cards = {item["card"]["id"]: item["card"] for item in api.http.get("/v1/models").raise_for_status().json()["items"]}
    assert cards["tiny"]["memory_bytes"] == card_for(tiny_model, "tiny").memory_bytes
    assert cards["exemplar"]["memory_bytes"] is None


def test_integers_keep_their_size(tmp_path: Path) -> None:
    """Tensors that are not floats are counted as they lie in the file."""
    import torch
    from safetensors.torch import save_file

    save_file(
        {"a": torch.zeros(3), "b": torch.zeros(3, dtype=torch.int64), "c": torch.zeros(3, dtype=torch.float64)}, tmp_path / "x.safetensors"
    )
    assert half_precision_bytes([tmp_path / "x.safetensors"]) == 6 + 24 + 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 5) + b"[1,2]",
        struct.pack("<Q", 7) + b'{"a":1}',
        struct.pack("<Q", 2) + b"{}extra",
    ],
)
def test_other_bytes_are_not_safetensors(tmp_path: Path, data: bytes) -> None:
    """A header that is not one is refused, whatever its length claims."""
    file = tmp_path / "x.safetensors"
    file.write_bytes(data)
    with pytest.raises(NotSafetensorsError):
        read_header(file)


def test_git_ids_are_git_s(tmp_path: Path) -> None:
    """The id of a small file is what `git hash-object` prints."""
    file = tmp_path / "config.json"
    file.write_bytes(b'{"a": 1}\n')
    printed = subprocess.run(["git", "hash-object", str(file)], capture_output=True, text=True, check=True).stdout.strip()
    assert git_blob(file) == printed
