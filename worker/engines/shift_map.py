"""A shift map: carries matches that were found on a small picture out at full size, where each cell of the hole copies a piece of the picture as it is.

A mean of many patches is smooth, and a small fill that is enlarged is soft. Here only *where from* is taken over from the small picture. The
hole is cut into cells, a cell copies with one offset, and from level to level the cells become finer and try the offsets of their neighbours,
small moves and each other's: what fits what is around it best stays. That is PatchMatch (Barnes et al., 2009) over the offsets of a shift map
(Pritch et al., 2009). Neighbours with one offset copy on without a seam; elsewhere two copies meet in a short cross-fade.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Pixels
from worker.engines.pyramid import Known, Matches, nearest, patch_centres
from worker.images.checkpoint import checkpoint

_Ints = npt.NDArray[np.int64]
_Float = npt.NDArray[np.float32]

_STRIDE = 4
"""Pixels of a level from cell to cell."""
_REACH = 4
"""Pixels on each side of a cell's middle that are compared; not below ``_STRIDE``, so that nothing is copied that was not compared."""
_SAMPLES = np.arange(-_REACH, _REACH + 1, 2)
"""Every other of them, in both directions: a quarter of the work."""
_ROUNDS = 4
"""At each level."""
_MOST_CELLS = 80_000
"""Above which a level is not matched any more and the cells of the coarser one are copied: it bounds time and memory, at some 1100 × 1100 px."""
_AGAIN = 0.25
"""How much worse a place counts for each other cell that copies it: the same stone twice side by side is seen."""
_SURER = 0.95
"""Times the difference that a move must come below: what a neighbour has is taken for less, so that pieces grow."""
_MOVES, _SWAPS, _FARTHEST = 6, 3, 3
"""Random moves that a round tries, offsets of random other cells, and pixels of the first round's moves."""
_SHARP = 2.0
"""Half of the way between two middles is cross-faded: a full fade would soften what is copied in small pieces."""
_ROWS = 256
"""Rows that are copied at a time."""


@dataclass(eq=False)
class _Cells:
    """The cells of one level: their middles are at the multiples of ``_STRIDE``."""

    rows: _Ints
    """``(n,)``: the middles' rows, in pixels of the level."""
    columns: _Ints
    offsets: _Ints
    """``(n, m, 2)``: by how many (rows, columns) what a cell copies lies from it."""
    active: Known
    """``(n, m)``: those that paint something."""

    @property
    def middles(self) -> _Ints:
        """``(n, m, 2)``: row and column of each."""
        return np.stack(np.meshgrid(self.rows, self.columns, indexing="ij"), axis=-1)


def quilt(image: Pixels, painted: Known, matches: Matches, halvings: int, seed: int) -> Pixels | None:
    """``image (H, W, 3)`` with copies of its own pixels where ``painted (H, W)``; ``None`` where so little is known that no cell fits into it.

    ``matches (h, w, 2)`` are the (x, y) of what each pixel of the ``halvings`` times halved picture is a copy of.
    """
    rng = np.random.default_rng(seed)
    levels = [(image, painted)]
    for _ in range(halvings):
        levels.append(halved(*levels[-1]))
    cells = _begun(levels[-1][1], matches)
    if cells is None:
        return None
    while True:
        pixels, unknown = levels.pop()
        if np.count_nonzero(cells.active) <= _MOST_CELLS:
            _Level(pixels, unknown, cells).match(rng)
        if not levels:
            return _copied(image, painted, cells, _SHARP)
        cells = _doubled(cells, levels[-1][1])


