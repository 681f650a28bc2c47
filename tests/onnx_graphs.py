"""Small segmentation networks as ONNX files, written byte by byte (onnx.proto): no package that makes them is needed.

The network is ``output = sigmoid(gain * red + bias)``: a convolution of one pixel and a sigmoid. After a preprocessing that leaves levels on 0..1
its answer for a pixel is known. ``LIT`` finds what is bright, ``DARK`` what is dark.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = {"side": 64, "mean": [0, 0, 0], "std": [1, 1, 1]}
LIT, DARK = (40.0, -20.0), (-40.0, 20.0)
"""Gain and bias."""
_FLOAT, _FLOAT16, _INT64 = 1, 10, 7
_EXTERNAL = 1


def number(field: int, value: int) -> bytes:
    """A field that holds a number."""
    return _varint(field << 3) + _varint(value)


def block(field: int, data: bytes | str) -> bytes:
    """A field that holds a string or a message."""
    data = data.encode() if isinstance(data, str) else data
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def node(operator: str, inputs: list[str], output: str, domain: str = "", attributes: bytes = b"") -> bytes:
    """An operator of a graph."""
    named = b"".join(block(1, name) for name in inputs) + block(2, output) + block(4, operator)
    return block(1, named + attributes + (block(7, domain) if domain else b""))


def network(
    gain_bias: tuple[float, float] = LIT,
    *,
    side: int | str = 64,
    sigmoid: bool = True,
    domain: str = "",
    external: str | None = None,
    half: bool = False,
    channels: int = 1,
) -> bytes:
    """The file. ``domain``: of an operator that is put behind it; ``external``: the file that its weights are said to lie in."""
    kind = _FLOAT16 if half else _FLOAT
    gain, bias = gain_bias
    weights = _floats([gain, 0.0, 0.0] * channels, half)
    outside = block(13, block(1, "location") + block(2, external)) + number(14, _EXTERNAL) if external else b""
    kernel = b"".join(number(1, size) for size in (channels, 3, 1, 1)) + number(2, kind) + block(8, "w")
    kernel += outside or block(9, weights)
    offset = number(1, channels) + number(2, kind) + block(8, "b") + block(9, _floats([bias] * channels, half))
    nodes = node("Conv", ["input", "w", "b"], "c" if sigmoid or domain else "output")
    if sigmoid:
        nodes += node("Sigmoid", ["c"], "s" if domain else "output")
    if domain:
        nodes += node("Odd", ["s" if sigmoid else "c"], "output", domain)
    graph = nodes + block(2, "g") + block(5, kernel) + block(5, offset)
    graph += block(11, _value("input", kind, (1, 3, side, side))) + block(12, _value("output", kind, (1, channels, side, side)))
    return number(1, 8) + block(7, graph) + block(8, number(2, 17))


def within_a_branch(inner: bytes) -> bytes:
    """A model whose operator ``inner`` stands in the branch of an ``If``."""
    branch = block(1, "then_branch") + block(6, inner + block(2, "inner")) + number(20, 5)
    return number(1, 8) + block(7, node("If", ["x"], "y", attributes=block(5, branch)) + block(2, "g")) + block(8, number(2, 17))


def segmenter(directory: Path, gain_bias: tuple[float, float] = LIT, *, facts: dict[str, Any] | None = None, **notes: Any) -> Path:
    """A directory of a model store: the network, its facts, and an ``outfill.json`` where there are ``notes``."""
    directory.mkdir(parents=True)
    (directory / "net.onnx").write_bytes(network(gain_bias))
    (directory / "segmenter.json").write_text(json.dumps(FACTS if facts is None else facts))
    if notes:
        (directory / "outfill.json").write_text(json.dumps(notes))
    return directory


def sigmoid(value: float) -> float:
    """What the network's last operator makes of a number."""
    return 1 / (1 + math.exp(-value))


def _floats(values: list[float], half: bool) -> bytes:  # noqa: FBT001 - private, and named by its callers' argument
    return struct.pack(f"<{len(values)}{'e' if half else 'f'}", *values)


def _value(name: str, kind: int, shape: tuple[int | str, ...]) -> bytes:
    sizes = b"".join(block(1, number(1, size) if isinstance(size, int) else block(2, size)) for size in shape)
    return block(1, name) + block(2, block(1, number(1, kind) + block(2, sizes)))


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
