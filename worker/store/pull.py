"""Brings models and LoRAs into the store. What is not verified never gets a name there."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api_schemas.models import EMBEDDED_MODELS, EngineKind, ModelCard
from core.settings import S3, Models
from worker.engines import edge_model
from worker.engines.cards import read_card
from worker.engines.diffusion.card import lora_file, weights_digest
from worker.engines.notes import NOTES, UnsupportedModelError, digest_of, read_json
from worker.engines.segmenter import SUFFIX, read_facts, try_out, weights_of
from worker.engines.weights import MODEL_INDEX, SEGMENTER_FACTS, NotSafetensorsError, read_header, sha256, store_directories
from worker.images.facts import PRESETS
from worker.store.digests import SUMS, files_of, read_sums, write_sums
from worker.store.errors import StoreError
from worker.store.hub import HubSource
from worker.store.selection import is_pickle, kind_of, rename_shards, select, select_edge_model, select_segmenter
from worker.store.sources import DirectorySource, Source, bucket_source, check, fetch_file
from worker.store.staging import check_vacant, install, install_file, staging

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SAFETENSORS = ".safetensors"
_NETWORKS = {EngineKind.CUTOUT: try_out, EngineKind.MATTING: edge_model.try_out}
"""What runs once before it is installed, and how."""


@dataclass(frozen=True)
class LicenceClaim:
    """What the person who installs a model says of its licence."""

    id: str | None = None
    url: str | None = None
    commercial_use: bool | None = None

    def over(self, known: dict[str, Any]) -> dict[str, Any]:
        """``known``, which came along, with what is said here; another id leaves nothing of it. Raises ``StoreError`` where no id is known."""
        base = {} if self.id and self.id != known.get("id") else known
        merged = {**base, **{key: value for key, value in vars(self).items() if value is not None}}
        if merged and "id" not in merged:
            raise StoreError("--licence-url and --commercial-use need --licence")
        return merged


@dataclass(frozen=True)
class PullRequest:
    """One ``outfill models pull`` of a model."""

    source: str
    """``hub:owner/name@commit``, ``s3://bucket/prefix``, a directory, a ``.safetensors`` file with ``config``, or an ``.onnx`` file."""
    name: str
    sha256: str | None = None
    """Of the source's ``SHA256SUMS``, or of the one file."""
    variant: str | None = None
    config: Path | None = None
    """Of a single ``.safetensors`` file: a diffusers directory with configurations and tokenizers."""
    facts: str | None = None
    """Of a segmenter: one of ``PRESETS``, or a JSON file, in place of its ``segmenter.json``."""
    file: str | None = None
    """Of a segmenter that is published as several ONNX files: the one that is taken."""
    licence: LicenceClaim = LicenceClaim()
    replace: bool = False


