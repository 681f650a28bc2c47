"""``outfill models pull hub:…`` against a server on loopback that speaks what huggingface_hub asks: the tree of a commit, and files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from worker.engines.diffusion.card import card_for
from worker.store.digests import git_blob

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "shop/tiny-inpainting"
UNET = "unet/diffusion_pytorch_model.safetensors"


@dataclass
class Hub:
    """One repository with one commit. ``served`` may differ from what the tree says."""

    url: str
    directory: Path
    served: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def tree(self) -> list[dict[str, object]]:
        """What the hub answers for the files of a commit: LFS files with a SHA-256, small ones with a git id."""
        return [self._entry(path) for path in sorted(self.directory.rglob("*")) if path.is_file()]

    def _entry(self, path: Path) -> dict[str, object]:
        size, name = path.stat().st_size, path.relative_to(self.directory).as_posix()
        entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": git_blob(path)}
        if path.suffix in (".safetensors", ".bin"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
        return entry


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path) -> Iterator[Hub]:
    """A hub that has the tiny pipeline, and a pickle beside its UNet."""
    directory = tmp_path / "repository"
    shutil.copytree(tiny_model, directory)
    (directory / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(send_body=False)

        def do_GET(self) -> None:
            self.answer(send_body=True)

        def answer(self, *, send_body: bool) -> None:
            here.asked.append(self.path)
            name = self.path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
            if self.path.startswith(f"/api/models/{REPO}/tree/{COMMIT}"):
                body, kind = json.dumps(here.tree()).encode(), "application/json"
            elif name != self.path and (directory / name).is_file():
                body, kind = here.served.get(name, (directory / name).read_bytes()), "application/octet-stream"
            else:
                self.send_response(404)
                self.send_header("X-Error-Code", "RevisionNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if send_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here = Hub(f"http://127.0.0.1:{server.server_port}", directory)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield here
        server.shutdown()
        thread.join()


def pull(hub: Hub, store: Path, commit: str = COMMIT, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``outfill models pull`` in a process of its own, as huggingface_hub reads its environment once."""
    variables = {"OUTFILL_MODELS__STORE": str(store), "HF_ENDPOINT": hub.url, "HF_HOME": str(store.parent / "hf"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "service.cli", "models", "pull", f"hub:{REPO}@{commit}", "--as", "shop", *options]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(command, env={**inherited, **variables, **environment}, capture_output=True, text=True, check=False, timeout=120)


def test_a_commit_of_the_hub_is_pulled(hub: Hub, tmp_path: Path) -> None:
    """All files of the commit that can be used are installed as they are, and pinned by the commit; pickle is not even asked for."""
    done = pull(hub, tmp_path / "store", COMMIT, "--licence", "OpenRAIL-M", "--commercial-use", "yes")
    assert done.returncode == 0, done.stderr
    shop = tmp_path / "store" / "shop"
    assert (shop / UNET).read_bytes() == (hub.directory / UNET).read_bytes()
    assert (shop / "tokenizer" / "vocab.json").read_bytes() == (hub.directory / "tokenizer" / "vocab.json").read_bytes()
    assert not any(path.name.startswith(".") for path in shop.rglob("*"))
    assert not any(path.endswith(".bin") for path in hub.asked)
    card = card_for(shop, "shop")
    assert card.revision == COMMIT
    assert (card.licence.id, card.licence.commercial_use) == ("OpenRAIL-M", True)
    assert json.loads((shop / "outfill.json").read_text())["source"] == f"hub:{REPO}@{COMMIT}"
    assert COMMIT in done.stdout


@pytest.mark.parametrize("name", [UNET, "tokenizer/vocab.json"])
def test_bytes_that_the_commit_does_not_have_are_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    """A file that differs from what the tree says, by SHA-256 or by git id, stops the pull, and nothing is installed."""
    data = (hub.directory / name).read_bytes()
    hub.served[name] = data[:-1] + b"\x01"
    done = pull(hub, tmp_path / "store")
    assert done.returncode == 1
    assert name in done.stderr
    assert "expected" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_commit_that_is_not_there_is_said_to_be(hub: Hub, tmp_path: Path) -> None:
    """The hub's refusal is one line with its reason."""
    done = pull(hub, tmp_path / "store", "f" * 40)
    assert done.returncode == 1
    assert "RevisionNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_offline_is_honoured(hub: Hub, tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE=1 set by the operator nothing is asked of the hub."""
    done = pull(hub, tmp_path / "store", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "Offline" in done.stderr
    assert hub.asked == []
