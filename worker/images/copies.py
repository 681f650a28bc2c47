"""Finds second copies: parts of a picture that show its product once more, shifted, mirrored or a little larger or smaller.

The product, and windows of it, are laid over what was painted at every place, and compared there by what of them is seen: the frame and the photo may
hide the rest (masked registration in the Fourier domain, Padfield 2012; the squared difference in CIELAB). One counts as seen again where
it fits, and much better than it fits anywhere in the photo's own ground.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.checkpoint import checkpoint
from worker.images.mask import bounding_box
from worker.images.measures import to_lab

_Float = npt.NDArray[np.float32]
_Complex = npt.NDArray[np.complex64]
_Bool = npt.NDArray[np.bool_]

_PRODUCT_PX = 96
"""Longest side of the product as it is looked for."""
_MOST_PX = 40_000
"""Pixels of what is searched, at most, for the time that it takes: a very small product is looked for at less than that side."""
_SCALES = (1.0, 0.94, 1.06, 0.885, 1.13, 0.83, 1.2, 0.78, 1.27)
"""Steps of 6 %: a copy half of one off still fits."""
_PART, _PARTS = 0.45, 4
"""Side of a window, of the product's, and how many along each side: of a copy of the product parts may be painted over."""
_FINE = 40
"""Longest side in pixels of a product, as it is looked for, below which it is looked for as a whole: its windows are no patterns."""
_RIM = 2
"""Pixels around the product that belong to a window where the product itself is plain."""
_LEAST_PX = 90
"""Pixels below which what is seen is no part of anything."""
_LIVELY = 7.0
"""Least standard deviation (CIELAB) of what is seen: a plain thing fits any plain place."""
_HELD, _OUT = 0.5, 0.2
"""Share of a reduced pixel from which it belongs to a part of the picture, and of a window up to which it lies outside of one."""
_WHOLE_SEEN, _PART_SEEN = 0.25, 0.8
"""Share of the product, and of a window of it, that must lie in what was painted."""
_FITS = 0.72
"""Share of a window's variance that a place must explain to look like it."""
_ALMOST, _STEPS = 0.4, 4
"""Share from which it is worth to try sides of a pixel more or less (a fine pattern fits no copy that is one off), and how often that goes on."""
_BETTER = 0.5
"""Most that may be left unexplained there, of what the best place in the ground leaves."""


@dataclass(frozen=True, eq=False)
class _Pattern:
    """Something to look for."""

    lab: _Float
    """``(h, w, 3)``."""
    mask: _Float
    """``(h, w)``: 1 where it belongs to it, else 0."""
    seen: float
    """Least share of it that must be seen."""

    def neighbours(self) -> Iterator[_Pattern]:
        """Those with a side of a pixel more or less."""
        height, width = self.mask.shape
        for size in ((width + 1, height), (width - 1, height), (width, height + 1), (width, height - 1)):
            lab, mask = (np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_LINEAR), np.float32) for each in (self.lab, self.mask))
            yield _Pattern(lab, (mask > _HELD).astype(np.float32), self.seen)


