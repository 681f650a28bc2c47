"""Extends a picture over its border by pieces of its own ground, each copied as it is.

Which pieces stand where is found on a reduced picture (``layout``). There they are also joined: of every piece the differences from pixel to
pixel are kept, and the colours follow from those and from the border (Pérez et al., "Poisson Image Editing", SIGGRAPH 2003). At full size
the pieces bring their detail, and what the joining changed is added to them, smoothly.

On a plain ground the shade is taken off before, and goes on by itself: pieces bring texture alone, and nothing of the light falls back.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from worker.engines.base import Mask, Pixels
from worker.engines.layout import Ground, lay_out
from worker.engines.pieces import Source, assembled, cells
from worker.images.bars import bars
from worker.images.blend import composite
from worker.images.ground import PRODUCT, drawn_out, standing_out
from worker.images.mirror import sheared
from worker.images.shade import shade_beyond, shade_of

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]

_SMALLEST = 8
"""Pixels of the picture's shorter side below which there is nothing to copy."""
_CELLS = 112
"""Least cells of the picture's shorter side, where it has as many pixels, …"""
_MOST = 6000
"""… and most cells that are laid out at once, for the time that it takes."""
_FLAT = 9
"""Columns beside the border that tell the colours of a bar."""
_NEAR = 3.0, 0.9
"""How far from the border pieces come from at least, of the width to be added and of the picture's shorter side."""
_LOOK = 0.4
"""Of that side: the least depth within which things that stand out are looked for."""
_USABLE = 0.99
"""Share of a cell that must be ground."""
_SHADES = 0.2, 0.1, 0.05
"""Sigmas of what counts as shade, of the picture's shorter side."""
_PLAIN = 6.0
"""Levels that a plain ground is off its shade at most, but for one cell in twenty."""
_EASE = 16.0
"""Least cells over which a shade's slope is followed before it has levelled out."""
_DRAWN = 0.06
"""Depth, of the picture's shorter side, from which a thing that the border cuts is drawn out."""
_SOFTENED = 3.0
"""Times that depth from the border at which it is wholly out of focus."""


def extend_picture(picture: Pixels, things: Mask, left: int, right: int, top: int, bottom: int, seed: int) -> Pixels:
    """``picture (H, W, 3)`` with that many more pixels on its sides, which show nothing of its ``things (H, W)`` (``ground.things_in``) again.

    The picture itself stands unchanged at (``left``, ``top``).
    """
    # Rows first, then the columns of what came of it, so that the corners continue both.
    for number, (before, after) in enumerate(((left, right), (top, bottom))):
        start = _continued(picture, things, before, is_side=number == 0, seed=seed + 2 * number)
        end = _continued(picture[:, ::-1], things[:, ::-1], after, is_side=number == 0, seed=seed + 2 * number + 1)
        picture = np.concatenate([start, picture, end[:, ::-1]], axis=1).transpose(1, 0, 2)
        things = np.pad(things, ((0, 0), (before, after))).T
    return np.ascontiguousarray(picture)


def _continued(picture: Pixels, things: Mask, count: int, *, is_side: bool, seed: int) -> Pixels:
    """``count`` columns that continue ``picture`` to the left, in the picture's order: bars as they are, and what lies between them by itself."""
    if count == 0:
        return picture[:, :0]
    found, height = bars(picture), len(picture)
    if found.left:
        return _flat(picture[:, : found.left], count)
    rows = slice(found.top, height - found.bottom)
    middle = _beyond(picture[rows], things[rows], count, is_side=is_side, seed=seed)
    return np.concatenate([_flat(picture[: rows.start], count), middle, _flat(picture[rows.stop :], count)])


def _flat(bar: Pixels, count: int) -> Pixels:
    """``uint8 (H, count, 3)``: each row of a ``bar (H, W, 3)`` in the colour that it has at the border."""
    return np.repeat(np.rint(np.median(bar[:, :_FLAT], axis=1, keepdims=True)).astype(np.uint8), count, axis=1)


def _beyond(picture: Pixels, things: Mask, count: int, *, is_side: bool, seed: int) -> Pixels:
    """``count`` columns that continue a ``picture`` without bars to the left."""
    shorter = min(picture.shape[:2])
    stretched = _stretched(np.ascontiguousarray(picture), count, shorter)
    if shorter < _SMALLEST:
        return stretched
    # What lies further in tells little of the border, and memory is not to grow with it.
    near = round(max(_NEAR[0] * count, _NEAR[1] * shorter))
    picture, things = np.ascontiguousarray(picture[:, :near]), np.ascontiguousarray(things[:, :near])
    ground = ~standing_out(picture, things > 0, max(count, round(_LOOK * shorter)))
    if not ground.any():
        return stretched
    pixels = _copied(picture, things, ground, stretched, is_side=is_side, seed=seed)
    cut = drawn_out(things[:, 0] == PRODUCT, count)
    if not cut.any():
        return pixels
    soft = cv2.blur(np.where(cut, np.uint8(255), np.uint8(0))[:, None], (1, 3)).reshape(-1, 1)
    return composite(pixels, stretched, np.repeat(soft, count, axis=1))


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


def _copied(picture: Pixels, things: Mask, ground: _Bool, stretched: Pixels, *, is_side: bool, seed: int) -> Pixels:
    """Columns of pieces of the ``ground (H, W)``, as many as are ``stretched (H, count, 3)``."""
    (height, count), shorter = stretched.shape[:2], min(picture.shape[:2])
    cell = max(1, shorter // _CELLS, math.ceil((height * count / _MOST) ** 0.5 - 0.2))
    columns, means = -(-count // cell), cells(picture, cell)
    share = cells(ground.astype(np.float32), cell)
    usable = share > _USABLE if (share > _USABLE).any() else share > 0
    seen = cells((things == 0).astype(np.float32), cell) > _USABLE
    # A shade may look like a thing at its far end, so it is looked for in all that is seen first.
    shade, beyond = _shades(means, (seen, usable), columns)
    # Columns are counted from the border, so that the cells of what is added begin there.
    drawn = Source(stretched[:, ::-1], cells(stretched[:, ::-1], cell), beyond[:, ::-1], cell)
    source, mirror = Source(picture, means, shade, cell), sheared(picture, 2 * np.arange(1, columns * cell + 1, dtype=np.float32)[None, :])
    free = _narrowed(usable) if cell > 1 else usable
    reflected, mirrors = source.mirrored(free, mirror)
    layout = lay_out(Ground(source.texture, free, reflected, mirrors, drawn.texture[:, ::-1], is_side), seed)
    return assembled(layout, source, drawn, mirror, beyond, seen[:, 0], height, count)


def _shades(means: _Float, grounds: tuple[_Bool, ...], columns: int) -> tuple[_Float, _Float]:
    """The smoothest shade of ``means (h, w, 3)`` that leaves one of the ``grounds (h, w)`` little but texture, and how it goes on; else none."""
    for ground in grounds:
        for share in _SHADES if ground.any() else ():
            sigma = share * min(ground.shape)
            shade = shade_of(means, ground, sigma)
            if np.percentile(np.abs(means - shade)[ground].max(axis=1), 95) < _PLAIN:
                return shade, shade_beyond(shade, ground, columns, max(_EASE, sigma))
    return np.zeros_like(means), np.zeros((len(means), columns, 3), np.float32)


def _narrowed(usable: _Bool) -> _Bool:
    """``usable (h, w)`` without the cells at its edge, if any are left: shifts are told more finely later, by up to a cell."""
    narrow = cv2.erode(usable.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REFLECT) > 0
    return np.asarray(narrow) if narrow.any() else usable
