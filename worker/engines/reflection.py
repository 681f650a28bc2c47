"""Extends a picture over its border: near it by a reflection, sheared so that lines cross without a kink, further out by blocks of its texture.

A reflection has the picture's own texture and meets it without a step. What gives it away is a second copy of a thing that stands inside, and
its symmetry where it goes on for long: so it is as deep only as the ground that it shows, and blocks go on from there (``quilt``). Colours
and shades wider than a block are taken off before and go on by themselves, smoothly: nothing folds in them.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Mask, Pixels
from worker.images.blend import composite
from worker.images.ground import PRODUCT, drawn_out, standing_out
from worker.images.membrane import membrane
from worker.images.mirror import sheared
from worker.images.quilt import Texture, quilt

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_DEEPEST = 0.15
"""Depth of a reflection, of the picture's shorter side: deeper ones look like mirrors."""
_BLOCK = 0.1
"""Side of a block, of the picture's shorter side."""
_BLOCKS_PX = 16, 160
_SMALLEST = 8
"""Pixels of the picture's shorter side below which there is no texture to go on with."""
_KNOWN = 12
"""Blocks from the border within which the ground is looked for."""
_FINE, _LARGER = 0.08, 2.5
"""Size of what is seen in a block, of its side, above which blocks are larger, and how much at most: blurred things are seen whole or not at all."""
_SOFT_LEVELS = 12.0
"""Deviation in levels above which these would be seen as things of their own."""
_SHADE = 0.5
"""Sigma of what counts as shade rather than texture, in sides of a block."""
_BESIDE = 0.05
"""Sides of a block that are beside the border: a shadow that ends before it is none at the border."""
_EASE = 1.5
"""Sides of a block over which a shade's slope is followed before it has levelled out."""
_DRAWN = 0.06
"""Depth, of the picture's shorter side, from which a thing that the border cuts is drawn out."""
_SOFTENED = 3.0
"""Times that depth from the border at which it is wholly out of focus."""
_NEAR = 0.2
"""Share of that within which it is measured."""
_SLOPE_LEVELS = 20.0
"""Most that a shade goes on to change."""


def extend_picture(picture: Pixels, things: Mask, left: int, right: int, top: int, bottom: int, seed: int) -> Pixels:
    """``picture (H, W, 3)`` with that many more pixels on its sides, which show nothing of its ``things (H, W)`` (``ground.things_in``) again.

    The picture itself stands unchanged at (``left``, ``top``).
    """
    # Rows first, then the columns of what came of it, so that the corners continue both.
    for number, (before, after) in enumerate(((left, right), (top, bottom))):
        start = _continued(picture, things, before, seed + 2 * number)
        end = _continued(picture[:, ::-1], things[:, ::-1], after, seed + 2 * number + 1)
        picture = np.concatenate([start, picture, end[:, ::-1]], axis=1).transpose(1, 0, 2)
        things = np.pad(things, ((0, 0), (before, after))).T
    return np.ascontiguousarray(picture)


def _continued(picture: Pixels, things: Mask, count: int, seed: int) -> Pixels:
    """``count`` columns that continue ``picture`` to the left, in the picture's order."""
    if count == 0:
        return picture[:, :0]
    shorter = min(picture.shape[:2])
    if shorter < _SMALLEST:
        return _stretched(np.ascontiguousarray(picture), count, shorter)
    block = int(np.clip(_BLOCK * shorter, *_BLOCKS_PX))
    # What lies further in tells little of the border, and memory is not to grow with it.
    near = max(count, _KNOWN * block)
    picture, things = np.ascontiguousarray(picture[:, :near]), things[:, :near]
    stands = np.ascontiguousarray(things > 0)
    ground = ~standing_out(picture, stands, max(count, 4 * block))
    if not ground.any():
        return _stretched(picture, count, shorter)
    shade, bend = _shade(picture, ground, _SHADE * block), np.zeros((1, 1, 3), np.float32)
    larger = block
    if count > _DEEPEST * shorter:
        larger = _side(picture - shade, ground, block)
    if larger > block:
        coarse = _shade(picture, ground, _SHADE * larger)
        bend = _unfolded(shade - coarse, count, _SHADE * block)
        block, shade = larger, coarse
    texture = picture - shade
    texture[~ground] = 0
    reflected, there = _reflected(picture, texture, ground, count, max(1, round(_DEEPEST * shorter)))
    beyond = _shade_beyond(shade, ground, count, _EASE * block) + bend
    reflected, there = quilt(reflected, there, beyond, Texture(texture, shade, ground), block, seed)
    fading = _fading(picture, shade, ~ground[:, 0] & ~stands[:, 0], count, block)
    pixels = np.asarray(np.clip(np.rint(beyond + fading + reflected), 0, 255), np.uint8)
    cut = drawn_out(things[:, 0] == PRODUCT, count)
    if not cut.any():
        return pixels
    drawn = cv2.blur(np.where(cut, np.uint8(255), np.uint8(0))[:, None], (1, 3)).reshape(-1, 1)
    return composite(pixels, _stretched(picture, count, shorter), np.repeat(drawn, count, axis=1))


