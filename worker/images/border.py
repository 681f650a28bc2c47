"""How far pixels are from the border of an edit, and which place along it they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

_Bool = npt.NDArray[np.bool_]
_Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Distances:
    """How far the pixels of a picture are from the border of an edit."""

    edit: _Bool
    signed: npt.NDArray[np.float32]
    """``(H, W)``: negative outside; the pixels beside the border are half a pixel from it."""
    _leave: _Nearest
    _enter: _Nearest

    @classmethod
    def of(cls, edit: _Bool) -> Distances:
        """From the border of ``edit (H, W)``, which holds some of the pixels and not all."""
        leave, enter = _Nearest.of(edit), _Nearest.of(~edit)
        return cls(edit, np.where(edit, leave.distance - np.float32(0.5), np.float32(0.5) - enter.distance), leave, enter)

    def places(self, pixels: _Numbers) -> tuple[_Numbers, _Numbers]:
        """Row and column of the edit's pixel at the border that is nearest to each of ``pixels (n,)``, which are indexes of the flat picture.

        Pixels that face each other there have the same nearest one, on both sides, so that a place along the border has both wherever it lies.
        """
        beyond = np.where(self.edit.ravel()[pixels], self._leave.to(pixels), pixels)
        rows, columns = np.divmod(self._enter.to(beyond), self.edit.shape[1])
        return rows, columns


@dataclass(frozen=True, eq=False)
class _Nearest:
    """Of each pixel of a part the nearest one that is not of it."""

    distance: npt.NDArray[np.float32]
    _labels: npt.NDArray[np.int32]
    _pixels: _Numbers
    """The pixel with each label."""

    @classmethod
    def of(cls, part: _Bool) -> _Nearest:
        distance, found = cv2.distanceTransformWithLabels(part.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        labels, others = np.asarray(found, np.int32).ravel(), np.flatnonzero(~part)
        pixels = np.zeros(int(labels.max()) + 1, np.intp)
        pixels[labels[others]] = others
        return cls(np.asarray(distance, np.float32), labels, pixels)

    def to(self, pixels: _Numbers) -> _Numbers:
        """The nearest of ``pixels``; one that is not of the part is its own."""
        return self._pixels[self._labels[pixels]]
