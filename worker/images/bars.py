"""Bars of one colour along a picture's sides: letterboxes, pillar boxes and frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_Pixels = npt.NDArray[np.uint8]

_ALIKE, _OTHER = 8, 32
"""Levels that a bar's pixels are off its colour at most, and that those of the picture beside it are off at least."""
_MOST = 98
"""Percent of a bar's pixels that are so alike: a file's compression leaves single ones that are not."""
_BESIDE = 0.7
"""Share of the picture beside a bar that is so unlike it."""
_EDGE = 16
"""Pixels within which a bar gives way to the picture: a block of a compressed file, colours at half size."""


@dataclass(frozen=True)
class Bars:
    """The pixels that are bars on each side; 0 where there is none."""

    left: int
    right: int
    top: int
    bottom: int


def bars(picture: _Pixels) -> Bars:
    """The bars of ``picture (H, W, 3)``. What ends without an edge is none: a plain ground."""
    upright = picture.transpose(1, 0, 2)
    left, right, top, bottom = (_bar(each) for each in (upright, upright[::-1], picture, picture[::-1]))
    return Bars(left, right, top, bottom)


def _bar(picture: _Pixels) -> int:
    """Rows of the bar at the top of ``picture (H, W, 3)``."""
    colour = np.median(picture[0], axis=0)
    for row, pixels in enumerate(picture):
        if np.percentile(_off(pixels, colour), _MOST) > _ALIKE:
            unlike = _off(picture[row : row + _EDGE], colour) > _OTHER
            share = np.mean(unlike.any(axis=0))
            # Compression blurs the edge: the bar reaches to where most of the picture beside it begins.
            return row + int(np.argmax(unlike.mean(axis=1) > share / 2)) if row and share >= _BESIDE else 0
    return 0


def _off(pixels: _Pixels, colour: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.abs(pixels - colour).max(axis=-1))
