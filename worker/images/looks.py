"""Looks at a picture: views of it that a segmentation network is shown, and their maps joined.

One look is often wrong, and mostly says so: its map is then grey over whole areas. So several are joined, each by how decided it is.

- *The whole*, on a square canvas of the border's own colour. In its true proportions a thing is found where it is not when it is squeezed, and a
  thing that fills the frame, or is cut by it, has ground around it. Of 34 photos this look alone finds six that the squeezed one loses.
- *The whole, mirrored*: what depends on the side is chance.
- *The whole, squeezed* to a square, as the networks' authors do. On the canvas the photo may itself be taken for the thing; here it cannot be.
- *Closer*: a window around what was found, so that a small thing gets more of the network's pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.mask import Box, bounding_box
from worker.images.network import Map, Network

_Pixels = npt.NDArray[np.uint8]
_Bool = npt.NDArray[np.bool_]

MOST = 4
"""Looks that there are. Two are the whole, the third is closer, the fourth (the mirrored one) is for pictures on which the first two differ."""
CERTAIN = 0.1
"""Values of a map nearer than this to 0 or to 1 are the network's word for certain."""
_GRID = 2
"""Longest side of the grid on which maps are joined, in sides of the network: a window's map is finer than the whole's."""
_EDGE = 7 / 320
"""Width of a plain edge at most, as a share of the network's side: over a wider stretch the network does not know."""
_DECIDED = 0.02
"""Ambiguity from which on a look counts half as much as one that has none."""
_FOUND = 0.5
"""Likelihood from which on a pixel is found."""
_LEAST = 0.0005
"""Share of the frame below which nothing is found."""
_ALL_AROUND = 0.15
"""Share of each of the four borders: what covers that much of all four is the photo itself, found as a thing on its canvas."""
_SQUARE = 1.05
"""Proportions up to which a canvas squeezes nothing, so that the squeezed look would be the first again."""
_MARGIN = 0.15
"""Around what was found, of its longer side, in the closer look."""
_CLOSER = 0.9
"""Share of the frame from which on a window shows nothing more closely."""
_PART = 0.02
"""Parts smaller than this share of the largest do not make the window larger."""
_SAME = 0.6
"""Intersection over union with the looks at the whole below which the closer one found a part, or something else."""
_AGREED, _SURE = 0.97, 0.01
"""Intersection over union, and ambiguity, at which two looks need no third."""


@dataclass(frozen=True, eq=False)
class Look:
    """One look and its findings."""

    likely: Map
    """``float32`` of the ``window``: the likelihood of the product."""
    window: Box
    """The part of the grid that was shown."""
    ambiguity: float
    """Share of what it does not rule out, 0..1, that it leaves open over more than an edge."""
    zoom: float
    """How many times closer than the whole it was shown."""

    @property
    def weight(self) -> float:
        """Say in the joined map."""
        return self.zoom / (self.ambiguity + _DECIDED)


@dataclass(frozen=True, eq=False)
class Finding:
    """The looks at a picture, joined."""

    likely: Map
    """``float32 (h, w)`` on the grid, the frame in small; 0 throughout where nothing was found."""
    looks: tuple[Look, ...]
    """Those that found a thing."""
    grain: float
    """Accuracy of the map in pixels of the grid: the width of one of the network's pixels at the closest look."""


def find(pixels: _Pixels, network: Network, most: int = MOST) -> Finding:
    """What up to ``most`` looks of ``network`` at ``pixels (H, W, 3)`` find; fewer where the first two agree and are sure."""
    side = network.facts.side
    height, width = pixels.shape[:2]
    scale = min(1.0, _GRID * side / max(height, width))
    grid = max(1, round(height * scale)), max(1, round(width * scale))
    shown = _resized(pixels, grid)
    looks: list[Look] = []
    wholes = 2 if most == 3 else min(most, 3)
    for number, (take, has_canvas) in enumerate(_wholes(shown, network)):
        if _settled(looks) or (looks and number >= wholes):
            break
        likely = take()
        if _is_a_thing(likely, has_canvas=has_canvas):
            looks.append(Look(likely, Box(0, 0, grid[1], grid[0]), ambiguity(likely, side), 1.0))
    joined, grain = _joined(looks, grid), max(grid) / side
    window = _window(joined) if most > 2 else None
    if window is not None:
        zoom = max(grid) / max(window.width, window.height)
        closer = _resized(
            _on_canvas(np.ascontiguousarray(pixels[at_full_size(window, grid, pixels.shape)]), network), (window.height, window.width)
        )
        if _iou(closer > _FOUND, joined[window.slices] > _FOUND) >= _SAME:
            looks.append(Look(closer, window, ambiguity(closer, side), zoom))
            joined, grain = _joined(looks, grid), grain / zoom
    return Finding(joined, tuple(looks), grain)


