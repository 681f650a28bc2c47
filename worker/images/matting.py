"""The edge of a matte, drawn anew by the colours on its two sides.

From coarse to fine, until the photo's own size: each level halves the distance by which the edge may be off, and looks at a narrow band around it and at
nothing else. In the band three witnesses are heard, each by the inverse of its variance:

- the colours of the sure subject and the sure background nearby. Fisher's linear discriminant (1936), scaled to be 1 at the mean of the one and 0
  at that of the other, is an opacity, with the squared Mahalanobis distance of the two as its precision (hair, glass, the pixel that an edge crosses);
  the quadratic discriminant tells sides that differ in texture more than in colour;
- the matte so far, which is all there is where both sides look alike;
- the neighbours: pixels of one colour have one opacity (Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting", 2006, draw
  it the same way, by a costlier model). The sum of squares is minimised by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from scipy import sparse

from worker.images.checkpoint import checkpoint

_Float = npt.NDArray[np.float32]
_Index = npt.NDArray[np.intp]
_Places = tuple[_Index, _Index]
_Bytes = npt.NDArray[np.uint8]

_FINEST = 4096
"""Longest side, pixels, at which an edge is drawn: in larger photos it is enlarged from there."""
_COARSEST = 1.6
"""Grain, pixels, at which the first level begins: a band of its size is narrow, and wide enough."""
_RADIUS = 2
"""Half the width, pixels of a level, of the band around what is soft."""
_SOFT = 0.04
"""Opacities nearer than this to 0 or 1 are taken for 0 or 1."""
_SAMPLES = 300
"""Longest side, in samples, of the grid from which colours are learnt: they vary slowly."""
_REACH = 12
"""How far, in pixels of a level (and at least ``_NEAR`` samples), colours are learnt from."""
_NEAR = 4
_FURTHER, _SHARE = 4, 0.03
"""How many times as far they are learnt from as well, and what those count: where a side is not seen nearby, they are all there is."""
_SEEN = 1e-4
"""Share of its surroundings that a side must have to be known at all."""
_NOISE = 2e-4
"""Variance, of colours 0..1, that is added to what is measured: two flat sides would otherwise be told apart by rounding."""
_PRECISION = 40.0
"""Most that one pixel's colour can tell: beyond it errors are the photo's (noise, JPEG), and neighbours share them."""
_CLASS_PRECISION = 10.0
"""Precision of a pixel that belongs to one side with certainty."""
_TEMPER = 0.5
"""Exponent of a likelihood: samples of a texture are not independent of each other."""
_PRIOR = 10.0
"""Precision of the matte so far where it is 0.5. Of the first matte's it grows as the variance of a coin falls: far from its edge it is believed."""
_FLOOR = 0.02
_EARLY = 0.2
"""What colours are worth at the first level: learnt from afar, they err in whole patches at once, and would bite pieces out of a thing of two colours."""
_CONFIDENT = 5.0
"""How many times more than that a finer level believes what the level before made 0 or 1."""
_SMOOTH = 3.0
"""Precision of "the same as the neighbour" for one of the same colour."""
_SAME = 0.06
"""Difference of colours, 0..1, at which that is worth e^-1/2 of it."""
_UNLIKE = 0.5
"""What it is worth still between unlike colours: noise must not make dots."""
_STEPS = 20
_GAIN = 1.3
"""Estimates nearer than 0.115 to 0 or 1 are texture, not opacity."""
_TRUSTED = 5.0
"""Precision of its colour at which half of a pixel's opacity is its own; the rest is a smooth contour, as sharp as ``_SLOPE`` a pixel."""
_SLOPE = 0.4
_SHARPEN = 4.0
_CONTOUR = 0.04
"""Slope, a pixel, below which something is soft all over (glass, shadow) and has no contour to sharpen."""

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""The entries of a symmetric 3×3 matrix, in the order in which six arrays hold them."""
_TOUCHING = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.7), (1, -1, 0.7))
"""Half of a pixel's eight neighbours (the others have it as theirs), and what each counts."""