class Puller:
    """Fills one store. ``say`` is told what goes on, a line at a time."""

    def __init__(self, models: Models, s3: S3, say: Callable[[str], None]) -> None:
        self._models = models
        self._store = models.store
        self._s3 = s3
        self._say = say

    def pull(self, request: PullRequest) -> ModelCard:
        """Fetch, verify and install a model; the card that workers will announce.

        Raises ``StoreError``, ``UnsupportedModelError``, ``NotSafetensorsError``, ``OutfillError`` (S3) or ``OSError``; then the store
        is as it was.
        """
        _check_name(request.name)
        check_vacant(self._store, request.name, replace=request.replace)
        _check_options(request)
        with staging(self._store) as work:
            staged = work / request.name
            staged.mkdir()
            try:
                if request.config:
                    revision: str | None = self._convert(request, request.config, staged, work)
                elif request.source.endswith(SUFFIX):
                    revision = self._copy_network(request, staged, work)
                else:
                    revision = self._fetch(request, staged)
                _write_notes(staged, request.source, revision, request.licence)
                card = read_card(staged, request.name)
                if card.engine in _NETWORKS:
                    self._say("trying the network out")
                    _NETWORKS[card.engine](staged)
            except (UnsupportedModelError, NotSafetensorsError) as error:
                raise type(error)(str(error).replace(str(staged), request.source)) from error
            check_vacant(self._store, request.name, replace=request.replace)
            self._say_what_goes(request.name)
            install(staged, self._store, request.name)
        return card

    def pull_lora(self, source: str, *, model: str, name: str, pin: str | None, replace: bool) -> Path:
        """Verify a LoRA file and put it beside the weights of ``model``; where it lies. Raises as ``pull`` does."""
        _check_name(name)
        _check_file(source)
        directory = store_directories(self._store).get(model)
        if directory is None:
            raise StoreError(f"{model} is not in {self._store}: a LoRA is kept with a model of the store")
        target = lora_file(directory, name)
        with staging(self._store) as work:
            digests = read_sums(directory)
            if target.exists() and not replace:
                raise StoreError(f"{target} is there: choose another name, or --replace it")
            file, digest = fetch_file(source, self._s3, pin, work)
            if not any("lora" in tensor.lower() for tensor in read_header(file)):
                raise StoreError(f"{source} has no LoRA tensors")
            install_file(file, target)
            write_sums(directory, {**digests, target.relative_to(directory).as_posix(): digest})
        return target

    def _fetch(self, request: PullRequest, staged: Path) -> str | None:
        source = self._open(request)
        listing = source.listing()
        kind = kind_of(listing)
        _check_kind(request, kind)
        match kind:
            case EngineKind.CUTOUT:
                chosen = select_segmenter(listing, request.file)
            case EngineKind.MATTING:
                chosen = select_edge_model(listing)
            case _:
                chosen = select(listing, request.variant)
        self._say(f"fetching {len(chosen)} of {len(listing)} files from {source.name}")
        source.fetch(list(chosen), staged)
        digests = {}
        for name, kept in chosen.items():
            digests[kept] = check(staged / name, name, listing[name])
            (staged / name).replace(staged / kept)
            if kept.endswith(_SAFETENSORS):
                read_header(staged / kept)
            elif kept != name and kind is EngineKind.DIFFUSION:
                rename_shards(staged / kept)
                digests[kept] = sha256(staged / kept)
        digests.pop(NOTES, None)
        if kind is EngineKind.CUTOUT:
            digests[SEGMENTER_FACTS] = _put_facts(request, staged)
        write_sums(staged, digests)
        return source.revision

    def _copy_network(self, request: PullRequest, staged: Path, work: Path) -> str:
        file, digest = fetch_file(request.source, self._s3, request.sha256, work)
        shutil.copyfile(file, staged / file.name)
        write_sums(staged, {file.name: digest, SEGMENTER_FACTS: _put_facts(request, staged)})
        return f"sha256:{digest}"

    def _convert(self, request: PullRequest, config: Path, staged: Path, work: Path) -> str:
        from worker.store.checkpoint import convert

        file, digest = fetch_file(request.source, self._s3, request.sha256, work)
        configuration = work / ".configuration"
        configuration.mkdir()
        self._say(f"converting {request.source}")
        convert(file, config, staged, configuration)
        if (notes := config / NOTES).is_file():
            (staged / NOTES).write_bytes(notes.read_bytes())
        write_sums(staged, {name: sha256(staged / name) for name in files_of(staged) if name not in (NOTES, SUMS)})
        return f"sha256:{digest}"

    def _open(self, request: PullRequest) -> Source:
        if request.source.startswith("hub:"):
            if request.sha256:
                raise StoreError("--sha256 is not for the hub: the commit pins every file")
            return HubSource.parse(request.source)
        if request.source.startswith("s3://"):
            return bucket_source(request.source, self._s3, request.sha256)
        if not Path(request.source).is_dir():
            raise StoreError(
                f"{request.source} is not a directory, hub:OWNER/NAME@COMMIT, s3://BUCKET/PREFIX, a .safetensors or an .onnx file"
            )
        return DirectorySource(Path(request.source), request.sha256)

    def _say_what_goes(self, name: str) -> None:
        old = store_directories(self._store).get(name)
        if old and (loras := sorted(file.stem for file in (old / "loras").glob(f"*{_SAFETENSORS}"))):
            self._say(f"the LoRAs of the replaced model go with it: {', '.join(loras)}")
        if name in self._models.directories:
            self._say(f"OUTFILL_MODELS__DIRECTORIES names another {name}, which wins")


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise StoreError(f"--as {name!r}: a name has letters, digits, dots, dashes and underscores, and begins with a letter or digit")
    if name in {card.id for card in EMBEDDED_MODELS}:
        raise StoreError(f"--as {name}: that is an embedded model's name")


