"""A membrane over a picture: what is known at some places, carried smoothly to all others."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]


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
