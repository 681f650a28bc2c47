"""Repositories of the Hugging Face Hub, each at one commit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Self

from worker.store.digests import safe_name
from worker.store.errors import StoreError
from worker.store.sources import Expected

_HUB = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSource:
    """A repository of the hub at one commit. ``HF_ENDPOINT`` and ``HF_TOKEN`` are huggingface_hub's own settings."""

    repo: str
    revision: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``hub:owner/name@REVISION``. Raises ``StoreError`` for a branch, a tag or a short commit, which can come to mean another."""
        match = _HUB.fullmatch(text)
        if not match:
            raise StoreError(f"{text!r} is not hub:OWNER/NAME@REVISION")
        if not _COMMIT.fullmatch(match["revision"] or ""):
            raise StoreError(
                f"{text}: REVISION must be a full commit of 40 hex digits, since branches and tags move; "
                "the repository's list of commits on the hub shows it"
            )
        return cls(match["repo"], match["revision"])

    @property
    def name(self) -> str:
        return f"hub:{self.repo}@{self.revision}"

    def listing(self) -> dict[str, Expected]:
        """The tree of the commit: LFS files with their SHA-256, small ones with their git id."""
        from huggingface_hub import HfApi, RepoFile

        with _errors_of(self.name):
            tree = list(HfApi().list_repo_tree(self.repo, recursive=True, revision=self.revision))
        return {
            safe_name(entry.path): Expected(sha256=entry.lfs.sha256) if entry.lfs else Expected(git_blob=entry.blob_id)
            for entry in tree
            if isinstance(entry, RepoFile)
        }

    def fetch(self, names: Sequence[str], into: Path) -> None:
        """Download what is named, and nothing else."""
        from huggingface_hub import snapshot_download

        with _errors_of(self.name):
            snapshot_download(self.repo, revision=self.revision, local_dir=into, allow_patterns=[escape(name) for name in names])
        shutil.rmtree(into / ".cache", ignore_errors=True)  # its notes for resuming


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """What huggingface_hub raises has many bases (its own, its HTTP client's, ``OSError``, ``ValueError``): all become one line."""
    try:
        yield
    except Exception as error:
        raise StoreError(f"{name}: {type(error).__name__}: {str(error).strip()}") from error
