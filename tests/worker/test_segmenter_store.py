"""Segmenters in the model store: pulled, listed, verified, discovered; and licences that forbid commercial use."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from onnx_graphs import DARK, FACTS, network, segmenter
from structlog.testing import capture_logs

from api_schemas.models import Licence
from core.settings import Settings
from core.storage import Storage
from service.local import LocalStack
from worker.__main__ import _segmenters
from worker.engines.cards import read_card
from worker.engines.notes import UnsupportedModelError
from worker.engines.registry import discover
from worker.images.facts import PRESETS

if TYPE_CHECKING:
    from model_store import Models

pytest_plugins = ("model_store",)
FORBIDDEN: dict[str, Any] = {"licence": {"id": "CC-BY-NC-4.0", "commercial_use": False}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A segmenter to publish."""
    return segmenter(tmp_path / "source")


def read(directory: Path, name: str) -> Any:
    return json.loads((directory / name).read_text())


def test_a_directory_is_pulled_listed_and_verified(models: Models, store: Path, source: Path) -> None:
    """A directory with a network and its facts is tried out, copied and served; `list` and `verify` know it."""
    done = models("pull", source, "--as", "isnet", "--licence", "Apache-2.0", "--commercial-use", "yes")
    assert done.status == 0, done.errors
    assert "trying the network out" in done.output
    card = read_card(store / "isnet", "isnet")
    assert {path.name for path in (store / "isnet").iterdir()} == {"net.onnx", "segmenter.json", "outfill.json", "SHA256SUMS"}
    assert read(store / "isnet", "outfill.json") == {
        "source": str(source),
        "revision": f"sha256:{hashlib.sha256(network()).hexdigest()}",
        "licence": {"id": "Apache-2.0", "commercial_use": True},
    }
    _, row = models("list").output.splitlines()
    assert row.split() == ["isnet", card.revision, "Apache-2.0", "yes", "64", "0.0", "MiB"]
    assert models("verify").status == 0
    (store / "isnet" / "segmenter.json").write_text("{}")
    assert "segmenter.json: changed" in models("verify", "isnet").output
    assert "isnet cannot be served" in models("list").output


def test_a_published_network_is_given_its_facts(models: Models, store: Path, source: Path, tmp_path: Path) -> None:
    """Where no facts came along they are asked for, by a preset's name or in a file; what is said replaces what came along."""
    (source / "segmenter.json").unlink()
    missing = models("pull", source, "--as", "net")
    assert missing.status == 1
    assert "give --facts" in missing.errors
    assert "isnet" in missing.errors
    told = tmp_path / "told.json"
    told.write_text(json.dumps({**FACTS, "divide_by": "maximum"}))
    assert models("pull", source, "--as", "net", "--facts", told).status == 0
    assert read(store / "net", "segmenter.json")["divide_by"] == "maximum"
    (source / "segmenter.json").write_text(json.dumps(FACTS))
    (source / "net.onnx").write_bytes(network(side="any"))
    assert models("pull", source, "--as", "preset", "--facts", "u2net").status == 0
    assert read_card(store / "preset", "preset").native_size == PRESETS["u2net"].side
    assert models("verify").status == 0


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("isnet", "its facts say (1, 3, 1024, 1024)"),
        ("nowhere", "nowhere cannot be read"),
        ("{}", "side: Field required"),
    ],
)
def test_facts_that_do_not_fit_are_refused(models: Models, store: Path, source: Path, tmp_path: Path, facts: str, reason: str) -> None:
    """Facts of another size, a file that is not there, and one that lacks a field stop the pull, and nothing is installed."""
    if facts == "{}":
        (tmp_path / "facts.json").write_text(facts)
        facts = str(tmp_path / "facts.json")
    done = models("pull", source, "--as", "net", "--facts", facts)
    assert done.status == 1
    assert reason in done.errors
    assert [path.name for path in store.iterdir()] == [".lock"]


