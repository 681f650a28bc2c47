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

from worker.images.border import Distances
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
        means = _Means.of(self.sums)
        starts = [start for start in _STARTS if outside or start >= 0]
        lines = [line for width in _WIDTHS for start in starts if (line := _line(means, start, width)) is not None]
        if not lines:
            return None
        worst = 0.0
        for line in lines:
            if line.most.max() > worst:  # the doubt, which only lessens it, costs as much again
                worst = max(worst, line.off())
        return worst


@dataclass(frozen=True, eq=False)
class _Means:
    """Mean colours of each place between two distances from the border."""

    before: _Sums
    """``(places, _BINS + 1, 4)``: the sums of all distances before each."""

    @classmethod
    def of(cls, sums: _Sums) -> _Means:
        return cls(np.pad(np.cumsum(sums, axis=1), ((0, 0), (1, 0), (0, 0))))

    def between(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """From the distance ``start`` up to ``stop``, ``(places, 3)``; NaN where a place has too few pixels."""
        first, last = (min(max(0, at + _REACH), _BINS) for at in (start, stop))
        total = self.before[:, last] - self.before[:, first]
        count = np.where(total[:, 3:] >= _LEAST, total[:, 3:], np.nan)
        return np.asarray(total[:, :3] / count)


def _line(means: _Means, start: int, width: int) -> _Line | None:
    """The pixels from ``start`` on against both sides; ``None`` where too few places show it."""
    middle = means.between(start, start + width)
    outer = means.between(start - _GAP - _SIDE, start - _GAP)
    inner = means.between(start + width + _GAP, start + width + _GAP + _SIDE)
    known = ~np.isnan(middle + outer + inner).any(axis=1)
    return _Line.of(np.stack([middle - outer, middle - inner], axis=1)[known]) if np.count_nonzero(known) >= _PLACES else None


@dataclass(frozen=True, eq=False)
class _Line:
    """How far a line is off its outer and its inner side at each place, ``(places, 2, 3)``."""

    off_sides: npt.NDArray[np.float64]
    medians: npt.NDArray[np.float64]
    """``(2, 3)``, over the places."""

    @classmethod
    def of(cls, off_sides: npt.NDArray[np.float64]) -> _Line:
        return cls(off_sides, np.asarray(np.median(off_sides, axis=0)))

    @property
    def most(self) -> npt.NDArray[np.float64]:
        """Levels of each channel by which it is off both sides to one side, without a doubt."""
        outer, inner = self.medians
        return np.where(outer * inner > 0, np.minimum(np.abs(outer), np.abs(inner)), 0)

    def off(self) -> float:
        """Levels by which it is off both sides to one side, less ``_DOUBT`` standard errors of a median, in the channel where it is most."""
        spread = 1.4826 * np.median(np.abs(self.off_sides - self.medians), axis=0)
        certain = np.maximum(0, np.abs(self.medians) - _DOUBT * 1.2533 * spread / np.sqrt(len(self.off_sides)))
        return float(np.where(self.most > 0, certain.min(axis=0), 0).max())


def _piece(
    pixels: _Pixels, alpha: _Mask, clear: npt.NDArray[np.bool_] | None, most: int, box: Box
) -> tuple[npt.NDArray[np.int64], _Sums, int] | None:
    """The numbers of the places of which ``box`` shows something, their sums, and how widely the edit fades there, pixels."""
    view = box.padded(_REACH + 1, alpha.shape)
    pasted = alpha[view.slices]
    edit = pasted >= (most + 1) // 2
    if edit.all() or not edit.any():
        return None
    border = Distances.of(edit)
    own = np.zeros_like(edit)
    own[box.top - view.top : box.bottom - view.top, box.left - view.left : box.right - view.left] = True
    chosen = own & (np.abs(border.signed) <= _REACH - 0.5)
    if clear is not None:
        chosen &= ~clear[view.slices]
    pixel = np.flatnonzero(chosen)
    if not pixel.size:
        return None
    rows, columns = border.places(pixel)
    tiles = (rows + view.top) // _TILE * (alpha.shape[1] // _TILE + 1) + (columns + view.left) // _TILE
    numbers, place = np.unique(tiles, return_inverse=True)
    cell = place * _BINS + _whole(border.signed.ravel()[pixel]) + _REACH
    values = pixels[view.slices][chosen]
    size = numbers.size * _BINS
    weights = (*values.T.astype(np.float64), np.ones(cell.size))
    sums = np.stack([np.bincount(cell, weight, size) for weight in weights], axis=1).astype(np.float64)
    faded = np.abs(_whole(border.signed[(pasted > 0) & (pasted < most)]))
    faded = faded[faded <= _RAMP]
    fade = int(np.percentile(faded, 95)) + 1 if faded.size else 0
    return numbers.astype(np.int64), sums.reshape(numbers.size, _BINS, 4), fade


def _whole(signed: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Distances from the border in whole pixels: those beside it are at 0 and -1."""
    return np.asarray(np.where(signed > 0, np.ceil(signed + 0.5) - 1, -np.ceil(0.5 - signed)), np.int64)
