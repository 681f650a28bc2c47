"""Looks into an ONNX file, so that one that reaches beyond itself is refused before onnxruntime loads it.

The format holds no code; but weights may be said to lie in other files, at any path, and operators to be in libraries of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worker.engines.notes import UnsupportedModelError

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Of the operators that onnxruntime itself has."""


def check_onnx(file: Path) -> None:
    """Raise ``UnsupportedModelError`` where ``file`` is no ONNX model, keeps weights elsewhere, or needs operators that onnxruntime does not have."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise UnsupportedModelError(f"{file} is not an ONNX file: {error}") from error
    if not model.graph.ListFields():
        raise UnsupportedModelError(f"{file} is not an ONNX file: it has no graph")
    known = DOMAINS | {function.domain for function in model.functions}
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (message.external_data or message.data_location != onnx.TensorProto.DEFAULT):
            raise UnsupportedModelError(
                f"{file}: it keeps weights in other files (external data), which are not read; save it as one file (onnx.save does by default)"
            )
        if isinstance(message, onnx.NodeProto) and message.domain not in known:
            raise UnsupportedModelError(
                f"{file}: the operator {message.op_type} of {message.domain} is not one of onnxruntime's own; no library is loaded for it"
            )


def _messages(message: Any) -> Iterator[Any]:
    """``message`` and all within it, wherever the format allows one; of a tensor not its fields, which hold the weights."""
    yield message
    if message.DESCRIPTOR.name == "TensorProto":
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if isinstance(value, Sequence) else (value,):
                yield from _messages(inner)
