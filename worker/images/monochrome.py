"""Photos without colours, which stay so where they are extended."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_APART, _SHARE = 8, 0.001
"""Levels between the channels of a pixel that JPEG makes of grey, and the share of pixels that may have more: a stain on a scan."""
_STRIP = 256
"""Rows looked at at a time."""


def is_grey(pixels: npt.NDArray[np.uint8]) -> bool:
    """Whether ``pixels (H, W, 3)`` show no colours."""
    coloured = 0
    for start in range(0, pixels.shape[0], _STRIP):
        red, green, blue = cv2.split(pixels[start : start + _STRIP])
        apart = np.maximum(np.maximum(cv2.absdiff(red, green), cv2.absdiff(green, blue)), cv2.absdiff(red, blue))
        coloured += int(np.count_nonzero(apart > _APART))
        if coloured > _SHARE * pixels.size / 3:
            return False
    return True


def in_grey(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``pixels (h, w, 3)`` without their colours: their luma."""
    luma = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB), np.uint8)