def second_copy(picture: npt.NDArray[np.uint8], product: _Bool, new: _Bool) -> float:
    """How surely what is ``new (H, W)`` in ``picture (H, W, 3)`` shows a part of the ``product (H, W)`` again: 0, or 0.72 up to 1 for a perfect copy."""
    box = bounding_box(product.astype(np.uint8))
    regions = _regions(new)
    if box is None or not regions:
        return 0.0
    searched = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in regions)
    scale = min(1.0, _PRODUCT_PX / max(box.width, box.height), (_MOST_PX / searched) ** 0.5)
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    lab = np.asarray(to_lab(np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)), np.float32)
    held, painted = (np.asarray(cv2.resize(each.astype(np.float32), size, interpolation=cv2.INTER_AREA)) > _HELD for each in (product, new))
    rim = cv2.dilate(held.astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
    patterns = list(_patterns(lab, held, rim & ~painted))
    for region in _regions(painted):
        search = _Search(lab, painted, rim, region, patterns)
        for pattern in patterns:
            checkpoint()
            if found := search.found(pattern):
                return found
    return 0.0


def _regions(new: _Bool) -> list[tuple[slice, slice]]:
    """The boxes of the parts of what is ``new``."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(new.astype(np.uint8), connectivity=8)
    return [(slice(y, y + height), slice(x, x + width)) for x, y, width, height, _ in stats[1:].tolist()]


def _patterns(lab: _Float, held: _Bool, shown: _Bool) -> Iterator[_Pattern]:
    """The product in all sizes and mirrored, then its windows mirrored."""
    own = held & shown
    for window, scales, seen in _windows(held):
        mask = own[window] if _lively(lab[window][own[window]]) else shown[window]
        if not _lively(lab[window][mask]):
            continue
        for scale in scales:
            size = max(3, round(mask.shape[1] * scale)), max(3, round(mask.shape[0] * scale))
            scaled = np.asarray(cv2.resize(lab[window], size, interpolation=cv2.INTER_LINEAR), np.float32)
            weight = (np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)) > _HELD).astype(np.float32)
            for step_y in (1, -1):
                for step_x in (1, -1):
                    yield _Pattern(scaled[::step_y, ::step_x], weight[::step_y, ::step_x], seen)


def _windows(held: _Bool) -> Iterator[tuple[tuple[slice, slice], tuple[float, ...], float]]:
    """The product's box and overlapping windows of it, the sizes to look for them in, and what of them must be seen."""
    box = bounding_box(held.astype(np.uint8))
    if box is None:
        return
    around = box.padded(_RIM, held.shape)
    yield around.slices, _SCALES, _WHOLE_SEEN
    if max(box.width, box.height) < _FINE:
        return
    height, width = (max(4, round(_PART * side)) for side in (around.height, around.width))
    for y in np.linspace(around.top, max(around.top, around.bottom - height), _PARTS).astype(int).tolist():
        for x in np.linspace(around.left, max(around.left, around.right - width), _PARTS).astype(int).tolist():
            yield (slice(y, y + height), slice(x, x + width)), (1.0,), _PART_SEEN


def _lively(inside: _Float) -> bool:
    """Whether these colours ``(N, 3)`` are enough to know a window by."""
    return len(inside) >= _LEAST_PX and float(np.sqrt(inside.var(axis=0).sum())) >= _LIVELY


class _Search:
    """A search of one region of a picture for patterns."""

    def __init__(self, lab: _Float, painted: _Bool, product: _Bool, region: tuple[slice, slice], patterns: list[_Pattern]) -> None:
        self._lab, self._painted, self._product, self._region = lab, painted, product, region
        there = painted[region].astype(np.float32)
        # Around the mean squares are small, and their sums exact.
        self._middle = lab[region][there > 0].mean(axis=0)
        colours = (lab[region] - self._middle) * there[..., None]
        longest = (max((each.mask.shape[axis] for each in patterns), default=1) + _STEPS for axis in (0, 1))
        self._shape = tuple(cv2.getOptimalDFTSize(side + more) for side, more in zip(there.shape, longest, strict=True))
        self._there, self._squares, *self._colours = self._spectra([there, np.square(colours).sum(axis=2), *np.moveaxis(colours, 2, 0)])

    def found(self, pattern: _Pattern) -> float:
        """How well ``pattern`` fits where it fits best, if that is much better than in the ground; else 0."""
        best, place = self._best(pattern)
        for _ in range(_STEPS):
            if not _ALMOST < best <= _FITS:
                break
            tried = [(*self._best(other), other) for other in pattern.neighbours()]
            better = max(tried, key=lambda each: each[0])
            if better[0] <= best:
                break
            best, place, pattern = better
        return best if best > _FITS and 1 - best < _BETTER * self._usual(pattern, *place) else 0.0

    def _best(self, pattern: _Pattern) -> tuple[float, tuple[int, int]]:
        """How well ``pattern`` fits where it fits best, and where it begins there (modulo the shape)."""
        fit = self._fit(pattern)
        row, column = np.unravel_index(int(fit.argmax()), fit.shape)
        return float(fit[row, column]), (int(row), int(column))

    def _spectra(self, values: list[_Float]) -> list[_Complex]:
        return list(np.fft.rfft2(np.stack(values), self._shape, axes=(1, 2)).astype(np.complex64))

    def _sums(self, spectra: list[_Complex]) -> _Float:
        return np.asarray(np.fft.irfft2(np.stack(spectra), self._shape, axes=(1, 2)), np.float32)

    def _fit(self, pattern: _Pattern) -> _Float:
        """The share of variance that each place explains of what is seen of ``pattern`` there, by where it begins (modulo the shape)."""
        colours = (pattern.lab - self._middle) * pattern.mask[..., None]
        mask, squares, *own = (
            np.conj(each) for each in self._spectra([pattern.mask, np.square(colours).sum(axis=2), *np.moveaxis(colours, 2, 0)])
        )
        both = self._there * squares
        off = self._squares * mask + both - 2 * sum(each * there for each, there in zip(own, self._colours, strict=True))
        count, energy, off, *means = self._sums([self._there * mask, both, off, *(self._there * each for each in own)])
        variance = energy - np.square(means).sum(axis=0) / np.maximum(count, 1)
        known = (count >= max(_LEAST_PX, pattern.seen * float(pattern.mask.sum()))) & (variance >= _LIVELY**2 * count)
        return np.where(known, 1 - off / np.maximum(variance, 1e-3), 0)

    def _usual(self, pattern: _Pattern, row: int, column: int) -> float:
        """The least share of variance that the photo's ground leaves of what is seen of ``pattern`` where it begins at this place of the region."""
        rows, columns = self._region
        height, width = rows.stop - rows.start, columns.stop - columns.start
        top = rows.start + (row if row < height else row - self._shape[0])
        left = columns.start + (column if column < width else column - self._shape[1])
        high, wide = pattern.mask.shape
        window = slice(max(0, top), top + high), slice(max(0, left), left + wide)
        part = slice(max(0, -top), None), slice(max(0, -left), None)
        painted = self._painted[window]
        mask = pattern.mask[part][: painted.shape[0], : painted.shape[1]] * painted
        box = bounding_box(mask.astype(np.uint8))
        if box is None:
            return 0.0
        mask, colours = mask[box.slices], np.ascontiguousarray(pattern.lab[part][box.slices])
        off = cv2.matchTemplate(self._lab, colours, cv2.TM_SQDIFF, mask=np.repeat(mask[..., None], 3, axis=2))
        ground = np.logical_and(*(_mean(each.astype(np.float32), mask.shape) < _OUT for each in (self._painted, self._product)))
        return float(off[ground].min()) / (mask.sum() * float(colours[mask > 0].var(axis=0).sum())) if ground.any() else 1.0


def _mean(values: _Float, area: tuple[int, ...]) -> _Float:
    """The mean of each window of ``area``, by where it begins."""
    total = cv2.integral(values)
    height, width = area
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return np.asarray(sums / (height * width), np.float32)
