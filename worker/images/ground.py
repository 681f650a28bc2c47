"""The part of a picture that goes on beyond a border: the ground that is seen there, without the product and without things that stand on it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from api_schemas.errors import SubjectNotFound
from worker.images.codec import Frame
from worker.images.measures import to_lab
from worker.images.membrane import membrane
from worker.images.subject import Segmenter, subject_of
from worker.images.transparency import WHITE, over_ground

_Mask = npt.NDArray[np.uint8]
_Bool = npt.NDArray[np.bool_]

PRODUCT, THING = 255, 128
"""Values of a mask of things."""
_SEEN, _HALF = 25, 127
"""Of a matte: from where on it would be seen as a part of the product, and from where on as a thing of its own."""
_SECOND_LOOK = 640
"""Longest side in pixels of the picture in which what stands out next is looked for."""
_CELL = 8
"""Least side in pixels of the cells whose mean colours are compared."""
_CELLS = 50
"""Cells along the shorter side of a large picture."""
_BESIDE = 6, 2
"""Cells to each side along the border, and cells into the picture, that a cell is compared with."""
_UNLIKE = 14.0
"""Least distance (CIELAB) of a cell of a foreign thing from every cell beside the border."""
_STRICT, _PER_VARIETY = 8.0, 1.5
"""The same for what marks a thing as foreign for certain: more where the border itself is varied."""
_SURE = 0.4
"""Share of a foreign thing's cells that must be so for certain."""
_EDGE = 6.0
"""Median step of colour (CIELAB), from cell to cell, at the edge of a thing: a shade changes more slowly."""
_SMALLEST = 6
"""Cells of the smallest thing that is looked at."""
_CLUTTER = 0.36
"""Share of unlike cells, of those that are no product, above which a side is a jumble of things, of which none stands out."""
_PLAIN = 2.0
"""Variety of a border so plain that whatever differs from it is foreign, however much that is."""
_HALO = 2
"""Cells around a thing that its soft edge and its shadow may cover."""
_SHORT = 0.15
"""Share of the photo's shorter side up to which a broad thing can be drawn out."""
_TOUCHING, _CUT = 2, 0.1
"""Pixels from the border within which the product is cut by it, and the share of the border from which that is a part of the picture."""
_BLACK = 3.0
"""Lightness (CIELAB) up to which nothing is a shadow."""
_SHADOW, _TINGE = 5.0, 8.0
"""How much darker than the middle of the border a shadow is, and how far its colour may be from there (CIELAB), besides what the border varies."""


