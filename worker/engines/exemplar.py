"""Fills a hole with pieces of the rest of the picture: no weights, no prompt.

What goes where is found on a picture of at most ``_SOLVED`` pixels, and carried out at full size: the fill is made of the picture's own pixels.

Patches do badly where a hole is open on all sides but one: far from anything known they drift to what is flat. So what lies outside a
box, as in outpainting, is continued from its border (``extension``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import EngineFailed
from api_schemas.models import EXEMPLAR, ModelCard
from worker.engines.base import PaintRequest, Pixels, Prepared, Reading, Slot, WarmUp, begin
from worker.engines.extension import extend_picture
from worker.engines.pyramid import Known, Pyramid
from worker.engines.shift_map import halved, quilt
from worker.images.mask import Box

_SOLVED = 512 * 512
"""Pixels of a picture above which its matches are found on a halved one: that takes 1 to 2 s on a core, and more would grow with the photo."""
_RIM = 3
"""Known pixels around the hole that are painted too, to see how far the fill is off the picture there."""
_EASE = (32.0, 16.0, 8.0, 4.0, 2.0)
"""Pixels into the hole over which that difference is eased out, and along the border over which it is averaged, in turn: what is coarse reaches far."""
_PIECE = 512
"""Pixels: the side of what that is done to at once."""


@dataclass(eq=False)
class ExemplarSlot(Slot):
    """A picture being filled."""

    result: Pixels | None = None


class ExemplarEngine:
    """PatchMatch (Barnes et al., 2009), coarse to fine (Wexler et al., 2007). One result for a seed, on one thread.

    Each round of matching takes well under a second, and the interpreter's lock is free between rounds.
    """

    card: ModelCard = EXEMPLAR
    reentrant = True
    dtype: str | None = None
    max_rows: int = 1
    budget: float = 1.0

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self._pyramid = Pyramid()

    def warm_up(self) -> WarmUp:
        """Nothing to warm."""
        return WarmUp()

    def read(self, _prompt: str, *, names_product: bool) -> Reading:  # noqa: ARG002 - the protocol's
        """Nothing is said of prompts: it is given none."""
        return Reading()

    def prepare(self, request: PaintRequest) -> Prepared:
        """Nothing to make."""
        return Prepared(request)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        """Slots of one step. One costs more the more is painted, and no two go together: they would gain nothing."""
        return [ExemplarSlot(each.request, steps=1, cost=max(1.0, np.count_nonzero(each.request.mask) / _SOLVED)) for each in prepared]

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

    def _fill(self, request: PaintRequest, hole: Known) -> Pixels:
        known = _rectangle(~hole)
        return self._filled(request.image, hole, request.seed) if known is None else self._extended(request, known)

    def _extended(self, request: PaintRequest, known: tuple[int, int, int, int]) -> Pixels:
        """The picture where only the box ``known`` (top, bottom, left, right) of it is known: continued on all sides."""
        height, width = request.mask.shape
        top, bottom, left, right = known
        box = slice(top, bottom), slice(left, right)
        things = np.zeros_like(request.mask) if request.things is None else request.things
        return extend_picture(request.image[box], things[box], left, width - right, top, height - bottom, request.seed)

    def _filled(self, image: Pixels, hole: Known, seed: int) -> Pixels:
        painted = cv2.dilate(hole.astype(np.uint8), np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)) > 0
        small, unknown, halvings = image, painted, 0
        while unknown.size > _SOLVED:
            (small, unknown), halvings = halved(small, unknown), halvings + 1
        matches = self._pyramid.matches(small, unknown, seed)
        if matches is None:
            # So little is known that there is no patch of it.
            return np.where(hole[..., None], cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA), image)
        fill = quilt(image, painted, matches, halvings, seed)
        if fill is None:
            fill = _enlarged(small[matches[..., 1], matches[..., 0]], hole.shape)
        return _eased(image, fill, hole, painted)


def fill_all(requests: Sequence[PaintRequest]) -> list[Pixels]:
    """What the engine answers to ``requests``, one after another; for workers that do not serve it. Raises what went wrong with one."""
    engine = ExemplarEngine()
    slots = begin(engine, requests)
    engine.step(slots)
    for slot in slots:
        if slot.error is not None:
            raise slot.error
    return engine.finish(slots)


def _painted(slot: Slot) -> Pixels:
    if not isinstance(slot, ExemplarSlot) or slot.result is None:
        raise ValueError("the slot is not done")
    return slot.result


def _rectangle(known: Known) -> tuple[int, int, int, int] | None:
    """(top, bottom, left, right) of what is known, if that is a rectangle."""
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    return (top, bottom, left, right) if known[top:bottom, left:right].all() else None


def _enlarged(pixels: Pixels, shape: tuple[int, ...]) -> Pixels:
    return np.asarray(cv2.resize(pixels, shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _eased(image: Pixels, fill: Pixels, hole: Known, painted: Known) -> Pixels:
    """``image`` with ``fill`` in the hole, its difference from the picture on the painted rim carried inwards and eased out: no seam shows.

    Piece by piece: what is added reaches no further than that, and memory does not grow with the picture.
    """
    out = np.where(hole[..., None], fill, image)
    halo = 3 * round(max(_EASE))
    for top in range(0, hole.shape[0], _PIECE):
        for left in range(0, hole.shape[1], _PIECE):
            piece = Box(left, top, min(hole.shape[1], left + _PIECE), min(hole.shape[0], top + _PIECE))
            view = piece.padded(halo, hole.shape)
            rim = painted[view.slices] & ~hole[view.slices]
            if not rim.any() or not hole[piece.slices].any():
                continue
            added = _carried(image[view.slices].astype(np.float32) - fill[view.slices], rim, hole[view.slices])
            inner = slice(top - view.top, piece.bottom - view.top), slice(left - view.left, piece.right - view.left)
            eased = np.clip(np.rint(fill[piece.slices] + added[inner]), 0, 255)
            out[piece.slices] = np.where(hole[piece.slices][..., None], eased, image[piece.slices])
    return out


def _carried(difference: npt.NDArray[np.float32], rim: Known, hole: Known) -> npt.NDArray[np.float32]:
    """``difference (h, w, 3)`` on ``rim``, averaged along it and eased out in the hole: what is coarse deep into it, what is fine hardly."""
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[..., None]
    share, added = rim.astype(np.float32), np.zeros_like(difference)
    for ease in _EASE:
        weight = cv2.GaussianBlur(share, (0, 0), ease / 2)[..., None]
        mean = cv2.GaussianBlur((difference - added) * share[..., None], (0, 0), ease / 2) / np.maximum(weight, 1e-4)
        added += mean * np.clip(1 - depth / ease, 0, 1)
    return added