def test_of_several_networks_one_is_named(models: Models, store: Path, source: Path) -> None:
    """A source with several ONNX files, as they are published, is refused with their names until --file says which."""
    (source / "onnx").mkdir()
    (source / "onnx" / "dark.onnx").write_bytes(network(DARK))
    done = models("pull", source, "--as", "net")
    assert "choose one with --file: net.onnx, onnx/dark.onnx" in done.errors
    assert "--file none.onnx is not there" in models("pull", source, "--as", "net", "--file", "none.onnx").errors
    assert models("pull", source, "--as", "net", "--file", "onnx/dark.onnx").status == 0
    assert (store / "net" / "dark.onnx").read_bytes() == network(DARK)
    assert not (store / "net" / "net.onnx").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (network(external="weights.bin"), "external data"),
        (network(domain="com.example"), "no library is loaded for it"),
        (network(domain="ai.onnx"), "not an ONNX file that runs"),
        (network(sigmoid=False), "are they logits?"),
        (b"no graph", "is not an ONNX file"),
    ],
    ids=["external data", "custom operator", "unknown operator", "logits", "no graph"],
)
def test_a_network_that_is_unsafe_or_does_not_run_is_not_installed(
    models: Models, store: Path, source: Path, data: bytes, reason: str
) -> None:
    """What reaches beyond its file, does not load, or does not answer as told is refused with the reason."""
    (source / "net.onnx").write_bytes(data)
    (source / "weights.bin").write_bytes(bytes(12))
    done = models("pull", source, "--as", "net")
    assert done.status == 1
    assert reason in done.errors
    assert [path.name for path in store.iterdir()] == [".lock"]


def test_a_single_file_is_pulled_with_its_facts(models: Models, store: Path, source: Path, storage: Storage, stack: LocalStack) -> None:
    """An ONNX file, here or an object of S3 with its digest, needs --facts, and is pinned by its SHA-256."""
    file, told, digest = source / "net.onnx", source / "segmenter.json", hashlib.sha256(network()).hexdigest()
    assert "give --facts" in models("pull", file, "--as", "net").errors
    assert "expected 000" in models("pull", file, "--as", "net", "--facts", told, "--sha256", "0" * 64).errors
    assert models("pull", file, "--as", "net", "--facts", told, "--sha256", digest).status == 0
    assert read_card(store / "net", "net").revision == f"sha256:{digest}"
    storage.put("published/net.onnx", network(), "application/octet-stream")
    where = f"s3://{stack.bucket}/published/net.onnx"
    assert "needs --sha256" in models("pull", where, "--as", "far", "--facts", told).errors
    assert models("pull", where, "--as", "far", "--facts", told, "--sha256", digest).status == 0
    assert models("verify").status == 0