def _unfolded(blurred: _Float, count: int, reach: float) -> _Float:
    """``float32 (H, count, 3)``: what lets the slope of a ``blurred (H, W, 3)`` texture go on where a reflection turns it round, near the border."""
    deep = min(blurred.shape[1] - 1, max(1, round(reach / 2)))
    slope = cv2.GaussianBlur(blurred[:, :1] - blurred[:, deep : deep + 1], (0, 0), reach, borderType=cv2.BORDER_REPLICATE) / max(1, deep)
    step = np.arange(count, 0, -1, dtype=np.float32)[None, :, None]
    return np.asarray(2 * slope.reshape(-1, 1, 3) * step * np.exp(-step / reach), np.float32)


def _side(texture: _Float, ground: _Bool, block: int) -> int:
    """The side in pixels of blocks of the ``texture (H, W, 3)`` of the ``ground``: larger ones where that is faint and out of focus."""
    if float(texture[ground].std()) > _SOFT_LEVELS or not ground[1:, 1:].any():
        return block
    # Grain is no detail.
    texture, inner = np.asarray(cv2.GaussianBlur(texture, (0, 0), 1.0, borderType=cv2.BORDER_REFLECT), np.float32), ground[1:, 1:]
    steps = sum(float(np.square(np.diff(texture, axis=axis)[-inner.shape[0] :, -inner.shape[1] :][inner]).mean()) for axis in (0, 1))
    details = float(np.sqrt(2 * np.square(texture[1:, 1:][inner]).mean() / max(steps, 1e-3)))
    return round(block * float(np.clip(details / (_FINE * block), 1, _LARGER)))


def _fading(picture: Pixels, shade: _Float, shaded: npt.NDArray[np.bool_], count: int, block: int) -> _Float:
    """``float32 (H, count, 3)``: by how much the rows that are ``shaded (H,)`` at the border differ from the ``shade``; they get light from there on."""
    near = slice(max(1, round(_BESIDE * block)))
    off = np.where(shaded[:, None], (picture[:, near] - shade[:, near]).mean(axis=1), 0)
    along = cv2.GaussianBlur(off[:, None].astype(np.float32), (0, 0), _BESIDE * block, borderType=cv2.BORDER_REPLICATE).reshape(-1, 1, 3)
    return np.asarray(along * np.exp(-np.arange(count, 0, -1, dtype=np.float32) / (_SHADE * block))[None, :, None], np.float32)


def _stretched(picture: Pixels, count: int, shorter: int) -> Pixels:
    """The last pixels before the border drawn out, ever more: a thing that goes on, without a second one."""
    deep = max(1.0, _DRAWN * shorter)
    step = np.arange(count, 0, -1, dtype=np.float32)
    x = np.minimum(deep * (1 - np.exp(-step / deep)), picture.shape[1] - 1)
    y = np.arange(picture.shape[0], dtype=np.float32)
    drawn = cv2.remap(picture, np.repeat(x[None, :], len(y), axis=0), np.repeat(y[:, None], count, axis=1), cv2.INTER_LINEAR)
    # Further out it is ever more out of focus: streaks would tell how it was made.
    share = np.clip(step / (_SOFTENED * deep), 0, 1)[None, :, None]
    soft = cv2.GaussianBlur(drawn, (0, 0), deep / 3, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.rint(drawn * (1 - share) + soft * share), np.uint8)


