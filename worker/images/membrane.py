"""Where a fill meets its surroundings: what its colours are off them at the border is carried inwards by a membrane and taken back."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.blend import composite
from worker.images.measures import Border

_Float = npt.NDArray[np.float32]

_SCALES = ((4.0, 8.0, 40.0), (4.0, 8.0, 40.0), (3.0, 3.0, 60.0), (2.0, 2.0, 80.0), *((2.0, 1.5, 80.0),) * 3)
"""In turn: pixels on each side of the border that are compared, the sigma in pixels over which they are averaged, and how many levels, Euclidean
in sRGB, a place may be off more than the border as a whole: what is off further is where one thing ends and another begins."""
_LEAST = 32
"""Pixels of the border below which it tells nothing."""
_SHIFT = 1.0
"""ΔE2000 that photos have across any line by themselves."""


def meet_surroundings(
    fill: npt.NDArray[np.uint8], source: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_], alpha: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """``fill``, or, where its border shows, ``fill`` with a smooth field added by which its colours at the border are those of the photo outside.

    All of one window: ``fill`` and ``source`` ``uint8 (h, w, 3)``, ``kept`` and ``alpha``, how much of the fill is pasted, ``(h, w)``. Means along
    the border are compared, not pixels, so that texture stays and does not run inwards, ever more finely; what shows least is taken. A fill that
    measures as photos do is left alone.
    """
    border = Border.of(alpha, ~kept)
    if border is None:
        return fill
    best, least = fill, _shows(border, composite(source, fill, alpha))
    if least == 0:
        return fill
    met = fill.astype(np.float32)
    outside = source.astype(np.float32)
    inside, away, depth = (_distance(part) for part in (_pasted(alpha) & ~kept, kept, ~kept))
    trust = None
    for reach, sigma, limit in _SCALES:
        sides = ((outside, (away > 0) & (away <= reach)), (met, (inside > 0) & (inside <= reach)))
        field = _field(sides, (depth > 0) & (depth <= 1.5), sigma, limit)
        if field is None:
            break
        if trust is None:
            level = float(np.linalg.norm(np.median(field[(depth > 0) & (depth <= 1.5)], axis=0)))
            trust = min(1.0, limit / max(level, 1e-3)) ** 3  # a fill that is far off all around is something else, not a shift
        met = met + trust * field * (depth > 0)[..., None]
        answer = np.asarray(np.clip(np.rint(met), 0, 255), np.uint8)
        if (shown := _shows(border, composite(source, answer, alpha))) < least:
            best, least = answer, shown
    return best


def membrane(values: _Float, known: _Float) -> _Float:
    """``values (h, w, 3)`` where ``known (h, w)`` is 1, and what lies smoothly between elsewhere. ``values`` are 0 where they are not known.

    By push-pull over an image pyramid (Gortler et al., "The Lumigraph", 1996).
    """
    if min(known.shape) <= 2 or known.all():
        return values
    size = (known.shape[1] + 1) // 2, (known.shape[0] + 1) // 2
    total, weight = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in (values, known))
    there = weight > 0
    coarse = np.where(there[..., None], total / np.maximum(weight, 1e-6)[..., None], 0).astype(np.float32)
    filled = membrane(coarse, there.astype(np.float32))
    smooth = cv2.resize(filled, known.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(known[..., None] > 0, values, smooth), np.float32)


def _field(
    sides: tuple[tuple[_Float, npt.NDArray[np.bool_]], ...], line: npt.NDArray[np.bool_], sigma: float, limit: float
) -> _Float | None:
    """What the second of ``sides`` is off the first along ``line (h, w)``, and smoothly between: ``(h, w, 3)``; ``None`` where that is unknown."""
    (wanted, some), (found, others) = (_mean(values, ring.astype(np.float32), sigma) for values, ring in sides)
    sure = line & (some > 0.01) & (others > 0.01)
    if np.count_nonzero(sure) < _LEAST:
        return None
    off = (wanted - found)[sure]
    whole = np.median(off, axis=0)
    apart = off - whole
    # Redescending: the further off, the less of it counts.
    share = np.minimum(1, limit / np.maximum(np.linalg.norm(apart, axis=1), 1e-3)) ** 3
    off = whole + apart * share[:, None]
    values = np.zeros_like(wanted)
    values[sure] = off
    return membrane(values, sure.astype(np.float32))


def _mean(values: _Float, ring: _Float, sigma: float) -> tuple[_Float, _Float]:
    """The mean of ``values (h, w, 3)`` on ``ring (h, w)`` around each pixel, and how much of the ring was seen there."""
    weight = cv2.GaussianBlur(ring, (0, 0), sigma)
    total = cv2.GaussianBlur(values * ring[..., None], (0, 0), sigma)
    return np.asarray(total / np.maximum(weight, 1e-4)[..., None], np.float32), np.asarray(weight, np.float32)


def _pasted(alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the fill is what is mostly seen: what is under a feather says little about how it meets the photo."""
    return alpha >= max(1, int(alpha.max()) // 2)


def _distance(part: npt.NDArray[np.bool_]) -> _Float:
    return np.asarray(cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def _shows(border: Border, pasted: npt.NDArray[np.uint8]) -> float:
    """How much more the border is seen than lines in photos that nobody edited: 0 where it is not."""
    seam, shift = border.seam(pasted) or 1.0, border.colour_shift(pasted) or 0.0
    return max(0.0, float(np.log(seam))) + max(0.0, shift - _SHIFT) / 10
