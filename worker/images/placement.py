"""Where a product stands in the output, and how large: from its box in the photo to its place on the canvas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from api_schemas.requests import Placement
from api_schemas.sizes import MOST_ENLARGED, Size
from worker.images.canvas import part_before
from worker.images.mask import Box, bounding_box
from worker.images.resample import Landing
from worker.images.transparency import visible

Sides = tuple[str, ...]
"""Of ``left``, ``right``, ``top`` and ``bottom``."""

_TOUCH = 0.02
"""Share of the product's width or height along which a border of the photo must meet it to cut it off: a tip that just reaches it does not."""
_NEAR = 0.5
"""Pixels by which a border of the output may be off one of the photo and still be the same."""
_AT_BORDER = "the photo cuts the product off at its {}: it stands at that of the output"
_SEEN = "the photo cuts the product off at its {}, and its straight edge is seen within the output"
_TOO_SMALL = "the product would have to be enlarged {:.1f} times to be as large as was asked for; it is {:g} times"


@dataclass(frozen=True)
class Spot:
    """The place of a photo's product."""

    landing: Landing
    """Of the whole photo, so that its product stands where it should."""
    doubts: tuple[str, ...] = ()
    """Reasons for which it may not look right there."""


def product_box(matte: npt.NDArray[np.uint8]) -> Box | None:
    """The box of what is at least half as opaque as the most opaque pixel of ``matte (H, W)``: soft edges and shadows do not count."""
    return bounding_box(visible(matte)) if matte.any() else None


def cut_sides(matte: npt.NDArray[np.uint8], *, trimmed: bool) -> Sides:
    """The borders of the photo that cut its product off.

    A file that is a cut-out, ``trimmed`` to the product, is met by it on all sides and cuts off nothing.
    """
    shape = visible(matte)
    box = bounding_box(shape)
    if box is None:
        return ()
    borders = {"left": shape[:, 0], "right": shape[:, -1], "top": shape[0], "bottom": shape[-1]}
    lengths = {"left": box.height, "right": box.height, "top": box.width, "bottom": box.width}
    if trimmed and all(border.any() for border in borders.values()):
        return ()
    return tuple(side for side, border in borders.items() if np.count_nonzero(border) > max(1.0, _TOUCH * lengths[side]))


def placed(matte: npt.NDArray[np.uint8], canvas: Size, placement: Placement, cut: Sides) -> Spot:
    """The spot on ``canvas`` of the product ``matte (H, W)``, by a ``placement`` whose fill and margins are given.

    As large as ``fill`` and ``margins`` both allow, and enlarged ``MOST_ENLARGED`` times at most. Where borders of the photo ``cut`` it, it stands
    at those of the output, without a margin. One that is cut on two opposite sides reaches from border to border, where that leaves room for the
    rest of it; elsewhere its cut is seen.
    """
    box = product_box(matte)
    if box is None or placement.fill is None or placement.margins is None:
        raise ValueError("a placement is resolved, and there is a product")
    margins, fill = placement.margins, placement.fill
    x = _Axis(("left", "right"), box.left, box.width, canvas[0], (margins.left, margins.right))
    y = _Axis(("top", "bottom"), box.top, box.height, canvas[1], (margins.top, margins.bottom))
    held, scale = cut, max((axis.canvas / axis.length for axis in (x, y) if axis.spans(cut)), default=None)
    if scale is not None and (scale > MOST_ENLARGED or any(axis.length * scale > axis.room(cut) + _NEAR for axis in (x, y))):
        held, scale = tuple(side for axis in (x, y) if not axis.spans(cut) for side in axis.sides if side in cut), None
    wanted = min(axis.largest(fill, held) for axis in (x, y)) if scale is None else scale
    scale = min(wanted, MOST_ENLARGED)
    left, top = x.start(scale, part_before("x", placement.align), held), y.start(scale, part_before("y", placement.align), held)
    if scale == 1:  # a part of a pixel aside would only blur
        left, top = float(round(left)), float(round(top))
    doubts = [_AT_BORDER.format(_named(held))] if held else []
    if seen := tuple(side for side in cut if side not in held):
        doubts.append(_SEEN.format(_named(seen)))
    if wanted > scale:
        doubts.append(_TOO_SMALL.format(wanted, MOST_ENLARGED))
    return Spot(Landing(canvas, left, top, scale, scale), tuple(doubts))


def kept_in_place(landing: Landing, size: Size, cut: Sides) -> Spot:
    """The spot of the product of a photo of ``size`` that lands whole, with what is to be said where borders of it ``cut`` the product."""
    right, bottom = landing.left + landing.across * size[0], landing.top + landing.down * size[1]
    inside = {
        "left": landing.left > _NEAR,
        "right": right < landing.canvas[0] - _NEAR,
        "top": landing.top > _NEAR,
        "bottom": bottom < landing.canvas[1] - _NEAR,
    }
    seen = tuple(side for side in cut if inside[side])
    return Spot(landing, (_SEEN.format(_named(seen)),) if seen else ())


@dataclass(frozen=True)
class _Axis:
    """A product along one axis of its photo and of the canvas."""

    sides: tuple[str, str]
    offset: int
    """Pixels of the photo before it."""
    length: int
    canvas: int
    margins: tuple[float, float]

    def spans(self, cut: Sides) -> bool:
        """Whether it is cut off on both sides."""
        return all(side in cut for side in self.sides)

    def ends(self, held: Sides) -> tuple[float, float]:
        """Where it may begin and end on the canvas: at a border that it is ``held`` to there is no margin."""
        first, last = (0.0 if side in held else margin * self.canvas for side, margin in zip(self.sides, self.margins, strict=True))
        return first, self.canvas - last

    def room(self, held: Sides) -> float:
        """Pixels of the canvas that it may take."""
        first, last = self.ends(held)
        return last - first

    def largest(self, fill: float, held: Sides) -> float:
        """The largest scale that ``fill`` and the margins allow."""
        return min(fill * self.canvas, self.room(held)) / self.length

    def start(self, scale: float, part: float, held: Sides) -> float:
        """Where the photo begins on the canvas, if ``part`` of what is free lies before the product."""
        first, last = self.ends(held)
        if self.sides[0] in held:
            part = 0.0
        elif self.sides[1] in held:
            part = 1.0
        return first + part * (last - first - self.length * scale) - self.offset * scale


def _named(sides: Sides) -> str:
    return f"{', '.join(sides)} border{'s' if len(sides) > 1 else ''}"
