"""A step along the border of an edit: by how much the fill is off, where the photo was to go on.

A photo's own variation hides a step, but most of it is foretold by the pixels beside: each is predicted from those above and to the left, as this
photo goes on, and only what is *new* in it counts. In what is new, which is small on a wall and large at an edge, the paste, predicted alike, is
looked for by generalised least squares (prewhitened): places that are calm tell most, whatever else lies along the border.

Each place (a tile of the border) has its own level and its own slope, which is the photo's. Their robust mean is reduced by what their spread leaves
in doubt: in gravel nobody sees a few levels, and on a wall everybody does.

An extension is joined to its photo side by side, so that one side may be off alone. A photo has such lines itself, and more so the shorter they are:
a side is read by itself where it is long, with less doubt left, and only what is more than photos have counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.border import Distances
from worker.images.mask import Box, bounding_box

_BESIDE = 10
"""Pixels on each side of where an edit fades that are looked at."""
_BEFORE = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
"""From which a pixel is predicted: rows above it and columns to its left."""
_EDGE = 2
"""Pixels at the frame that have none of these."""
_COLOURS = np.array([[1 / 3, 1 / 3, 1 / 3], [1 / 2, -1 / 2, 0], [1 / 4, 1 / 4, -1 / 2]], np.float32)
"""Lightness, red against green, and these against blue: a photo varies least in colours, so that a step in them is not hidden by its light."""
_TILE, _PIECE = 24, 512
"""Sides in pixels of a place and of what is looked at at once, which bounds memory."""
_LEAST, _PLACES = 24, 6
"""Pixels on each side of the border that a place must show, and places below which nothing is said."""
_NEAR = 9
"""Side in pixels of the square whose variation says how much a pixel tells."""
_QUIET = 0.5
"""Levels by which a pixel is new at least: a picture is rounded."""
_VARIES = 2.0
"""Levels by which a step varies from place to place, where black and white cut it or lossy files moved it: no calm place outvotes all others."""
_MOST, _MEANS = 1.345, 10
"""Spreads from the mean at which a place's weight begins to fall (Huber's), and how many times it is found again."""
_NOTHING = 1e-6
"""Added to sums that are divided by: a place that shows one side only has a step of 0, and it tells nothing."""
_DOUBT = 1.5
"""Standard errors that are taken off a finding. With it one of 171 borders of the photo's own content warns, and 5 of 350 steps of 8 levels or
more do not (22 photos, four ellipses and four extensions of each)."""
_SIDES, _LONG = 4, 8
"""Sides of a picture, and places from which one is read by itself."""
_DOUBT_OF_SIDE, _OWN = 3.0, 4.0
"""Standard errors that are taken off what one side shows, and levels that a photo has there itself. With them 4 more of 94 steps of extensions are found,
and of 88 extensions by the photo's own content none warns that did not."""

_Floats = npt.NDArray[np.float64]
_Values = npt.NDArray[np.floating[Any]]
_Pixels = npt.NDArray[np.uint8]
_Bool = npt.NDArray[np.bool_]


def step(
    pixels: _Pixels, alpha: npt.NDArray[np.uint8], fade: int, clear: _Bool | None = None, *, around: Box | None = None
) -> float | None:
    """Levels by which the fill of ``pixels (H, W, 3)`` is off all along the border of ``alpha (H, W)``; ``None`` where too little is known.

    ``alpha`` is how much of the fill is pasted, and fades within ``fade`` pixels on each side of the border. Pixels that are ``clear (H, W)`` are
    left out. The most of lightness and of opponent colours, of which a difference of two channels counts half. Of an extension ``around`` a
    picture that of one side, less ``_OWN``, where that is more.
    """
    box, most = bounding_box(alpha), int(alpha.max())
    if box is None:
        return None
    reach = fade + _BESIDE
    box, found = box.padded(reach, alpha.shape), []
    for top in range(box.top, box.bottom, _PIECE):
        for left in range(box.left, box.right, _PIECE):
            piece = Box(left, top, min(box.right, left + _PIECE), min(box.bottom, top + _PIECE))
            pixel = _Ring.of(pixels, alpha, most, clear, piece, reach, around)
            if pixel is not None:
                found.append(pixel.steps())
    if sum(len(steps) for steps, _, _ in found) < _PLACES:
        return None
    steps, variances, sides = (np.concatenate(each) for each in zip(*found, strict=True))
    value = _most(steps, variances, _DOUBT)
    for side in range(_SIDES):
        its = sides == side
        if around is not None and np.count_nonzero(its) >= _LONG:
            value = max(value, _most(steps[its], variances[its], _DOUBT_OF_SIDE) - _OWN)
    return value


