"""Regions: where they are, how they grow, and how an edit fades at their edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_KERNEL_LIMIT = 16
"""Radius in pixels up to which a disc kernel is faster than distance transforms."""
_FADING_LIMIT = 8
"""The same for a dilation that fades, which takes a kernel for each distance between pixels."""
_LEVELS = 8
"""Strengths that a large dilation of a soft mask tells apart."""


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels; ``right`` and ``bottom`` are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Indexes the box in an array of rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def moved(self, x: int, y: int) -> Box:
        """The same ``x`` pixels further right and ``y`` further down."""
        return Box(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def padded(self, pad: int, shape: tuple[int, ...]) -> Box:
        """The box with ``pad`` pixels on each side, cut at the frame of ``shape`` (H, W, …)."""
        return Box(max(0, self.left - pad), max(0, self.top - pad), min(shape[1], self.right + pad), min(shape[0], self.bottom + pad))


def bounding_box(mask: npt.NDArray[np.uint8]) -> Box | None:
    """The smallest box that holds every pixel above 0 of ``mask (H, W)``; ``None`` where there is none."""
    rows = np.flatnonzero(mask.max(axis=1))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].max(axis=0))
    return Box(int(columns[0]), top, int(columns[-1]) + 1, bottom)


def coverage(mask: npt.NDArray[np.uint8]) -> float:
    """The share of pixels above 0, 0..1."""
    return float(np.count_nonzero(mask)) / mask.size


def iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union, 0..1, of two regions ``(H, W)``; 0 where both are empty."""
    return int(np.count_nonzero(first & second)) / max(1, int(np.count_nonzero(first | second)))


def grow(mask: npt.NDArray[np.uint8], px: int, fade_px: int = 0) -> npt.NDArray[np.uint8]:
    """Grey dilation of ``mask (H, W)`` by a disc: each pixel takes the largest strength within ``px`` pixels (Euclidean).

    With ``fade_px`` (at most ``px``) a strength counts less the further it lies, falling linearly over the outermost ``fade_px`` pixels: all of
    it up to ``px - fade_px``, ``1 / (fade_px + 1)`` of it at ``px``. No pixel is ever weaker than in ``mask``, and what falls more gently than
    the fade keeps its own strengths.
    The region above 0 is exact for every ``px``. Above 16 pixels, 8 with a fade, a soft mask's strengths are grown in eight levels, rounded down.
    """
    box = bounding_box(mask)
    if box is None or px == 0:
        return mask.copy()
    window = box.padded(px, mask.shape).slices
    grown = mask.copy()
    if px <= (_FADING_LIMIT if fade_px else _KERNEL_LIMIT) and not (fade_px and _is_hard(mask[window])):
        grown[window] = _grow_small(mask[window], px, fade_px)
    else:
        grown[window] = _grow_large(mask[window], px, fade_px)
    return grown


def edit_alpha(mask: npt.NDArray[np.uint8], grow_px: int, feather_px: int) -> npt.NDArray[np.uint8]:
    """How much of the fill is pasted at each pixel: ``uint8 (H, W)``.

    Exactly 0 outside the grown mask. A feather of at most the growth lies in what was grown, so that what is marked has its own strength: where
    the mask is 255, the fill is. Of a larger one the rest goes inwards: the strength rises over ``feather_px`` pixels from the edge
    of the grown mask. The frame's border is no edge.
    """
    return grow(mask, grow_px, feather_px) if feather_px <= grow_px else _fade_inwards(grow(mask, grow_px), feather_px)


def _fade_inwards(region: npt.NDArray[np.uint8], feather_px: int) -> npt.NDArray[np.uint8]:
    """``region`` in place, its strengths falling to its edge. Where it is too thin for that they rise faster, so that its middle is wholly replaced."""
    box = bounding_box(region)
    if box is None:
        return region
    # One pixel beyond the box is enough to see every edge of the region.
    window = box.padded(1, region.shape).slices
    strength = region[window]
    if strength.all():
        return region
    depth = cv2.distanceTransform((strength > 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    np.minimum(depth, feather_px + 1, out=depth)
    side = 2 * feather_px + 1
    reach = cv2.dilate(depth, np.ones((1, side), np.uint8))
    reach = cv2.dilate(reach, np.ones((side, 1), np.uint8))
    region[window] = np.rint(strength * (depth / np.maximum(reach, 1))).astype(np.uint8)
    return region


def _is_hard(mask: npt.NDArray[np.uint8]) -> bool:
    """Whether there is but one strength: one distance transform is all that it takes."""
    return not ((mask > 0) & (mask < mask.max())).any()


def _grow_small(mask: npt.NDArray[np.uint8], px: int, fade_px: int) -> npt.NDArray[np.uint8]:
    y, x = np.ogrid[-px : px + 1, -px : px + 1]
    squares = x * x + y * y
    grown = mask.copy()
    for square in np.unique(squares[(squares >= (px - fade_px) ** 2) & (squares <= px * px)]):
        radius = math.isqrt(square)
        reach = slice(px - radius, px + radius + 1)
        near = cv2.dilate(mask, (squares[reach, reach] <= square).astype(np.uint8))
        share = (px + 1 - math.sqrt(square)) / (fade_px + 1)
        np.maximum(grown, near if share >= 1 else cv2.convertScaleAbs(near, alpha=share), out=grown)
    return grown


def _grow_large(mask: npt.NDArray[np.uint8], px: int, fade_px: int) -> npt.NDArray[np.uint8]:
    levels = np.unique(mask[mask > 0])
    if levels.size > _LEVELS:
        levels = np.unique(np.linspace(int(levels[0]), int(levels[-1]), _LEVELS).astype(np.uint8))
    grown = mask.copy()
    for level in levels:
        distance = cv2.distanceTransform((mask < level).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are whole numbers: half a unit keeps float rounding out of the comparison.
        distance[distance > np.sqrt(px * px + 0.5)] = px + 1
        step = float(level) / (fade_px + 1)
        faded = cv2.convertScaleAbs(distance, alpha=-step, beta=step * (px + 1))
        np.maximum(grown, np.minimum(faded, level), out=grown)
    return grown
