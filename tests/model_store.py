"""A model store of its own for each test, and ``outfill models`` over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from worker.__main__ import main


class Outcome(NamedTuple):
    """What a command left on the terminal."""

    status: int
    output: str
    errors: str


Models = Callable[..., Outcome]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where the store will be; nothing is there yet."""
    return tmp_path / "store"


@pytest.fixture
def models(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Models:
    """``outfill models …`` in this process."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("DIFFUSERS_DISABLE_REMOTE_CODE", "1")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setenv("OUTFILL_MODELS__STORE", str(store))  # here, since the running stack's settings name its own
        status = main(["models", *map(str, arguments)])
        return Outcome(status, *capsys.readouterr())

    return run
