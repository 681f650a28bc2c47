"""What stands behind a product: a colour, a gradient or a picture, and the shadow that grounds it."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.requests import Background, ColorBackground, GradientBackground, GradientStops, Shadow
from worker.images.blend import composite
from worker.images.mask import bounding_box

_STRIP = 256
"""Rows of a gradient computed at a time."""
_SHADOW_SIDE = 1024
"""Longest side, pixels, at which a shadow is drawn: it is soft, so more would not show."""
_CUT = 0.25
"""Share of the product's width at the frame's lower border from which its base may lie outside the picture."""
_LIFT = 0.12
"""Height above the lowest point, in product sizes, at which an edge is hardly in touch with the ground any more."""
_FLATTEN = 0.35
"""A circle on the ground is seen as an ellipse of this height."""


def render(size: tuple[int, int], background: Background, picture: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
    """``background`` as pixels, ``uint8 (H, W, 3)``, for ``size`` (width, height).

    A picture is scaled to cover the frame and centred; ``ValueError`` where ``background`` names one and ``picture`` is ``None``.
    """
    width, height = size
    if isinstance(background, ColorBackground):
        return np.full((height, width, 3), _rgb(background.color), np.uint8)
    if isinstance(background, GradientBackground):
        return _gradient(width, height, background.gradient)
    if picture is None:
        raise ValueError("the background is a picture, and its pixels were not given")
    return _cover(width, height, picture)


def recoloured(background: Background, convert: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]) -> Background:
    """``background`` with its colours, which are sRGB, as ``convert`` makes of pixels ``(1, 1, 3)``; a picture is none of its business."""

    def turned(color: str) -> str:
        red, green, blue = convert(np.array([[_rgb(color)]], np.uint8))[0, 0]
        return f"#{red:02x}{green:02x}{blue:02x}"

    if isinstance(background, ColorBackground):
        return ColorBackground(color=turned(background.color))
    if isinstance(background, GradientBackground):
        stops = background.gradient
        return GradientBackground(gradient=stops.model_copy(update={"start": turned(stops.start), "end": turned(stops.end)}))
    return background


def contact_shadow(matte: npt.NDArray[np.uint8], shadow: Shadow) -> npt.NDArray[np.uint8]:
    """How much darker the ground is under the product ``matte (H, W)``: ``uint8 (H, W)``, 255 = black.

    It follows the product's lower edge where that is near its lowest point: a tight dark line where the two touch, in a pool that
    ``softness`` spreads over up to a tenth of the product's width. A product that meets the frame's lower border is drawn as if it stood there:
    what is seen of the shadow is what lies beside it.
    """
    height, width = matte.shape
    scale = min(1.0, _SHADOW_SIDE / max(height, width))
    small_size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(matte, small_size, interpolation=cv2.INTER_AREA)
    darkness = _draw(np.asarray(small > 127), shadow)
    return np.asarray(cv2.resize(darkness, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def base_is_cut(matte: npt.NDArray[np.uint8]) -> bool:
    """Whether the lower border may cut off the base of the product ``matte (H, W)``, so that the ground it stands on is not in the picture."""
    box = bounding_box(np.where(matte > 127, matte, 0).astype(np.uint8))
    return box is not None and bool(np.count_nonzero(matte[-1] > 127) > _CUT * box.width)


def apply_shadow(pixels: npt.NDArray[np.uint8], darkness: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``pixels (H, W, 3)`` darkened by ``darkness (H, W)``; unchanged where it is 0."""
    return composite(pixels, np.zeros_like(pixels), darkness)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _gradient(width: int, height: int, stops: GradientStops) -> npt.NDArray[np.uint8]:
    """A CSS linear gradient: the line through the centre is as long as lets the corners have the end colours (CSS Images 3, 3.1)."""
    angle = math.radians(stops.angle_deg)
    dx, dy = math.sin(angle), -math.cos(angle)
    length = abs(width * dx) + abs(height * dy)
    x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) * (dx / length)).astype(np.float32)
    y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) * (dy / length)).astype(np.float32)
    start = np.array(_rgb(stops.start), np.float32)
    step = np.array(_rgb(stops.end), np.float32) - start
    # Noise below one level, the same for every picture, breaks the bands that 8 bits would show. Whole levels stay as they are.
    noise = np.random.default_rng(0).random((_STRIP, width), np.float32)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        rows = y[top : top + _STRIP, None]
        position = np.clip(rows + x + 0.5, 0, 1)[..., None]
        out[top : top + _STRIP] = np.floor(start + position * step + noise[: len(rows), :, None])
    return out


