"""The shade of a ground: its colours without texture, and how they go on beyond a border."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.membrane import membrane

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_NEAR = 0.2
"""Part of the way over which a slope is followed within which it is measured."""
_SLOPE_LEVELS = 20.0
"""Most that a shade goes on to change."""


def shade_of(colours: _Float, ground: _Bool, sigma: float) -> _Float:
    """``float32 (h, w, 3)``: ``colours (h, w, 3)`` of the ``ground (h, w)`` without what is smaller than ``sigma``, going on behind all else."""
    whole = colours if ground.all() else membrane(colours, ground.astype(np.float32))
    return _smoothed(np.where(ground[..., None], colours, whole).astype(np.float32), sigma)


def shade_beyond(shade: _Float, ground: _Bool, count: int, ease: float) -> _Float:
    """``float32 (h, count, 3)``: the ``shade (h, w, 3)`` left of its border, its slope levelling out over ``ease`` columns.

    It leaves the range of the ``ground (h, w)`` only as far as the border itself does.
    """
    deep = min(shade.shape[1] - 1, max(1, round(_NEAR * ease)))
    step = np.arange(count, 0, -1, dtype=np.float32)[None, :, None]
    slope = cv2.GaussianBlur(shade[:, :1] - shade[:, deep : deep + 1], (0, 0), max(1.0, ease / 3), borderType=cv2.BORDER_REPLICATE)
    slope = slope.reshape(-1, 1, 3) / max(1, deep)
    # A steep one levels out sooner, rather than to begin less steep: that would be a ridge along the border.
    reach = np.minimum(max(1.0, ease), _SLOPE_LEVELS / np.maximum(np.abs(slope).max(axis=2, keepdims=True), 1e-3))
    rise = slope * reach * (1 - np.exp(-step / reach))
    low, high = np.percentile(shade[ground], (0.5, 99.5), axis=0)
    room = np.where(rise > 0, np.maximum(high - shade[:, :1], 0), np.maximum(shade[:, :1] - low, 0))
    # All channels stop where the first does: else the colour would change.
    share = np.minimum(1, room / np.maximum(np.abs(rise), 1e-3)).min(axis=2, keepdims=True)
    return np.asarray(shade[:, :1] + share * rise, np.float32)


def _smoothed(colours: _Float, sigma: float) -> _Float:
    """``colours (h, w, 3)`` without detail: across the border local lines rather than means, whose slope does not level out at the border itself.

    A mean bends there, and what it is off would be shown beyond as a ridge. Local linear regression (Fan and Gijbels, 1996).
    """
    sigma = max(sigma, 0.5)
    reach = 2 * math.ceil(3 * sigma) + 1
    bell, distance = cv2.getGaussianKernel(reach, sigma), (np.arange(reach)[:, None] - reach // 2) / sigma
    along = np.asarray(cv2.filter2D(colours, -1, bell, borderType=cv2.BORDER_REPLICATE), np.float32)

    def moment(values: _Float, order: int) -> _Float:
        """The sum around each column, weighed by that power of the distance from it too; beyond the border there is nothing."""
        return np.asarray(cv2.filter2D(values, -1, (bell * distance**order).T, borderType=cv2.BORDER_CONSTANT), np.float32)

    share = np.ones((1, colours.shape[1], 1), np.float32)
    zeroth, first, second = (moment(share, order).reshape(share.shape) for order in (0, 1, 2))
    smooth = (second * moment(along, 0) - first * moment(along, 1)) / np.maximum(zeroth * second - first * first, 1e-6)
    return np.asarray(smooth, np.float32)
