"""The profile of an edit's border: mean colours by distance from it, place by place along it.

From a profile is read a fault that new content does not have. A **rim** is lighter or darker than *both* sides, the photo further out and the
fill further in, at the same distance all along the border: a line of the old background, a halo, a contour that a blend left.

Places are tiles of the border: a thing that ends at it moves some of them, and their median little. Findings are reduced by one standard
error of that median: in gravel nobody sees eight levels, and on a wall everybody does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.images.border import beside
from worker.images.mask import Box, bounding_box

_REACH = 28
"""Pixels on each side of the border that are looked at."""
_TILE = 24
"""Side in pixels of a place: at each distance it holds some two dozen pixels."""
_LEAST = 8
"""Pixels of a tile at one distance below which it is not asked."""
_PLACES = 6
"""Tiles below which nothing is said."""
_WIDTHS = (2, 3, 4, 6, 9)
"""Widths in pixels of the rims that are looked for; a wider one is a thing of its own."""
_STARTS = range(-6, 7)
"""Distances in pixels from the border, negative outside, at which a rim may begin."""
_SIDE = 4
"""Pixels on each side of a rim that it is compared with."""
_GAP = 1
"""Pixels between these and the rim, where its edge is soft."""
_PIECE = 512
_RAMP, _WIDEST = 64, 9
"""Pixels: of a soft edge that are looked at, and the widest fade on each side of a border that still is a line to the eye."""


_BINS = 2 * _REACH
_DOUBT = 1.0
"""Standard errors that are taken off a finding."""

_Pixels = npt.NDArray[np.uint8]
_Mask = npt.NDArray[np.uint8]
_Sums = npt.NDArray[np.float64]
"""``(places, _BINS, 4)``: three channels and a count."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Sums of colours at each whole distance from the border, for each place along it."""

    sums: _Sums
    fade: int
    """Pixels on each side of the border within which neither side is seen alone."""

    @classmethod
    def of(cls, pixels: _Pixels, alpha: _Mask, clear: npt.NDArray[np.bool_] | None = None) -> Profile | None:
        """The profile of ``pixels (H, W, 3)`` along the border of ``alpha (H, W)``, how much of the fill is pasted.

        The border is where half of the fill is seen. Pixels that are ``clear (H, W)`` are left out. ``None`` without a border, and where the
        edit fades so widely that it has none.
        """
        box, most = bounding_box(alpha), int(alpha.max())
        if box is None:
            return None
        box, found, fade = box.padded(_REACH, alpha.shape), [], 0
        for top in range(box.top, box.bottom, _PIECE):
            for left in range(box.left, box.right, _PIECE):
                piece = Box(left, top, min(box.right, left + _PIECE), min(box.bottom, top + _PIECE))
                part = _piece(pixels, alpha, clear, most, piece)
                if part is not None:
                    found.append(part[:2])
                    fade = max(fade, part[2])
        if not found or fade > _WIDEST:
            return None
        numbers, place = np.unique(np.concatenate([each[0] for each in found]), return_inverse=True)
        sums = np.zeros((numbers.size, _BINS, 4))
        np.add.at(sums, place, np.concatenate([each[1] for each in found]))
        return cls(sums, fade)

    def rim(self, *, outside: bool = True) -> float | None:
        """Levels by which a line along the border is off both of its sides, in the channel where it is most; ``None`` where too little is known.

        A line that is lighter in some places and darker in others is not told from the picture's own. ``outside`` of the edit, too: the remains of
        a thing that the mask did not cover; not so where the border is a product's own contour, which may be one.
        """
        starts = [start for start in _STARTS if outside or start >= 0]
        lines = [line for width in _WIDTHS for start in starts if (line := self._line(start, width)) is not None]
        return max((line.off() for line in lines), default=None)

    def _line(self, start: int, width: int) -> _Line | None:
        """The pixels from ``start`` on against both sides; ``None`` where too few places show it."""
        middle = self._mean(start, start + width)
        outer = self._mean(start - _GAP - _SIDE, start - _GAP)
        inner = self._mean(start + width + _GAP, start + width + _GAP + _SIDE)
        known = ~np.isnan(middle + outer + inner).any(axis=1)
        return _Line((middle - outer)[known], (middle - inner)[known]) if np.count_nonzero(known) >= _PLACES else None

    def _mean(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """The mean colour of each place at distances ``start`` up to ``stop``, ``(places, 3)``; NaN where it has too few pixels."""
        total = self.sums[:, max(0, start + _REACH) : max(0, stop + _REACH)].sum(axis=1)
        count = np.where(total[:, 3:] >= _LEAST, total[:, 3:], np.nan)
        return np.asarray(total[:, :3] / count)


@dataclass(frozen=True, eq=False)
class _Line:
    """How far a line is off its two sides at each place, ``(places, 3)``."""

    outer: npt.NDArray[np.float64]
    inner: npt.NDArray[np.float64]

    def off(self) -> float:
        """Levels by which it is off both sides to one side, in the channel where it is most."""
        same = np.median(self.outer, axis=0) * np.median(self.inner, axis=0) > 0
        return float(np.where(same, np.minimum(_certain(self.outer), _certain(self.inner)), 0).max())


def _certain(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The medians of ``values (places, channels)``, absolute, less ``_DOUBT`` standard errors of a median."""
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    return np.asarray(np.maximum(0, np.abs(middle) - _DOUBT * 1.2533 * spread / np.sqrt(len(values))), np.float64)


def _piece(
    pixels: _Pixels, alpha: _Mask, clear: npt.NDArray[np.bool_] | None, most: int, box: Box
) -> tuple[npt.NDArray[np.int64], _Sums, int] | None:
    """The numbers of the places of which ``box`` shows something, their sums, and how widely the edit fades there, pixels."""
    view = box.padded(_REACH + 1, alpha.shape)
    pasted = alpha[view.slices]
    edit = pasted >= (most + 1) // 2
    if edit.all() or not edit.any():
        return None
    distance, rows, columns = beside(edit)
    # The pixels beside the border are at 0 and -1.
    signed = np.where(edit, np.ceil(distance + 0.5) - 1, -np.ceil(0.5 - distance)).astype(np.int64)
    fades = (pasted > 0) & (pasted < most) & (np.abs(signed) <= _RAMP)
    own = np.zeros_like(edit)
    own[box.top - view.top : box.bottom - view.top, box.left - view.left : box.right - view.left] = True
    chosen = own & (signed >= -_REACH) & (signed < _REACH)
    if clear is not None:
        chosen &= ~clear[view.slices]
    if not chosen.any():
        return None
    tiles = (rows[chosen] + view.top) // _TILE * (alpha.shape[1] // _TILE + 1) + (columns[chosen] + view.left) // _TILE
    numbers, place = np.unique(tiles, return_inverse=True)
    cell = place * _BINS + signed[chosen] + _REACH
    values = pixels[view.slices][chosen]
    size = numbers.size * _BINS
    weights = (*values.T.astype(np.float64), np.ones(cell.size))
    sums = np.stack([np.bincount(cell, weight, size) for weight in weights], axis=1).astype(np.float64)
    fade = int(np.percentile(np.abs(signed[fades]), 95)) + 1 if fades.any() else 0
    return numbers.astype(np.int64), sums.reshape(numbers.size, _BINS, 4), fade
