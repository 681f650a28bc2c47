"""Frames: a margin of one colour on all four sides of a picture, and rectangles that were drawn around its product.

A margin around something that fills a rectangle from corner to corner is either a frame or the background of a rectangular product (a book, a
poster). A thin one is taken for a frame; of a wider one only a matte can tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from PIL import Image

from profiles.scene import Box, border_colour, border_of, near_colour, share

THIN = 0.03
"""Share of the picture's shorter side up to which a margin is a frame: product pictures leave more."""
WIDE = 0.12
"""Share of the shorter side from which a margin is background."""
_LIKE = 30  # levels by which a frame's pixel may differ from its colour: a JPEG spreads what lies beside a thin line into it
_LINE = 0.95  # share of a line's pixels that must have the frame's colour
_STRAIGHT = 0.95  # share of each side along which the margin must end at once


class FrameKind(StrEnum):
    """What is around a picture."""

    NONE = "none"
    FRAME = "frame"
    RECTANGLE = "rectangle"
    """A margin around a rectangle, which may be the product."""


@dataclass(frozen=True)
class Frame:
    """What was found along the sides of a picture."""

    kind: FrameKind
    width: int = 0
    """Pixels on the side where it is widest."""


def frame_of(image: Image.Image) -> Frame:
    """The frame of a picture of mode RGB."""
    margin = _margin(image)
    if margin is None:
        return Frame(FrameKind.NONE)
    box, colour, widest = margin
    shorter = min(image.size)
    inner = image.crop(box)
    if widest > WIDE * shorter or max(_sides(near_colour(inner, colour, _LIKE))) > 1 - _STRAIGHT:
        return Frame(FrameKind.NONE)
    if widest <= THIN * shorter:
        return Frame(FrameKind.FRAME, widest)
    line = _margin(inner)
    if line is not None:
        inside, _, width = line
        if width <= THIN * shorter and share(border_of(near_colour(inner.crop(inside), colour, _LIKE))) >= 1 / 2:
            return Frame(FrameKind.FRAME, width)  # a rectangle's outline, with the margin's colour on both sides
    return Frame(FrameKind.RECTANGLE, widest)


def _margin(image: Image.Image) -> tuple[Box, tuple[int, ...], int] | None:
    """What a margin of one colour on all sides leaves, its colour, and its width where it is widest. None without one, or of one colour."""
    colour = border_colour(image)
    near = near_colour(image, colour, _LIKE)
    width, height = image.size
    left, right = (_lines(near.transpose(turn)) for turn in (Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_90))
    top, bottom = _lines(near), _lines(near.transpose(Image.Transpose.ROTATE_180))
    if min(left, right, top, bottom) == 0 or left + right >= width or top + bottom >= height:
        return None
    return (left, top, width - right, height - bottom), colour, max(left, right, top, bottom)


def _lines(mask: Image.Image) -> int:
    """Lines from the top of which each has 255 nearly throughout."""
    means = mask.resize((1, mask.height), Image.Resampling.BOX).tobytes()
    return next((number for number, mean in enumerate(means) if mean < 255 * _LINE), mask.height)


def _sides(mask: Image.Image) -> list[float]:
    """Share of 255 on each side of a mask."""
    width, height = mask.size
    boxes = ((0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height))
    return [share(mask.crop(box)) for box in boxes]