@dataclass(frozen=True, eq=False)
class _Ring:
    """The ``n`` pixels near a part of a border."""

    colours: npt.NDArray[np.float32]
    """``(n, 1 + before, 3)``: of each pixel, and of those that it is predicted from."""
    pasted: npt.NDArray[np.float32]
    """``(n, 1 + before)``: how much of the fill is seen there."""
    signed: npt.NDArray[np.float32]
    """Distance from the border, negative outside of the edit."""
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    """The number of the pixel's tile."""
    places: int
    side: npt.NDArray[np.int64]
    """Of the picture that an extension is around, for each place: the one that it is at."""

    @classmethod
    def of(
        cls, pixels: _Pixels, alpha: npt.NDArray[np.uint8], most: int, clear: _Bool | None, piece: Box, reach: int, around: Box | None
    ) -> _Ring | None:
        """Those in ``piece`` within ``reach`` of the border; ``None`` where there are too few."""
        view = piece.padded(reach + _EDGE, alpha.shape)
        edit = alpha[view.slices] >= (most + 1) // 2
        if edit.all() or not edit.any():
            return None
        border = Distances.of(edit)
        near = np.abs(border.signed) <= reach
        top, left = max(piece.top, _EDGE) - view.top, max(piece.left, _EDGE) - view.left
        bottom, right = piece.bottom - view.top, min(piece.right, alpha.shape[1] - 1) - view.left
        own = np.zeros_like(near)
        own[top:bottom, left:right] = (near & ~_silent(pixels[view.slices], None if clear is None else clear[view.slices]))[
            top:bottom, left:right
        ]
        pixel = np.flatnonzero(own)
        if pixel.size < 2 * _LEAST:
            return None
        rows, columns = np.divmod(pixel, edit.shape[1])
        nearest = border.places(pixel)
        at_border = nearest[0] + view.top, nearest[1] + view.left
        tiles = at_border[0] // _TILE * (alpha.shape[1] // _TILE + 1) + at_border[1] // _TILE
        numbers, first, place = np.unique(tiles, return_index=True, return_inverse=True)
        side = np.zeros(numbers.size, np.int64) if around is None else _nearest_side(at_border[0][first], at_border[1][first], around)
        back = np.array([(0, 0), *_BEFORE])
        at = rows[:, None] - back[:, 0], columns[:, None] - back[:, 1]
        seen = (pixels[view.slices].astype(np.float32) @ _COLOURS.T)[at]
        pasted = alpha[view.slices][at].astype(np.float32) / np.float32(most)
        return cls(seen, pasted, border.signed[own], rows, columns, place, numbers.size, side)

    def steps(self) -> tuple[_Floats, _Floats, npt.NDArray[np.int64]]:
        """The step of each place that shows both sides, and its variance, in each of the ``_COLOURS``: ``(places, 3)``. And its side of the picture."""
        sides = [np.bincount(self.place, side, self.places) for side in (self.signed < 0, self.signed > 0)]
        known = np.minimum(*sides) >= _LEAST
        found = [self._of(np.ascontiguousarray(self.colours[..., number])) for number in range(len(_COLOURS))]
        steps, variances = (np.stack([each[kind][known] for each in found], axis=1) for kind in range(2))
        return steps, variances, self.side[known]

    def _of(self, values: _Values) -> tuple[_Floats, _Floats]:
        """The same in one colour, ``values (n, 1 + before)``, for all places."""
        weight: _Values = np.ones(len(values))
        steps = np.zeros(self.places)
        for again in (False, True):
            unlike = self._prediction(values - steps[self.place].astype(np.float32)[:, None] * self.pasted, weight.astype(np.float32))
            level = np.ones(len(values))
            slope = self._without(self.signed, level, weight)
            new, pasted = (self._without(self._without(each @ unlike, level, weight), slope, weight) for each in (values, self.pasted))
            known = self._sums(weight * pasted**2) + _NOTHING
            steps = self._sums(weight * pasted * new) / known
            if not again:
                weight = 1 / (self._around(np.square(new - steps[self.place] * pasted)) + _QUIET**2)
        return steps, 1 / known

    def _without(self, values: _Values, term: _Values, weight: _Values) -> _Floats:
        """``values (n,)`` less what ``term (n,)`` explains of them in each place."""
        return np.asarray(values - (self._sums(weight * values * term) / (self._sums(weight * term**2) + _NOTHING))[self.place] * term)

    def _prediction(self, values: _Values, weight: _Values) -> _Values:
        """What a pixel less its prediction is of itself and those before: 1, and the weights of least squares, negative, ``(1 + before,)``."""
        level = self._sums(weight * values[:, 0]) / np.maximum(self._sums(weight), 1e-9)
        about = values - level[self.place].astype(np.float32)[:, None]
        products = ((about * weight[:, None]).T @ about).astype(np.float64)
        before = products[1:, 1:] + (1e-4 * np.trace(products) / len(products) + 1e-6) * np.eye(len(_BEFORE))
        return np.concatenate([[1], -np.linalg.solve(before, products[1:, 0])]).astype(np.float32)

    def _sums(self, values: _Values) -> _Floats:
        """Of ``values (n,)`` in each place."""
        return np.bincount(self.place, values, self.places).astype(np.float64)

    def _around(self, values: _Values) -> _Values:
        """The mean of ``values (n,)`` near each pixel."""
        shape = int(self.rows.max()) + 1, int(self.columns.max()) + 1
        total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        total[self.rows, self.columns], count[self.rows, self.columns] = values, 1
        total, count = (np.asarray(cv2.blur(each, (_NEAR, _NEAR)), np.float32) for each in (total, count))
        return np.asarray(np.maximum(total, 0) / np.maximum(count, 1e-6))[self.rows, self.columns]


