"""An input's own transparency: how such a file is looked at, what shape of it is a product, and how it goes on.

The rules by operation are in docs/formats.md. What they share: nothing that is kept becomes more opaque than it is in the file, and the colours
that a file hides under clear pixels are looked at by nobody.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.blend import composite
from worker.images.codec import Frame
from worker.images.mask import Box, bounding_box

GREY, WHITE = 128, 255
"""The ground that a translucent file is looked at on."""
_NEAR = 32
"""Levels from grey nearer than which a picture is looked at on white: on grey a grey product would not be seen."""
CLEAR = 16
"""Alpha below this counts as clear, as mask strengths do: encoders leave such traces beside what they cut out."""
_SHAPE_SIDE = 512
"""Longest side, pixels, at which a shape is compared: pixels of its edge then count less than ``_ALIKE`` leaves open."""
_ALIKE = 0.97
"""Intersection over union with a rectangle, a rounded one or an ellipse from which a shape is taken for one."""


def over_ground(frame: Frame, level: int) -> npt.NDArray[np.uint8]:
    """``frame`` as it looks on a plain ground, ``uint8 (H, W, 3)``: its own pixels where it is opaque, nothing of what it hides where it is clear."""
    if frame.alpha is None:
        return frame.pixels
    return composite(np.full_like(frame.pixels, level), frame.pixels, frame.alpha)


def off_ground(pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], level: int) -> npt.NDArray[np.uint8]:
    """The colours ``uint8 (h, w, 3)`` that, ``alpha (h, w)`` opaque, look like ``pixels`` on a plain ground: the way back from ``over_ground``.

    Clipped where no colour looks so; ``pixels`` themselves where nothing is seen.
    """
    translucent = (alpha > 0) & (alpha < 255)
    weight = alpha[translucent].astype(np.float32)[:, None] / 255
    out = pixels.copy()
    out[translucent] = np.rint(np.clip((pixels[translucent] - (1 - weight) * level) / weight, 0, 255)).astype(np.uint8)
    return out


def ground_for(frame: Frame) -> int:
    """The level of the ground, 0..255, from which ``frame`` stands out."""
    if frame.alpha is None:
        return GREY
    mean = cv2.mean(frame.pixels, visible(frame.alpha))
    return WHITE if abs(float(np.mean(mean[:3])) - GREY) < _NEAR else GREY


def visible(alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``uint8 (H, W)``: 1 where ``alpha`` is at least half of its largest value, so that a file of 88 % opacity has the shape of an opaque one."""
    most = int(alpha.max())
    return (alpha >= max(CLEAR, most / 2)).astype(np.uint8)


def framed(alpha: npt.NDArray[np.uint8]) -> Box | None:
    """Where a photo may lie within clear borders ``alpha (H, W)``: the box of what is visible, if that is a rectangle, a rounded one or an ellipse.

    Each may be turned, and fade at its border. ``None`` for every other shape: such an alpha is a cut-out.
    """
    shape = visible(alpha)
    box = bounding_box(shape)
    if box is None or not _frame_shaped(_small(shape[box.slices]) > 0):
        return None
    return bounding_box(np.where(alpha >= CLEAR, np.uint8(1), np.uint8(0)))


def continued(alpha: npt.NDArray[np.uint8], edit: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``alpha (H, W)`` with that of the nearest kept pixel wherever ``edit (H, W)`` is above 0; unchanged where nothing is kept."""
    edited = edit > 0
    box = bounding_box(edited.astype(np.uint8))
    if box is None or edited.all():
        return alpha.copy()
    window = box.padded(1, alpha.shape).slices
    inside, out = edited[window], alpha.copy()
    _, nearest = cv2.distanceTransformWithLabels(inside.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(int(nearest.max()) + 1, np.uint8)
    values[nearest[~inside]] = alpha[window][~inside]
    out[window] = np.where(inside, values[nearest], alpha[window])
    return out


def _small(shape: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = shape.shape
    scale = min(1.0, _SHAPE_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(shape, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _frame_shaped(shape: npt.NDArray[np.bool_]) -> bool:
    """Whether ``shape (h, w)`` is a rectangle, one whose corners are rounded, or an ellipse, upright or turned."""
    rows, columns = np.nonzero(shape)
    (x, y), (width, height), degrees = cv2.minAreaRect(np.stack([columns, rows], axis=1).astype(np.float32))
    # The corners of the box are middles of pixels.
    half_w, half_h = (width + 1) / 2, (height + 1) / 2
    turn = math.radians(degrees)
    down, across = np.mgrid[: shape.shape[0], : shape.shape[1]]
    u = np.abs((across - x) * math.cos(turn) + (down - y) * math.sin(turn))
    v = np.abs((down - y) * math.cos(turn) - (across - x) * math.sin(turn))
    missing = max(0.0, 4 * half_w * half_h - rows.size)
    radius = min(math.sqrt(missing / (4 - math.pi)), half_w, half_h)  # four corners of this radius lack so much
    past_x, past_y = np.maximum(u - (half_w - radius), 0), np.maximum(v - (half_h - radius), 0)
    rounded = (past_x**2 + past_y**2 <= radius**2) & (u <= half_w) & (v <= half_h)
    ellipse = (u / half_w) ** 2 + (v / half_h) ** 2 <= 1
    return any(np.count_nonzero(shape & other) >= _ALIKE * np.count_nonzero(shape | other) for other in (rounded, ellipse))
