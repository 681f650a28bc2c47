"""SHA256SUMS: what the files of a model must hash to, in the format of ``sha256sum``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from worker.engines.notes import NOTES
from worker.engines.weights import sha256
from worker.store.errors import StoreError

SUMS = "SHA256SUMS"
"""Lists every file of a model but ``outfill.json``, which is edited by whoever installs it."""
_LINE = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>.+)")


def git_blob(file: Path) -> str:
    """The id that git gives a file of this content: SHA-1 over a header and the bytes. For small files: it is read whole."""
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def safe_name(name: str) -> str:
    """``name`` without a leading ``./``. Raises ``StoreError`` for a path that leads out of its directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise StoreError(f"{name!r} is not a path inside a model")
    return str(path)


def parse_sums(text: str, origin: str) -> dict[str, str]:
    """Digests by path. Raises ``StoreError`` for what ``sha256sum`` does not write, and where nothing is listed."""
    found = {}
    for line in filter(None, text.splitlines()):
        match = _LINE.fullmatch(line)
        if not match:
            raise StoreError(f"{origin}: {line[:80]!r} is not a line of sha256sum")
        found[safe_name(match["name"])] = match["digest"]
    if not found:
        raise StoreError(f"{origin} lists nothing")
    return found


def write_sums(directory: Path, digests: Mapping[str, str]) -> None:
    """Write the file, sorted by path; never half of it."""
    partial = directory / f".{SUMS}"
    partial.write_text("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)), encoding="utf-8")
    partial.replace(directory / SUMS)


def read_sums(directory: Path) -> dict[str, str]:
    """What a model directory's own file lists. Raises ``StoreError`` where there is none."""
    file = directory / SUMS
    if not file.is_file():
        raise StoreError(f"{directory} has no {SUMS}: it was not pulled")
    return parse_sums(file.read_text(encoding="utf-8"), str(file))


def differences(directory: Path) -> Iterator[str]:
    """How a model directory differs from its ``SHA256SUMS``, a line for each file. ``outfill.json`` and hidden files are not looked at."""
    listed = read_sums(directory)
    present = set(files_of(directory)) - {SUMS, NOTES}
    for name in sorted(present | set(listed) - {NOTES}):
        if name not in listed:
            yield f"{name}: not in {SUMS}"
        elif name not in present:
            yield f"{name}: missing"
        elif sha256(directory / name) != listed[name]:
            yield f"{name}: changed"


def files_of(directory: Path) -> list[str]:
    """The files below a directory as relative paths, without hidden ones."""
    paths = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