def _cover(width: int, height: int, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``picture`` scaled to fill the frame, centred. Only what will be seen, to the next whole pixel, is scaled."""
    have_h, have_w = picture.shape[:2]
    scale = max(width / have_w, height / have_h)
    columns, cut_left = _centred(have_w, width, scale)
    rows, cut_top = _centred(have_h, height, scale)
    part = np.ascontiguousarray(picture[rows, columns])
    size = max(width, round(part.shape[1] * scale)), max(height, round(part.shape[0] * scale))
    scaled = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = min(cut_left, size[0] - width), min(cut_top, size[1] - height)
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def _centred(have: int, want: int, scale: float) -> tuple[slice, int]:
    """The pixels of a side that are seen once it is scaled, and how far into them, in scaled pixels, the view begins."""
    start = (have - want / scale) / 2
    first, last = max(math.floor(start), 0), min(math.ceil(have - start), have)
    return slice(first, last), max(round((start - first) * scale), 0)


def _draw(product: npt.NDArray[np.bool_], shadow: Shadow) -> npt.NDArray[np.uint8]:
    height, width = product.shape
    box = bounding_box(product.astype(np.uint8))
    if box is None:
        return np.zeros((height, width), np.uint8)
    size = min(box.width, box.height)
    edge, touch = _ground_line(product, size)
    spread = max(0.3, shadow.softness * 0.1 * box.width)
    pool = _band(height, edge, touch, rise=0.10 * size, drop=0.02 * size + 0.3 * spread)
    line = _band(height, edge, touch**2, rise=0.05 * size, drop=0.008 * size + 1)
    pool = _blurred(pool, 0.7 * spread)
    line = _blurred(line, 0.2 * spread)
    darkness = 1 - (1 - 0.75 * np.clip(pool, 0, 1)) * (1 - 0.6 * np.clip(line, 0, 1))
    return np.rint(np.clip(darkness / 0.9, 0, 1) * shadow.opacity * 255).astype(np.uint8)


def _ground_line(product: npt.NDArray[np.bool_], size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For each column, the row just below the product, and how near that is to the ground, 0..1 (0 where there is no product)."""
    height = product.shape[0]
    columns = product.any(axis=0)
    edge = np.where(columns, height - np.argmax(product[::-1], axis=0), 0).astype(np.float32)
    lift = (edge.max() - edge) / max(1.0, _LIFT * size)
    touch = np.where(columns, np.exp(-(lift**2)), 0).astype(np.float32)
    return edge, touch


def _band(
    height: int, edge: npt.NDArray[np.float32], strength: npt.NDArray[np.float32], *, rise: float, drop: float
) -> npt.NDArray[np.float32]:
    """``strength`` in each column from ``rise`` pixels above ``edge`` to ``drop`` pixels below it, 0 elsewhere."""
    y = np.arange(height, dtype=np.float32)[:, None]
    return np.where((y >= edge - rise) & (y < edge + drop), strength, 0).astype(np.float32)


def _blurred(band: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """The ground is seen at a slant, so a shadow spreads more to the sides than up and down."""
    blurred = cv2.GaussianBlur(band, (0, 0), max(0.3, sigma), sigmaY=max(0.3, sigma * _FLATTEN))
    return np.asarray(blurred, dtype=np.float32)
