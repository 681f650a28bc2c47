"""Harmonising by known error: a fill is corrected by how its painter rendered the pixels that are kept, and by nothing else.

A model repaints all of the picture that it is shown, the kept pixels too, and there the truth is known. The difference on them is the
model's error: a shift of colours all over (a decoder's tint, a gain, a gamma), and an error that varies slowly along the border. Both are
estimated and taken back inside. The difference *across* the border is no such error: a dark wall beside a light one may be the wish, so
nothing here looks at it, and a painter whose kept pixels are exact comes out as it painted, bit for bit.

1. **Cells.** Both pictures are averaged over cells of ``_CELL`` pixels: textures that moved a little are equal again.
2. **A shift of colours.** Twelve small changes are known of decoders: three offsets in CIELAB, and for each channel of sRGB an offset, a gain
   and a gamma. Their sizes are found by Bayesian linear regression (Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.3)
   under a Gaussian prior of what decoders do, so that what the cells cannot tell stays 0: a ring of one grey says nothing about a gain, and
   a teal fill in white surroundings is not moved by a guess. Cells where the model painted something else are outliers, and count ever less
   (iteratively reweighted least squares with the weights of Geman and McClure).
3. **A local field.** The rest on the cells beside the edit is carried inwards as far as it foretells itself: by its correlation over the
   same distance among kept cells. Noise foretells nothing and is left alone.

Half of the cells, in a checkerboard of blocks, is estimated from; the other half grades, and a shift that does not make the other half better is
not believed. The grade is thus no measure that was optimised. A model that painted something else over what is kept tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.measures import delta_e_2000, to_lab
from worker.images.membrane import membrane

_Pixels = npt.NDArray[np.uint8]
_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_CELL = 4
"""Pixels a side of the cells that are compared: half of a latent's, a texture's displacement."""
_REACH = 96
"""Pixels around the edit whose cells count: further off a model's error need not be the same."""
_LEAST = 24
"""Cells below which nothing is known."""
_BLOCK = 2
"""Cells a side of the checkerboard by which estimating and grading are kept apart."""
_PAIRS = ([0, 2], [1, 3]), ([0, 1], [2, 3]), ([0], [3]), ([1], [2])
"""Cells of a block beside each other, in a row, in a column and along either diagonal."""
_SAME = 1e-6
"""Units of CIELAB below which two colours are one."""
_PRIOR_LAB, _PRIOR_OFFSET, _PRIOR_CURVE = 8.0, 6.0, 0.08
"""Standard deviations of what decoders do: units of CIELAB, levels, and shares (gain and gamma)."""
_NOISE = 1.0
"""Levels by which such an average is off at least, whatever the fit: textures are never painted alike."""
_SMOOTH, _APART = 2.5, 32.0
"""Sigma in cells over which colours are averaged where a shift is estimated, and so the cells that say the same thing."""
_ROUNDS = 8
_PASSES = 2
"""The second takes what is not linear in the first."""
_MOST = 40.0
"""Levels that a correction changes at most: a model that is further off painted something else."""
_CONFIRMED = 0.8
"""Share of the error above which, left on cells that did not tell a shift, the shift is not believed."""
_ANOTHER = 8.0
"""ΔE2000 left on half of the kept cells from which a model did not render them wrongly but painted something else: nothing is known then."""
_ALONG = 2.0
"""Cells over which the local field is averaged."""
_LAGS = 12
"""Cells into the edit that the local field reaches at most, where it is that slow."""
_LEAST_WEIGHT = 0.01
"""Weight of the cells around a place below which the local field is not known there."""
_FALLS = 24.0
"""Pixels from the edit at which a cell counts half."""
_UNSEEN = 0.5
"""Levels of correction that nobody sees: below them the fill is returned as it came."""