def _shade(picture: Pixels, ground: _Bool, sigma: float) -> _Float:
    """``float32 (H, W, 3)``: what is left of the ground's colours without texture, going on smoothly behind what is no ground."""
    scale = max(1.0, sigma / 3)
    height, width = ground.shape
    size = max(1, round(width / scale)), max(1, round(height / scale))
    share = np.asarray(cv2.resize(ground.astype(np.float32), size, interpolation=cv2.INTER_AREA))
    colours = np.asarray(cv2.resize(picture * ground[..., None].astype(np.float32), size, interpolation=cv2.INTER_AREA)).reshape(
        size[1], size[0], 3
    )
    known = share > 0.5
    if not known.any():
        known = share > 0
    colours = np.where(known[..., None], colours / np.maximum(share, 1e-3)[..., None], 0).astype(np.float32)
    whole = colours if known.all() else membrane(np.asarray(colours, np.float32), known.astype(np.float32))
    smooth = _smoothed(np.where(known[..., None], colours, whole), sigma / scale)
    # Enlarging levels out at the border too, so it goes on in lines for two pixels.
    first, last = smooth[:, :1], smooth[:, -1:]
    before, after = first - smooth[:, 1:2] if size[0] > 1 else 0 * first, last - smooth[:, -2:-1] if size[0] > 1 else 0 * last
    smooth = np.concatenate([first + 2 * before, first + before, smooth, last + after, last + 2 * after], axis=1)
    more = round(2 * width / size[0])
    whole = cv2.resize(smooth, (width + 2 * more, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(whole[:, more : more + width], np.float32).reshape(height, width, 3)


def _smoothed(colours: _Float, sigma: float) -> _Float:
    """``colours (h, w, 3)`` without detail: across the border local lines rather than means, whose slope does not level out at the border itself.

    A mean bends there, and what it is off would be mirrored as a ridge. Local linear regression (Fan and Gijbels, 1996).
    """
    reach = 2 * math.ceil(3 * sigma) + 1
    bell, distance = cv2.getGaussianKernel(reach, sigma), (np.arange(reach)[:, None] - reach // 2) / sigma
    along = np.asarray(cv2.filter2D(colours, -1, bell, borderType=cv2.BORDER_REPLICATE), np.float32)

    def moment(values: _Float, order: int) -> _Float:
        """The sum around each column, weighed by that power of the distance from it too; beyond the border there is nothing."""
        return np.asarray(cv2.filter2D(values, -1, (bell * distance**order).T, borderType=cv2.BORDER_CONSTANT), np.float32)

    share = np.ones((1, colours.shape[1], 1), np.float32)
    zeroth, first, second = (moment(share, order).reshape(share.shape) for order in (0, 1, 2))
    smooth = (second * moment(along, 0) - first * moment(along, 1)) / np.maximum(zeroth * second - first * first, 1e-6)
    return np.asarray(smooth, np.float32)


def _shade_beyond(shade: _Float, ground: _Bool, count: int, ease: float) -> _Float:
    """``float32 (H, count, 3)``: the shade left of the picture, where its slope levels out."""
    deep = min(shade.shape[1] - 1, max(1, round(_NEAR * ease)))
    step = np.arange(count, 0, -1, dtype=np.float32)[None, :, None]
    slope = cv2.GaussianBlur(shade[:, :1] - shade[:, deep : deep + 1], (0, 0), max(1.0, ease / 3), borderType=cv2.BORDER_REPLICATE)
    slope = slope.reshape(-1, 1, 3) / max(1, deep)
    # A steep one levels out sooner, rather than to begin less steep: that would be a ridge along the border.
    reach = np.minimum(max(1.0, ease), _SLOPE_LEVELS / np.maximum(np.abs(slope).max(axis=2, keepdims=True), 1e-3))
    rise = slope * reach * (1 - np.exp(-step / reach))
    low, high = np.percentile(shade[ground], (0.5, 99.5), axis=0)
    return np.asarray(np.clip(shade[:, :1] + rise, np.minimum(low, shade[:, :1]), np.maximum(high, shade[:, :1])), np.float32)


def _reflected(picture: Pixels, texture: _Float, ground: _Bool, count: int, deepest: int) -> tuple[_Float, _Bool]:
    """The ``texture`` mirrored at its left border, ``(H, count, 3)``, and where it shows ``ground`` no deeper than ``deepest``."""
    height, width = ground.shape
    # The first column is the axis: it is not repeated, which would show as a flat line.
    depth = max(0, min(deepest, width - 1))
    column = np.arange(count, 0, -1, dtype=np.float32)[None, :]
    # A line of slope s that leaves at row r is at r - s × step out there and at r + s × column in here.
    shear = sheared(picture, 2 * column)
    x = np.repeat(np.minimum(column, depth), height, axis=0).astype(np.float32)
    y = (np.arange(height)[:, None] + shear).astype(np.float32)
    pixels = cv2.remap(texture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    shown = cv2.remap(ground.astype(np.uint8), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT) > 0
    # Behind what is hidden a reflection does not begin again.
    open_here = np.minimum.accumulate(shown[:, ::-1], axis=1)[:, ::-1] & (column <= depth)
    return np.asarray(pixels, np.float32) * open_here[..., None], np.asarray(open_here)
