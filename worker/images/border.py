"""How far pixels are from the border of an edit, and which place along it they belong to."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]
_Numbers = npt.NDArray[np.int64]


def beside(edit: npt.NDArray[np.bool_]) -> tuple[_Floats, _Numbers, _Numbers]:
    """For each pixel its distance from the border of ``edit (H, W)``, and the row and column of the edit's pixel at the border that is nearest.

    Distances are negative outside; the pixels beside the border are half a pixel from it. Pixels that face each other there have the same nearest
    one, on both sides, so that a place along the border has both wherever it lies.
    """
    depth, within = _nearest(edit)
    away, beyond = _nearest(~edit)
    facing = tuple(each[within] for each in beyond)
    rows, columns = (np.where(edit, one, other) for one, other in zip(facing, beyond, strict=True))
    return np.where(edit, depth - np.float32(0.5), np.float32(0.5) - away), rows, columns


def _nearest(part: npt.NDArray[np.bool_]) -> tuple[_Floats, tuple[_Numbers, _Numbers]]:
    """For each pixel of ``part`` its distance from the nearest other one, and that one's row and column."""
    distance, labels = cv2.distanceTransformWithLabels(part.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    rows, columns = np.nonzero(~part)
    places = np.zeros((2, int(labels.max()) + 1), np.int64)
    places[:, labels[rows, columns]] = rows, columns
    return np.asarray(distance, np.float32), (places[0][labels], places[1][labels])
