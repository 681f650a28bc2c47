"""Continues a texture over a border with overlapping blocks of itself, each cut along the line where it differs least from what is there.

Image quilting (Efros and Freeman, "Image Quilting for Texture Synthesis and Transfer", SIGGRAPH 2001) with the seams of "Graphcut Textures"
(Kwatra et al., SIGGRAPH 2003). Blocks are matched on a reduced picture and copied at full size, so that a large picture costs little more and
stays as sharp as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_MATCHED = 24
"""Side in pixels of a block as it is matched: enough to tell one texture from another."""
_OVERLAP = 3
"""A block overlaps its neighbours by its side over this."""
_REACH = 0.3
"""How far along the border a block may come from, of its length, as long as there are blocks so near: light and ground change along it."""
_ASIDE = 1.0
"""Cost, in variances of the texture, of coming from as far along the border as ``_REACH``."""
_CHOICE = 6
"""Blocks that must be free so near: from fewer a pattern comes."""
_AGAIN = 3.0
"""Cost, in variances, of the same place a second time."""
_DEPTH = 4
"""Sides of a block from the border up to which blocks are looked for, or as far as is to be filled, if that is more."""
_SHADE = 2.0
"""Weight of the square of the difference in shade, in variances of the texture by mean squares of the texture."""
_JITTER = 0.1
"""Variances by which the choice is at random."""
_BLOCKS = 200
"""Blocks of the largest size that are laid at most, for the time that it takes: more is continued by larger ones."""
_STEP = 1.5
"""Sides of a block, by the pixels from one block to the next."""
_PLAIN = 0.4
"""Standard deviation of a texture, in levels, below which there is nothing to lay."""
_LEAST = 12
"""Side in pixels of the smallest block: smaller ones are no texture."""
_SOFT = 1.5, 1.0
"""Least sigma in pixels with which a seam is blended, and that of what is out of focus, by the size of its details."""
_FAINT = 0.15
"""How far a difference between blocks must be known about a place for it to be made up for there."""
_FORCED = 2
"""Pixels of a block's rim that must stay as they are, so that a seam runs between them and what is new."""


@dataclass(frozen=True, eq=False)
class Texture:
    """The texture to take blocks from, its border at the left."""

    pixels: _Float
    """``(H, W, 3)``, of mean 0."""
    shade: _Float
    """``(H, W, 3)``: the colours without texture at which each of its pixels was found."""
    usable: _Bool
    """``(H, W)``: what blocks may show."""


