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
_PART = 0.02
"""Share of the largest separate part below which a part is none that stands by itself."""
_LIFT = 0.12
"""Height above where a part stands, in its sizes, at which an edge is hardly in touch with the ground any more."""
_DIP = 0.03
"""How much lower than its surroundings, in sizes of the part, a point of the lower outline is that may stand on the ground."""
_RISE = 0.4
"""Steepest line between two points on the ground: what rises more from one to the next is in the air (a handle, an ear, a hand)."""
_DEPTH = 0.5
"""Least share of a cast shadow that points to or from the camera: things have a depth, even lit from the side."""
_FADE = 0.5
"""What a cast shadow loses of its darkness by its far end."""
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
    """How much darker the ground is by the ``shadow`` of the product ``matte (H, W)``: ``uint8 (H, W)``, 255 = black.

    Each separate part has its own, and of each part all points of its lower outline that stand on the ground, though further from the camera: the
    lowest one, and such as a board held from below would touch, or are low among their surroundings, if they rise no more from the next one than a
    floor seen at a slant does. There it is a tight dark line in a pool that ``softness`` spreads over up to a tenth of the part's width. A cast shadow is the outline as well, laid on the
    ground by a light, blurred more and fading the further off it falls. A product that meets the frame's lower border is drawn
    as if it stood there: what is seen of the shadow is what lies beside it.
    """
    height, width = matte.shape
    scale = min(1.0, _SHADOW_SIDE / max(height, width))
    small_size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(matte, small_size, interpolation=cv2.INTER_AREA)
    light = np.ones(small.shape, np.float32)
    for part in _parts(np.asarray(small > 127)):
        _shade(light, part, shadow)
    darkness = np.rint((1 - light) * shadow.opacity * 255).astype(np.uint8)
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


