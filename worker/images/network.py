"""Segmentation networks: ONNX files that map a picture to the likelihood of each pixel to be the product's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import EngineFailed
from api_schemas.models import U2NETP
from worker.images.checkpoint import checkpoint
from worker.images.facts import U2NETP_FACTS, NetworkFacts
from worker.images.segmenter_graph import simplified

Map = npt.NDArray[np.float32]
"""``float32 (side, side)`` of 0..1: how likely each pixel of a view, squeezed to a square, is the product's."""
Provider = str | tuple[str, dict[str, Any]]
"""Where onnxruntime runs a graph: the name of an execution provider, with its options where it has any."""
CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_SHIPPED, _SHIPPED_BYTES = U2NETP.revision.removeprefix("sha256:"), 8 * 2**20
"""The digest of the network that comes with Outfill, and a size above which a file need not be read to know that it is another."""
_STEEPEST = 60.0
"""Logits beyond which ``exp`` is of no more use to a float32."""
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def providers_for(device: str, available: Sequence[str]) -> tuple[Provider, ...]:
    """The execution providers for a worker on ``device`` (``cpu``, ``cuda``, ``cuda:1``), of those ``available`` to this onnxruntime.

    The CPU stands last: operators that CUDA does not have run there.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or _CUDA not in available:
        return (CPU,)
    return (_CUDA, {"device_id": int(number or 0)}), CPU


class Network:
    """An ONNX file and its facts, loaded on one CPU thread, or where ``providers`` say; threads may share it.

    Raises ``ValueError`` where the file is no graph of one picture ``(1, 3, side, side)`` in and ``facts.output_name`` out.
    """

    def __init__(self, path: Path, facts: NetworkFacts = U2NETP_FACTS, *, providers: Sequence[Provider] = (CPU,)) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")  # a waiting thread would take the engine's core
        try:
            self._session = onnxruntime.InferenceSession(_graph(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime raises exceptions of its own, one for each kind of damage
            raise ValueError(f"{path.name} is not an ONNX file that runs: {error}") from error
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(inputs) != 1:
            raise ValueError(f"{path.name} has {len(inputs)} inputs, and a segmentation network has one")
        self._input: str = inputs[0].name
        if inputs[0].type not in _FLOATS:
            raise ValueError(f"{path.name} takes {inputs[0].type}, expected {' or '.join(_FLOATS)}")
        self._dtype = _FLOATS[inputs[0].type]
        _check_shape(path, inputs[0].shape, facts.side)
        self._output: str = facts.output_name or outputs[0]
        if self._output not in outputs:
            raise ValueError(f"{path.name} has no output {self._output!r}; there are: {', '.join(outputs)}")
        self.facts = facts

    def maps(self, views: Sequence[npt.NDArray[np.uint8]]) -> list[Map]:
        """The map of each of ``views``, ``uint8 (h, w, 3)`` of any size."""
        return [self._map(view) for view in views]

    def _map(self, view: npt.NDArray[np.uint8]) -> Map:
        answer = self.answer(view)
        likely = 1 / (1 + np.exp(-np.clip(answer, -_STEEPEST, _STEEPEST))) if self.facts.output == "logits" else answer
        return np.ascontiguousarray(np.clip(likely, 0, 1), dtype=np.float32)

    def answer(self, view: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the network says of ``view (h, w, 3)``, ``float32 (rows, columns)``, before it is read as the facts say. Raises ``EngineFailed``."""
        checkpoint()
        facts = self.facts
        shrinks = min(view.shape[:2]) > facts.side
        square = cv2.resize(view, (facts.side, facts.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        small = square.astype(np.float32)
        levels = 255.0 if facts.divide_by == "255" else max(float(small.max()), 1e-6)
        scaled = (small / levels - np.array(facts.mean, np.float32)) / np.array(facts.std, np.float32)
        batch = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=self._dtype)
        answer = np.asarray(self._session.run([self._output], {self._input: batch})[0], np.float32)
        if answer.ndim < 2 or answer.size != answer.shape[-2] * answer.shape[-1]:
            raise EngineFailed(f"the segmenter answered with an array of {answer.shape}, expected one map")
        return answer.reshape(answer.shape[-2:])


def _graph(path: Path) -> bytes | str:
    """The shipped network's graph written so that it runs faster; of any other file the path."""
    if path.stat().st_size > _SHIPPED_BYTES:
        return str(path)
    data = path.read_bytes()
    return simplified(data) if hashlib.sha256(data).hexdigest() == _SHIPPED else str(path)


def _check_shape(path: Path, shape: Sequence[int | str | None], side: int) -> None:
    """Raise ``ValueError`` where an input of ``shape`` cannot take ``(1, 3, side, side)``; what is no number can be any."""
    wanted = (1, 3, side, side)
    if len(shape) != len(wanted) or any(isinstance(had, int) and had != want for had, want in zip(shape, wanted, strict=True)):
        raise ValueError(f"{path.name} takes pictures of {tuple(shape)}, and its facts say {wanted}")
