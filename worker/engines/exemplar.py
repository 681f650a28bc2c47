"""Fills a hole with patches of the rest of the picture: no weights, no prompt.

The pyramid is our own, around the solver of ``patchmatch-cython``. Its ``inpaint_pyramid`` starts from random matches and compares
patches that stick out of the frame with black: holes at the border grow dark bands and distant objects, and it fails where the coarsest
level knows no whole patch. Here the coarsest level starts from the nearest known patch, stops while enough is known, and every level
stands in a reflected rim.

Patches do badly where a hole is open on all sides but one: far from anything known they drift to what is flat. So what lies outside a
box, as in outpainting, is continued from its border (``reflection``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import EngineFailed
from api_schemas.models import EXEMPLAR, ModelCard
from worker.engines.base import PaintRequest, Pixels, Slot, WarmUp
from worker.engines.reflection import extend_picture

_PATCH_SIZES = (9, 7, 5, 3)
"""The first of which enough is known is used: the larger is the more coherent."""
_ITERATIONS = (24, 16, 10)
"""Rounds of matching from the coarsest level on; the finest level does the last ``_FINEST``."""
_FINEST = 4
_COARSEST_SIDE = 64
"""Pixels of the shorter side below which a level shows too little of the picture: fills then drift to flat, distant patches."""
_KNOWN_SHARE = 0.03
"""Least share of a level's patches that are wholly known."""
_RIM = 3
"""Known pixels around the hole that are painted too, to see how far the fill is off the picture there."""
_EASE = 12.0
"""Pixels into the hole over which that difference is eased out."""

_Matches = npt.NDArray[np.int32]
"""``int32 (H, W, 2)``: for each pixel the (x, y) of the patch that paints it."""
_Known = npt.NDArray[np.bool_]


@dataclass(eq=False)
class ExemplarSlot(Slot):
    """A picture being filled."""

    result: Pixels | None = None