def _silent(pixels: _Pixels, clear: _Bool | None) -> _Bool:
    """Pixels that tell nothing: black or white as all around are, so that no step could show; or ``clear``, or beside such."""
    around = np.ones((3, 3), np.uint8)
    dark, light = (
        np.asarray(cv2.erode(part.astype(np.uint8), around) > 0) for part in (pixels.max(axis=2) <= 1, pixels.min(axis=2) >= 254)
    )
    return dark | light if clear is None else dark | light | (cv2.dilate(clear.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0)


def _nearest_side(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], box: Box) -> npt.NDArray[np.int64]:
    """Which side of ``box`` each place is at."""
    off = np.abs(np.stack([columns - box.left, columns - box.right, rows - box.top, rows - box.bottom]))
    return np.asarray(off.argmin(axis=0), np.int64)


def _most(steps: _Floats, variances: _Floats, doubt: float) -> float:
    """What is certain of ``steps (places, colours)``, in the colour that has most of it."""
    return max(_certain(*each, doubt) for each in zip(steps.T, variances.T, strict=True))


def _certain(steps: _Floats, variances: _Floats, doubt: float) -> float:
    """The size of the robust mean of ``steps (places,)``, by iteratively reweighted least squares, less ``doubt`` of the errors that their spread tells."""
    weight = 1 / (variances + _VARIES**2)
    order = np.argsort(steps)
    mean = float(steps[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)])
    for _ in range(_MEANS):
        off = (steps - mean) * np.sqrt(weight)
        spread = max(1e-3, 1.4826 * float(np.median(np.abs(off))))
        share = np.minimum(1, _MOST * spread / np.maximum(np.abs(off), 1e-9))
        mean = float(np.average(steps, weights=weight * share))
    error = np.sqrt(np.sum(weight * np.square(share * off))) / np.sum(weight[share == 1])
    return max(0.0, abs(mean) - doubt * float(error))
