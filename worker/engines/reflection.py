"""Extends a picture over its border by reflecting it, sheared so that lines cross the old border without a kink.

A reflection has the picture's own texture and meets it without a step. What gives it away is a second copy of a thing that stands inside,
so such things are found: the caller erases them.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Mask, Pixels
from worker.images.measures import to_lab
from worker.images.mirror import coordinates

_CELL = 8
"""Least side in pixels of the cells whose mean colours are compared."""
_CELLS = 50
"""Cells along the shorter side of a large picture."""
_BESIDE = 6, 2
"""Cells to each side along the border, and cells into the picture, that a cell is compared with."""
_UNLIKE = 14.0
"""Least distance (CIELAB) of a cell of a foreign thing from every cell beside the border."""
_STRICT, _PER_VARIETY = 8.0, 1.5
"""The same for what marks a thing as foreign for certain: more where the border itself is varied."""
_SURE = 0.4
"""Share of a foreign thing's cells that must be so for certain."""
_SMALLEST = 6
"""Cells of the smallest thing that is looked at."""
_CLUTTER = 0.36
"""Share of unlike cells above which a side is a jumble of things, of which none stands out."""
_HALO = 2
"""Cells around a foreign thing that its soft edge and its shadow may cover."""
_LEAST_TEXTURE = 0.4
"""Least local deviation of a fill, of that in the surroundings: what has less is a blot."""
_AROUND = 24
"""Pixels around a fill that are its surroundings."""


def extend_by_reflection(picture: Pixels, left: int, right: int, top: int, bottom: int) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """``picture (H, W, 3)`` with that many more pixels on its sides, and where these show a thing that the border does not.

    The picture itself stands unchanged at (``left``, ``top``), and nothing of it is marked.
    """
    foreign = np.zeros(picture.shape[:2], np.uint8)
    # Rows first, then the columns of what came of it, so that the corners continue both.
    for before, after in ((left, right), (top, bottom)):
        start, start_foreign = _continued(picture, foreign, before)
        end, end_foreign = _continued(picture[:, ::-1], foreign[:, ::-1], after)
        picture = np.concatenate([start[:, ::-1], picture, end], axis=1).transpose(1, 0, 2)
        foreign = np.concatenate([start_foreign[:, ::-1], foreign, end_foreign], axis=1).T
    return np.ascontiguousarray(picture), np.asarray(foreign > 0)


def without_blots(fill: Pixels, hole: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """``hole (H, W)`` without those of its parts where ``fill (H, W, 3)`` is flat and its surroundings are not."""
    out = hole.copy()
    deviation = _deviation(fill)
    kernel = np.ones((2 * _AROUND + 1, 2 * _AROUND + 1), np.uint8)
    count, labels = cv2.connectedComponents(hole.astype(np.uint8), connectivity=8)
    for number in range(1, count):
        part = labels == number
        ring = (cv2.dilate(part.astype(np.uint8), kernel) > 0) & ~hole
        if ring.any() and np.median(deviation[part]) < _LEAST_TEXTURE * np.median(deviation[ring]):
            out[part] = False
    return out


def _continued(picture: Pixels, marked: Mask, count: int) -> tuple[Pixels, Mask]:
    """``count`` columns that continue ``picture`` to the left, the nearest first, and where they show ``marked`` or foreign things."""
    if count == 0:
        return picture[:, :0], marked[:, :0]
    picture = np.ascontiguousarray(picture)
    x, y = coordinates(picture, count)
    pixels = cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    foreign = cv2.remap(marked | _foreign(picture, count), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(pixels, dtype=np.uint8), np.asarray(foreign, dtype=np.uint8)


def _foreign(picture: Pixels, count: int) -> Mask:
    """``uint8 (H, W)``: 1 on things in the first ``count`` columns whose colours are not seen beside the left border near them."""
    height, width = picture.shape[:2]
    out = np.zeros((height, width), np.uint8)
    cell = max(_CELL, min(height, width) // _CELLS)
    # One column of cells more: a thing that begins there casts its edge into those before.
    rows, columns = height // cell, min(count + cell, width) // cell
    along, deep = _BESIDE
    if rows < along or columns <= deep:
        return out
    window = columns * cell
    cells = np.asarray(cv2.resize(to_lab(picture[:, :window]), (columns, rows), interpolation=cv2.INTER_AREA))
    near = np.clip(np.arange(rows)[:, None] + np.arange(-along, along + 1), 0, rows - 1)
    beside = cells[near][:, :, :deep].reshape(rows, -1, 3)
    variety = np.linalg.norm(beside - beside.mean(axis=1, keepdims=True), axis=2).mean(axis=1)
    distance = np.stack([np.linalg.norm(cells[:, column, None] - beside, axis=2).min(axis=1) for column in range(columns)], axis=1)
    unlike = cv2.morphologyEx((distance > _UNLIKE).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    if unlike.mean() > _CLUTTER:
        return out
    number, labels = cv2.connectedComponents(unlike, connectivity=8)
    area = np.bincount(labels.reshape(-1), minlength=number)
    sure = np.bincount(labels[distance > _STRICT + _PER_VARIETY * variety[:, None]], minlength=number)
    things = (area >= _SMALLEST) & (sure > _SURE * area)
    things[0] = False
    grown = cv2.dilate(things[labels].astype(np.uint8), np.ones((2 * _HALO + 1, 2 * _HALO + 1), np.uint8))
    out[:, :window] = cv2.resize(grown, (window, height), interpolation=cv2.INTER_NEAREST)
    return out


def _deviation(picture: Pixels) -> npt.NDArray[np.float32]:
    """``float32 (H, W)``: the standard deviation of the brightness in the 7 × 7 pixels around each."""
    grey = picture.mean(axis=2, dtype=np.float32)
    mean = cv2.blur(grey, (7, 7))
    return np.asarray(np.sqrt(np.maximum(cv2.blur(grey * grey, (7, 7)) - mean * mean, 0)))
