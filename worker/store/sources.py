"""Where models come from. Each source lists its files with what they must hash to; directories and S3 prefixes are here."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from core.settings import S3
from core.storage import ObjectNotFound, Storage
from worker.engines.notes import NOTES
from worker.engines.weights import sha256
from worker.store.digests import SUMS, files_of, git_blob, parse_sums
from worker.store.errors import StoreError
from worker.store.selection import SUFFIXES

_S3 = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.+)")


@dataclass(frozen=True)
class Expected:
    """What one file must hash to. A file of a directory without ``SHA256SUMS`` has neither."""

    sha256: str | None = None
    git_blob: str | None = None
    """Of small files of the hub."""


class Source(Protocol):
    """A published model."""

    @property
    def name(self) -> str:
        """As a person names it."""
        ...

    @property
    def revision(self) -> str | None:
        """What the source pins, where it does."""
        ...

    def listing(self) -> Mapping[str, Expected]:
        """Its files by path. Raises ``StoreError``."""
        ...

    def fetch(self, names: Sequence[str], into: Path) -> None:
        """Bring files into a directory, each at its path. Not checked yet. Raises ``StoreError``."""
        ...


@dataclass(frozen=True)
class DirectorySource:
    """A directory of this machine."""

    directory: Path
    pin: str | None = None
    """SHA-256 of its ``SHA256SUMS``."""
    revision: str | None = None

    @property
    def name(self) -> str:
        return str(self.directory.resolve())

    def listing(self) -> dict[str, Expected]:
        """All files; with digests if there is a ``SHA256SUMS``, which must then list what is used."""
        present, sums = files_of(self.directory), self.directory / SUMS
        if not sums.is_file():
            if self.pin:
                raise StoreError(f"--sha256 is the digest of {SUMS}, and {self.directory} has none")
            return dict.fromkeys(present, Expected())
        _check_pin(sums.read_bytes(), self.pin, str(sums))
        return _listing(parse_sums(sums.read_text(encoding="utf-8"), str(sums)), present)

    def fetch(self, names: Sequence[str], into: Path) -> None:
        """Copy; links are followed, as the hub's cache is made of them."""
        for name in names:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.directory / name, target)


@dataclass(frozen=True)
class BucketSource:
    """A prefix of an S3 bucket, with a ``SHA256SUMS`` object."""

    storage: Storage
    bucket: str
    prefix: str
    """Without a slash at its end."""
    pin: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def listing(self) -> dict[str, Expected]:
        """What ``SHA256SUMS`` lists, and an ``outfill.json`` that lies beside it."""
        try:
            sums = self.storage.get(f"{self.prefix}/{SUMS}")
        except ObjectNotFound as error:
            raise StoreError(f"{self.name} has no {SUMS}: run sha256sum over the files and put its output there") from error
        _check_pin(sums, self.pin, f"{self.name}/{SUMS}")
        present = [key.removeprefix(f"{self.prefix}/") for key in self.storage.keys(f"{self.prefix}/")]
        return _listing(parse_sums(sums.decode(errors="replace"), f"{self.name}/{SUMS}"), present)

    def fetch(self, names: Sequence[str], into: Path) -> None:
        """Download, one object after the other, large ones in parallel parts."""
        for name in names:
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self.storage.download(f"{self.prefix}/{name}", target)


def bucket_source(text: str, s3: S3, pin: str | None) -> BucketSource:
    """The prefix that ``s3://bucket/prefix`` names. Raises ``StoreError``."""
    bucket, key = _bucket_and_key(text)
    return BucketSource(_storage(s3, bucket), bucket, key.rstrip("/"), pin)


def fetch_file(text: str, s3: S3, pin: str | None, into: Path) -> tuple[Path, str]:
    """One file and its SHA-256: ``s3://bucket/key``, brought into directory ``into``, or a local file, left where it is.

    ``pin`` is the digest that it must have; an object of S3 needs one. Raises ``StoreError``.
    """
    file = Path(text)
    if text.startswith("s3://"):
        if not pin:
            raise StoreError(f"{text} needs --sha256: nothing else says what it must be")
        bucket, key = _bucket_and_key(text)
        file = into / Path(key).name
        _storage(s3, bucket).download(key, file)
    elif not file.is_file():
        raise StoreError(f"{text} is not a file")
    found = sha256(file)
    if pin and found != pin:
        raise StoreError(f"{text} has SHA-256 {found}, expected {pin}")
    return file, found


def check(file: Path, name: str, expected: Expected) -> str:
    """The SHA-256 of a fetched file. Raises ``StoreError`` where it is not what was published."""
    found = sha256(file)
    if expected.sha256 and found != expected.sha256:
        raise StoreError(f"{name} has SHA-256 {found}, expected {expected.sha256}; nothing was installed")
    if expected.git_blob and (blob := git_blob(file)) != expected.git_blob:
        raise StoreError(f"{name} has git id {blob}, expected {expected.git_blob}; nothing was installed")
    return found


def _listing(sums: Mapping[str, str], present: Sequence[str]) -> dict[str, Expected]:
    """Every file that is there, as ``SHA256SUMS`` has it. ``outfill.json`` needs no digest: people write it."""
    expected = {name: Expected(sha256=digest) for name, digest in sums.items()}
    if NOTES in present:
        expected.setdefault(NOTES, Expected())
    for name in sorted(set(sums) - set(present)):
        raise StoreError(f"{SUMS} lists {name}, which is not there")
    for name in sorted(set(present) - set(expected)):
        if PurePosixPath(name).suffix in SUFFIXES:
            raise StoreError(f"{name} is there, and {SUMS} does not list it")
    return expected


def _check_pin(sums: bytes, pin: str | None, origin: str) -> None:
    found = hashlib.sha256(sums).hexdigest()
    if pin and found != pin:
        raise StoreError(f"{origin} has SHA-256 {found}, expected {pin}")


def _bucket_and_key(text: str) -> tuple[str, str]:
    match = _S3.fullmatch(text)
    if not match:
        raise StoreError(f"{text!r} is not s3://BUCKET/PREFIX")
    return match["bucket"], match["key"]


def _storage(s3: S3, bucket: str) -> Storage:
    return Storage(s3.model_copy(update={"bucket": bucket}))
