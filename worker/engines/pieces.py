"""Puts together what a layout says: pieces of a picture that meet without a seam.

The pieces are joined in cells: of each the differences from cell to cell are kept, and the colours follow from those and from the border (Pérez
et al., "Poisson Image Editing", SIGGRAPH 2003). At full size the pieces bring their own detail, cut sharply where they meet, and what the
joining changed is added to their colours, which meet softly.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import splu

from worker.engines.base import Pixels
from worker.engines.layout import Layout, neighbours
from worker.images.checkpoint import checkpoint
from worker.images.mask import Box, bounding_box

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_PULL = 0.0005
"""How much a joined cell is held to its own colours, by how much to its neighbours: some forty cells on the border is forgotten."""
_EDGE = 10.0
"""Levels by which two pieces' steps from cell to cell differ at a seam where that is an edge of one of them rather than a matter of light."""
_LIGHT, _FIRM = 25.0, 0.1
"""Levels that a piece is off the border from where that is another thing rather than another light, and how much its cells are held to their own
colours there at most: some three cells on the border is forgotten."""
_NEAR, _ALONG, _STEEPER = 12, 8, 95
"""Cells beside the border that are held so, and of the photo in which edges are looked for, as many up and down; percent of these that are less steep."""
_STRONG = 20.0
"""Levels from cell to cell of an edge across which light is carried by half at most."""
_SOFT = 1.0
"""Sigma in cells with which the pieces' colours meet, and …"""
_STEEP = 2.0
"""… how many times as sharply as from cell to cell their details do."""
_MET, _EASED = 2, 4
"""Pixels on both sides of the border by which it is told how far they are apart, and cells over which that is eased out."""
_STRIP = 4
"""Cells beside the border by which a shift is told more finely."""
_PIXELS = 1 << 19
"""Pixels that are put together at once, which bounds memory."""