class Matting(Protocol):
    """What draws the edge of a matte."""

    def __call__(self, colours: _Bytes | _Float, matte: _Float, grain: float) -> _Float:
        """The opacity ``float32 (H, W)``, 0..1, of what ``matte (h, w)``, 0..1 and of any size, shows in ``colours (H, W, 3)``.

        ``colours`` are ``uint8``, or ``float32`` of 0..1; ``grain`` is the accuracy of the matte in their pixels.
        """
        ...


def redraw_edge(colours: _Bytes | _Float, matte: _Float, grain: float) -> _Float:
    """The ``Matting`` that needs no weights: ``matte`` with its edge redrawn from ``colours``, at their full size.

    The time goes by the length of the edge and how wide it is soft, and little by the size. Away from the edge the matte becomes 0 or 1; where the two
    sides look alike, the edge stays where it was, a smooth line 2 to 3 pixels soft.
    """
    height, width = colours.shape[:2]
    scale = min(1.0, _FINEST / max(height, width))
    views = [_resized(colours, (max(1, round(height * scale)), max(1, round(width * scale))))]
    grain *= scale
    while grain > _COARSEST and min(views[-1].shape[:2]) > 1:
        views.append(_resized(views[-1], ((views[-1].shape[0] + 1) // 2, (views[-1].shape[1] + 1) // 2)))
        grain /= 2
    opacity: _Float = np.asarray(matte, np.float32)
    for left, view in zip(reversed(range(len(views))), reversed(views), strict=True):
        checkpoint()
        opacity = _redrawn(view, _resized(opacity, view.shape[:2]), first=left == len(views) - 1, last=left == 0)
    return _resized(opacity, (height, width))


def _redrawn(colours: _Bytes | _Float, matte: _Float, *, first: bool, last: bool) -> _Float:
    """``matte (H, W)`` with its edge redrawn at the size of ``colours (H, W, 3)``, as one level of several."""
    around = np.ones((3, 3), np.uint8)
    soft = (cv2.erode(matte, around) < 1 - _SOFT) & (cv2.dilate(matte, around) > _SOFT)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _RADIUS + 1, 2 * _RADIUS + 1))
    band = np.asarray(cv2.dilate(soft.astype(np.uint8), disc), np.uint8)
    inside = matte > 0.5
    out: _Float = inside.astype(np.float32)
    if not band.any():
        return out
    y, x = np.nonzero(cv2.dilate(band, around))  # the band, and the known pixels that touch it
    places = y, x
    is_open = band[places] > 0
    here = np.ascontiguousarray(_scaled(colours[places]).T)
    estimate, precision = _by_colour(here, *(_learnt(colours, side & (band == 0), places) for side in (inside, ~inside)))
    before = matte[places]
    belief = _PRIOR / (4 * before * (1 - before) + _FLOOR) if first else _PRIOR * (1 + _CONFIDENT * (2 * before - 1) ** 2)
    if first:
        precision = precision * np.float32(_EARLY)
    target = (precision * estimate + belief * before) / (precision + belief)
    opacity = _with_neighbours(here, places, band.shape, np.where(is_open, target, out[places]), np.where(is_open, precision + belief, 0))
    edge = places[0][is_open], places[1][is_open]
    out[edge] = np.clip((opacity - 0.5) * _GAIN + 0.5, 0, 1)
    return _with_a_contour(out, edge, precision[is_open]) if last else out


def _learnt(colours: _Bytes | _Float, side: npt.NDArray[np.bool_], places: _Places) -> tuple[_Float, _Float, _Float]:
    """Of the colours of ``side (H, W)`` around each of N ``places``: their share, mean ``(3, N)`` and covariance ``(6, N)``."""
    step = max(1, round(max(side.shape) / _SAMPLES))
    sampled = _scaled(colours[::step, ::step])
    moments = np.empty((*sampled.shape[:2], 10), np.float32)
    moments[..., 0] = side[::step, ::step]
    moments[..., 1:4] = sampled * moments[..., :1]
    for k, (i, j) in enumerate(_PAIRS):
        np.multiply(moments[..., 1 + i], sampled[..., j], out=moments[..., 4 + k])
    reach = max(_NEAR, round(_REACH / step))
    near = _around(moments, reach)
    sums = _at(near, places, step) + np.float32(_SHARE) * _at(_around(near[::reach, ::reach], _FURTHER), places, step * reach)
    share, mean, product = sums[0], *np.split(sums[1:] / np.maximum(sums[0], 1e-9), [3])
    covariance = np.stack([product[k] - mean[i] * mean[j] for k, (i, j) in enumerate(_PAIRS)])
    covariance[[0, 3, 5]] = np.maximum(covariance[[0, 3, 5]], 0) + np.float32(_NOISE)
    return share, mean, covariance


def _around(planes: _Float, radius: int) -> _Float:
    return np.asarray(cv2.blur(planes, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT), np.float32)


def _at(planes: _Float, places: _Places, step: int) -> _Float:
    """``planes (h, w, 10)``, a sample each ``step`` pixels, at N ``places``: ``(10, N)``, bilinear."""
    count, width = len(places[0]), 1024
    y, x = (np.resize(axis.astype(np.float32) / np.float32(step), (-(-count // width), width)) for axis in places)
    out = np.empty((10, y.size), np.float32)
    # Four at a time, all ten: with another number of channels OpenCV rounds weights otherwise, and a variance is a small difference.
    for first in (0, 4, 6):
        four = cv2.remap(np.ascontiguousarray(planes[..., first : first + 4]), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        out[first : first + 4] = four.reshape(-1, 4).T
    return out[:, :count]


def _by_colour(here: _Float, ones: tuple[_Float, _Float, _Float], zeros: tuple[_Float, _Float, _Float]) -> tuple[_Float, _Float]:
    """What the colours ``here (3, N)`` say, by what was learnt of the two sides: opacity ``(N,)``, and its precision (inverse variance)."""
    (share, one, spread), (other_share, zero, other_spread) = ones, zeros
    across = one - zero
    direction = _times(_inverse(np.float32(0.5) * (spread + other_spread))[0], across)
    distance = np.maximum(_dot(direction, across), 1e-6)
    mixed: _Float = np.clip(_dot(direction, here - zero) / distance, 0, 1)
    # A colour that no mixture has tells nothing of the mixture.
    off = here - zero - mixed * across
    strange = _dot(_times(_inverse(mixed * mixed * spread + (1 - mixed) * (1 - mixed) * other_spread)[0], off), off) / 3
    precision = np.minimum(distance / np.maximum(strange, 1), _PRECISION)
    (by_one, volume), (by_zero, other_volume) = _inverse(spread), _inverse(other_spread)
    from_one, from_zero = (_dot(_times(by, here - mean), here - mean) for by, mean in ((by_one, one), (by_zero, zero)))
    evidence = _TEMPER / 2 * (from_zero - from_one + np.log(other_volume / volume))
    kind = 1 / (1 + np.exp(-np.clip(evidence, -6, 6)))
    certain = _CLASS_PRECISION * (2 * kind - 1) ** 2 / np.maximum(np.minimum(from_one, from_zero) / 3, 1)
    total = precision + certain
    return (precision * mixed + certain * kind) / np.maximum(total, 1e-9), np.where((share > _SEEN) & (other_share > _SEEN), total, 0)


def _inverse(matrix: _Float) -> tuple[_Float, _Float]:
    """The inverse ``(6, N)`` of symmetric 3×3 matrices ``(6, N)``, and their determinants ``(N,)``."""
    a, b, c, d, e, f = matrix
    cofactors = np.stack([d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b])
    determinant: _Float = np.maximum(_dot(matrix[:3], cofactors[:3]), np.float32(1e-14))
    return np.asarray(cofactors / determinant, np.float32), determinant


def _times(matrix: _Float, vector: _Float) -> _Float:
    a, b, c, d, e, f = matrix
    return np.stack([_dot((a, b, c), vector), _dot((b, d, e), vector), _dot((c, e, f), vector)])


def _dot(one: Sequence[_Float] | _Float, other: _Float) -> _Float:
    return np.asarray(one[0] * other[0] + one[1] * other[1] + one[2] * other[2], np.float32)


def _with_neighbours(here: _Float, places: _Places, shape: tuple[int, ...], target: _Float, precision: _Float) -> _Float:
    """The opacities of those of ``places`` whose ``precision`` is above 0, drawn to their ``target`` and to their neighbours.

    The others are known: their ``target`` is what they are.
    """
    height, width = shape
    count, is_open = len(target), precision > 0
    number = np.full(shape, -1, np.int32)
    number[places] = np.arange(count, dtype=np.int32)
    ends: list[tuple[_Index, npt.NDArray[np.int32], _Float]] = []
    for down, right, weight in _TOUCHING:
        y, x = places[0] + down, places[1] + right
        one = np.nonzero((y < height) & (x >= 0) & (x < width))[0]
        other = number[y[one], x[one]]
        joined = (other >= 0) & (is_open[one] | is_open[other])
        one, other = one[joined], other[joined]
        unlike = ((here[:, one] - here[:, other]) ** 2).sum(axis=0)
        ends.append((one, other, weight * (_SMOOTH * np.exp(unlike * np.float32(-0.5 / _SAME**2)) + np.float32(_UNLIKE))))
    ones, others, weights = (np.concatenate(part) for part in zip(*ends, strict=True))
    half = sparse.csr_matrix((weights, (ones, others)), shape=(count, count))
    weight_of = (half + half.T)[is_open]
    diagonal = precision[is_open] + np.asarray(weight_of.sum(axis=1)).ravel()
    given = (precision * target)[is_open] + weight_of @ np.where(is_open, 0, target)
    between = weight_of[:, is_open]
    return _conjugate_gradients(diagonal, between, given, target[is_open])


def _conjugate_gradients(diagonal: _Float, between: sparse.csr_matrix, given: _Float, start: _Float) -> _Float:
    """The ``x`` near ``start`` that solves ``diagonal × x - between @ x = given``, by steps scaled by the diagonal (Jacobi)."""
    x = start.astype(np.float32)
    residual = given - (diagonal * x - between @ x)
    scaled = residual / diagonal
    step, size = scaled.copy(), float(residual @ scaled)
    for _ in range(_STEPS):
        if size < 1e-7 * len(x):
            break
        turned = diagonal * step - between @ step
        length = size / float(step @ turned)
        x += length * step
        residual -= length * turned
        scaled = residual / diagonal
        before, size = size, float(residual @ scaled)
        step = scaled + size / before * step
    return x


def _with_a_contour(matte: _Float, edge: _Places, precision: _Float) -> _Float:
    """``matte`` with a smooth and sharp line where its ``edge`` is, as far as the ``precision`` of the colours there leaves it open."""
    height, width = matte.shape
    own = precision / (precision + _TRUSTED)
    smooth = np.asarray(cv2.GaussianBlur(matte, (0, 0), 1.5), np.float32)
    out = matte.copy()
    out[edge] = own * matte[edge] + (1 - own) * smooth[edge]
    y, x = edge
    level = np.asarray(cv2.GaussianBlur(out, (5, 5), 1), np.float32)
    across = level[y, np.minimum(x + 1, width - 1)] - level[y, np.maximum(x - 1, 0)]
    down = level[np.minimum(y + 1, height - 1), x] - level[np.maximum(y - 1, 0), x]
    slope = np.hypot(across, down) / 2
    steeper = np.clip(_SLOPE / np.maximum(slope, 1e-6), 1, _SHARPEN) - 1
    out[edge] = np.clip((out[edge] - 0.5) * (1 + steeper * np.minimum(slope / _CONTOUR, 1) * (1 - own)) + 0.5, 0, 1)
    return out


def _scaled(colours: _Bytes | _Float) -> _Float:
    return colours.astype(np.float32) / np.float32(255) if colours.dtype == np.uint8 else np.asarray(colours, np.float32)


def _resized(planes: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if planes.shape[:2] == shape:
        return planes
    smaller = shape[0] <= planes.shape[0] and shape[1] <= planes.shape[1]
    return np.asarray(cv2.resize(planes, shape[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR), planes.dtype)