@dataclass(frozen=True, eq=False)
class KnownError:
    """The findings on one fill."""

    fill: _Pixels
    """``uint8 (h, w, 3)``: as painted, or corrected."""
    painted: float | None = None
    """ΔE2000 by which the painter rendered kept pixels off, the median of 8-pixel squares, or what cells in them have in common where that is more;
    ``None`` where none was repainted or too few are kept."""
    left: float | None = None
    """The same with the shift taken back, on squares that it was not estimated from. The local field is not counted: inside it is known less."""


def correct(fill: _Pixels, shown: _Pixels, kept: _Bool) -> KnownError:
    """``fill`` without the error that it has on ``kept (h, w)`` pixels of ``shown``, the picture its painter saw.

    ``fill`` and ``shown`` are ``uint8 (h, w, 3)`` at the painter's own size. A fill that is ``shown`` on all kept pixels is returned itself.
    """
    if not kept.any() or kept.all() or np.array_equal(fill[kept], shown[kept]):
        return KnownError(fill)
    cells = _Cells.of(fill, shown, kept)
    if min(np.count_nonzero(cells.told), np.count_nonzero(cells.graded)) < _LEAST:
        return KnownError(fill)
    shift = _Shift.fitted(*cells.smooth(), cells.weight[cells.told])
    moved = shift.of(cells.painted)
    painted, left = (_difference(colours, cells.true, cells.graded) for colours in (cells.painted, moved))
    if painted is None or left is None:
        return KnownError(fill)
    if left > _CONFIRMED * painted:  # the other half does not say so
        shift, moved, left = _Shift(), cells.painted, painted
    if left > _ANOTHER:
        return KnownError(fill, painted, painted)
    field, known = _local_field(cells, moved)
    return KnownError(_added(shift, field, known, fill, kept), painted, left)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Mean colours of small squares of both pictures, ``(rows, columns, …)``."""

    painted: _Float
    true: _Float
    near: _Bool
    """Wholly kept, and near enough to the edit."""
    told: _Bool
    """The half of them from which is estimated."""
    weight: _Float
    """Less, the further from the edit."""

    @property
    def graded(self) -> _Bool:
        """The other half."""
        return self.near & ~self.told

    @classmethod
    def of(cls, fill: _Pixels, shown: _Pixels, kept: _Bool) -> _Cells:
        height, width = kept.shape
        short = -height % _CELL, -width % _CELL
        size = (width + short[1]) // _CELL, (height + short[0]) // _CELL
        edges = 0, short[0], 0, short[1]
        framed = (cv2.copyMakeBorder(each.astype(np.float32), *edges, cv2.BORDER_REPLICATE) for each in (fill, shown))
        painted, true = (np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA), np.float32) for each in framed)
        whole = cv2.copyMakeBorder(kept.astype(np.float32), *edges, cv2.BORDER_CONSTANT, value=0)
        wholly = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA) > 0.999)
        away = cv2.distanceTransform(wholly.astype(np.uint8), cv2.DIST_L2, 3) * _CELL
        near = wholly & (away <= _REACH)
        rows, columns = np.indices(near.shape) // _BLOCK
        return cls(painted, true, near, near & ((rows + columns) % 2 == 0), np.asarray(1 / (1 + away / _FALLS), np.float32))

    def smooth(self) -> tuple[_Float, _Float]:
        """Both pictures averaged around each cell that tells, ``(n, 3)``.

        A decoder's softness takes from light places and gives to dark ones, which finer cells would take for a gain.
        """
        told = self.told.astype(np.float32)
        weight = np.maximum(cv2.GaussianBlur(told, (0, 0), _SMOOTH), 1e-6)[..., None]
        means = (cv2.GaussianBlur(each * told[..., None], (0, 0), _SMOOTH) / weight for each in (self.painted, self.true))
        painted, true = (np.asarray(each[self.told], np.float32) for each in means)
        return painted, true


@dataclass(frozen=True, eq=False)
class _Shift:
    """Small changes of colour, one after another."""

    sizes: tuple[npt.NDArray[np.float64], ...] = ()

    @classmethod
    def fitted(cls, painted: _Float, true: _Float, weight: _Float) -> _Shift:
        """The changes that bring colours ``painted (n, 3)`` to ``true (n, 3)``, as far as these tell."""
        shift = cls()
        for _ in range(_PASSES):
            moved = shift.of(painted)
            shift = cls((*shift.sizes, _regression(_changes(moved), true - moved, weight)))
        return shift

    def of(self, colours: _Float) -> _Float:
        """``colours (…, 3)`` in levels, changed."""
        out = colours
        for sizes in self.sizes:
            moved = out + np.clip(_changes(out) @ sizes.astype(np.float32), -_MOST, _MOST)
            out = np.asarray(moved, np.float32)
        return out


def _changes(colours: _Float) -> _Float:
    """How each small change moves each channel of ``colours (…, 3)``: ``(…, 3, 12)``, in levels for one standard deviation of the change."""
    out = np.zeros((*colours.shape, 12), np.float32)
    inside = np.clip(colours, 4, 251)
    lab = to_lab(np.ascontiguousarray(inside.reshape(1, -1, 3)))
    # The way back is clipped to sRGB: each colour is stepped to where there is room.
    steps = np.where(lab > np.array([50, 0, 0], np.float32), np.float32(-1), np.float32(1))
    for axis in range(3):
        there = lab.copy()
        there[..., axis] += steps[..., axis]
        moved = np.asarray(cv2.cvtColor(there, cv2.COLOR_LAB2RGB), np.float32) * np.float32(255)
        slope = (moved - inside.reshape(1, -1, 3)) * steps[..., axis : axis + 1]
        out[..., axis] = (slope * np.float32(_PRIOR_LAB)).reshape(colours.shape)
    for channel in range(3):
        value = inside[..., channel]
        out[..., channel, 3 + channel] = _PRIOR_OFFSET
        out[..., channel, 6 + channel] = _PRIOR_CURVE * value
        out[..., channel, 9 + channel] = _PRIOR_CURVE * value * np.log(value / np.float32(255))
    return out


def _regression(changes: _Float, off: _Float, weight: _Float) -> npt.NDArray[np.float64]:
    """The sizes of ``changes (n, 3, 12)`` that explain ``off (n, 3)``, in standard deviations: the posterior's mean, ``(12,)``."""
    sizes = np.zeros(changes.shape[-1])
    for _ in range(_ROUNDS):
        rest = np.linalg.norm(off - changes @ sizes, axis=-1)
        scale = max(_NOISE, float(np.median(rest)))
        counts = weight / (1 + (rest / (2 * scale)) ** 2) ** 2
        scaled = changes * (counts / (_APART * scale**2))[:, None, None]
        precision = np.einsum("ncj,nck->jk", scaled, changes, dtype=np.float64) + np.eye(sizes.size)
        sizes = np.linalg.solve(precision, np.einsum("ncj,nc->j", scaled, off, dtype=np.float64))
    return sizes