def things_in(frame: Frame, segmenter: Segmenter) -> _Mask | None:
    """``uint8 (H, W)``: ``PRODUCT`` on the product of ``frame``, ``THING`` on what stands out next within it, else 0; ``None`` where nothing does.

    The second look is at the picture with the product taken away. What it finds at the frame's border is scenery rather than a thing.
    """
    try:
        product = subject_of(frame, segmenter).matte > _SEEN
    except SubjectNotFound:
        return None
    out = np.where(product, np.uint8(PRODUCT), np.uint8(0))
    height, width = product.shape
    scale = min(1.0, _SECOND_LOOK / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(product.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    hidden = np.asarray(cv2.dilate(small, _square(max(1, max(size) // 160))) > 0)
    if hidden.all():
        return out
    shown = np.asarray(cv2.resize(over_ground(frame, WHITE), size, interpolation=cv2.INTER_AREA), np.uint8)
    behind = membrane(np.where(hidden[..., None], 0, shown).astype(np.float32), (~hidden).astype(np.float32))
    view = np.where(hidden[..., None], np.clip(np.rint(behind), 0, 255), shown).astype(np.uint8)
    try:
        matte = segmenter.matte(view)
    except SubjectNotFound:
        return out
    _, labels = cv2.connectedComponents((matte > _HALF).astype(np.uint8), connectivity=8)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    second = ((labels > 0) & ~np.isin(labels, border)).astype(np.uint8)
    seen = cv2.resize(second, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return np.where(seen & ~product, np.uint8(THING), out)


def standing_out(picture: npt.NDArray[np.uint8], product: _Bool, deep: int) -> _Bool:
    """``bool (H, W)``: the ``product`` with its shadow, and things in the first ``deep`` columns of ``picture (H, W, 3)`` unlike all at its left border.

    Colours of cells are compared with those beside the border near them, where these are no product.
    """
    reduced = _reduced(picture, product)
    if reduced is None:
        return product
    cells, held = reduced
    height, width = product.shape
    shaded = _shaded(cells, held)
    distance, variety = _unlikeness(cells, held | shaded)
    found = _foreign(distance, variety, held, min(held.shape[1], deep * held.shape[1] // width + 1))
    things = _further(found, cells, distance) | shaded
    wide, narrow = cv2.dilate(things.astype(np.uint8), _square(_HALO)), cv2.dilate(held.astype(np.uint8), _square(1))
    grown = np.asarray(np.maximum(wide, narrow), np.uint8)
    return np.asarray(cv2.resize(grown, (width, height), interpolation=cv2.INTER_NEAREST) > 0) | product


def doubts(things: _Mask | None, left: int, right: int, top: int, bottom: int) -> tuple[str, ...]:
    """Reasons to doubt that a picture of these ``things (H, W)`` can be continued by that many pixels on its sides; none if it can."""
    if things is None:
        return ()
    turned = {"left": (left, things), "right": (right, things[:, ::-1]), "top": (top, things.T), "bottom": (bottom, things[::-1].T)}
    found = []
    for side, (count, mask) in turned.items():
        touching = (mask[:, :_TOUCHING] == PRODUCT).any(axis=1)
        # A narrow part of a product is not drawn out: it ends at the border, however little is added.
        narrow = bool((touching & ~drawn_out(touching, count)).any())
        if np.mean(touching) >= _CUT and (narrow or count > _SHORT * min(mask.shape)):
            found.append(f"the product is cut by the photo's {side} border and cannot go on for {count} px")
    return tuple(found)


def drawn_out(touching: _Bool, count: int) -> _Bool:
    """The rows ``(H,)`` of those ``touching`` the border in which a thing is so broad there that it would go on for ``count`` pixels."""
    number, labels = cv2.connectedComponents(touching[:, None].astype(np.uint8), connectivity=8)
    lengths = np.bincount(labels.reshape(-1), minlength=number)
    lengths[0] = 0
    return np.asarray((lengths >= count)[labels.reshape(-1)])


def _reduced(picture: npt.NDArray[np.uint8], product: _Bool) -> tuple[npt.NDArray[np.float32], _Bool] | None:
    """The mean colour (CIELAB) of each cell, and where the product is in them; ``None`` where the picture is too small for cells."""
    height, width = product.shape
    cell = max(_CELL, min(height, width) // _CELLS)
    rows, columns = height // cell, width // cell
    if rows < _BESIDE[0] or columns <= _BESIDE[1]:
        return None
    held = cv2.resize(product.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA) > 0
    # The colours are converted once they are few.
    return to_lab(np.asarray(cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)), held


def _shaded(cells: npt.NDArray[np.float32], held: _Bool) -> _Bool:
    """Cells next to those ``held`` that lie in their shadow: darker than most of the border, all of it or what is near, and of its colour.

    None where that would be a large part of the ground: then the ground itself is so.
    """
    out = np.zeros(held.shape, np.bool_)
    if not held.any() or held[:, : _BESIDE[1]].all():
        return out
    # Near the border light differs from place to place, and where a shadow crosses it only the whole of it tells.
    for along in (_BESIDE[0], len(cells)):
        _, labels = cv2.connectedComponents((_darker(cells, *_beside(cells, held, along)) | held).astype(np.uint8), connectivity=4)
        shadow = np.isin(labels, np.unique(labels[held])) & ~held
        if np.count_nonzero(shadow) < _CLUTTER * np.count_nonzero(~held):
            out |= shadow
    return out


def _darker(cells: npt.NDArray[np.float32], middle: npt.NDArray[np.float32], spread: npt.NDArray[np.float32]) -> _Bool:
    # A black frame is none.
    darker = (cells[..., 0] < middle[..., 0] - _SHADOW - 3 * spread[..., 0]) & (cells[..., 0] > _BLACK)
    return np.asarray(
        darker & (np.linalg.norm(cells[..., 1:] - middle[..., 1:], axis=2) < _TINGE + 3 * np.linalg.norm(spread[..., 1:], axis=2))
    )


def _beside(cells: npt.NDArray[np.float32], held: _Bool, along: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The median colour beside the border up to ``along`` cells from each row, ``(rows, 1, 3)``, and the median distance from that.

    Of all of the border where nothing of it is seen there.
    """
    seen = ~held[:, : _BESIDE[1]]
    colours, places = cells[:, : _BESIDE[1]][seen], np.nonzero(seen)[0]
    middle, spread = np.zeros((2, len(cells), 1, 3), np.float32)
    for row in range(len(cells)):
        close = np.abs(places - row) <= along
        near = colours[close] if close.any() else colours
        middle[row] = np.median(near, axis=0)
        spread[row] = np.median(np.abs(near - middle[row]), axis=0)
    return middle, spread


def _unlikeness(cells: npt.NDArray[np.float32], hidden: _Bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Each cell's distance from the nearest colour beside the border, ``(rows, columns)``, and how varied these are, ``(rows,)``."""
    rows, columns = hidden.shape
    along, deep = _BESIDE
    near = np.clip(np.arange(rows)[:, None] + np.arange(-along, along + 1), 0, rows - 1)
    beside = cells[near][:, :, :deep].reshape(rows, -1, 3)
    unseen = hidden[near][:, :, :deep].reshape(rows, -1)
    # Where nothing of the ground is seen beside the border there, the whole border is what to go by.
    whole = cells[:, :deep].reshape(-1, 3)
    seen = whole[~hidden[:, :deep].reshape(-1)]
    distance, variety = np.zeros((rows, columns), np.float32), np.zeros(rows, np.float32)
    for row in range(rows):
        known = beside[row][~unseen[row]]
        if not known.size:
            known = seen if seen.size else whole
        variety[row] = np.linalg.norm(known - known.mean(axis=0), axis=1).mean()
        distance[row] = np.linalg.norm(cells[row][:, None] - known, axis=2).min(axis=1)
    return distance, variety


def _foreign(distance: npt.NDArray[np.float32], variety: npt.NDArray[np.float32], held: _Bool, deep: int) -> _Bool:
    """Cells of things, other than those ``held``, that the border does not show, in the first ``deep`` columns."""
    looked = np.zeros(held.shape, np.bool_)
    looked[:, :deep] = True
    unlike = (distance > _UNLIKE) & looked
    jumbled = np.count_nonzero(unlike & ~held) > _CLUTTER * max(1, int(np.count_nonzero(looked & ~held)))
    if jumbled and np.median(variety) > _PLAIN:
        return np.zeros(held.shape, np.bool_)
    closed = cv2.morphologyEx(unlike.astype(np.uint8), cv2.MORPH_CLOSE, _square(1))
    number, labels = cv2.connectedComponents(closed, connectivity=8)
    area = np.bincount(labels.reshape(-1), minlength=number)
    sure = np.bincount(labels[(distance > _STRICT + _PER_VARIETY * variety[:, None]) & looked], minlength=number)
    things = (area >= _SMALLEST) & (sure > _SURE * area)
    things[0] = False
    return np.asarray(things[labels])


def _further(found: _Bool, cells: npt.NDArray[np.float32], distance: npt.NDArray[np.float32]) -> _Bool:
    """The things ``found``, as far in as they go on. A mere shade, which has no edge, ends where it was found."""
    steps = [np.linalg.norm(cells - np.roll(cells, by, axis), axis=2) for axis in (0, 1) for by in (-1, 1)]
    others = [found & ~np.roll(found, by, axis) for axis in (0, 1) for by in (-1, 1)]
    edge = np.concatenate([step[1:-1, 1:-1][other[1:-1, 1:-1]] for step, other in zip(steps, others, strict=True)])
    if not edge.size or np.median(edge) < _EDGE:
        return found
    _, parts = cv2.connectedComponents((found | (distance > _UNLIKE)).astype(np.uint8), connectivity=8)
    return np.isin(parts, np.unique(parts[found]))


def _square(reach: int) -> _Mask:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