def test_a_prefix_of_s3_is_pulled(models: Models, store: Path, source: Path, storage: Storage, stack: LocalStack) -> None:
    """A segmenter below an S3 prefix is fetched as its SHA256SUMS says; an object that was changed stops the pull."""
    names = ("net.onnx", "segmenter.json")
    sums = "".join(f"{hashlib.sha256((source / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    for name in names:
        storage.put(f"published/segmenter/{name}", (source / name).read_bytes(), "application/octet-stream")
    storage.put("published/segmenter/SHA256SUMS", sums.encode(), "text/plain")
    where = f"s3://{stack.bucket}/published/segmenter"
    done = models("pull", where, "--as", "net")
    assert done.status == 0, done.errors
    assert (store / "net" / "net.onnx").read_bytes() == network()
    storage.put("published/segmenter/net.onnx", network(DARK), "application/octet-stream")
    assert "net.onnx has SHA-256" in models("pull", where, "--as", "other").errors


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("source", "--variant", "fp16"), "--variant is not for segmenters"),
        (("source/net.onnx", "--variant", "fp16"), "--variant is not for segmenters"),
        (("source/net.onnx", "--file", "net.onnx"), "--config and --file are not for it"),
        (("tiny", "--facts", "isnet"), "--facts and --file are for segmenters"),
        (("x.safetensors", "--config", ".", "--file", "net.onnx"), "--facts and --file are for segmenters"),
        (("x.safetensors", "--lora-of", "net", "--facts", "isnet"), "--lora-of goes with"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    models: Models, source: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], reason: str
) -> None:
    """An option that would mean nothing is an error, not ignored."""
    shutil.copytree(tiny_model, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    done = models("pull", *arguments, "--as", "net")
    assert done.status == 1
    assert reason in done.errors


def test_a_licence_that_forbids_commercial_use_is_told(models: Models, store: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pull and list say that such a model is not served, and why; with the setting they do not."""
    done = models("pull", source, "--as", "nc", "--licence", "CC-BY-NC-4.0", "--commercial-use", "no")
    assert done.status == 0
    assert "workers do not serve it: its licence (CC-BY-NC-4.0) forbids commercial use" in done.output
    assert "nc is not served: its licence (CC-BY-NC-4.0) forbids commercial use" in models("list").output
    monkeypatch.setenv("OUTFILL_MODELS__ALLOW_NONCOMMERCIAL", "true")
    assert "not served" not in models("list").output
    assert "workers serve it" in models("pull", store / "nc", "--as", "again").output


def test_a_model_that_must_not_be_served_is_not(tmp_path: Path, tiny_model: Path) -> None:
    """Segmenters and pipelines alike: one of the store is logged and left out, one that the settings name stops the start, unless it is allowed."""
    store = tmp_path / "store"
    segmenter(store / "net", **FORBIDDEN)
    segmenter(store / "unknown")
    shutil.copytree(tiny_model, store / "pipeline")
    (store / "pipeline" / "outfill.json").write_text(json.dumps(FORBIDDEN))
    with capture_logs() as logs:
        assert [card.id for card in discover({}, store)] == ["unknown"]
    assert {line["model"]: "forbids commercial use" in line["reason"] for line in logs} == {"net": True, "pipeline": True}
    with pytest.raises(UnsupportedModelError, match="OUTFILL_MODELS__ALLOW_NONCOMMERCIAL=true"):
        discover({"net": store / "net"})
    allowed = discover({"named": store / "net"}, store, allow_noncommercial=True)
    assert [card.id for card in allowed] == ["named", "net", "pipeline", "unknown"]
    assert allowed[0].licence == Licence(id="CC-BY-NC-4.0", commercial_use=False)


def test_a_worker_loads_what_it_serves_and_what_any_job_may_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded are u2netp, the default and what is served; one of the store that does not load is left out, one that is named stops the start."""
    store = tmp_path / "store"
    for name in ("default", "served", "idle", "broken"):
        segmenter(store / name)
    (store / "broken" / "net.onnx").write_bytes(network(domain="ai.onnx"))
    (store / "u2netp.onnx").symlink_to(Settings().models.store / "u2netp.onnx")
    monkeypatch.setenv("OUTFILL_MODELS__STORE", str(store))
    monkeypatch.setenv("OUTFILL_MODELS__SUBJECT_MODEL", "default")
    installed = discover({}, store)
    cards = {card.id: card for card in installed}
    chosen = {name: cards[name] for name in ("served", "broken")}
    with capture_logs() as logs:
        assert set(_segmenters(chosen, installed, Settings(), "cpu")) == {"default", "served", "u2netp"}
    assert [(line["event"], line["model"]) for line in logs] == [("model_skipped", "broken")]
    monkeypatch.setenv("OUTFILL_WORKER__SERVE", "broken")
    with pytest.raises(UnsupportedModelError, match="not an ONNX file that runs"):
        _segmenters(chosen, installed, Settings(), "cpu")
    monkeypatch.setenv("OUTFILL_MODELS__SUBJECT_MODEL", "nowhere")
    with pytest.raises(UnsupportedModelError, match=r"OUTFILL_MODELS__SUBJECT_MODEL .* nowhere"):
        _segmenters(chosen, installed, Settings(), "cpu")