def _parts(product: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
    """The separate parts of ``product (H, W)`` that may stand on the ground: not those that others are just below."""
    count, found, parts, _ = cv2.connectedComponentsWithStats(product.astype(np.uint8), connectivity=8)
    labels, stats = np.asarray(found, np.int32), np.asarray(parts, np.int32)
    areas = stats[:, cv2.CC_STAT_AREA]
    numbers = [k for k in range(1, count) if areas[k] >= _PART * areas[1:].max()]
    return [labels == k for k in numbers if not _is_carried(labels, k, stats[k])]


def _is_carried(labels: npt.NDArray[np.int32], number: int, stats: npt.NDArray[np.int32]) -> bool:
    """Whether under most of a part, within half of its height, there is another one: it stands on that, or is a piece of it."""
    left, top, width, height = (int(value) for value in stats[:4])
    below = labels[top : top + height + height // 2 + 1, left : left + width]
    own = below == number
    beneath = (below > 0) & ~own & (np.cumsum(own, axis=0) > 0)
    return bool(np.count_nonzero(beneath.any(axis=0)) > width / 2)


def _shade(light: npt.NDArray[np.float32], part: npt.NDArray[np.bool_], shadow: Shadow) -> None:
    """Takes from ``light (H, W)``, 0..1, what the shadow of ``part (H, W)`` takes."""
    box = bounding_box(part.astype(np.uint8))
    if box is None:
        return
    size, height = min(box.width, box.height), part.shape[0]
    columns = np.asarray(part.any(axis=0))
    edge = np.where(columns, height - np.argmax(part[::-1], axis=0), 0).astype(np.float32)
    standing = _standing(edge, columns, size)
    ground = np.interp(np.arange(len(edge)), standing, edge[standing]).astype(np.float32)
    touch = np.where(columns, np.exp(-(((ground - edge) / max(1.0, _LIFT * size)) ** 2)), 0).astype(np.float32)
    spread = max(0.3, shadow.softness * 0.1 * box.width)
    # The pool fills the gap under what is nearly on the ground; the line is where it is.
    pool = _band(edge - 0.10 * size, np.maximum(edge, ground) + np.float32(0.02 * size + 0.3 * spread), touch, height)
    line = _band(edge - 0.05 * size, edge + 0.008 * size + 1, touch**2, height)
    light *= 1 - np.minimum(1, 0.83 * np.clip(_blurred(pool, 0.7 * spread), 0, 1))
    light *= 1 - 0.6 * np.clip(_blurred(line, 0.2 * spread), 0, 1)
    if shadow.angle_deg is not None and shadow.length is not None:
        light *= 1 - 0.75 * _cast(part, ground, shadow.softness, math.radians(shadow.angle_deg), shadow.length)


def _standing(edge: npt.NDArray[np.float32], columns: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.intp]:
    """The columns, in order, in which a part whose lower outline is ``edge (W,)`` stands on the ground."""
    from scipy.signal import find_peaks  # here, as it takes half a second of a worker's start

    at = np.nonzero(columns)[0]
    dips, _ = find_peaks(np.concatenate(([0.0], edge[at], [0.0])), prominence=max(1.0, _DIP * size), plateau_size=1)
    candidates = sorted({*(int(at[dip - 1]) for dip in dips), *_hull(at, edge)}, key=lambda x: -float(edge[x]))
    standing = [int(at[np.argmax(edge[at])])]
    for x in candidates:
        nearest = min(standing, key=lambda other: abs(other - x))
        if x not in standing and edge[nearest] - edge[x] <= _RISE * abs(nearest - x):
            standing.append(x)
    return np.array(sorted(standing))


def _hull(columns: npt.NDArray[np.intp], edge: npt.NDArray[np.float32]) -> list[int]:
    """The ``columns`` of the corners of the lower convex hull of ``edge (W,)`` (Andrew's monotone chain): where a board from below would touch it."""
    hull: list[tuple[int, float]] = []
    for x, y in zip(columns.tolist(), edge[columns].tolist(), strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) <= (y - hull[-2][1]) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((x, y))
    return [x for x, _ in hull]


def _cast(
    part: npt.NDArray[np.bool_], ground: npt.NDArray[np.float32], softness: float, angle: float, length: float
) -> npt.NDArray[np.float32]:
    """The outline of ``part (H, W)`` laid on the ground, on which it stands along ``ground (W,)``: 0..1.

    A point at a height above the ground falls ``length`` times as far off, away from the light at ``angle``, as that is high.
    """
    height, width = part.shape
    aside, towards = -math.sin(angle) * length, math.cos(angle)
    towards = math.copysign(max(abs(towards), _DEPTH), towards) * length * _FLATTEN
    rows = np.nonzero(part.any(axis=1))[0]
    tall = max(1.0, float(rows[-1] - rows[0]))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    high = (y - ground) / np.float32(towards)  # of what casts the shadow here
    source = x - np.float32(aside) * high
    level = np.interp(source, np.arange(width), ground).astype(np.float32)
    outline = part.astype(np.float32)
    flat = np.where(high >= 0, cv2.remap(outline, source, level - high, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), 0)
    near, middle, far = (_blurred(flat.astype(np.float32), max(0.5, softness * share * tall * length)) for share in (0.01, 0.06, 0.12))
    high = np.clip(high / np.float32(tall), 0, 1)
    first, second = np.clip(2 * high, 0, 1), np.clip(2 * high - 1, 0, 1)
    soft = near + first * (middle - near) + second * (far - middle)
    return np.asarray(np.clip(soft, 0, 1) * (1 - _FADE * high), np.float32)


def _band(
    first: npt.NDArray[np.float32], last: npt.NDArray[np.float32], strength: npt.NDArray[np.float32], height: int
) -> npt.NDArray[np.float32]:
    """``strength`` in each column from the row ``first`` to before ``last``, 0 elsewhere; ``float32 (height, W)``."""
    y = np.arange(height, dtype=np.float32)[:, None]
    return np.where((y >= first) & (y < last), strength, 0).astype(np.float32)


def _blurred(band: npt.NDArray[np.float32], sigma: float) -> npt.NDArray[np.float32]:
    """The ground is seen at a slant, so a shadow spreads more to the sides than up and down."""
    blurred = cv2.GaussianBlur(band, (0, 0), max(0.3, sigma), sigmaY=max(0.3, sigma * _FLATTEN))
    return np.asarray(blurred, dtype=np.float32)
