"""How much of what continues a photo could stand in that photo: of every small patch beyond its border, how far off is the most alike of its own."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.mask import Box

_Pixels = npt.NDArray[np.uint8]
_Float = npt.NDArray[np.float32]

_CELLS = 96
"""Least cells of the photo's shorter side, where it has as many pixels."""
_SIDE = 5
"""Cells of a patch's side."""
_LIGHT = 0.25
"""How much a difference of two patches' mean colours counts, by how much their other differences do: light may change."""
_LOOKED, _KNOWN = 1500, 16000
"""Patches beyond a border that are looked for, and patches of the photo among which that is done, at most."""
_AT_ONCE = 500
_SHORT = 0.15
"""Share of the photo's shorter side up to which less is seen of an extension."""
_VARIED, _FAR, _JUMBLED = 8.0, 3.5, 12.0
"""Levels above which a background did not go on as it is, beyond more than such a share; the same times the share that was added; and beyond any
share. Set by looking at 52 extensions of 26 photos."""


def incoherence(picture: _Pixels, known: Box) -> dict[str, float]:
    """Of each side on which ``picture (H, W, 3)`` goes on with what is ``known``: the mean difference in levels, 0 for a photo that repeats itself.

    The coherence of Simakov et al. ("Summarizing Visual Data Using Bidirectional Similarity", CVPR 2008).
    """
    height, width = picture.shape[:2]
    cell = max(1, min(known.width, known.height) // _CELLS)
    if min(known.width, known.height) < _SIDE * cell:
        return {}
    random = np.random.default_rng(0)
    own = _patches(_cells(picture[known.slices], cell))
    own = own[random.permutation(len(own))[:_KNOWN]]
    # Each strip with what lies beside it in the photo, so that patches across the border are among those looked at.
    beside = (_SIDE - 1) * cell
    strips = {
        "left": (known.left, picture[known.top : known.bottom, : known.left + beside]),
        "right": (width - known.right, picture[known.top : known.bottom, known.right - beside :]),
        "top": (known.top, picture[: known.top + beside]),
        "bottom": (height - known.bottom, picture[known.bottom - beside :]),
    }
    found = {}
    for side, (count, strip) in strips.items():
        if count >= cell:
            patches = _patches(_cells(strip, cell))
            found[side] = _mean_off(patches[random.permutation(len(patches))[:_LOOKED]], own)
    return found


def doubts(picture: _Pixels, known: Box) -> tuple[str, ...]:
    """Reasons to doubt that ``picture (H, W, 3)`` goes on with what is ``known`` as a photo would; none if it does."""
    counts = {"left": known.left, "right": picture.shape[1] - known.right, "top": known.top, "bottom": picture.shape[0] - known.bottom}
    found = []
    for side, off in incoherence(picture, known).items():
        share = counts[side] / min(known.width, known.height)
        if off > _JUMBLED or (share > _SHORT and (off > _VARIED or off * share > _FAR)):
            found.append(f"the background at the photo's {side} border is too varied to go on for {counts[side]} px")
    return tuple(found)


def _cells(pixels: _Pixels, cell: int) -> _Float:
    size = pixels.shape[1] // cell, pixels.shape[0] // cell
    return np.asarray(cv2.resize(pixels[: size[1] * cell, : size[0] * cell], size, interpolation=cv2.INTER_AREA), np.float32)


def _patches(cells: _Float) -> _Float:
    """``(n, d)``: the patches of ``cells (h, w, 3)``, their mean colours weighed apart."""
    windows = np.lib.stride_tricks.sliding_window_view(cells, (_SIDE, _SIDE), axis=(0, 1))
    values = windows.reshape(-1, 3, _SIDE * _SIDE)
    means = values.mean(axis=2, keepdims=True)
    return np.concatenate([(values - means).reshape(len(values), -1), _LIGHT * _SIDE * means[..., 0]], axis=1).astype(np.float32)


def _mean_off(patches: _Float, own: _Float) -> float:
    """The mean over ``patches`` of the root mean square difference from the most alike of the photo's ``own``."""
    squares, total = np.square(own).sum(axis=1), 0.0
    for start in range(0, len(patches), _AT_ONCE):
        part = patches[start : start + _AT_ONCE]
        least = (squares - 2 * part @ own.T).min(axis=1) + np.square(part).sum(axis=1)
        total += float(np.sqrt(np.maximum(least, 0) / (3 * _SIDE * _SIDE)).sum())
    return total / max(1, len(patches))
