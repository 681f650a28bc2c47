"""Which files of a published model are taken, and under what names they are kept."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from api_schemas.models import EngineKind
from worker.engines.edge_model import EDGE_WEIGHTS
from worker.engines.notes import NOTES
from worker.engines.segmenter import SUFFIX
from worker.engines.weights import EDGE_CONFIG, MODEL_INDEX, SEGMENTER_FACTS
from worker.store.errors import StoreError

SUFFIXES = {".safetensors", ".json", ".txt", ".model"}
"""Weights, configurations, vocabularies and licence texts, SentencePiece models. Nothing that can hold code."""
PICKLES = (".ckpt", ".pt", ".pth", ".pkl")
"""Always pickle. So is ``pytorch_model.bin``, while other ``.bin`` files are OpenVINO's."""
_ONLY_PICKLE = "these weights come only as pickle, which can run code and is never loaded; safetensors are needed"
SPARED = {"safety_checker"}
"""Folders that no engine loads: they may lack safetensors."""
_WEIGHTS = re.compile(r"(?P<base>[^.]+?)(?:\.(?P<variant>\w+))?(?P<shard>-\d{5}-of-\d{5})?(?P<end>\.safetensors)")
_INDEX = re.compile(r"(?P<base>[^.]+\.safetensors)(?:\.(?P<variant>\w+))?(?P<shard>)(?P<end>\.index\.json)")
_INDEX_OLD = re.compile(r"(?P<base>[^.]+\.safetensors\.index)(?:\.(?P<variant>\w+))?(?P<shard>)(?P<end>\.json)")


def select(names: Iterable[str], variant: str | None) -> dict[str, str]:
    """The name under which each chosen file is kept, by its published name.

    Taken are safetensors, JSON, ``.txt`` and ``.model`` files of a diffusers directory; not a checkpoint at its root. Of weights that are
    published in variants (``x.fp16.safetensors``), a folder gives the asked one under the plain name, or the plain one.

    Raises ``StoreError`` where there is no ``model_index.json``, where weights come only as pickle, and for a variant that is missing.
    """
    offered = _visible(names)
    if MODEL_INDEX not in offered:
        raise StoreError(
            f"there is neither a {MODEL_INDEX} nor a file {SUFFIX}, nor a {EDGE_CONFIG} with weights: it is no diffusers directory, no segmenter and no "
            "edge model"
        )
    _refuse_pickle(offered)
    chosen: dict[str, str] = {}
    variants: dict[str, dict[str | None, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in offered:
        path = PurePosixPath(name)
        if path.suffix not in SUFFIXES or (path.suffix == ".safetensors" and len(path.parts) == 1):
            continue
        if path.parts[0] != "loras" and (match := _match(path.name)):
            variants[str(path.parent)][match["variant"]].append(name)
        else:
            chosen[name] = name
    if variant and not any(variant in found for found in variants.values()):
        known = sorted({each for found in variants.values() for each in found if each})
        raise StoreError(f"no file has the variant {variant}; there are: {', '.join(known) or 'none'}")
    for folder, found in variants.items():
        chosen |= _of_folder(folder, found, variant)
    return chosen


def kind_of(names: Iterable[str]) -> EngineKind:
    """What a publication of these files holds: a segmenter, an edge model, else a pipeline."""
    offered = _visible(names)
    if MODEL_INDEX in offered:
        return EngineKind.DIFFUSION
    if any(name.endswith(SUFFIX) for name in offered):
        return EngineKind.CUTOUT
    at_root = [name for name in offered if "/" not in name]
    has_weights = EDGE_WEIGHTS in at_root or any(map(is_pickle, at_root))
    return EngineKind.MATTING if EDGE_CONFIG in at_root and has_weights else EngineKind.DIFFUSION


def select_segmenter(names: Iterable[str], file: str | None) -> dict[str, str]:
    """As ``select``, of a segmenter: one ONNX file, ``file`` where there are several, and the JSON files at the root. Raises ``StoreError``."""
    offered = _visible(names)
    networks = sorted(name for name in offered if name.endswith(SUFFIX))
    if file is not None and file not in networks:
        raise StoreError(f"--file {file} is not there; there are: {', '.join(networks)}")
    if file is None and len(networks) > 1:
        raise StoreError(f"there are several networks, choose one with --file: {', '.join(networks)}")
    network = file or networks[0]
    return {network: PurePosixPath(network).name, **{name: name for name in (SEGMENTER_FACTS, NOTES) if name in offered}}


def select_edge_model(names: Iterable[str]) -> dict[str, str]:
    """As ``select``, of an edge model: its configuration and its weights. Raises ``StoreError``."""
    offered = _visible(names)
    if EDGE_WEIGHTS not in offered:
        raise StoreError(f"{min(filter(is_pickle, offered))}: {_ONLY_PICKLE}")
    return {name: name for name in (EDGE_CONFIG, EDGE_WEIGHTS, NOTES) if name in offered}


def plain_name(name: str) -> str:
    """The name without its variant: ``unet/x.fp16.safetensors`` gives ``unet/x.safetensors``."""
    path = PurePosixPath(name)
    match = _match(path.name)
    return str(path.with_name(match["base"] + match["shard"] + match["end"])) if match else name


def is_pickle(name: str) -> bool:
    """Whether a file of this name holds weights as pickle."""
    return name.endswith(PICKLES) or ("pytorch_model" in name and name.endswith(".bin"))


def rename_shards(index: Path) -> None:
    """Make the index of sharded weights name the shards as they are kept."""
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"] = {tensor: plain_name(shard) for tensor, shard in content["weight_map"].items()}
    index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]


def _match(name: str) -> dict[str, str] | None:
    match = _WEIGHTS.fullmatch(name) or _INDEX.fullmatch(name) or _INDEX_OLD.fullmatch(name)
    return {**match.groupdict(), "shard": match["shard"] or ""} if match else None


def _of_folder(folder: str, found: dict[str | None, list[str]], variant: str | None) -> dict[str, str]:
    if wanted := found.get(variant) or found.get(None):
        return {name: plain_name(name) for name in wanted}
    if folder in SPARED:
        return {}
    raise StoreError(f"{folder}/ has only the variants {', '.join(sorted(filter(None, found)))}: choose one with --variant")


def _refuse_pickle(names: list[str]) -> None:
    by_folder: dict[str, set[str]] = defaultdict(set)
    for name in names:
        by_folder[str(PurePosixPath(name).parent)].add(PurePosixPath(name).suffix)
    for name in names:
        path = PurePosixPath(name)
        inside = len(path.parts) > 1 and path.parts[0] not in SPARED
        if inside and is_pickle(path.name) and ".safetensors" not in by_folder[str(path.parent)]:
            raise StoreError(f"{name}: {_ONLY_PICKLE}")
