"""Things from real photos, cut out, to stand before what the model paints: it has never seen one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import skimage.data

from training.studio.arrays import SIDE, Rng
from training.studio.store import Bytes
from worker.images.subject import Segmenter

_COIN = (slice(232, 302), slice(290, 362))
PHOTOS: dict[str, Callable[[], npt.NDArray[np.uint8]]] = {
    "coffee cup": skimage.data.coffee,
    "cat": skimage.data.chelsea,
    "astronaut": skimage.data.astronaut,
    "photographer": skimage.data.camera,
    "rocket": skimage.data.rocket,
    "motorcycle": lambda: skimage.data.stereo_motorcycle()[0],
    "clock": skimage.data.clock,
}
"""Photos that scikit-image holds; the segmenter finds the thing in each."""
_CUT_BELOW = {"cat", "astronaut", "photographer"}
"""They leave their photo at its lower border, so they stand on the picture's."""


class CutOuts:
    """RGBA, cropped to the thing, found once."""

    def __init__(self, segmenter_file: Path) -> None:
        segmenter = Segmenter(segmenter_file)
        self._found: list[tuple[str, Bytes]] = []
        for name, photo in PHOTOS.items():
            pixels = np.asarray(photo(), np.uint8)
            rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3])
            self._found.append((name, _cropped(np.dstack([rgb, segmenter.matte(rgb)]))))

    def place(self, rng: Rng) -> tuple[str, Bytes]:
        """One of them in a transparent picture of 256×256: scaled, perhaps mirrored, standing where products stand."""
        name, cut = self._found[int(rng.integers(len(self._found)))]
        if rng.random() < 0.5:
            cut = np.ascontiguousarray(cut[:, ::-1])
        height, width = cut.shape[:2]
        scale = rng.uniform(0.42, 0.66) * SIDE / max(height, width)
        tall, wide = max(8, round(height * scale)), max(8, round(width * scale))
        small = cv2.resize(cut, (wide, tall), interpolation=cv2.INTER_AREA)
        foot = SIDE if name in _CUT_BELOW else round(SIDE * rng.uniform(0.78, 0.92))
        left = round((SIDE - wide) * rng.uniform(0.3, 0.7))
        canvas = np.full((SIDE, SIDE, 4), (127, 127, 127, 0), np.uint8)
        canvas[foot - tall : foot, left : left + wide] = small
        return name, canvas


def _cropped(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Without what is transparent around the largest part."""
    solid = (rgba[..., 3] > 127).astype(np.uint8)
    _, parts, boxes, _ = cv2.connectedComponentsWithStats(solid)
    largest = 1 + int(np.argmax(boxes[1:, cv2.CC_STAT_AREA]))
    left, top, wide, tall = (int(value) for value in boxes[largest, :4])
    cut = rgba[top : top + tall, left : left + wide].copy()
    near = cv2.dilate((parts[top : top + tall, left : left + wide] == largest).astype(np.uint8), np.ones((5, 5), np.uint8))
    cut[..., 3][near == 0] = 0
    return cut