def cells(values: Pixels | _Float, cell: int) -> _Float:
    """``float32 (h, w[, c])``: the means of ``values (H, W[, c])`` over squares of ``cell`` pixels, the last ones filled up by reflection."""
    height, width = values.shape[:2]
    size = -(-width // cell), -(-height // cell)
    filled = cv2.copyMakeBorder(values, 0, size[1] * cell - height, 0, size[0] * cell - width, cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(filled, size, interpolation=cv2.INTER_AREA), np.float32)


class Source:
    """A picture to take pieces from, its border at the left."""

    def __init__(self, pixels: Pixels, means: _Float, shade: _Float, cell: int) -> None:
        self.pixels, self.means, self.texture, self.cell = np.ascontiguousarray(pixels), means, means - shade, cell

    def mirrored(self, usable: _Bool, shear: _Float) -> tuple[_Float, _Bool]:
        """What lies left of the border if the texture is reflected there, ``(h, n, 3)``, and where that is ``usable (h, w)``.

        ``shear (H, n × cell)`` is by how many pixels the rows of each column, the nearest first, are moved.
        """
        height, count = len(self.texture), shear.shape[1] // self.cell
        # The first column of pixels is the axis: it is not repeated, which would show as a flat line.
        step = ((np.arange(count, 0, -1, dtype=np.float32) - 0.5) * self.cell + 1) / self.cell - 0.5
        step = np.repeat(step[None, :], height, axis=0)
        moved = np.asarray(cv2.resize(shear, (count, height), interpolation=cv2.INTER_AREA), np.float32)[:, ::-1] / self.cell
        rows = np.arange(height, dtype=np.float32)[:, None] + moved
        there = cv2.remap(usable.astype(np.uint8), step, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT) > 0
        # Behind what is hidden a reflection does not begin again.
        there = np.minimum.accumulate(there[:, ::-1], axis=1)[:, ::-1] & (step < self.texture.shape[1])
        return np.asarray(cv2.remap(self.texture, step, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.float32), there

    def at(self, x: _Float, y: _Float, interpolation: int) -> tuple[_Float, _Float]:
        """The detail and the colours at these pixels."""
        pixels = cv2.remap(self.pixels, x, y, interpolation, borderMode=cv2.BORDER_REFLECT)
        return pixels - enlarged(self.means, x, y, self.cell), enlarged(self.texture, x, y, self.cell)

    def told(self, rows: npt.NDArray[np.int64], shift: tuple[int, int]) -> tuple[int, int]:
        """A ``shift`` of cells in pixels, by which the ``rows`` of cells at the border go on best."""
        cell, (height, width) = self.cell, self.pixels.shape[:2]
        down, across = shift[0] * cell, shift[1] * cell
        first, last = int(rows[0]) * cell, min((int(rows[-1]) + 1) * cell, height)
        first, last = max(first, cell - down, 0), min(last, height - cell - down)
        strip = min(_STRIP * cell, width - across - cell)
        if cell == 1 or last - first < cell or strip < cell:
            return down, across
        here = self.pixels[first:last, :strip].mean(axis=2, dtype=np.float32)
        there = self.pixels[first + down - cell : last + down + cell, across - cell : across + strip + cell].mean(axis=2, dtype=np.float32)
        off = np.asarray(cv2.matchTemplate(there, here, cv2.TM_SQDIFF))
        row, column = np.unravel_index(int(off.argmin()), off.shape)
        return down + int(row) - cell, across + int(column) - cell


def enlarged(values: _Float, x: _Float, y: _Float, cell: int) -> _Float:
    """``values (h, w[, c])`` of cells at pixels, in lines between the cells' middles."""
    return np.asarray(
        cv2.remap(values, (x + 0.5) / cell - 0.5, (y + 0.5) / cell - 0.5, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def assembled(layout: Layout, source: Source, drawn: Source, shear: _Float, beyond: _Float, met: _Bool, height: int, count: int) -> Pixels:
    """``uint8 (height, count, 3)``: what continues ``source`` to the left.

    ``drawn`` is what is drawn out, turned round, ``shear`` that of the reflection, ``beyond (h, n, 3)`` the shade; the pieces go on with the
    border's colours where it is ``met (h,)``.
    """
    joined = _joined(layout, source.texture, met)
    # Slopes add up, but nothing is lighter or darker than all that is there.
    change = np.clip(joined, layout.values.min(axis=(0, 1, 2)), layout.values.max(axis=(0, 1, 2))) - layout.shown
    pieces = [_Piece(layout, label, change, source, drawn, shear) for label in np.unique(layout.labels).tolist()]
    first, band = layout.labels.shape[1] * source.cell - count, max(source.cell, _PIXELS // count)
    out = np.empty((height, count, 3), np.uint8)
    for top in range(0, height, band):
        checkpoint()
        y, x = np.mgrid[top : min(height, top + band), first : first + count].astype(np.float32)
        detail, colour = np.zeros((2, *x.shape, 3), np.float32)
        sharp, soft = np.full((2, *x.shape, 1), 1e-3, np.float32)
        for piece in pieces:
            view = _within(piece.box, first, top, x.shape)
            if x[view].size:
                narrow, wide, fine, coarse = piece.at(x[view], y[view])
                detail[view] += narrow * fine
                colour[view] += wide * coarse
                sharp[view] += narrow
                soft[view] += wide
        out[top : top + len(y)] = np.clip(np.rint(enlarged(beyond, x, y, source.cell) + detail / sharp + colour / soft), 0, 255)
    _ease(out, source.pixels, np.repeat(met, source.cell)[:height], source.cell)
    return out


def _ease(out: Pixels, picture: Pixels, met: _Bool, cell: int) -> None:
    """Lead ``out (H, n, 3)`` to the border of ``picture (H, W, 3)`` where that is ``met (H,)``: cells say nothing of what lies within them."""
    here, beyond = (each.mean(axis=1, dtype=np.float32, keepdims=True) for each in (picture[:, :_MET], out[:, -_MET:]))
    known = met.astype(np.float32)[:, None, None]
    share = cv2.GaussianBlur(known, (0, 0), cell, borderType=cv2.BORDER_REPLICATE).reshape(-1, 1, 1)
    off = cv2.GaussianBlur((here - beyond) * known, (0, 0), cell, borderType=cv2.BORDER_REPLICATE).reshape(-1, 1, 3) / np.maximum(
        share, 1e-3
    )
    reach = min(out.shape[1], _EASED * cell)
    fade = np.exp(np.arange(1 - reach, 1, dtype=np.float32) / cell)[None, :, None]
    out[:, -reach:] = np.clip(np.rint(out[:, -reach:] + off * fade * known), 0, 255)


def _within(box: Box, left: int, top: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Indexes what a part of that ``shape`` (h, w), whose first pixel is at (``left``, ``top``), has of ``box``."""
    columns, rows = np.clip((box.left - left, box.right - left), 0, shape[1]), np.clip((box.top - top, box.bottom - top), 0, shape[0])
    return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


class _Piece:
    """All that one label shows. Columns are counted from the first that is laid out."""

    def __init__(self, layout: Layout, label: int, change: _Float, source: Source, drawn: Source, shear: _Float) -> None:
        self._cell, self._border = source.cell, layout.labels.shape[1] * source.cell
        self._mask = (layout.labels == label).astype(np.float32)
        self._wide = cv2.GaussianBlur(self._mask, (0, 0), _SOFT, borderType=cv2.BORDER_REPLICATE)
        # Beside its own cells its colours change as in the nearest of them.
        near = cv2.GaussianBlur(change * self._mask[..., None], (0, 0), _SOFT, borderType=cv2.BORDER_REPLICATE)
        self._change = np.where(self._mask[..., None] > 0, change, near / np.maximum(self._wide, 1e-3)[..., None]).astype(np.float32)
        box = bounding_box((self._wide > 0).astype(np.uint8))
        if box is None:
            raise ValueError("a label that is not shown")
        self.box = Box(*(self._cell * edge for edge in (box.left - 1, box.top - 1, box.right + 1, box.bottom + 1)))
        self._source = drawn if label == layout.drawn else source
        self._is_drawn, self._shear = label == layout.drawn, shear if label == layout.reflected else None
        self._shift = (0, 0)
        if label < layout.reflected:
            rows = np.flatnonzero(self._mask[:, -1])
            shift = layout.shifts[label]
            self._shift = source.told(rows, shift) if rows.size else (shift[0] * source.cell, shift[1] * source.cell)

    def at(self, x: _Float, y: _Float) -> tuple[_Float, _Float, _Float, _Float]:
        """At these pixels: how much of its detail and of its colours is seen, ``(h, w, 1)``, and both of them, ``(h, w, 3)``."""
        narrow = np.clip(_STEEP * (enlarged(self._mask, x, y, self._cell) - 0.5) + 0.5, 0, 1)
        fine, coarse = self._copied(x, y)
        return narrow[..., None], enlarged(self._wide, x, y, self._cell)[..., None], fine, coarse + enlarged(self._change, x, y, self._cell)

    def _copied(self, x: _Float, y: _Float) -> tuple[_Float, _Float]:
        if self._is_drawn:
            return self._source.at(self._border - 1 - x, y, cv2.INTER_NEAREST)
        if self._shear is None:
            return self._source.at(x - self._border + self._shift[1], y + self._shift[0], cv2.INTER_NEAREST)
        step = self._border - x
        moved = self._shear[y.astype(np.int64), step.astype(np.int64) - 1]
        return self._source.at(step, y + moved, cv2.INTER_CUBIC)


def _joined(layout: Layout, texture: _Float, met: _Bool) -> _Float:
    """``float32 (h, n, 3)``: the colours of least squares that differ from cell to cell as the pieces do, and go on from ``texture (h, w, 3)``."""
    (height, count), size = layout.labels.shape, layout.labels.size
    (one, other), labels = neighbours((height, count)), layout.labels.reshape(-1)
    values = layout.values.reshape(len(layout.values), size, 3)
    # Across a seam both pieces have a say; where one has an edge and the other none, neither. And light is not carried across strong edges.
    first, second = (values[labels[at], other] - values[labels[at], one] for at in (one, other))
    steps = (first + second) / 2
    trust = 1 / (1 + np.square((first - second) / _EDGE).sum(axis=1) + np.square(steps / _STRONG).sum(axis=1))
    pairs = np.arange(one.size)
    ends = np.concatenate([np.full(one.size, -1.0), np.ones(one.size)])
    difference = csr_matrix((ends, (np.tile(pairs, 2), np.concatenate([one, other]))), shape=(one.size, size))
    held, bound = np.full((height, count), _PULL), np.zeros((height, count))
    held[:, -_NEAR:] = _pull(np.linalg.norm(texture[:, 0] - layout.shown[:, -1], axis=1), _steepness(texture[:, :_NEAR]))[:, None]
    bound[met, -1] = 1
    aims = held.reshape(-1, 1) * layout.shown.reshape(size, 3) + bound.reshape(-1, 1) * np.repeat(texture[:, 0], count, axis=0)
    weighed = difference.T @ diags(trust)
    system = weighed @ difference + diags((bound + held).reshape(-1))
    found = splu(system.tocsc()).solve(np.asarray(weighed @ steps + aims, np.float64))
    return np.asarray(found.reshape(height, count, 3), np.float32)


def _pull(off: _Float, steepness: _Float) -> npt.NDArray[np.float64]:
    """How much the cells beside the border are held to their own colours, ``(h,)``, where they are ``off (h,)`` levels from the border's.

    Light is carried on, another thing's colours are not, but the way to them is no steeper than the edges are there.
    """
    other = _PULL * np.exp(np.minimum(np.square(off / _LIGHT), math.log(_FIRM / _PULL)))
    return np.asarray(np.maximum(np.minimum(other, np.square(steepness / np.maximum(off, 1.0))), _PULL), np.float64)


def _steepness(strip: _Float) -> _Float:
    """Levels from cell to cell of the steeper edges in each row of ``strip (h, w, 3)`` and those near it."""
    height, width = strip.shape[:2]
    steps = np.zeros((height, width), np.float32)
    steps[:, 1:] = np.linalg.norm(np.diff(strip, axis=1), axis=2)
    steps[1:] = np.maximum(steps[1:], np.linalg.norm(np.diff(strip, axis=0), axis=2))
    around = np.pad(steps, ((_ALONG, _ALONG), (0, 0)), mode="reflect" if height > _ALONG else "edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * _ALONG + 1, axis=0).reshape(height, -1)
    return np.asarray(np.percentile(windows, _STEEPER, axis=1), np.float32)
