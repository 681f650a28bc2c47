"""Where a pull works until everything is verified: a hidden directory of the store, renamed into place at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.engines.weights import store_directories
from worker.store.errors import StoreError

_WORK = ".pull-"
_REPLACED = ".replaced-"


@contextmanager
def staging(store: Path) -> Iterator[Path]:
    """A directory to work in, deleted afterwards. One pull works in a store at a time, so that what a killed one left can be deleted first.

    Raises ``StoreError`` while another pull is at work.
    """
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another pull is at work in {store}") from error
        _recover(store)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=store))
        try:
            yield work
        finally:
            shutil.rmtree(work)


def check_vacant(store: Path, name: str, *, replace: bool) -> None:
    """Raise ``StoreError`` where ``name`` is taken, unless by a model that is to be replaced."""
    if not os.path.lexists(store / name):
        return
    if name not in store_directories(store):
        raise StoreError(f"{store / name} is there, and is not a model")
    if not replace:
        raise StoreError(f"{store / name} is there: choose another name, or --replace it")


def install(staged: Path, store: Path, name: str) -> None:
    """Put a finished directory, on disk to the last byte, in the place of ``name``.

    A replaced model is out of sight for the moment between two renames; after a crash in it, the next pull brings it back.
    """
    _flush(staged)
    target, replaced = store / name, store / f"{_REPLACED}{name}"
    if target.exists():
        target.rename(replaced)
    try:
        staged.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync(store)
    if replaced.exists():
        shutil.rmtree(replaced)


def install_file(file: Path, target: Path) -> None:
    """Copy a file to its place: whole, or not at all."""
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")  # not a name that the card takes for a LoRA
    shutil.copyfile(file, partial)
    _sync(partial)
    partial.replace(target)
    _sync(target.parent)


def _recover(store: Path) -> None:
    for left in store.glob(f"{_WORK}*"):
        shutil.rmtree(left)
    for replaced in store.glob(f"{_REPLACED}*"):
        target = store / replaced.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)


def _flush(directory: Path) -> None:
    for path in directory.rglob("*"):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
