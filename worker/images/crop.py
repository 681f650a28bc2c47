"""The window around an edit that a model sees, so that cost follows the edit and not the frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import MaskEmpty
from worker.images.mask import Box, bounding_box

CONTEXT = 0.5
"""Of the longer side of the edit, on each side of it."""
MIN_CONTEXT = 64
"""Pixels on each side of the edit, where the frame has them."""
MAX_UPSCALE = 2.0
_MOST_PARTS = 24
"""An edit in more parts than these is taken for one texture."""


@dataclass(frozen=True)
class Crop:
    """A window of the frame, and the size at which the model sees it."""

    box: Box
    size: tuple[int, int]
    """(width, height) of what the model is given; both are multiples of the model's ``size_multiple``."""

    @property
    def pixels(self) -> int:
        """What it costs the model."""
        return self.size[0] * self.size[1]

    def moved(self, x: int, y: int) -> Crop:
        """The same window ``x`` pixels further right and ``y`` further down."""
        return Crop(self.box.moved(x, y), self.size)


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the edit that a model paints by itself."""

    crop: Crop
    alpha: npt.NDArray[np.uint8]
    """``uint8 (h, w)``, the size of the window: how much of the fill is pasted; 0 where another region pastes."""


def plan_regions(
    alpha: npt.NDArray[np.uint8],
    *,
    native_size: int | None,
    min_size: int | None = None,
    multiple: int = 1,
    max_upscale: float = MAX_UPSCALE,
) -> tuple[Region, ...]:
    """The edit ``alpha (H, W)`` as regions to be painted apart, where the model then has fewer pixels to paint than in one window.

    Separate parts of the edit come together as long as one window is no dearer than two. Raises ``MaskEmpty``.
    """

    def plan(box: Box | None) -> Crop:
        return _window(box, alpha.shape, native_size, min_size, multiple, CONTEXT, max_upscale)

    whole = bounding_box(alpha)
    joint = plan(whole)
    single = (Region(joint, alpha[joint.box.slices]),)
    if whole is None or native_size is None:
        return single
    count, labels, stats, _ = cv2.connectedComponentsWithStats((alpha[whole.slices] > 0).astype(np.uint8), connectivity=8)
    if not 2 <= count - 1 <= _MOST_PARTS:
        return single
    groups = [(frozenset({part}), _box_of(stats[part], whole)) for part in range(1, count)]
    while len(groups) > 1:
        pairs = ((_saving(plan, a[1], b[1]), i, j) for i, a in enumerate(groups) for j, b in enumerate(groups[:i]))
        saving, i, j = max(pairs)
        if saving < 0:
            break
        (first, box), (second, other) = groups.pop(i), groups.pop(j)
        groups.append((first | second, _around(box, other)))
    if len(groups) == 1 or sum(plan(box).pixels for _, box in groups) >= joint.pixels:
        return single
    regions = []
    for parts, box in sorted(groups, key=lambda group: (group[1].top, group[1].left)):
        crop = plan(box)
        own = np.zeros(alpha.shape, np.bool_)
        own[whole.slices] = np.isin(labels, list(parts))
        regions.append(Region(crop, np.where(own[crop.box.slices], alpha[crop.box.slices], 0).astype(np.uint8)))
    return tuple(regions)


def plan_crop(
    mask: npt.NDArray[np.uint8],
    *,
    native_size: int | None,
    min_size: int | None = None,
    multiple: int = 1,
    context: float = CONTEXT,
    max_upscale: float = MAX_UPSCALE,
) -> Crop:
    """The window for the edit ``mask (H, W)``.

    It holds the edit with ``context`` around it and is widened to at least ``min_size`` (default ``native_size``) ``/ max_upscale`` where the
    frame allows. The model's size has about ``native_size ** 2`` pixels, is at most ``max_upscale`` times the window and ``2 × native_size``
    on a side, and keeps the aspect to within the rounding to ``multiple``; for models (``multiple`` above 1) it is one of a few shapes where the
    frame has room for that. With ``native_size`` ``None`` it is the whole frame at its own size.
    Raises ``MaskEmpty``.
    """
    return _window(bounding_box(mask), mask.shape, native_size, min_size, multiple, context, max_upscale)


def _window(
    edit: Box | None,
    shape: tuple[int, ...],
    native_size: int | None,
    min_size: int | None,
    multiple: int,
    context: float,
    max_upscale: float,
) -> Crop:
    height, width = shape[:2]
    if native_size is None:
        return Crop(Box(0, 0, width, height), (_up(width, multiple), _up(height, multiple)))
    if edit is None:
        raise MaskEmpty("The mask marks nothing.")
    pad = max(MIN_CONTEXT, round(context * max(edit.width, edit.height)))
    least = math.ceil((min_size or native_size) / max_upscale)
    want_w = min(width, max(edit.width + 2 * pad, least))
    want_h = min(height, max(edit.height + 2 * pad, least))
    scale = min(native_size / math.sqrt(want_w * want_h), max_upscale, 2 * native_size / max(want_w, want_h))
    longest = max(multiple, 2 * native_size // multiple * multiple)
    size_w, size_h = (min(longest, _up(side * scale, multiple)) for side in (want_w, want_h))
    if multiple > 1:
        bucket = _bucket((want_w, want_h), (width, height), native_size, multiple, max_upscale)
        if bucket is not None:
            (size_w, size_h), scale = bucket
    # Where rounding made the model's side larger, show it more of the frame rather than a stretched window.
    left, right = _span(edit.left, edit.right, max(want_w, round(size_w / scale)), width)
    top, bottom = _span(edit.top, edit.bottom, max(want_h, round(size_h / scale)), height)
    return Crop(Box(left, top, right, bottom), (size_w, size_h))


def _bucket(
    want: tuple[int, int], frame: tuple[int, int], native_size: int, multiple: int, max_upscale: float
) -> tuple[tuple[int, int], float] | None:
    """A shape (width, height) that many jobs share, so that they can be painted in one batch, and the scale at which ``want`` fits into it.

    About ``native_size ** 2`` pixels in steps of an eighth of it, at most 64; of these the one that shows least besides what is wanted.
    ``None`` where the frame is too small for the window that it needs.
    """
    step = max(multiple, min(64, native_size // 8 // multiple * multiple))
    found = None
    for width in range(_up(native_size / 2, step), 2 * native_size + 1, step):
        height = max(step, native_size**2 // width // step * step)
        scale = min(width / want[0], height / want[1], max_upscale)
        shown = round(width / scale), round(height / scale)
        if shown[0] <= frame[0] and shown[1] <= frame[1] and (found is None or scale > found[1]):
            found = (width, height), scale
    return found


def take(image: npt.NDArray[np.uint8], crop: Crop) -> npt.NDArray[np.uint8]:
    """The window of ``image (H, W, 3)`` at the model's size."""
    return _resize(image[crop.box.slices], crop.size)