def _check_file(source: str) -> None:
    if not source.endswith(_SAFETENSORS):
        reason = "is pickle, which can run code and is never loaded" if is_pickle(source) else "is not a .safetensors file"
        raise StoreError(f"{source} {reason}")


def _check_options(request: PullRequest) -> None:
    """What fits a single file does not fit a directory, and the other way round."""
    if request.source.endswith(SUFFIX):
        _check_kind(request, EngineKind.CUTOUT)
        if request.config or request.file:
            raise StoreError(f"{request.source} is the network itself: --config and --file are not for it")
    elif request.config or is_pickle(request.source):
        _check_kind(request, EngineKind.DIFFUSION)
        _check_file(request.source)
        if request.variant:
            raise StoreError("--variant is not for a single file")
    elif request.source.endswith(_SAFETENSORS):
        raise StoreError(f"{request.source} is a single file: name a diffusers directory that describes it with --config")


def _check_kind(request: PullRequest, kind: EngineKind) -> None:
    """What fits a segmenter does not fit a pipeline, and the other way round; neither fits an edge model."""
    if kind is EngineKind.CUTOUT and request.variant:
        raise StoreError("--variant is not for segmenters; --file names the network where there are several")
    if kind is EngineKind.MATTING and request.variant:
        raise StoreError("--variant is not for edge models")
    if kind is not EngineKind.CUTOUT and (request.facts or request.file):
        raise StoreError(f"--facts and --file are for segmenters, and {request.source} is none")


def _put_facts(request: PullRequest, staged: Path) -> str:
    """Write what the request says of the network in place of what came along; the digest of the file. Raises ``StoreError`` where nothing is said."""
    file = staged / SEGMENTER_FACTS
    if request.facts:
        facts = PRESETS.get(request.facts) or read_facts(Path(request.facts))
        file.write_text(facts.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
    elif not file.is_file():
        raise StoreError(
            f"{request.source} has no {SEGMENTER_FACTS}, which says how its pictures are prepared: give --facts with such a file, or with one of "
            f"{', '.join(PRESETS)}"
        )
    return sha256(file)


def _pinned(directory: Path) -> str:
    """What pins the weights of a model where nothing that came along does."""
    if (directory / MODEL_INDEX).is_file():
        return weights_digest(directory)
    is_segmenter = (directory / SEGMENTER_FACTS).is_file()
    return f"sha256:{digest_of(weights_of(directory) if is_segmenter else directory / edge_model.EDGE_WEIGHTS)}"


def _write_notes(directory: Path, source: str, revision: str | None, licence: LicenceClaim) -> None:
    """``outfill.json``: what came along, and over it where it is from, what pins it, and what is said of its licence."""
    file = directory / NOTES
    notes = read_json(file) if file.exists() else {}
    notes["source"] = source
    notes["revision"] = revision or notes.get("revision") or _pinned(directory)
    if said := licence.over(notes.get("licence") or {}):
        notes["licence"] = said
    file.write_text(json.dumps(notes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
