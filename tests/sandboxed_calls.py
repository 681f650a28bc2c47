"""Calls for a sandbox in tests: some that behave and some that do not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from api_schemas.errors import MaskEmpty
from imagefiles.sandbox import Call


def _echo(value: Any, files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    return value, files


def _environment(_value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    return {"names": sorted(os.environ), "pid": os.getpid()}, ()


def _spin(_value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    while True:
        pass


def _hang(value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    with open(value, "wb"):  # noqa: PTH123 -- a pipe that nobody reads
        return None, ()


def _hog(value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    return len(bytearray(value)), ()


def _die(_value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    os._exit(3)


def _refuse(_value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    raise MaskEmpty("nothing is marked", field="mask")


def _break(_value: Any, _files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    raise ZeroDivisionError


CALLS: Mapping[str, Call] = {
    "echo": _echo,
    "environment": _environment,
    "spin": _spin,
    "hang": _hang,
    "hog": _hog,
    "die": _die,
    "refuse": _refuse,
    "break": _break,
    "decode": _spin,
}
