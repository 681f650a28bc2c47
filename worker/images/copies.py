"""Finds second copies: parts of a picture that show its product once more, shifted, mirrored or a little larger or smaller.

Windows of the product, with a rim of what lies around it, are laid over what was painted (template matching by the squared difference in CIELAB). A
window counts as seen again where it fits there, and much better than it fits anywhere in the photo's own ground.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.mask import bounding_box
from worker.images.measures import to_lab

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_PRODUCT_PX = 64
"""Longest side of the product as it is looked for."""
_MOST_PX = 160_000
"""Pixels of the picture in which it is looked for, at most: a very small product is looked for at less than that side."""
_SCALES = (0.8, 0.9, 1.0, 1.12, 1.25)
_PARTS = ((0.55, 3), (0.35, 5))
"""Sides of windows, of the product's, and how many along each: copies that the frame cuts are found by those of their windows that are seen."""
_FINE, _WHOLE = 40, ((1.0, 1),)
"""Longest side in pixels of a product, as it is looked for, below which it is looked for as a whole: its windows are no patterns, and many places."""
_RIM = 2
"""Pixels around the product that belong to a window where the product itself is plain."""
_LEAST_PX = 90
"""Pixels of a window below which it is no part of anything."""
_LIVELY = 7.0
"""Least standard deviation (CIELAB) of a window: a plain one fits any plain place."""
_HELD, _MOSTLY = 0.5, 0.8
"""Share of a reduced pixel, and of a window, from which it belongs to a part of the picture."""
_FITS = 0.72
"""Share of a window's variance that a place must explain to look like it."""
_BETTER = 0.5
"""Most that may be left unexplained there, of what the best place in the ground leaves."""


def second_copy(picture: npt.NDArray[np.uint8], product: _Bool, new: _Bool) -> float:
    """How surely what is ``new (H, W)`` in ``picture (H, W, 3)`` shows a part of the ``product (H, W)`` again: 0, or 0.5 up to 1 for a perfect copy."""
    box = bounding_box(product.astype(np.uint8))
    if box is None or not new.any():
        return 0.0
    scale = min(1.0, _PRODUCT_PX / max(box.width, box.height), (_MOST_PX / product.size) ** 0.5)
    lab, found = _reduced(picture, scale), 0.0
    size = lab.shape[1], lab.shape[0]
    held, painted = (
        np.asarray(cv2.resize(each.astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32) for each in (product, new)
    )
    rim = cv2.dilate((held > _HELD).astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
    shown = rim & (painted < _HELD)
    for window in _windows(held > _HELD):
        own = held[window] > _HELD
        mask = own if _lively(lab[window][own]) else shown[window]
        for pattern, weight in _variants(lab[window], mask & (painted[window] < _HELD)):
            found = max(found, _seen_again(lab, pattern, weight, painted, rim))
    return found


def _reduced(picture: npt.NDArray[np.uint8], scale: float) -> _Float:
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(to_lab(small), np.float32)


def _windows(held: _Bool) -> Iterator[tuple[slice, slice]]:
    """Overlapping windows of the product's box, larger and smaller ones."""
    box = bounding_box(held.astype(np.uint8))
    if box is None:
        return
    around = box.padded(_RIM, held.shape)
    for part, count in _PARTS if max(box.width, box.height) >= _FINE else _WHOLE:
        height, width = (max(4, round(part * side)) for side in (around.height, around.width))
        for y in np.linspace(around.top, max(around.top, around.bottom - height), count).astype(int):
            for x in np.linspace(around.left, max(around.left, around.right - width), count).astype(int):
                yield slice(int(y), int(y) + height), slice(int(x), int(x) + width)


def _lively(inside: _Float) -> bool:
    """Whether these colours ``(N, 3)`` are enough to know a window by."""
    return len(inside) >= _LEAST_PX and float(np.sqrt(inside.var(axis=0).sum())) >= _LIVELY


def _variants(pattern: _Float, mask: _Bool) -> Iterator[tuple[_Float, _Float]]:
    """The window in all sizes and mirrored, where there is enough in it to know it by."""
    if not _lively(pattern[mask]):
        return
    for scale in _SCALES:
        size = max(3, round(pattern.shape[1] * scale)), max(3, round(pattern.shape[0] * scale))
        scaled = np.asarray(cv2.resize(pattern, size, interpolation=cv2.INTER_LINEAR), np.float32)
        weight = (np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)) > _HELD).astype(np.float32)
        for step_y in (1, -1):
            for step_x in (1, -1):
                yield np.ascontiguousarray(scaled[::step_y, ::step_x]), np.ascontiguousarray(weight[::step_y, ::step_x])


def _seen_again(lab: _Float, pattern: _Float, mask: _Float, painted: _Float, product: _Bool) -> float:
    """How well the window fits in what was painted, if that is much better than in the ground; else 0."""
    height, width = mask.shape
    if height > lab.shape[0] or width > lab.shape[1] or not mask.any():
        return 0.0
    inside = pattern[mask > 0]
    spread = float(np.square(inside - inside.mean(axis=0)).sum())
    off = cv2.matchTemplate(lab, pattern, cv2.TM_SQDIFF, mask=np.repeat(mask[..., None], 3, axis=2)) / max(spread, 1e-3)
    area = (height, width)
    new, own = (_mean(each, area) for each in (painted, product.astype(np.float32)))
    there, ground = new > _MOSTLY, (new < 1 - _MOSTLY) & (own < 1 - _MOSTLY)
    if not there.any():
        return 0.0
    left, usual = float(off[there].min()), float(off[ground].min()) if ground.any() else 1.0
    return 1 - left if 1 - left > _FITS and left < _BETTER * usual else 0.0


def _mean(values: _Float, area: tuple[int, int]) -> _Float:
    """The mean of each window of ``area``, by where it begins."""
    total = cv2.integral(values)
    height, width = area
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return np.asarray(sums / (height * width), np.float32)
