"""Where the border of an edit is, in pixels of the photo, and what its sides look like there."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from scripts.planted.scenes import Scene

Array = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]


@lru_cache(maxsize=8)
def depth(scene: Scene) -> Float:
    """How far into the edit each pixel lies, ``float32 (H, W)``; the frame's border is no edge; 0 outside."""
    edited = (scene.plan.edit.alpha > 0).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(edited, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def local_mean(values: Array, part: Bool, sigma: float) -> Float:
    """The mean of ``values (h, w, 3)`` over what of ``part (h, w)`` is near, around each pixel; far from it that of all of it."""
    if not part.any():
        return values.astype(np.float32)
    weight = part.astype(np.float32)
    weighted = values * weight[..., None]
    total = np.full(values.shape, 1e-3 * values[part].mean(axis=0), np.float32)
    seen = np.full(part.shape, 1e-3, np.float32)
    # Two box blurs of 2.5σ spread about as a Gaussian does, at a cost that does not grow with σ.
    for side, share in ((2.5 * sigma, 1.0), (7.5 * sigma, 0.1), (22.5 * sigma, 0.01)):
        kernel = (round(side) | 1,) * 2
        total += share * cv2.blur(cv2.blur(weighted, kernel), kernel)
        seen += share * cv2.blur(cv2.blur(weight, kernel), kernel)
    return np.asarray(total / seen[..., None], np.float32)


def coarsest(scene: Scene) -> float:
    """The most pixels of the photo to one of the model's."""
    return max(region.crop.box.width / region.crop.size[0] for regions in scene.plan.passes for region in regions)


def first_full(scene: Scene) -> float:
    """The depth from which the fill is nearly all that is seen."""
    edit = scene.plan.edit.alpha
    fades = (edit > 0) & (edit < 255)
    return float(max(1.0, np.floor(np.percentile(depth(scene)[fades], 95)))) if fades.any() else 1.0


def away(deep: Float) -> Float:
    """The distance from the edit of what is outside of it."""
    return np.asarray(cv2.distanceTransform((deep == 0).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
