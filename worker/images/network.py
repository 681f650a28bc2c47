"""Segmentation networks: ONNX files that map a picture to the likelihood of each pixel to be the product's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

Map = npt.NDArray[np.float32]
"""``float32 (side, side)`` of 0..1: how likely each pixel of a view, squeezed to a square, is the product's."""
_STEEPEST = 60.0
"""Logits beyond which ``exp`` is of no more use to a float32."""


class NetworkFacts(BaseModel):
    """How a segmentation network wants its pictures, and what it answers: the ``segmenter.json`` beside an ONNX file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(ge=32, le=4096, description="Pixels of the square that views are squeezed to.")
    mean: tuple[float, float, float] = Field(description="Of red, green, blue on 0..1; subtracted.")
    std: tuple[float, float, float] = Field(description="Of red, green, blue; divided by.")
    divide_by: Literal["255", "maximum"] = Field(
        default="255", description="Maps levels to 0..1: `255`, or the view's own `maximum`, as U²-Net was trained."
    )
    output: Literal["probability", "logits"] = Field(default="probability", description="Meaning of the answer's values.")
    output_name: str | None = Field(default=None, description="The graph's output that is read. Default: its first.")


U2NETP_FACTS = NetworkFacts(side=320, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), divide_by="maximum")


class Network:
    """An ONNX file and its facts, loaded on one CPU thread; threads may share it.

    Raises ``ValueError`` where the file is no graph of one picture in and ``facts.output_name`` out.
    """

    def __init__(self, path: Path, facts: NetworkFacts = U2NETP_FACTS) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")  # a waiting thread would take the engine's core
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises exceptions of its own, one for each kind of damage
            raise ValueError(f"{path.name} is not an ONNX file that runs: {error}") from error
        inputs, outputs = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if len(inputs) != 1:
            raise ValueError(f"{path.name} has {len(inputs)} inputs, and a segmentation network has one")
        self._input: str = inputs[0].name
        self._output: str = facts.output_name or outputs[0]
        if self._output not in outputs:
            raise ValueError(f"{path.name} has no output {self._output!r}; there are: {', '.join(outputs)}")
        self.facts = facts

    def maps(self, views: Sequence[npt.NDArray[np.uint8]]) -> list[Map]:
        """The map of each of ``views``, ``uint8 (h, w, 3)`` of any size."""
        return [self._map(view) for view in views]

    def _map(self, view: npt.NDArray[np.uint8]) -> Map:
        facts = self.facts
        shrinks = min(view.shape[:2]) > facts.side
        square = cv2.resize(view, (facts.side, facts.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        small = square.astype(np.float32)
        levels = 255.0 if facts.divide_by == "255" else max(float(small.max()), 1e-6)
        scaled = (small / levels - np.array(facts.mean, np.float32)) / np.array(facts.std, np.float32)
        batch = np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], dtype=np.float32)
        answer = np.asarray(self._session.run([self._output], {self._input: batch})[0], np.float32)
        flat = answer.reshape(answer.shape[-2:])
        likely = 1 / (1 + np.exp(-np.clip(flat, -_STEEPEST, _STEEPEST))) if facts.output == "logits" else flat
        return np.ascontiguousarray(np.clip(likely, 0, 1), dtype=np.float32)
