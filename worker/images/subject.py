"""Which part of a picture is the product: its matte, ``uint8 (H, W)``, 255 = product."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from worker.images.codec import Frame
from worker.images.mask import Box, bounding_box, coverage
from worker.images.matting import redraw_edge

_INPUT_SIDE = 320
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_WORK_SIDE = 1600
"""Longest side, pixels, at which the edge is refined; more would cost memory and gain little over a 320-pixel prediction."""
_PEAK = 0.5
"""Highest saliency, 0..1, below which nothing is said to stand out."""
_AREA = (0.001, 0.99)
"""Share of the frame that a subject covers."""
_LEVELS = (0.4, 0.7)
"""Refined saliency up to the first is background, from the second on subject; between them lies the soft edge."""
_SPECK = 0.02
"""Parts and holes below this share of the largest part are noise."""
_ZOOM = 0.3
"""A subject whose box covers less of the frame than this is looked at again, closer."""
_AGREEMENT = 0.6
"""Intersection over union with the first look below which the closer look is not believed: it found a part, or something else."""
_CLEAR, _SOLID = 16, 239
"""An alpha channel that reaches below the first and above the second says where the subject is."""


class Segmenter:
    """U²-Net (Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection", 2020) as an ONNX file.

    Runs on one CPU thread; not thread-safe by promise. ``path`` is read once, in the constructor: the only I/O of this package.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")  # a waiting thread would take the engine's core
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input: str = self._session.get_inputs()[0].name

    def matte(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The matte of the salient object in ``pixels (H, W, 3)``, with a narrow soft edge that follows the picture's own.

        Raises ``SubjectNotFound`` where nothing stands out, or everything does.
        """
        matte = _refine(pixels, self._saliency(pixels))
        box = bounding_box(np.where(matte > 127, matte, 0).astype(np.uint8))
        if box is not None and box.width * box.height < _ZOOM * matte.size:
            matte = self._closer(pixels, matte, box)
        share = coverage(matte)
        if not _AREA[0] <= share <= _AREA[1]:
            raise SubjectNotFound(f"What stands out covers {share:.1%} of the picture.")
        return matte

    def _closer(self, pixels: npt.NDArray[np.uint8], matte: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
        """``matte`` again, from a window around ``box``, so that a small subject gets all of the network's pixels."""
        window = box.padded(max(8, round(0.3 * max(box.width, box.height))), matte.shape).slices
        view = np.ascontiguousarray(pixels[window])
        try:
            closer = _refine(view, self._saliency(view))
        except SubjectNotFound:
            return matte
        first, second = matte[window] > 127, closer > 127
        if np.count_nonzero(first & second) < _AGREEMENT * np.count_nonzero(first | second):
            return matte
        out = np.zeros_like(matte)
        out[window] = closer
        return out

    def _saliency(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's map, ``float32 (320, 320)``, min-max normalised, after the preprocessing it was trained with."""
        small = cv2.resize(pixels, (_INPUT_SIDE, _INPUT_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        scaled = (small / max(float(small.max()), 1e-6) - _MEAN) / _STD
        raw = self._session.run(None, {self._input: scaled.transpose(2, 0, 1)[None].astype(np.float32)})[0][0, 0]
        low, high = float(raw.min()), float(raw.max())
        if not high >= _PEAK or high - low < _PEAK / 2:
            raise SubjectNotFound("Nothing stands out from the background; give a mask.")
        return np.asarray((raw - low) / (high - low), dtype=np.float32)


def subject_of(frame: Frame, segmenter: Segmenter) -> npt.NDArray[np.uint8]:
    """The matte of the product in ``frame``: its own alpha where that is really used, else what ``segmenter`` finds.

    Raises ``SubjectNotFound``.
    """
    alpha = frame.alpha
    if alpha is not None and int(alpha.min()) < _CLEAR and int(alpha.max()) > _SOLID:
        return alpha.copy()
    return segmenter.matte(frame.pixels)


def _refine(pixels: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The matte at full size: the coarse map pulled to the picture's edges (He et al., "Guided Image Filtering", 2010), these redrawn."""
    height, width = pixels.shape[:2]
    scale = min(1.0, _WORK_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    guide = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.float32) / np.float32(255)
    coarse = cv2.resize(saliency, size, interpolation=cv2.INTER_LINEAR)
    # The window must span the blur of one upscaled prediction pixel, on both sides of the edge.
    radius = max(2, round(1.5 * max(size) / _INPUT_SIDE))
    guided = cv2.ximgproc.guidedFilter(guide, coarse, 2 * radius, 1e-4)
    low, high = _LEVELS
    matte = np.rint(np.clip((guided - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    # Noise goes first: afterwards the gaps between hairs would pass for pinholes.
    edge = redraw_edge(guide, _without_noise(matte).astype(np.float32) / np.float32(255), max(size) / _INPUT_SIDE)
    matte = np.rint(edge * 255).astype(np.uint8)
    return np.asarray(cv2.resize(matte, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _without_noise(matte: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``matte`` without specks beside the subject and pinholes in it."""
    parts = _small_parts(matte > 127, None)
    # Whatever soft fringe a removed speck leaves goes with it.
    fringe = np.ones((5, 5), np.uint8)
    cleaned = np.where(cv2.dilate(parts, fringe) > 0, 0, matte) if parts.any() else matte
    largest = int(np.count_nonzero(cleaned > 127))
    holes = _small_parts(cleaned <= 127, largest)
    return np.asarray(np.where(cv2.dilate(holes, fringe) > 0, 255, cleaned) if holes.any() else cleaned, dtype=np.uint8)


def _small_parts(region: npt.NDArray[np.bool_], reference: int | None) -> npt.NDArray[np.uint8]:
    """The connected parts of ``region`` smaller than a share of ``reference`` pixels (default: its largest part), as 0 or 1."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(region.shape, np.uint8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    limit = _SPECK * (int(areas[1:].max()) if reference is None else reference)
    small = areas < limit
    small[0] = False
    return np.asarray(small[labels], dtype=np.uint8)
