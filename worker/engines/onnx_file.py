"""Looks into an ONNX file, so that one that reaches beyond itself is refused before it is loaded. Needs neither onnx nor onnxruntime.

The format is protocol buffers (onnx.proto of github.com/onnx/onnx). It holds no code; but weights may be said to lie in other files, at any path,
and operators to be in libraries of their own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from worker.engines.notes import UnsupportedModelError

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Of the operators that onnxruntime itself has."""
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Messages and the fields of each that hold others: all places where operators and weights can stand."""
_GRAPH, _FUNCTION_DOMAIN, _OPERATOR, _NODE_DOMAIN, _EXTERNAL, _LOCATION = 7, 10, 4, 7, 13, 14
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5
_DEEPEST = 100
"""Messages within messages, as protocol buffers' own readers allow."""
_VARINT_LIMIT = 10


class _Field(NamedTuple):
    """One field of a message: its number and value, or where its bytes are."""

    number: int
    value: int
    begin: int
    end: int


class _DamagedError(Exception):
    """The bytes are no protocol buffers."""


def check_onnx(file: Path) -> None:
    """Raise ``UnsupportedModelError`` where ``file`` is no ONNX model, keeps weights elsewhere, or needs operators that onnxruntime does not have."""
    with file.open("rb") as stream:
        if not file.stat().st_size:
            raise UnsupportedModelError(f"{file} is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = list(_messages(data, "model", 0, len(data), 0))
                has_graph = any(field.number == _GRAPH and field.end > field.begin for field in _fields(data, 0, len(data)))
            except _DamagedError as error:
                raise UnsupportedModelError(f"{file} is not an ONNX file") from error
            if not has_graph:
                raise UnsupportedModelError(f"{file} is not an ONNX file: it has no graph")
            _check(file, data, found)


def _check(file: Path, data: mmap.mmap, found: list[tuple[str, list[_Field]]]) -> None:
    own = {_text(data, fields, _FUNCTION_DOMAIN) for kind, fields in found if kind == "function"}
    for kind, fields in found:
        if kind == "tensor" and any(field.number == _EXTERNAL or (field.number == _LOCATION and field.value) for field in fields):
            raise UnsupportedModelError(
                f"{file}: it keeps weights in other files (external data), which are not read; save it as one file (onnx.save does by default)"
            )
        if kind == "node" and (domain := _text(data, fields, _NODE_DOMAIN)) not in DOMAINS | own:
            operator = _text(data, fields, _OPERATOR)
            raise UnsupportedModelError(
                f"{file}: the operator {operator} of {domain} is not one of onnxruntime's own; no library is loaded for it"
            )


def _text(data: mmap.mmap, fields: list[_Field], number: int) -> str:
    """A string field; of one that is there twice the last counts."""
    found = [data[field.begin : field.end] for field in fields if field.number == number]
    return found[-1].decode(errors="replace") if found else ""


def _messages(data: mmap.mmap, kind: str, begin: int, end: int, depth: int) -> Iterator[tuple[str, list[_Field]]]:
    """Every message of the model with its fields, those within others too. Raises ``_DamagedError``."""
    if depth > _DEEPEST:
        raise _DamagedError
    fields = list(_fields(data, begin, end))
    yield kind, fields
    for field in fields:
        if inner := _INSIDE[kind].get(field.number):
            yield from _messages(data, inner, field.begin, field.end, depth + 1)


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[_Field]:
    while begin < end:
        key, begin = _varint(data, begin, end)
        number, kind = key >> 3, key & 7
        value, start = 0, begin
        if kind == _VARINT:
            value, begin = _varint(data, begin, end)
            start = begin
        elif kind == _COUNTED:
            size, start = _varint(data, begin, end)
            begin = start + size
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            begin += 8 if kind == _EIGHT_BYTES else 4
        else:
            raise _DamagedError
        if begin > end:
            raise _DamagedError
        yield _Field(number, value, start, begin)


def _varint(data: mmap.mmap, begin: int, end: int) -> tuple[int, int]:
    value = 0
    for count in range(_VARINT_LIMIT):
        if begin + count >= end:
            break
        byte = data[begin + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, begin + count + 1
    raise _DamagedError