def quilt(beside: _Float, there: _Bool, shade: _Float, texture: Texture, block: int, seed: int) -> tuple[_Float, _Bool]:
    """``beside (H, N, 3)``, the columns left of ``texture``, with blocks of it where they are not ``there (H, N)``, and what is there then.

    Columns run as in the picture: the last one is the neighbour of the texture's first. A block is the better the nearer the ``shade`` at
    which it was found is to that where it comes, ``(H, N, 3)``. ``block`` is the side of a block in pixels; where none of that size is wholly
    usable smaller ones are taken, and where there is none at all, nothing.
    """
    known = texture.pixels[texture.usable]
    if there.all() or not known.size or float(known.std()) < _PLAIN:
        return beside, there
    block = max(block, math.ceil(_STEP * math.sqrt(there.size / _BLOCKS)))
    for side in (block, block // 2, block // 4):
        wanted = np.count_nonzero(~there) * (_STEP / side) ** 2
        if side >= _LEAST and 0 < wanted <= 2 * _BLOCKS:
            quilting = _Quilting(beside, there, shade, texture, side, seed)
            quilting.run()
            beside, there = quilting.result
    return beside, there


class _Quilting:
    """One go with blocks of one size."""

    def __init__(self, beside: _Float, there: _Bool, shade: _Float, texture: Texture, block: int, seed: int) -> None:
        self._shape = height, count = there.shape
        self._scale = max(1, round(block / _MATCHED))
        self._side = side = max(1, block // self._scale) * self._scale
        self._overlap = max(self._scale, side // _OVERLAP // self._scale * self._scale)
        self._random = np.random.default_rng(seed)
        width = min(texture.usable.shape[1], max(_DEPTH * side, count)) // self._scale * self._scale
        # Blocks are matched in whole cells, so all sides are filled up to such.
        down, self._count = -height % self._scale, count + -count % self._scale
        pixels, shades = (_filled(each[:, :width], down) for each in (texture.pixels, texture.shade))
        open_here = _filled(texture.usable[:, :width].astype(np.float32), down)
        self._canvas = _beside(pixels, beside, self._count, down)
        self._there = _beside(np.ones(pixels.shape[:2], np.float32), there.astype(np.float32), self._count, down) > 0
        self._fixed = np.zeros_like(self._there)
        self._fixed[:, self._count :] = True
        self._target = self._means(_beside(shades, shade, self._count, down))
        # What is mirrored is another source.
        self._sources = [pixels, pixels[:, ::-1].copy()]
        self._small = [self._shrunk(each) for each in self._sources]
        self._shades = [self._means(each) for each in (shades, shades[:, ::-1])]
        self._open = [_windows(self._shrunk(each) >= 1, side // self._scale) for each in (open_here, open_here[:, ::-1])]
        self._used = [np.zeros(each.shape, np.float32) for each in self._open]
        self._variance = 3 * float(np.square(texture.pixels[texture.usable]).mean()) + 1e-3

    @property
    def result(self) -> tuple[_Float, _Bool]:
        """The columns, and which of them are there."""
        rows, columns = slice(self._shape[0]), slice(self._count - self._shape[1], self._count)
        return self._canvas[rows, columns].copy(), self._there[rows, columns].copy()

    def run(self) -> None:
        """Lay blocks from the border outwards."""
        if not any(each.any() for each in self._open):
            return
        step = self._side - self._overlap
        rows = _starts(self._canvas.shape[0], self._side, step)
        shown = min(self._overlap, self._canvas.shape[1] - self._count)
        for left in reversed(_starts(self._count + shown, self._side, step)):
            for top in rows:
                window = slice(top, top + self._side), slice(left, left + self._side)
                if not self._there[window].all():
                    self._lay(window)

    def _lay(self, window: tuple[slice, slice]) -> None:
        there = self._there[window]
        number, row, column = self._best(window)
        rows, columns = (slice(at * self._scale, at * self._scale + self._side) for at in (row, column))
        block = self._sources[number][rows, columns]
        block = _met(block, self._canvas[window], there, self._overlap / 2)
        new = _seamed(self._canvas[window], there, self._fixed[window], block)[..., None]
        self._canvas[window] = self._canvas[window] * (1 - new) + block * new
        self._there[window] = True

    def _best(self, window: tuple[slice, slice]) -> tuple[int, int, int]:
        """Where the best block is: the number of its source, and its first row and column there, in cells."""
        known = self._shrunk(self._there[window].astype(np.float32)) >= 1
        wanted, weight = self._shrunk(self._canvas[window]), np.repeat(known[..., None], 3, axis=2).astype(np.float32)
        cells, at = self._side // self._scale, window[0].start // self._scale
        length = self._open[0].shape[0]
        near = max(1, round(_REACH * length))
        first, last = max(0, at - near), min(length, at + near + 1)
        if sum(np.count_nonzero(each[first:last]) for each in self._open) < _CHOICE * cells * cells:
            first, last = 0, length
        aside = self._variance * _ASIDE * np.square((np.arange(first, last) - at) / near)[:, None]
        best = (np.inf, 0, 0, 0)
        for number, (small, free, used) in enumerate(zip(self._small, self._open, self._used, strict=True)):
            cost = used[first:last] + aside + self._random.uniform(0, _JITTER * self._variance, used[first:last].shape)
            if known.any():
                found = cv2.matchTemplate(small[first : last + cells - 1], wanted, cv2.TM_SQDIFF, mask=weight)
                cost = cost + 3 * found / weight.sum()
            off = self._shades[number][first:last] - self._target[at, window[1].start // self._scale]
            cost = cost + _SHADE * np.square(off).sum(axis=2)
            cost = np.where(free[first:last], cost, np.inf)
            place = int(cost.argmin())
            best = min(best, (float(cost.flat[place]), number, first + place // cost.shape[1], place % cost.shape[1]))
        _, number, row, column = best
        self._note(number, row, column, cells)
        return number, row, column

    def _note(self, number: int, row: int, column: int, cells: int) -> None:
        """Make the place that was taken dearer, in both of the sources."""
        along, across = (
            np.exp(-np.square((np.arange(self._used[0].shape[axis]) - place) / (cells / 2))) for axis, place in enumerate((row, column))
        )
        price = _AGAIN * self._variance * along[:, None] * across
        self._used[number] += price
        self._used[1 - number] += price[:, ::-1]

    def _means(self, shade: _Float) -> _Float:
        """The mean shade of each block, by where it begins, in cells."""
        cells = self._side // self._scale
        return np.asarray(cv2.blur(self._shrunk(shade), (cells, cells), anchor=(0, 0)), np.float32)[
            : 1 - cells or None, : 1 - cells or None
        ]

    def _shrunk(self, values: _Float) -> _Float:
        size = values.shape[1] // self._scale, values.shape[0] // self._scale
        return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)


def _filled(values: _Float, down: int, out: int = 0) -> _Float:
    """``values (h, w[, c])`` with ``down`` more rows at the bottom and ``out`` more columns on the left."""
    return np.asarray(cv2.copyMakeBorder(values, 0, down, out, 0, cv2.BORDER_REFLECT), np.float32)


def _beside(source: _Float, values: _Float, count: int, down: int) -> _Float:
    """``values``, filled up to ``count`` columns, to the left of ``source``."""
    return np.concatenate([_filled(values, down, count - values.shape[1]), source], axis=1)


def _starts(length: int, side: int, step: int) -> list[int]:
    """Where blocks begin so that they cover ``length``."""
    starts = list(range(0, max(1, length - side + 1), step))
    return starts if starts[-1] + side >= length else [*starts, max(0, length - side)]


def _windows(usable: _Bool, cells: int) -> _Bool:
    """Where a block of ``cells`` may begin."""
    if min(usable.shape) < cells:
        return np.zeros((max(0, usable.shape[0] - cells + 1), max(0, usable.shape[1] - cells + 1)), np.bool_)
    total = cv2.integral((~usable).astype(np.uint8))
    return np.asarray(total[cells:, cells:] - total[:-cells, cells:] - total[cells:, :-cells] + total[:-cells, :-cells] == 0)


def _met(block: _Float, old: _Float, there: _Bool, sigma: float) -> _Float:
    """``block`` with what it is off the ``old`` beside it, without detail, taken back; further in ever less of that."""
    weight = cv2.GaussianBlur(there.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)[..., None]
    off = cv2.GaussianBlur((old - block) * there[..., None], (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(block + off / (weight + _FAINT), np.float32)


def _softness(block: _Float) -> float:
    """Sigma in pixels with which a seam in ``block`` can be blended without losing detail: more where it is out of focus."""
    steps = sum(float(np.square(np.diff(block, axis=axis)).mean()) for axis in (0, 1))
    details = float(block.var(axis=(0, 1)).mean() / max(steps, 1e-3)) ** 0.5
    return float(np.clip(_SOFT[1] * details, _SOFT[0], block.shape[0] / 8))


def _seamed(old: _Float, there: _Bool, fixed: _Bool, block: _Float) -> _Float:
    """How much of ``block`` is seen, 0 to 1 ``(h, w)``: all of it where nothing is there, none where that is ``fixed``, up to the least seam between."""
    if not there.any():
        return np.ones(there.shape, np.float32)
    forced = there.copy()
    forced[_FORCED:-_FORCED, _FORCED:-_FORCED] = False
    forced |= fixed
    before, after = there.astype(np.uint8) * 255, (~forced).astype(np.uint8) * 255
    finder: Any = cv2.detail.GraphCutSeamFinder("COST_COLOR")  # it takes arrays, though its stubs say otherwise
    cut = finder.find([old, np.ascontiguousarray(block)], [(0, 0), (0, 0)], [before, after])[1]
    mask = np.asarray(cut.get(), np.float32) / 255
    mask[~there] = 1
    soft = cv2.GaussianBlur(mask, (0, 0), _softness(block))
    soft[~there], soft[fixed] = 1, 0
    return np.asarray(soft, np.float32)
