"""What the walls and surfaces of a picture look like, in numbers: colours, edges and local patterns, in bands from top to bottom."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from training.studio.arrays import SIDE
from training.studio.store import Bytes
from worker.images.measures import to_lab

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BANDS = (0, 48, 104, 160, 208, SIDE)
"""Borders in rows: where it is tells a wall from a table."""
SCALES = 4
_PATTERNS = 10
_CONTRASTS = (0.6, 2.5)
"""By how much, in L, a neighbour must be lighter to count as lighter: faint structure and strong structure."""
_CHANGES_OF_ONE_RUN = 2
_PROFILE = 8
_NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1))
_BORDER = 9
"""Pixels around what is kept that are not looked at: edges there are the kept thing's."""


def describe(picture: Bytes, judged: Mask) -> Floats:
    """The statistics ``(F,)`` of ``picture (256, 256, 3)`` where ``judged (256, 256)``."""
    seen = cv2.erode(judged.astype(np.uint8), np.ones((_BORDER, _BORDER), np.uint8))
    lab = to_lab(picture)
    found = [_colours(lab, seen > 0), _profile(lab, seen > 0)]
    for scale in range(SCALES):
        at_scale = cv2.resize(seen, lab.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        found.append(_structure(lab, at_scale, [row >> scale for row in BANDS]))
        lab = np.asarray(cv2.pyrDown(lab), np.float32)
    return np.concatenate(found)


def _colours(lab: Floats, seen: Mask) -> Floats:
    """Quantiles and deviation of L, a and b in each band, of every second pixel of every second row."""
    found: list[npt.ArrayLike] = []
    for top, bottom in pairwise(BANDS):
        values = lab[top:bottom:2, ::2][_some(seen[top:bottom:2, ::2])]
        found += [np.percentile(values, (5, 25, 50, 75, 95), axis=0).ravel(), values.std(axis=0)]
    return np.concatenate(found).astype(np.float32)


def _profile(lab: Floats, seen: Mask) -> Floats:
    """The median colour from top to bottom, and how it changes: it jumps where a table meets its wall."""
    rows = [lab[top : top + _PROFILE : 2][_some(seen[top : top + _PROFILE : 2])] for top in range(0, SIDE, _PROFILE)]
    medians = np.array([np.median(row, axis=0) for row in rows], np.float32)
    return np.concatenate([medians.ravel(), np.diff(medians, axis=0).ravel()])


def _structure(lab: Floats, seen: Mask, borders: list[int]) -> Floats:
    """Strength of edges by direction, of lighter and darker spots and of changes of colour, and the frequencies of local patterns."""
    light, *tints = cv2.split(lab)
    across, down = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    spots = light - cv2.GaussianBlur(light, (0, 0), 1.5)
    changes = [sum(np.abs(cv2.Sobel(tint, cv2.CV_32F, x, y)) for tint in tints) for x, y in ((1, 0), (0, 1))]
    edges = [np.abs(each) for each in (across, down, across + down, across - down)]
    squares = spots * spots
    strengths = np.stack([*edges, np.abs(spots), squares, np.maximum(spots, 0) * squares, np.maximum(-spots, 0) * squares, *changes])
    patterns = [local_patterns(np.asarray(light, np.float32), contrast) for contrast in _CONTRASTS]
    found: list[npt.ArrayLike] = []
    for top, bottom in pairwise(borders):
        where = _some(seen[top:bottom])
        weights = (where / where.sum()).ravel().astype(np.float32)
        band = strengths[:, top:bottom].reshape(len(strengths), -1)
        mean = band @ weights
        found += [np.log(mean + 0.05), np.log(np.sqrt(np.maximum((band * band) @ weights - mean * mean, 0)) + 0.05)]
        found += [np.sqrt(np.bincount(each[top:bottom].ravel(), weights, _PATTERNS)) for each in patterns]
    return np.concatenate(found).astype(np.float32)


def local_patterns(light: Floats, contrast: float) -> Bytes:
    """The uniform local binary pattern of each pixel: how many of its eight neighbours are lighter by ``contrast``, 9 where they alternate.

    Ojala, Pietikäinen and Mäenpää, "Multiresolution gray-scale and rotation invariant texture classification with local binary patterns" (2002).
    """
    around = cv2.copyMakeBorder(light - contrast, 1, 1, 1, 1, cv2.BORDER_REFLECT_101)
    height, width = light.shape
    moved = [around[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _NEIGHBOURS]
    lighter = [np.asarray(cv2.compare(each, light, cv2.CMP_GE), np.uint8) & 1 for each in moved]
    count, changes = np.zeros((2, height, width), np.uint8)
    for each, before in zip(lighter, [lighter[-1], *lighter], strict=False):
        count += each
        changes += each ^ before
    return np.where(changes <= _CHANGES_OF_ONE_RUN, count, np.uint8(_PATTERNS - 1))


def _some(seen: Mask) -> Mask:
    """``seen``, or all of it where too little is."""
    return seen if seen.sum() > seen.size // 50 else np.ones_like(seen)
