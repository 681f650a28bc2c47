"""Holds the colours of a fill to those of its surroundings, where a model painted the surroundings too and so shows its shift."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.blend import composite
from worker.images.measures import Border, from_lab, to_lab
from worker.images.membrane import meet_surroundings, membrane

_WORK_PX = 4_000_000
"""Pixels of a window up to which its colours are worked on at full size. What is added to a fill is smooth, so that it can be found on less."""
_PIECE = 1024
_RING_PX = 24
_LEAST = 256
"""Pixels of the ring below which it tells nothing."""
_GAIN = 0.1
"""Most that a channel's spread is changed: a model that paints softer is not to be sharpened."""
_SHIFT = 15.0
"""Most, in units of CIELAB, that a mean is moved: beyond it the model painted something else there."""
_TOUCH_PX = 3
_EASE_PX = 16
_SHIFT_OF_A_SEAM = 10.0
"""ΔE2000 that show as much as a seam of e."""


def settle(
    fill: npt.NDArray[np.uint8], source: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_], alpha: npt.NDArray[np.uint8], *, meet: bool
) -> npt.NDArray[np.uint8]:
    """``fill`` with colours that sit in their surroundings: held to them, without a seam, and, if they are to ``meet``, met by a membrane.

    All of one window: ``fill`` and ``source`` ``uint8 (h, w, 3)``, ``kept`` and ``alpha``, how much of the fill is pasted, ``(h, w)``. In windows of
    more than ``_WORK_PX`` what is added is found on smaller ones, so that memory does not grow with it. A fill that sits well is returned itself.
    """
    if kept.size <= _WORK_PX:
        settled = close_seam(hold_colours(fill, source, kept), source, kept, alpha)
        return meet_surroundings(settled, source, kept, alpha) if meet else settled
    scale = (_WORK_PX / kept.size) ** 0.5
    size = max(1, int(kept.shape[1] * scale)), max(1, int(kept.shape[0] * scale))
    small, around, pasted = (np.asarray(cv2.resize(each, size, interpolation=cv2.INTER_AREA), np.uint8) for each in (fill, source, alpha))
    wholly = cv2.resize(kept.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) == 255
    settled = settle(small, around, wholly, pasted, meet=meet)
    return fill if settled is small else _added(fill, settled.astype(np.float32) - small)


def _added(fill: npt.NDArray[np.uint8], field: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``fill (h, w, 3)`` plus ``field``, a smaller picture of what is to be added."""
    out, (height, width) = np.empty_like(fill), fill.shape[:2]
    y, x = field.shape[0] / height, field.shape[1] / width
    for top in range(0, height, _PIECE):
        for left in range(0, width, _PIECE):
            part = slice(top, top + _PIECE), slice(left, left + _PIECE)
            rows, columns = fill[part].shape[:2]
            way = np.array([[x, 0, (left + 0.5) * x - 0.5], [0, y, (top + 0.5) * y - 0.5]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            added = cv2.warpAffine(field, way, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            out[part] = np.clip(np.rint(fill[part] + added), 0, 255)
    return out


def hold_colours(fill: npt.NDArray[np.uint8], source: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """``fill`` with mean and spread in CIELAB as on the ring of kept pixels around the edit, where both pictures show the same.

    All of one window: ``fill`` and ``source`` ``uint8 (h, w, 3)``, ``kept (h, w)``. A fill that is the source on the ring stays as it is.
    """
    ring = _ring(kept, _RING_PX)
    if np.count_nonzero(ring) < _LEAST or np.array_equal(fill[ring], source[ring]):
        return fill
    painted, true = to_lab(fill[ring][None])[0], to_lab(source[ring][None])[0]
    spread, wanted = painted.std(axis=0), true.std(axis=0)
    gain = np.clip(wanted / np.maximum(spread, 1e-3), 1 - _GAIN, 1 + _GAIN)
    gain = np.where(spread < 1, 1.0, gain)  # what is flat has no spread to match
    shift = np.clip(true.mean(axis=0) - painted.mean(axis=0), -_SHIFT, _SHIFT)
    lab = (to_lab(fill) - painted.mean(axis=0)) * gain + painted.mean(axis=0) + shift
    return from_lab(lab.astype(np.float32))


def close_seam(
    fill: npt.NDArray[np.uint8], source: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_], alpha: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """``fill``, or its Poisson blend with ``source``, or one that fades into the fill: what shows least once it is pasted by ``alpha (h, w)``.

    The blend keeps the fill's gradients and takes the source's values at the border (Pérez et al., "Poisson Image Editing", 2003): to the fill
    is added the difference at the border, carried inwards by a membrane. Where
    the fill does not go on with what ends at the border, that would smear; faded out over ``_EASE_PX`` it does not.
    """
    touch = _ring(kept, _TOUCH_PX)
    if np.count_nonzero(touch) < _LEAST // 4 or np.array_equal(fill[touch], source[touch]):
        return fill
    field = membrane((source.astype(np.float32) - fill) * touch[..., None], touch.astype(np.float32))
    depth = cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, 5)
    weights = (1.0, np.exp(-depth / np.float32(_EASE_PX))[..., None])
    blends = (np.asarray(np.clip(np.rint(fill + field * weight), 0, 255), np.uint8) for weight in weights)
    border = Border.of(alpha, ~kept)
    if border is None:
        return fill
    return min((fill, *blends), key=lambda candidate: _shows(border, composite(source, candidate, alpha)))


def _shows(border: Border, pasted: npt.NDArray[np.uint8]) -> float:
    """How much the edit's border is seen: 0 where it is not."""
    found, shift = border.seam(pasted), border.colour_shift(pasted)
    return (max(0.0, np.log(found)) if found else 0.0) + (shift or 0.0) / _SHIFT_OF_A_SEAM


def _ring(kept: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Kept pixels within ``reach`` of the edit."""
    side = 2 * reach + 1
    near = cv2.dilate((~kept).astype(np.uint8), np.ones((1, side), np.uint8))
    return np.asarray((cv2.dilate(near, np.ones((side, 1), np.uint8)) > 0) & kept)