def halved(pixels: Pixels, unknown: Known) -> tuple[Pixels, Known]:
    """Half the size, an odd last row or column left out; unknown where any of the four pixels is."""
    height, width = (side // 2 * 2 for side in unknown.shape)
    parts = unknown[:height, :width].reshape(height // 2, 2, width // 2, 2)
    small = cv2.resize(pixels[:height, :width], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), np.asarray(parts.any(axis=(1, 3)), np.bool_)


def _begun(unknown: Known, matches: Matches) -> _Cells | None:
    """The cells of the coarsest level with the offsets of ``matches`` there, or the nearest that are known; ``None`` where none is."""
    free = patch_centres(unknown, _REACH)
    if not free.any():
        return None
    cells = _grid(unknown)
    most = np.array(unknown.shape) - 1
    inside = np.minimum(cells.middles, most)
    match = matches[inside[..., 0], inside[..., 1]][..., ::-1]
    wanted = np.clip(match + cells.middles - inside, 0, most)
    cells.offsets = nearest(free)[wanted[..., 0], wanted[..., 1]][..., ::-1] - cells.middles
    return cells


def _grid(unknown: Known) -> _Cells:
    """Cells without offsets over a level where ``unknown (H, W)`` is to be painted."""
    rows, columns = (np.arange(0, side + _STRIDE, _STRIDE) for side in unknown.shape)
    wide = np.pad(unknown.astype(np.uint8), ((0, 2 * _STRIDE), (0, 2 * _STRIDE)))
    near = cv2.dilate(wide, np.ones((2 * _STRIDE + 1, 2 * _STRIDE + 1), np.uint8))
    active = near[rows][:, columns] > 0
    return _Cells(rows, columns, np.zeros((*active.shape, 2), np.int64), active)


def _doubled(coarser: _Cells, unknown: Known) -> _Cells:
    """The cells of the level of twice the size, each with the offset of the cell that it is a part of: what was known there is known here."""
    cells = _grid(unknown)
    y, x = (np.minimum(np.arange(count) // 2, most - 1) for count, most in zip(cells.active.shape, coarser.active.shape, strict=True))
    cells.offsets = 2 * coarser.offsets[y][:, x]
    return cells


class _Level:
    """One level being matched. ``cells`` are changed in place."""

    def __init__(self, pixels: Pixels, unknown: Known, cells: _Cells) -> None:
        self._pixels, self._unknown, self._cells = np.ascontiguousarray(pixels), unknown, cells
        self._flat = self._pixels.reshape(-1, 3)
        self._free = patch_centres(unknown, _REACH)
        height, width = unknown.shape
        self._middles = cells.middles[cells.active]
        down, right = (each.reshape(-1) for each in np.meshgrid(_SAMPLES, _SAMPLES, indexing="ij"))
        self._around = down * width + right
        y, x = self._middles[:, :1] + down, self._middles[:, 1:] + right
        self._at = np.clip(y, 0, height - 1) * width + np.clip(x, 0, width - 1)
        self._seen = ((y >= 0) & (y < height) & (x >= 0) & (x < width)).astype(np.float32)

    def match(self, rng: np.random.Generator) -> None:
        """Better offsets for the active cells. Each round tries candidates against the copies that the last one left."""
        for number in range(_ROUNDS):
            checkpoint()
            self._round(number, rng)

    def _round(self, number: int, rng: np.random.Generator) -> None:
        cells = self._cells
        target = _copied(self._pixels, self._unknown, cells, 1.0).reshape(-1, 3)[self._at].astype(np.float32)
        places = self._middles + cells.offsets[cells.active]
        own = self._bins(places)
        used = np.bincount(own, minlength=self._free.size // _STRIDE + 1)

        def differences(places: _Ints) -> _Float:
            bins = self._bins(places)
            others = np.maximum(used[bins] - (bins == own), 0)
            return np.asarray(self._off(places, target) * (1 + _AGAIN * others.astype(np.float32)), np.float32)

        least = differences(places)
        for margin, offsets in _candidates(cells, number, rng):
            wanted, possible = self._possible(self._middles + offsets, places)
            found = differences(wanted)
            better = possible & (found < margin * least)
            places[better], least[better] = wanted[better], found[better]
            cells.offsets[cells.active] = places - self._middles

    def _possible(self, wanted: _Ints, places: _Ints) -> tuple[_Ints, npt.NDArray[np.bool_]]:
        """``wanted (n, 2)``, but ``places`` where that cannot be copied, and where it can."""
        inside = np.asarray(((wanted >= 0) & (wanted < self._free.shape)).all(axis=1), np.bool_)
        wanted = np.where(inside[:, None], wanted, places)
        possible = inside & self._free[wanted[:, 0], wanted[:, 1]]
        return np.where(possible[:, None], wanted, places), possible

    def _off(self, places: _Ints, target: _Float) -> _Float:
        """The squared difference of what is around ``places (n, 2)`` from ``target``, summed over the samples: exact, as all values are whole."""
        off = self._flat[(places[:, 0] * self._free.shape[1] + places[:, 1])[:, None] + self._around].astype(np.float32)
        off -= target
        return np.asarray(np.einsum("nsc,nsc,ns->n", off, off, self._seen), np.float32)

    def _bins(self, places: _Ints) -> _Ints:
        """The number of the square of ``_STRIDE`` pixels in which each of ``places (n, 2)`` is."""
        return np.asarray(places[:, 0] // _STRIDE * (self._free.shape[1] // _STRIDE + 1) + places[:, 1] // _STRIDE, np.int64)


def _candidates(cells: _Cells, number: int, rng: np.random.Generator) -> Iterator[tuple[float, _Ints]]:
    """Offsets ``(n, 2)`` to try for the active cells, with the share of the old difference that they must come below."""
    for reach in (2, 1):
        for step in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            yield 1.0, np.roll(cells.offsets, (reach * step[0], reach * step[1]), (0, 1))[cells.active]
    farthest = max(1, _FARTHEST >> number)
    for _ in range(_MOVES):
        now = cells.offsets[cells.active]
        yield _SURER, now + rng.integers(-farthest, farthest + 1, now.shape)
    for _ in range(_SWAPS):
        yield _SURER, rng.permutation(cells.offsets[cells.active])


def _copied(pixels: Pixels, unknown: Known, cells: _Cells, sharp: float) -> Pixels:
    """``pixels (H, W, 3)`` with what the cells copy where ``unknown (H, W)``, cross-faded over ``1 / sharp`` of the way between their middles."""
    out = pixels.copy()
    rows, columns = np.flatnonzero(unknown.any(axis=1)), np.flatnonzero(unknown.any(axis=0))
    x = np.arange(columns[0], columns[-1] + 1)
    for top in range(int(rows[0]), int(rows[-1]) + 1, _ROWS):
        y = np.arange(top, min(top + _ROWS, int(rows[-1]) + 1))
        total = np.zeros((y.size, x.size, 3), np.float32)
        for below in (0, 1):
            for beside in (0, 1):
                (i, down), (j, right) = _share(y, below, sharp), _share(x, beside, sharp)
                places = cells.offsets[i][:, j] + np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
                places = places.astype(np.float32)
                part = cv2.remap(pixels, places[..., 1], places[..., 0], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
                total += part * (down[:, None] * right)[..., None]
        window = slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)
        out[window] = np.where(unknown[window][..., None], np.rint(total), out[window]).astype(np.uint8)
    return out


def _share(places: _Ints, after: int, sharp: float) -> tuple[_Ints, _Float]:
    """The cell before each of ``places (n,)``, or that ``after`` it, and how much of it is seen there."""
    cell, along = places // _STRIDE, places % _STRIDE / _STRIDE
    weight = np.clip((along - 0.5) * sharp + 0.5, 0, 1).astype(np.float32)
    return cell + after, weight if after else 1 - weight