def _local_field(cells: _Cells, moved: _Float) -> tuple[_Float, _Float]:
    """What ``moved (rows, columns, 3)`` is still off the truth around each cell, and how much of that is known at each distance from it.

    Simple kriging with the residuals' own correlogram (Cressie, "Statistics for Spatial Data", 1993): the second is their correlation over a
    distance of 1, 2, … cells, ``(_LAGS,)``. Noise has none, and an error that turns every few pixels is not carried far.
    """
    rest = cells.true - moved
    scale = 2 * max(_NOISE, float(np.median(np.linalg.norm(rest[cells.near], axis=-1))))
    counts = np.asarray(cells.near * cells.weight / (1 + (np.linalg.norm(rest, axis=-1) / scale) ** 2) ** 2, np.float32)
    known = counts * cells.told
    total, weight = (np.asarray(cv2.GaussianBlur(each, (0, 0), _ALONG), np.float32) for each in (rest * known[..., None], known))
    mean = total / np.maximum(weight, 1e-4)[..., None]
    there = (cells.near & (weight > _LEAST_WEIGHT)).astype(np.float32)
    return membrane(np.asarray(mean * there[..., None], np.float32), there), _correlogram(rest, known)


def _correlogram(rest: _Float, counts: _Float) -> _Float:
    """The correlation of ``rest (rows, columns, 3)`` with itself over 1 to ``_LAGS`` cells, falling, 0 to 1."""
    found = np.zeros(_LAGS, np.float32)
    for lag in range(1, _LAGS + 1):
        products, squares = 0.0, 1e-6
        for axis in (0, 1):
            first, second = np.moveaxis(rest, axis, 0)[:-lag], np.moveaxis(rest, axis, 0)[lag:]
            both = np.sqrt(np.moveaxis(counts, axis, 0)[:-lag] * np.moveaxis(counts, axis, 0)[lag:])[..., None]
            products += float((both * first * second).sum())
            squares += float((both * (np.square(first) + np.square(second))).sum()) / 2
        found[lag - 1] = min(max(0.0, products / squares), found[lag - 2] if lag > 1 else 1.0)
    return found