class ExemplarEngine:
    """PatchMatch (Barnes et al., 2009), coarse to fine (Wexler et al., 2007). One result for a seed, on one thread.

    Each round of matching on a 512-pixel crop takes well under a second, and the interpreter's lock is free between rounds.
    """

    card: ModelCard = EXEMPLAR
    dtype: str | None = None
    max_rows: int = 1
    budget: float = 1.0

    def __init__(self) -> None:
        from patchmatch_cython import CythonSolver

        self.calls: Counter[str] = Counter()
        self._solver: Callable[..., Any] = CythonSolver

    def warm_up(self) -> WarmUp:
        """Nothing to warm."""
        return WarmUp()

    def prepare(self, request: PaintRequest) -> ExemplarSlot:
        """A slot of one step."""
        return ExemplarSlot(request, steps=1)

    def step(self, slots: Sequence[Slot]) -> None:
        """Fill every slot's picture where its mask is above 0. A row that cannot be filled sets ``slot.error``."""
        self.calls["eager"] += 1
        for slot in slots:
            try:
                self._paint(slot)
            except Exception as error:
                slot.error = error

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """The filled pictures, ``uint8 (H, W, 3)``; exactly the input where the mask is 0."""
        return [_painted(slot) for slot in slots]

    def preview(self, slot: Slot) -> None:
        """None: it is painted in one step."""

    def _paint(self, slot: Slot) -> None:
        if not isinstance(slot, ExemplarSlot):
            raise TypeError("not a slot of this engine")
        hole = slot.request.mask > 0
        if hole.all():
            raise EngineFailed("The mask covers all of the picture: there is nothing to copy from.")
        slot.result = self._fill(slot.request, hole) if hole.any() else slot.request.image.copy()
        slot.position = slot.steps

    def _fill(self, request: PaintRequest, hole: _Known) -> Pixels:
        known = _rectangle(~hole)
        return self._filled(request.image, hole, request.seed) if known is None else self._extended(request, known)

    def _extended(self, request: PaintRequest, known: tuple[int, int, int, int]) -> Pixels:
        """The picture where only the box ``known`` (top, bottom, left, right) of it is known: continued on all sides."""
        height, width = request.mask.shape
        top, bottom, left, right = known
        box = slice(top, bottom), slice(left, right)
        things = np.zeros_like(request.mask) if request.things is None else request.things
        return extend_picture(request.image[box], things[box], left, width - right, top, height - bottom, request.seed)

    def _filled(self, image: Pixels, hole: _Known, seed: int) -> Pixels:
        painted = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
        plan = _plan(painted)
        if plan is None:
            # So little is known that there is no patch of it.
            return np.where(hole[..., None], cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA), image)
        patch, sizes = plan
        matches: _Matches | None = None
        fill = image.astype(np.float32)
        for level, size in enumerate(sizes):
            pixels = _shrunk(image.astype(np.float32), size)
            unknown = _shrunk(painted.astype(np.float32), size) > 0
            start = _start(matches, unknown, patch // 2)
            rounds = _ITERATIONS[min(level, len(_ITERATIONS) - 1)] if level + 1 < len(sizes) or level == 0 else _FINEST
            fill, matches = self._match(pixels, unknown, start, patch, rounds, seed)
        return np.where(hole[..., None], _eased(image, fill, hole, painted), image)

    def _match(
        self, pixels: npt.NDArray[np.float32], unknown: _Known, start: _Matches, patch: int, rounds: int, seed: int
    ) -> tuple[npt.NDArray[np.float32], _Matches]:
        """One level: the filled pixels, and the matches that made them."""
        rim = 2 * (patch // 2)
        pixels = pixels.copy()
        pixels[unknown] = pixels[start[..., 1], start[..., 0]][unknown]
        framed = cv2.copyMakeBorder(pixels, rim, rim, rim, rim, cv2.BORDER_REFLECT)
        solver = self._solver(framed, np.pad(unknown, rim), patch)
        start = np.pad(start + rim, ((rim, rim), (rim, rim), (0, 0)), mode="edge").astype(np.int32)
        fill = solver(iterations=rounds, randomize_nnf=False, nnf=start, seed=seed, em_loops=1)
        inside = slice(rim, -rim), slice(rim, -rim)
        height, width = unknown.shape
        matches = np.clip(np.asarray(solver.nnf)[inside] - rim, 0, (width - 1, height - 1)).astype(np.int32)
        return np.asarray(fill, dtype=np.float32)[inside], matches


def _painted(slot: Slot) -> Pixels:
    if not isinstance(slot, ExemplarSlot) or slot.result is None:
        raise ValueError("the slot is not done")
    return slot.result


def _rectangle(known: _Known) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of what is known, if that is a rectangle."""
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return (top, bottom, left, right) if known[top:bottom, left:right].all() else None


def _plan(unknown: _Known) -> tuple[int, list[tuple[int, int]]] | None:
    """The patch size, and the (height, width) of the levels from coarse to fine; ``None`` where no patch is known."""
    for patch in _PATCH_SIZES:
        if not _centres(unknown, patch // 2).any():
            continue
        sizes = [unknown.shape]
        while min(sizes[0]) // 2 >= _COARSEST_SIDE:
            size = sizes[0][0] // 2, sizes[0][1] // 2
            if _centres(_shrunk(unknown.astype(np.float32), size) > 0, patch // 2).mean() < _KNOWN_SHARE:
                break
            sizes.insert(0, size)
        return patch, sizes
    return None


def _shrunk(values: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_AREA), dtype=np.float32)


def _centres(unknown: _Known, half: int) -> _Known:
    """Where a patch is wholly inside the frame and known."""
    kernel = np.ones((2 * half + 1, 2 * half + 1), np.uint8)
    known = (~unknown).astype(np.uint8)
    return np.asarray(cv2.erode(known, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0)


def _start(coarser: _Matches | None, unknown: _Known, half: int) -> _Matches:
    """Matches to start a level from: those of the coarser level, scaled up; where that does not help, the nearest known patch."""
    centres = _centres(unknown, half)
    height, width = unknown.shape
    _, labels = cv2.distanceTransformWithLabels((~centres).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    y, x = np.nonzero(centres)
    place = np.zeros((int(labels.max()) + 1, 2), np.int32)
    place[labels[y, x]] = np.stack([x, y], axis=-1)
    nearest: _Matches = place[labels]
    if coarser is None:
        return nearest
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    ratio = np.array([width / coarser.shape[1], height / coarser.shape[0]])
    below = np.minimum((grid / ratio).astype(np.int64), (coarser.shape[1] - 1, coarser.shape[0] - 1))
    # A match keeps its offset within the coarser pixel, so that neighbours copy neighbours.
    wanted = np.rint(coarser[below[..., 1], below[..., 0]] * ratio + grid - below * ratio).astype(np.int64)
    wanted = np.clip(wanted, 0, (width - 1, height - 1))
    matches: _Matches = nearest[wanted[..., 1], wanted[..., 0]]
    return matches


def _eased(image: Pixels, fill: npt.NDArray[np.float32], hole: _Known, painted: _Known) -> Pixels:
    """``fill`` with its difference from the picture on the painted rim carried inwards and eased out, so that no seam shows."""
    rim = (painted & ~hole).astype(np.float32)
    sigma = _EASE / 2
    weight = cv2.GaussianBlur(rim, (0, 0), sigma)[..., None]
    difference = cv2.GaussianBlur((image - fill) * rim[..., None], (0, 0), sigma) / np.maximum(weight, 1e-4)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[..., None]
    eased = fill + difference * np.clip(1 - depth / _EASE, 0, 1)
    return np.asarray(np.clip(np.rint(eased), 0, 255), dtype=np.uint8)