def ambiguity(likely: Map, side: int) -> float:
    """Share of what ``likely (h, w)`` does not rule out that it leaves open, edges of a few pixels of a network of this ``side`` aside."""
    height, width = likely.shape
    scale = min(1.0, side / max(height, width))
    small = _resized(likely, (max(1, round(height * scale)), max(1, round(width * scale))))
    left_open = ((small > CERTAIN) & (small < 1 - CERTAIN)).astype(np.uint8)
    edge = max(3, round(_EDGE * side))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (edge, edge))
    # What is open up to the frame may go on beyond it.
    around = cv2.copyMakeBorder(left_open, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    wide = cv2.morphologyEx(around, cv2.MORPH_OPEN, disc)[edge:-edge, edge:-edge]
    return float(np.count_nonzero(wide)) / max(1, int(np.count_nonzero(small > CERTAIN)))


def _wholes(shown: _Pixels, network: Network) -> Iterator[tuple[Callable[[], Map], bool]]:
    """The looks at the whole of ``shown (h, w, 3)``: each takes its map ``float32 (h, w)`` when it is called; and whether a canvas is around it."""
    height, width = shown.shape[:2]
    yield lambda: _on_canvas(shown, network), True
    if max(height, width) > _SQUARE * min(height, width):
        yield lambda: _resized(network.maps([shown])[0], (height, width)), False
    yield lambda: np.ascontiguousarray(_on_canvas(np.ascontiguousarray(shown[:, ::-1]), network)[:, ::-1]), True


def _on_canvas(view: _Pixels, network: Network) -> Map:
    """The map ``float32 (h, w)`` of ``view (h, w, 3)`` in the middle of a square of its border's median colour."""
    height, width = view.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = np.rint(np.median(border, axis=0)).astype(np.uint8)
    canvas[top : top + height, left : left + width] = view
    return np.ascontiguousarray(_resized(network.maps([canvas])[0], (side, side))[top : top + height, left : left + width])


def at_full_size(box: Box, grid: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a picture of ``shape`` that a ``box`` of its ``grid`` covers, at least one of each."""
    down, across = shape[0] / grid[0], shape[1] / grid[1]
    top, left = round(box.top * down), round(box.left * across)
    return slice(top, max(round(box.bottom * down), top + 1)), slice(left, max(round(box.right * across), left + 1))


def _is_a_thing(likely: Map, *, has_canvas: bool) -> bool:
    """Whether a map shows something, and not the photo itself."""
    found = likely > _FOUND
    height, width = found.shape
    inner = min(2, (height - 1) // 2), min(2, (width - 1) // 2)  # a map fades at the canvas
    borders = (found[inner[0]], found[-1 - inner[0]], found[:, inner[1]], found[:, -1 - inner[1]])
    return bool(found.mean() >= _LEAST and (not has_canvas or min(border.mean() for border in borders) < _ALL_AROUND))


def _settled(looks: Sequence[Look]) -> bool:
    """Whether two looks at the whole agree and are sure."""
    if len(looks) < 2:
        return False
    one, other = looks[:2]
    return max(one.ambiguity, other.ambiguity) <= _SURE and _iou(one.likely > _FOUND, other.likely > _FOUND) >= _AGREED


def _joined(looks: Sequence[Look], grid: tuple[int, int]) -> Map:
    """The mean ``float32 (h, w)`` of maps, each by its weight where it saw."""
    total, weights = np.zeros(grid, np.float32), np.zeros(grid, np.float32)
    for each in looks:
        total[each.window.slices] += np.float32(each.weight) * each.likely
        weights[each.window.slices] += np.float32(each.weight)
    return np.asarray(total / np.maximum(weights, np.float32(1e-6)), np.float32)


def _window(likely: Map) -> Box | None:
    """The part of the grid around what was found; ``None`` where nothing was, or it is nearly all."""
    found = (likely > _FOUND).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=8)
    if count < 2:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    box = bounding_box(np.isin(labels, 1 + np.flatnonzero(areas >= _PART * areas.max())).astype(np.uint8))
    if box is None:
        return None
    window = _squarer(box.padded(max(2, round(_MARGIN * max(box.width, box.height))), likely.shape), likely.shape)
    return window if window.width * window.height < _CLOSER * likely.size else None


def _squarer(box: Box, shape: tuple[int, ...]) -> Box:
    """``box`` made as wide as it is high, or as high as wide, by what is around as far as the frame goes: real ground is better than a canvas."""
    side, (height, width) = max(box.width, box.height), shape[:2]
    left = min(max(0, box.left - (side - box.width) // 2), max(0, width - side))
    top = min(max(0, box.top - (side - box.height) // 2), max(0, height - side))
    return Box(left, top, min(width, left + side), min(height, top + side))


def _iou(one: _Bool, other: _Bool) -> float:
    return float(np.count_nonzero(one & other)) / max(1, int(np.count_nonzero(one | other)))


def _resized(plane: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    if plane.shape[:2] == shape:
        return plane
    shrinks = shape[0] <= plane.shape[0] and shape[1] <= plane.shape[1]
    return np.asarray(cv2.resize(plane, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), plane.dtype)
