"""ViTMatte (Yao et al., "ViTMatte: Boosting Image Matting with Pretrained Plain Vision Transformers", 2023): mattes of hair, fur and glass by a network."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import structlog
import torch
from transformers import VitMatteForImageMatting

from worker.engines.out_of_memory import is_out_of_memory
from worker.images.matting import redraw_edge

_log = structlog.get_logger(__name__)
_SIDE = 1024
"""Longest side, pixels, that the network sees: its time and memory grow faster than the area."""
_MULTIPLE = 32
"""Both sides are filled up to a multiple of this, as the network's own image processor does."""
_BAND = 1.5
"""Half the width, in grains, of what is left to the network around what is soft."""
_SOFT = 0.05
_UNKNOWN = 128
_COUNTER = "num_batches_tracked"
"""Ends the names of what training counts: files may lack it, and nothing is computed from it."""


class VitMatte:
    """A ``Matting`` by the network in ``directory``: a ``config.json`` and safetensors, as ``save_pretrained`` writes them.

    Nothing is downloaded and no code of the directory is run. Threads may share it: it sees one picture at a time, so that its memory is bounded.
    Raises ``OSError`` where files are missing, and ``ValueError`` where weights are, which transformers would draw at random.
    """

    def __init__(self, directory: Path) -> None:
        load: Any = VitMatteForImageMatting.from_pretrained  # whose types do not know that it answers with two things then
        model, found = load(
            directory, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        if missing := sorted(name for name in found["missing_keys"] if not name.endswith(_COUNTER)):
            raise ValueError(f"its file lacks {len(missing)} weights: {', '.join(missing[:3])}")
        self._model: torch.nn.Module = model.eval()
        self._on_cpu = self._model
        self._device = "cpu"
        self._lock = threading.Lock()

    def to(self, device: str) -> None:
        """Move it to ``device``. A copy stays on the CPU, for pictures for which ``device`` has no room beside the painting models."""
        self._device = device
        if device != "cpu":
            self._model = copy.deepcopy(self._on_cpu).to(device)

    def __call__(
        self, colours: npt.NDArray[np.uint8] | npt.NDArray[np.float32], matte: npt.NDArray[np.float32], grain: float
    ) -> npt.NDArray[np.float32]:
        """As ``Matting`` says. Of photos larger than the network sees, the edge is redrawn by ``redraw_edge`` from what it drew."""
        height, width = colours.shape[:2]
        scale = min(1.0, _SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        seen = cv2.resize(colours, size, interpolation=cv2.INTER_AREA)
        pixels = np.asarray(seen if seen.dtype == np.uint8 else np.rint(seen * 255), np.uint8)
        smaller = matte.shape[0] > size[1] or matte.shape[1] > size[0]
        coarse = np.asarray(cv2.resize(matte, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), np.float32)
        opacity = self.opacity(pixels, trimap(coarse, grain * scale))
        return opacity if scale == 1 else redraw_edge(colours, opacity, 1 / scale)

    def opacity(self, pixels: npt.NDArray[np.uint8], known: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the network says of ``pixels (H, W, 3)``: ``float32 (H, W)``, exactly 0 and 1 where ``known (H, W)`` is 0 and 255."""
        height, width = known.shape
        out: npt.NDArray[np.float32] = np.float32(1) * (known == 255)
        is_open = known == _UNKNOWN
        if not is_open.any():
            return out
        planes = np.dstack([pixels.astype(np.float32) / 127.5 - 1, known.astype(np.float32) / 255]).transpose(2, 0, 1)
        filled = np.pad(planes, ((0, 0), (0, -height % _MULTIPLE), (0, -width % _MULTIPLE)))
        out[is_open] = self._alphas(torch.from_numpy(filled)[None])[0, 0, :height, :width].numpy()[is_open]
        return out

    def _alphas(self, planes: torch.Tensor) -> torch.Tensor:
        with self._lock, torch.inference_mode():
            alphas = self._where_there_is_room(planes)
            return _call(self._on_cpu, planes) if alphas is None else alphas

    def _where_there_is_room(self, planes: torch.Tensor) -> torch.Tensor | None:
        """The answer of the device; ``None`` where it has no room beside the painting models."""
        try:
            return _call(self._model, planes.to(self._device)).cpu()
        except RuntimeError as error:
            if self._device == "cpu" or not is_out_of_memory(error):
                raise
            _log.warning("edge_drawn_on_cpu", device=self._device, reason=str(error))
            return None


def _call(model: torch.nn.Module, planes: torch.Tensor) -> torch.Tensor:
    alphas: torch.Tensor = model(planes).alphas
    return alphas


def trimap(matte: npt.NDArray[np.float32], grain: float) -> npt.NDArray[np.uint8]:
    """255 where ``matte (H, W)`` is 1 for sure, 0 where it is 0 for sure, and 128 around what is soft in it, as far as it may be off."""
    around = np.ones((3, 3), np.uint8)
    soft = (cv2.erode(matte, around) < 1 - _SOFT) & (cv2.dilate(matte, around) > _SOFT)
    radius = max(2, round(_BAND * grain))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    band = cv2.dilate(soft.astype(np.uint8), disc) > 0
    return np.where(band, _UNKNOWN, np.where(matte > 0.5, 255, 0)).astype(np.uint8)
