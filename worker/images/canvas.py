"""A larger canvas around a picture, for outpainting."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import Invalid
from api_schemas.requests import Anchor, Canvas
from api_schemas.sizes import canvas_size
from worker.images.codec import Frame
from worker.images.transparency import WHITE, over_ground

_BLUR_LIMIT = 151
"""Widest blur of the prefill, pixels: beyond it only time is spent."""
_RIM = 4
"""Pixels beside the picture that show it reflected: where a paste fades it blends in the prefill, and a blur there shows as a line."""
_AT_START = {
    "x": {Anchor.LEFT, Anchor.TOP_LEFT, Anchor.BOTTOM_LEFT},
    "y": {Anchor.TOP, Anchor.TOP_LEFT, Anchor.TOP_RIGHT},
}
_AT_END = {
    "x": {Anchor.RIGHT, Anchor.TOP_RIGHT, Anchor.BOTTOM_RIGHT},
    "y": {Anchor.BOTTOM, Anchor.BOTTOM_LEFT, Anchor.BOTTOM_RIGHT},
}


def extend(frame: Frame, left: int, right: int, top: int, bottom: int) -> tuple[Frame, npt.NDArray[np.uint8]]:
    """``frame`` on a canvas larger by these pixels, and a mask that is 255 on exactly the new area.

    The new area is prefilled with the edge's colours carried outwards and blurred, right beside the edge with the picture reflected (on white, where it
    is clear), and is as opaque as the pixel of the border that it continues. The input's pixels and alpha stand unchanged at (``left``, ``top``).
    """
    inside = slice(top, top + frame.height), slice(left, left + frame.width)
    seen = over_ground(frame, WHITE)
    replicated = cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_REPLICATE)
    side = min(_BLUR_LIMIT, max(left, right, top, bottom)) | 1
    # Two box blurs are near enough to a Gaussian, at a cost that does not grow with the radius.
    pixels = np.asarray(cv2.blur(cv2.blur(replicated, (side, side)), (side, side)), dtype=np.uint8)
    above, below, before, after = (min(_RIM, side) for side in (top, bottom, left, right))
    reflected = cv2.copyMakeBorder(seen, above, below, before, after, cv2.BORDER_REFLECT_101)
    pixels[top - above : top + frame.height + below, left - before : left + frame.width + after] = reflected
    pixels[inside] = frame.pixels
    mask = np.full(pixels.shape[:2], 255, np.uint8)
    alpha = None
    if frame.alpha is not None:
        alpha = np.asarray(cv2.copyMakeBorder(frame.alpha, top, bottom, left, right, cv2.BORDER_REPLICATE), dtype=np.uint8)
    mask[inside] = 0
    return Frame(pixels, alpha, frame.icc), mask


def place(size: tuple[int, int], canvas: Canvas) -> tuple[int, int, int, int]:
    """How far a picture of ``size`` (width, height) is extended to fill ``canvas``: (left, right, top, bottom) in pixels.

    Centred sides get the odd pixel on the right and at the bottom. Raises ``Invalid`` where the canvas is smaller than the picture, or
    adds nothing to it.
    """
    width, height = size
    wide, high = canvas_size(canvas, size)
    spare_x, spare_y = wide - width, high - height
    if spare_x < 0 or spare_y < 0:
        raise Invalid(f"The canvas ({wide}×{high}) is smaller than the image ({width}×{height}).", field="canvas")
    if spare_x == 0 and spare_y == 0:
        raise Invalid(f"The canvas has the size of the image ({width}×{height}): there is nothing to extend.", field="canvas")
    left, right = _split("x", spare_x, canvas.anchor)
    top, bottom = _split("y", spare_y, canvas.anchor)
    return left, right, top, bottom


def _split(axis: str, spare: int, anchor: Anchor) -> tuple[int, int]:
    before = int(spare * part_before(axis, anchor))
    return before, spare - before


def part_before(axis: str, anchor: Anchor) -> float:
    """The part, 0..1, of what is free along ``axis`` (``x``, ``y``) that lies before what stands at ``anchor``."""
    return 0.0 if anchor in _AT_START[axis] else 1.0 if anchor in _AT_END[axis] else 0.5