def _added(shift: _Shift, field: _Float, known: _Float, fill: _Pixels, kept: _Bool) -> _Pixels:
    """``fill`` with the shift taken back and as much of the field added as is known, or ``fill`` itself where nobody would see it."""
    height, width = kept.shape
    size = field.shape[1] * _CELL, field.shape[0] * _CELL
    carried = np.asarray(cv2.resize(field, size, interpolation=cv2.INTER_LINEAR), np.float32)[:height, :width]
    depth = cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, 5)
    before = fill.astype(np.float32)
    share = np.interp(depth, np.arange(1, _LAGS + 2) * _CELL, [*known, 0]).astype(np.float32)
    change = shift.of(before) - before + carried * share[..., None]
    change = np.clip(change, -_MOST, _MOST)
    if float(np.abs(change[~kept]).max()) < _UNSEEN:
        return fill
    return np.asarray(np.clip(np.rint(before + change), 0, 255), np.uint8)


def _difference(painted: _Float, true: _Float, graded: _Bool) -> float | None:
    """ΔE2000 between two pictures of cells in levels, in the median of the blocks that are wholly ``graded``; ``None`` where too few are.

    Blocks, because texture is never painted alike: on finer squares gravel that is rendered well is as far off as a wall rendered badly. What turns
    within a block averages out in it, as stripes do. So where it is more, what cells beside each other have in common counts: the root of the median
    product of their errors, in the direction in which they are most alike. Of texture, whose errors are as often unlike, that is less than the blocks'.
    """
    rows, columns = (side // _BLOCK for side in graded.shape)

    def blocks(values: _Float) -> _Float:
        """``(rows, columns, cells of a block, …)``."""
        cut = values[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK, -1)
        return np.asarray(cut.swapaxes(1, 2).reshape(rows, columns, _BLOCK**2, -1), np.float32)

    whole = blocks(graded.astype(np.float32)).all(axis=(2, 3))
    if np.count_nonzero(whole) < _LEAST // _BLOCK**2:
        return None
    cells = [blocks(each)[whole] for each in (painted, true)]
    squares = float(np.median(delta_e_2000(*(to_lab(np.clip(each.mean(axis=1, keepdims=True), 0, 255)) for each in cells))))
    first, second = (to_lab(np.clip(each, 0, 255)) for each in cells)
    apart = second - first
    off = apart * (delta_e_2000(first, second) / np.maximum(np.linalg.norm(apart, axis=-1), _SAME))[..., None]
    common = max(float(np.median((off[:, one] * off[:, other]).sum(axis=-1))) for one, other in _PAIRS)
    return max(squares, float(np.sqrt(max(0.0, common))))