def fit_mask(window: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """``window (h, w)`` of a mask at the model's ``size`` (width, height). Shrinking takes maxima, so that no stroke is lost or weakened."""
    window = np.ascontiguousarray(window)
    height, width = window.shape
    if size[0] < width or size[1] < height:
        # Nearest-neighbour samples lie at most half a step from any pixel: a maximum over that reach lets each one count.
        kernel = np.ones((_reach(height / size[1]), _reach(width / size[0])), np.uint8)
        return np.asarray(cv2.resize(cv2.dilate(window, kernel), size, interpolation=cv2.INTER_NEAREST_EXACT), dtype=np.uint8)
    return np.asarray(cv2.resize(window, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def restore(pixels: npt.NDArray[np.uint8], crop: Crop) -> npt.NDArray[np.uint8]:
    """What the model painted, ``uint8 (h, w, 3)``, at the size of the window."""
    return _resize(pixels, (crop.box.width, crop.box.height))


def _resize(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels.copy()
    # Lanczos rings at hard edges, which the paste would show; cubic hardly does.
    shrinks = size[0] * size[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=method), dtype=np.uint8)


def _up(side: float, multiple: int) -> int:
    return max(1, math.ceil(side / multiple - 1e-6)) * multiple


def _reach(step: float) -> int:
    return 2 * math.ceil(step / 2) + 1 if step > 1 else 1


def _span(start: int, end: int, length: int, limit: int) -> tuple[int, int]:
    """``length`` pixels centred on ``start``..``end``, shifted to lie in 0..``limit`` and cut only where they cannot."""
    length = min(length, limit)
    first = min(max(0, (start + end - length) // 2), limit - length)
    return first, first + length


def _box_of(stats: npt.NDArray[np.int32], whole: Box) -> Box:
    left, top = whole.left + int(stats[cv2.CC_STAT_LEFT]), whole.top + int(stats[cv2.CC_STAT_TOP])
    return Box(left, top, left + int(stats[cv2.CC_STAT_WIDTH]), top + int(stats[cv2.CC_STAT_HEIGHT]))


def _around(a: Box, b: Box) -> Box:
    return Box(min(a.left, b.left), min(a.top, b.top), max(a.right, b.right), max(a.bottom, b.bottom))


def _saving(plan: Callable[[Box], Crop], a: Box, b: Box) -> int:
    """Pixels that one window for both spares the model."""
    return plan(a).pixels + plan(b).pixels - plan(_around(a, b)).pixels
