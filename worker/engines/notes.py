"""The JSON files beside a model's weights, and ``outfill.json`` among them: what only the person who installs the model knows."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from api_schemas.models import Licence
from worker.engines.weights import sha256

NOTES = "outfill.json"
N = TypeVar("N", bound="Notes")


class UnsupportedModelError(ValueError):
    """The directory does not hold a model that can be served."""


class Notes(BaseModel):
    """The optional ``outfill.json`` of any model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str | None = None
    licence: Licence = Licence(id="unknown")
    revision: str | None = None
    source: str | None = None
    """Where ``outfill models pull`` had it from."""


def read_notes(path: Path, kind: type[N]) -> N:
    """The notes of the model directory ``path``; the defaults of ``kind`` where there are none. Raises ``UnsupportedModelError``."""
    file = path / NOTES
    if not file.exists():
        return kind()
    try:
        return kind.model_validate(read_json(file))
    except ValidationError as error:
        raise UnsupportedModelError(f"{file}: {faults(error)}") from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ``UnsupportedModelError`` where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsupportedModelError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedModelError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModelError(f"{file} is not a JSON object")
    return content


def faults(error: ValidationError) -> str:
    """Every fault in one line, each behind the field that has it."""
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}" for fault in error.errors(include_url=False))


def digest_of(file: Path) -> str:
    """The SHA-256 of ``file`` in hex, kept in this process until its size or modification time changes."""
    return _digest(str(file), file.stat().st_size, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(file: str, _size: int, _mtime_ns: int) -> str:
    return sha256(Path(file))
