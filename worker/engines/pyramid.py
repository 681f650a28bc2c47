"""Finds what each pixel of a hole is best copied from, on a pyramid from coarse to fine.

The pyramid is our own, around the solver of ``patchmatch-cython``. Its ``inpaint_pyramid`` starts from random matches and compares
patches that stick out of the frame with black: holes at the border grow dark bands and distant objects, and it fails where the coarsest
level knows no whole patch. Here the coarsest level starts from a fill that goes on from the border, patch by patch, stops while enough is
known, and every level stands in a reflected rim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Pixels
from worker.engines.peel import peel
from worker.images.checkpoint import checkpoint

Matches = npt.NDArray[np.int32]
"""``int32 (H, W, 2)``: for each pixel the (x, y) of the patch that paints it."""
Known = npt.NDArray[np.bool_]

_PATCH_SIZES = (9, 7, 5, 3)
"""The first of which enough is known is used: the larger is the more coherent."""
_ITERATIONS = (24, 16, 10)
"""Rounds of matching from the coarsest level on; the finest level does the last ``_FINEST``."""
_FINEST = 4
_COARSEST_SIDE = 32
"""Least pixels of the shorter side: at 64, large holes kept the flat patch that they began with (bricks, meadows); lines go on better at 32."""
_PEELED = 128 * 128
"""Pixels of a coarsest level up to which it is begun patch by patch; what knows so little that it stays larger begins with the nearest."""
_KNOWN_SHARE = 0.03
"""Least share of a level's patches that are wholly known."""


class Pyramid:
    """The solver, loaded once. One result for a seed, on one thread."""

    def __init__(self) -> None:
        from patchmatch_cython import CythonSolver

        self._solver: Callable[..., Any] = CythonSolver

    def matches(self, image: Pixels, unknown: Known, seed: int) -> Matches | None:
        """What each pixel of ``image (H, W, 3)`` where ``unknown (H, W)`` is a copy of; ``None`` where so little is known that there is no patch."""
        plan = _plan(unknown)
        if plan is None:
            return None
        patch, sizes = plan
        found: Matches | None = None
        for level, size in enumerate(sizes):
            checkpoint()
            pixels, hole = shrunk(image.astype(np.float32), size), shrunk(unknown.astype(np.float32), size) > 0
            start = _begun(pixels, hole, patch // 2, seed) if found is None else _enlarged(found, hole, patch // 2)
            rounds = _ITERATIONS[min(level, len(_ITERATIONS) - 1)] if level + 1 < len(sizes) or level == 0 else _FINEST
            found = self._match(pixels, hole, start, patch, rounds, seed)
        return found

    def _match(self, pixels: npt.NDArray[np.float32], unknown: Known, start: Matches, patch: int, rounds: int, seed: int) -> Matches:
        """One level."""
        rim = 2 * (patch // 2)
        pixels = pixels.copy()
        pixels[unknown] = pixels[start[..., 1], start[..., 0]][unknown]
        framed = cv2.copyMakeBorder(pixels, rim, rim, rim, rim, cv2.BORDER_REFLECT)
        solver = self._solver(framed, np.pad(unknown, rim), patch)
        start = np.pad(start + rim, ((rim, rim), (rim, rim), (0, 0)), mode="edge").astype(np.int32)
        solver(iterations=rounds, randomize_nnf=False, nnf=start, seed=seed, em_loops=1)
        height, width = unknown.shape
        found = np.asarray(solver.nnf)[rim:-rim, rim:-rim] - rim
        return np.asarray(np.clip(found, 0, (width - 1, height - 1)), np.int32)


def shrunk(values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """``values`` at ``size`` (height, width): means of what each pixel covers."""
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)


def patch_centres(unknown: Known, half: int) -> Known:
    """Where a patch of ``2 × half + 1`` pixels is wholly inside the frame and known: ``bool (H, W)``."""
    kernel = np.ones((2 * half + 1, 2 * half + 1), np.uint8)
    return np.asarray(cv2.erode((~unknown).astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0)


def nearest(centres: Known) -> Matches:
    """For each pixel the (x, y) of the nearest of ``centres (H, W)``, of which there is at least one."""
    _, labels = cv2.distanceTransformWithLabels((~centres).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.nonzero(centres)
    place = np.zeros((int(labels.max()) + 1, 2), np.int32)
    place[labels[y, x]] = np.stack([x, y], axis=-1)
    return np.asarray(place[labels], np.int32)


def _plan(unknown: Known) -> tuple[int, list[tuple[int, int]]] | None:
    """The patch size, and the (height, width) of the levels from coarse to fine; ``None`` where no patch is known."""
    for patch in _PATCH_SIZES:
        if not patch_centres(unknown, patch // 2).any():
            continue
        sizes: list[tuple[int, int]] = [(unknown.shape[0], unknown.shape[1])]
        while min(sizes[0]) // 2 >= _COARSEST_SIDE:
            size = sizes[0][0] // 2, sizes[0][1] // 2
            if patch_centres(shrunk(unknown.astype(np.float32), size) > 0, patch // 2).mean() < _KNOWN_SHARE:
                break
            sizes.insert(0, size)
        return patch, sizes
    return None


def _begun(pixels: npt.NDArray[np.float32], unknown: Known, half: int, seed: int) -> Matches:
    """Matches to start the coarsest level from."""
    centres = patch_centres(unknown, half)
    near = nearest(centres)
    if unknown.size > _PEELED:
        return near
    source = peel(pixels, unknown, centres, half, seed)
    return np.asarray(near[source[..., 1], source[..., 0]], np.int32)


def _enlarged(coarser: Matches, unknown: Known, half: int) -> Matches:
    """Those of the coarser level, scaled up, each to the nearest known patch."""
    height, width = unknown.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    ratio = np.array([width / coarser.shape[1], height / coarser.shape[0]])
    below = np.minimum((grid / ratio).astype(np.int64), (coarser.shape[1] - 1, coarser.shape[0] - 1))
    # A match keeps its offset within the coarser pixel, so that neighbours copy neighbours.
    wanted = np.rint(coarser[below[..., 1], below[..., 0]] * ratio + grid - below * ratio).astype(np.int64)
    wanted = np.clip(wanted, 0, (width - 1, height - 1))
    return np.asarray(nearest(patch_centres(unknown, half))[wanted[..., 1], wanted[..., 0]], np.int32)
