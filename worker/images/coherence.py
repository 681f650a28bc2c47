"""How much of what continues a photo could stand in that photo: of every small patch beyond its border, how far off is the most alike of its own.

How far that is in the photo itself depends on the photo: no two leaves of a hedge are alike, two patches of a sky are.
"""

from __future__ import annotations

from typing import NamedTuple

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
_OWN = 1 / 3
"""Share of the photo, at most, of whose patches the most alike are looked for in the rest of it."""
_BLOCK = 12
"""Cells of the side of a place, for how much places differ."""
_JUMBLED, _FAR = 12.0, 3.4
"""Levels off above which a background did not go on as it is, and the same times the share of the photo's shorter side that was added. Both are weighed by how
much the photo's places differ beside the border."""
_PLAIN, _MUCH = 7.0, 0.7
"""Levels up to which the second of these does not count, and the share that was added from which it does all the same: a cat's fur is 6.5 off its own."""
_SEEN, _STRANGE = 2.0, 0.6
"""Such levels up to which nothing is seen, and how often what is usual is too much, times that share. All set by looking at 52 extensions of 26 photos."""


class Incoherence(NamedTuple):
    """Mean difference in levels from the most alike patches of a photo, 0 for a photo that repeats itself."""

    off: float
    """That of what was added on a side."""
    usual: float
    """That of the photo beside the border, as deep as what was added, from the rest of it; infinite where there is no rest."""
    variety: float
    """How much the photo differs from place to place there, over how much it does within a place: a texture hardly does. 1 at most."""

    @property
    def doubt(self) -> float:
        """Levels off that matter: where all places are alike, any of them can go on with any other."""
        return self.off * self.variety


def incoherence(picture: _Pixels, known: Box) -> dict[str, Incoherence]:
    """How far off each side is on which ``picture (H, W, 3)`` goes on with what is ``known``.

    The coherence of Simakov et al. ("Summarizing Visual Data Using Bidirectional Similarity", CVPR 2008).
    """
    height, width = picture.shape[:2]
    cell = max(1, min(known.width, known.height) // _CELLS)
    if min(known.width, known.height) < _SIDE * cell:
        return {}
    random = np.random.default_rng(0)
    photo = picture[known.slices]
    own = _some(photo, cell, _KNOWN, random)
    # Each strip with what lies beside it in the photo, so that patches across the border are among those looked at.
    beside = (_SIDE - 1) * cell
    strips = {
        "left": (known.left, picture[known.top : known.bottom, : known.left + beside], photo),
        "right": (width - known.right, picture[known.top : known.bottom, known.right - beside :], photo[:, ::-1]),
        "top": (known.top, picture[: known.top + beside], photo.transpose(1, 0, 2)),
        "bottom": (height - known.bottom, picture[known.bottom - beside :], photo[::-1].transpose(1, 0, 2)),
    }
    found = {}
    for side, (count, strip, turned) in strips.items():
        if count >= cell:
            off = _mean_off(_some(strip, cell, _LOOKED, random), own)
            deep = max(min(count, int(_OWN * turned.shape[1])), _SIDE * cell)
            found[side] = Incoherence(off, _usual(turned, deep, cell, random), _variety(turned[:, : max(deep, _BLOCK * cell)], cell))
    return found


def doubts(picture: _Pixels, known: Box) -> tuple[str, ...]:
    """Reasons to doubt that ``picture (H, W, 3)`` goes on with what is ``known`` as a photo would; none if it does."""
    counts = {"left": known.left, "right": picture.shape[1] - known.right, "top": known.top, "bottom": picture.shape[0] - known.bottom}
    found = []
    for side, each in incoherence(picture, known).items():
        share, doubt = counts[side] / min(known.width, known.height), each.doubt
        is_far = doubt * share > _FAR and (doubt > _PLAIN or share > _MUCH)
        if doubt > _JUMBLED or is_far or (doubt > _SEEN and doubt * share > _STRANGE * each.usual):
            found.append(f"the background at the photo's {side} border is too varied to go on for {counts[side]} px")
    return tuple(found)


def _usual(photo: _Pixels, deep: int, cell: int, random: np.random.Generator) -> float:
    """The mean difference of the first ``deep`` columns of ``photo (H, W, 3)`` from the rest of it."""
    if photo.shape[1] - deep < _SIDE * cell:
        return float("inf")
    return _mean_off(_some(photo[:, :deep], cell, _LOOKED, random), _some(photo[:, deep:], cell, _KNOWN, random))


def _variety(strip: _Pixels, cell: int) -> float:
    """How much the mean colours of the places of ``strip (H, W, 3)`` differ, over how much their cells do in the mean; 1 at most, and for a strip of one."""
    cells = _cells(strip, cell)
    rows, columns = cells.shape[0] // _BLOCK, cells.shape[1] // _BLOCK
    if rows * columns < 2:
        return 1.0
    places = cells[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK, 3)
    between, within = places.mean(axis=(1, 3)).reshape(-1, 3).std(axis=0), places.std(axis=(1, 3)).mean()
    return float(min(1.0, np.sqrt(np.square(between).mean()) / max(within, 1.0)))


def _some(pixels: _Pixels, cell: int, most: int, random: np.random.Generator) -> _Float:
    """So many patches of ``pixels`` at most, drawn by chance."""
    patches = _patches(_cells(pixels, cell))
    return patches[random.permutation(len(patches))[:most]]


def _cells(pixels: _Pixels, cell: int) -> _Float:
    size = pixels.shape[1] // cell, pixels.shape[0] // cell
    whole = np.ascontiguousarray(pixels[: size[1] * cell, : size[0] * cell])
    return np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.float32)


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
