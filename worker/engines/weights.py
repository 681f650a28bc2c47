"""Weights on disk: which directories of a store hold a model, and what a safetensors file declares. Read without torch."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_INDEX = "model_index.json"
"""Makes a directory a diffusers pipeline."""
SEGMENTER_FACTS = "segmenter.json"
"""Makes a directory a segmenter."""
EDGE_CONFIG = "config.json"
"""Makes a directory an edge model, where it is neither of these."""
EMBEDDED = Path(__file__).resolve().parents[1] / "embedded"
"""A store of the models whose weights come with Outfill itself."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_HALF = 2
_HEADER_LIMIT = 100_000_000  # the format's own
_LOADED = re.compile(r"[^.]+\.safetensors")
"""The plain name; ``x.fp16.safetensors`` is a variant that is not loaded unless asked for."""


class NotSafetensorsError(ValueError):
    """The file is not a whole safetensors file."""


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file declares it."""

    dtype: str
    """As safetensors names it: ``F16``, ``BF16``, ``I64`` …"""
    shape: tuple[int, ...]
    size: int
    """Bytes in the file."""


def store_directories(store: Path) -> dict[str, Path]:
    """The model directories of a store by name: pipelines, segmenters and edge models. What begins with a dot is unfinished."""
    if not store.is_dir():
        return {}
    entries = sorted(entry for entry in store.iterdir() if not entry.name.startswith("."))
    return {entry.name: entry for entry in entries if is_model(entry)}


def is_model(directory: Path) -> bool:
    """Whether a directory says of itself that it holds a model."""
    return any((directory / name).is_file() for name in (MODEL_INDEX, SEGMENTER_FACTS, EDGE_CONFIG))


def sha256(file: Path) -> str:
    """The digest of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_header(file: Path) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file by name: 8 bytes (little-endian) tell the length of a JSON header, the data follows.

    Raises ``NotSafetensorsError`` for any other content, and where the file is shorter or longer than it declares; ``OSError``.
    """
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= _HEADER_LIMIT:
            raise NotSafetensorsError(f"{file} is not a safetensors file")
        text = stream.read(length)
    try:
        tensors = _tensors(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotSafetensorsError(f"{file} is not a safetensors file") from error
    declared, actual = 8 + length + sum(tensor.size for tensor in tensors.values()), file.stat().st_size
    if declared != actual:
        raise NotSafetensorsError(f"{file} declares {declared} bytes and has {actual}")
    return tensors


def half_precision_bytes(files: Iterable[Path]) -> int:
    """Bytes of the tensors in ``files`` when every float takes two. Variants (``x.fp16.safetensors``) beside plain files are not counted."""
    headers = (read_header(file) for file in files if _LOADED.fullmatch(file.name))
    tensors = (tensor for header in headers for tensor in header.values())
    return sum(_HALF * math.prod(tensor.shape) if tensor.dtype in FLOATS else tensor.size for tensor in tensors)


def _tensors(header: dict[str, Any]) -> dict[str, TensorHeader]:
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            found[name] = TensorHeader(dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"])), size=int(end) - int(begin))
    return found
