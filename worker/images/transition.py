"""Joins what a model painted around a picture to the picture: no line at the old border, no colours that jump there.

A model's extension is right in its middle and wrong at the line: it need not go on with what ends there. So beside the line the picture is
continued by reflection, and fades into what was painted, whose colours are led from the picture's to the model's own. An extension that meets
the picture as photos go on by themselves is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.continuity import Continuity
from worker.images.fade import alike, carried, faded, smoothstep
from worker.images.mask import Box
from worker.images.mirror import mirrored

_SHARE, _LEAST, _MOST = 0.06, 12, 96
"""Of the picture's shorter side, and least and most pixels, over which its continuation fades into what was painted. More shows things a
second time, upside down; less is a line again."""
_TURN = 0.3
"""Of the picture's shorter side: the least way over which colours are led, however thin the extension, so that they do not turn at once."""
_LOOK = 3
"""How many times the fade of a picture is looked at to continue it."""
_BESIDE = 6
"""Part of a fade whose colours are those of the border."""
_PIECE = 256
"""Columns that are changed at a time, which bounds memory."""
_CELLS = 8
"""Cells in a fade, for what is smooth."""

_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Side:
    """One side of an extension, turned so that the border is at column 0 of both: views into the canvas."""

    inner: _Pixels
    """``(h, v, 3)``: the picture, from the border inwards."""
    outer: _Pixels
    """``(h, w, 3)``: what was painted, from the border outwards."""


def join(canvas: _Pixels, known: Box) -> tuple[Continuity, ...]:
    """How ``canvas (H, W, 3)`` goes on with what stands in ``known``, on each side; where it does not, it is changed outside so that it does."""
    shorter = min(known.width, known.height)
    reach, turn = int(np.clip(round(_SHARE * shorter), _LEAST, _MOST)), round(_TURN * shorter)
    found = []
    for side in _sides(canvas, known):
        found.append(Continuity.of(side.inner, side.outer))
        if not found[-1].is_natural:
            _join(side, reach, turn)
    return tuple(found)


def _sides(canvas: _Pixels, known: Box) -> Iterator[_Side]:
    """Rows first, then whole columns, so that the corners go on with both."""
    for view, left, right, rows in (
        (canvas, known.left, known.right, slice(known.top, known.bottom)),
        (canvas.transpose(1, 0, 2), known.top, known.bottom, slice(None)),
    ):
        for inner, outer in ((view[rows, left:right], view[rows, :left][:, ::-1]), (view[rows, left:right][:, ::-1], view[rows, right:])):
            if outer.size:
                yield _Side(inner, outer)


def _join(side: _Side, reach: int, turn: int) -> None:
    depth = side.outer.shape[1]
    reach = min(reach, depth)
    continued = mirrored(np.ascontiguousarray(side.inner[:, : _LOOK * reach]), reach).astype(np.float32)
    beside = max(2, reach // _BESIDE)
    # What stands near the border, and not at it, is not shown again.
    at = (np.arange(reach, dtype=np.float32) + np.float32(0.5)) / np.float32(reach)
    share = (1 - smoothstep(at))[None, :, None] * alike(continued, beside, reach)
    field = _led(continued[:, :beside].mean(axis=1), side.outer, max(turn, depth), reach)
    height, scale = side.outer.shape[0], np.divide(field.shape[:2], side.outer.shape[:2])
    for start in range(0, depth, _PIECE):
        part = side.outer[:, start : start + _PIECE]
        way = np.array([[scale[1], 0, (start + 0.5) * scale[1] - 0.5], [0, scale[0], 0.5 * scale[0] - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = part + cv2.warpAffine(field, way, (part.shape[1], height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        if start < reach:
            there = slice(0, reach - start)
            moved[:, there] = faded(continued[:, start:], moved[:, there], share[:, start:])
        part[:] = np.clip(np.rint(moved), 0, 255)


def _led(colours: npt.NDArray[np.float32], outer: _Pixels, length: int, reach: int) -> npt.NDArray[np.float32]:
    """What is added to ``outer (h, w, 3)`` so that its smooth colours are ``colours (h, 3)`` at the border and its own from ``length`` on.

    A smaller picture: nothing in it is finer than ``reach / 2`` pixels.
    """
    cell = max(1, reach // _CELLS)
    size = max(1, outer.shape[1] // cell), max(1, outer.shape[0] // cell)
    small = cv2.resize(np.ascontiguousarray(outer), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), reach / 2 / cell, borderType=cv2.BORDER_REFLECT)
    along = np.asarray(cv2.resize(colours[:, None], (1, size[1]), interpolation=cv2.INTER_AREA)[:, 0], np.float32)
    steps = np.arange(size[0])
    share = 1 - smoothstep((steps * cell / length).astype(np.float32))[None, :, None]
    return np.asarray(share * (carried(along, steps, reach / 2 / cell) - smooth), np.float32)
