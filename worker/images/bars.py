"""Bars of one colour along a picture's sides: letterboxes, pillar boxes and frames."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_Pixels = npt.NDArray[np.uint8]

_ALIKE, _OTHER = 8, 32
"""Levels that a bar's pixels are off its colour at most, and that those of the picture beside it are off at least."""
_MOST = 0.98
"""Share of a bar's pixels that are so alike: a file's compression leaves single ones that are not."""
_BESIDE = 0.7
"""Share of the picture beside a bar that is so unlike it."""
_EDGE = 16
"""Pixels within which a bar gives way to the picture: a block of a compressed file, colours at half size."""
_AT_ONCE = 64
"""Rows that are looked at together."""


@dataclass(frozen=True)
class Bars:
    """The pixels that are bars on each side; 0 where there is none."""

    left: int
    right: int
    top: int
    bottom: int


def bars(picture: _Pixels) -> Bars:
    """The bars of ``picture (H, W, 3)``. What ends without an edge is none: a plain ground."""
    left, right = _between(picture.transpose(1, 0, 2))
    top, bottom = _between(picture)
    return Bars(left, right, top, bottom)


def _between(picture: _Pixels) -> tuple[int, int]:
    """Rows of the bars at the top and at the bottom; none where no picture is left between them."""
    top, bottom = _bar(picture), _bar(picture[::-1])
    return (top, bottom) if top + bottom < len(picture) else (0, 0)


def _bar(picture: _Pixels) -> int:
    """Rows of the bar at the top of ``picture (H, W, 3)``."""
    colour = np.median(picture[0], axis=0)
    for first in range(0, len(picture), _AT_ONCE):
        shown = np.mean(_unlike(picture[first : first + _AT_ONCE], colour, _ALIKE), axis=1) > 1 - _MOST
        if shown.any():
            row = first + int(np.argmax(shown))
            other = _unlike(picture[row : row + _EDGE], colour, _OTHER)
            share = np.mean(other.any(axis=0))
            # Compression blurs the edge: the bar reaches to where most of the picture beside it begins.
            return row + int(np.argmax(other.mean(axis=1) > share / 2)) if row and share >= _BESIDE else 0
    return 0


def _unlike(rows: _Pixels, colour: npt.NDArray[np.float64], by: int) -> npt.NDArray[np.bool_]:
    """Where a channel of ``rows (h, W, 3)`` is more off the ``colour (3,)`` than so many levels."""
    return np.asarray(cv2.inRange(np.ascontiguousarray(rows), colour - by, colour + by) == 0)
