"""Holds the colours of a fill to those of its surroundings, where a model painted the surroundings too and so shows its shift."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.blend import composite
from worker.images.measures import Border, from_lab, to_lab
from worker.images.membrane import membrane

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
    border = Border.of(alpha)
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
