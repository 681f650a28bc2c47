"""Proof that kept pixels are the customer's: two pictures of one size, compared where nothing was edited."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import EngineFailed
from api_schemas.jobs import Preserved

_STRIP = 64
"""Rows compared at a time."""

_Pixels = npt.NDArray[np.uint8]


def prove(before: _Pixels, after: _Pixels, alpha: npt.NDArray[np.uint8]) -> Preserved:
    """Compare ``after (H, W, 3)`` with ``before (H, W, 3)`` where ``alpha (H, W)`` is 0. Raises ``EngineFailed`` if a pixel there changed."""
    digest, largest, changed, count = hashlib.sha256(), 0, 0, 0
    for start in range(0, before.shape[0], _STRIP):
        rows = slice(start, start + _STRIP)
        was, now, keep = before[rows], np.ascontiguousarray(after[rows]), alpha[rows] == 0
        count += (here := int(np.count_nonzero(keep)))
        if here < keep.size:
            was, now = was[keep], now[keep]
        # Rows that are wholly kept, as most are, need not be picked apart; nor pixels that are equal, as all should be.
        digest.update(now.data)
        if not np.array_equal(was, now):
            delta = np.asarray(cv2.absdiff(was, now)).reshape(-1, 3).max(axis=1)
            largest, changed = max(largest, int(delta.max())), changed + int(np.count_nonzero(delta))
    if changed:
        raise EngineFailed(f"{changed} pixels outside the edit region changed; the result was withheld")
    return Preserved(max_delta=largest, changed_pixels=changed, kept_pixels=count, sha256=digest.hexdigest())
