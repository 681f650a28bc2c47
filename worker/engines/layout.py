"""Lays out what is to be seen beyond a picture's border: for each cell the shift by which it is copied, so that its pieces meet where they differ least.

Shift maps (Pritch et al., "Shift-Map Image Editing", ICCV 2009) with few, frequent shifts (He and Sun, "Statistics of Patch Offsets for Image
Completion", ECCV 2012) and the seams of "Graphcut Textures" (Kwatra et al., SIGGRAPH 2003), found by alpha expansion (Boykov et al., 2001).

In a photo the ground changes with height: sky, horizon, floor. So a shift costs the more the further up or down it copies from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from worker.images.checkpoint import checkpoint

_Float = npt.NDArray[np.float32]
_Bool = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]
Shift = tuple[int, int]
"""Rows down and columns to the right from a cell to the one that it copies."""

_COLOUR, _GRADIENT = 0.6, 2.0
"""Weights of colours and of gradients where two pieces are compared: a difference of lines is seen more than one of light, which is evened out."""
_LEAST = 9
"""Cells of the least shift, as the shorter side over this: smaller ones make a pattern."""
_STRIP, _ALONG = 10, 9
"""Cells beside the border that a shift must match, and of those along it that are looked at together."""
_INNER = 1
"""Cells of it that are left out: their gradient at the border itself is not known."""
_WANDER = 5, 2
"""How far along the border a shift may copy from, as its length over this: at a side, and at the top or bottom."""
_ROUNDS, _PER_ROUND = 4, 16
"""Sets of shifts that match the border, each with the best of those that are left, and the shifts of a set."""
_ALIKE = 4
"""Cells from a chosen shift within which no other one is."""
_DULL = 80.0
"""Cost of a cell of the border that no shift of a set matches."""
_HEIGHT, _ASIDE = 20.0, 0.4
"""Cost of a cell copied from as far up or down as the picture is high, and that share of it for as far aside: things of its own stand there."""
_COVERING = 10
"""Shifts at most for cells that fewer than two of the others can show."""
_FAR = 6.0, 3.0, 0.3
"""How fast the worth of those falls: with rows up or down at a side, with depth at the top or bottom, and there with columns aside."""
_SEAM = 3.0
"""Cost of a seam's cell besides the difference of its pieces: a few large ones rather than many."""
_MEETING = 2.0
"""Weight of how a shift meets the border."""
_REFLECTED = 2.5
"""Cost of a reflected cell beside the border, and …"""
_KINK = 3
"""Cells beside the border in which lines and shades are compared with their reflection."""
_BREAK = 6.0
"""Weight of how a reflection breaks lines, or folds shades."""
_MIRROR = 0.12
"""… shorter sides away from it at which that has doubled: a mirror shows by its symmetry."""
_DRAWN = 60.0
"""Cost of a cell that is drawn out of the border: the last resort."""
_CHANCE = 0.2
"""Share of its cost that chance adds to a shift at most: another seed chooses others of about as good ones."""
_NEVER = 20000.0
_SWEEPS = 2
_WHOLE = 4
"""Steps of a flow, which is in whole numbers, by a cost."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What can be copied, in cells, its border at the left, and what else can be shown in the ``n`` columns left of it."""

    pixels: _Float
    """``(H, W, 3)``."""
    usable: _Bool
    """``(H, W)``: cells that may be shown."""
    reflected: _Float
    """``(H, n, 3)``."""
    mirrors: _Bool
    """``(H, n)``: where that shows usable cells alone."""
    drawn: _Float
    """``(H, n, 3)``: the border drawn out."""
    is_side: bool
    """Whether the border is the picture's left or right one: along it height changes."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What is shown in each cell beyond a border."""

    shifts: list[Shift]
    labels: _Ints
    """``(H, n)``: the number of a shift; ``reflected`` or ``drawn`` above those."""
    values: _Float
    """``(labels, H, n, 3)``: what each of them would show."""

    @property
    def reflected(self) -> int:
        """The label of what is reflected."""
        return len(self.shifts)

    @property
    def drawn(self) -> int:
        """The label of what is drawn out."""
        return len(self.shifts) + 1

    @property
    def shown(self) -> _Float:
        """``(H, n, 3)``: the values of the labels."""
        return np.asarray(np.take_along_axis(self.values, self.labels[None, ..., None], axis=0)[0], np.float32)


def lay_out(ground: Ground, seed: int) -> Layout:
    """The layout of least cost that alpha expansion finds, labels in an order by ``seed``."""
    random = np.random.default_rng(seed)
    features = _features(ground.pixels)
    shifts = _candidates(features, ground, random)
    shown = [copied(features, ground.usable, ground.drawn.shape[1], shift) for shift in shifts]
    mirrored = _features(ground.reflected)
    looks = np.stack([*(values for values, _ in shown), mirrored, _features(ground.drawn)])
    shifted = (_cost(features, ground, shift, there) for shift, (_, there) in zip(shifts, shown, strict=True))
    costs = np.stack([*shifted, *_others(features, mirrored, ground)])
    costs *= 1 + random.uniform(0, _CHANCE, (len(costs), 1, 1)).astype(np.float32)
    labels = _Expansion(looks, costs).run(random)
    pixels = [copied(ground.pixels, ground.usable, ground.drawn.shape[1], shift)[0] for shift in shifts]
    return Layout(shifts, labels, np.stack([*pixels, ground.reflected, ground.drawn]))


def copied(values: _Float, usable: _Bool, count: int, shift: Shift) -> tuple[_Float, _Bool]:
    """``(H, count, c)``: what the columns left of ``values (H, W, c)`` copy by ``shift``, and where that is ``usable (H, W)``."""
    height, width = usable.shape
    rows, columns = np.arange(height) + shift[0], np.arange(-count, 0) + shift[1]
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None, :]
    places = np.ix_(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1))
    return values[places], usable[places] & inside


def neighbours(shape: tuple[int, ...]) -> tuple[_Ints, _Ints]:
    """The numbers of the cells of a grid of that ``shape`` (h, w), row by row, that have a neighbour to the right or below, and those of these."""
    grid = np.arange(math.prod(shape)).reshape(shape)
    first, second = (grid[:, :-1], grid[:-1]), (grid[:, 1:], grid[1:])
    one, other = (np.concatenate([each.reshape(-1) for each in both]) for both in (first, second))
    return one, other


def _features(pixels: _Float) -> _Float:
    """``(H, W, 5)``: the colours and the gradient of the lightness, by their weights."""
    grey = pixels.mean(axis=2)
    gradients = [cv2.Sobel(grey, cv2.CV_32F, *axis, scale=_GRADIENT / 8, borderType=cv2.BORDER_REPLICATE) for axis in ((1, 0), (0, 1))]
    return np.concatenate([_COLOUR * pixels, *(np.asarray(each, np.float32)[..., None] for each in gradients)], axis=2)


def _candidates(features: _Float, ground: Ground, random: np.random.Generator) -> list[Shift]:
    """Shifts by which the border matches, a ladder of straight ones, and those that show what no other one can."""
    (height, width), count = ground.usable.shape, ground.drawn.shape[1]
    least = max(4, min(height, width) // _LEAST)
    shifts = _matching(features, ground, least, random)
    straight = range(least + int(random.integers(least)), count + 2 * least, least)
    shifts += [(0, columns) for columns in straight if (0, columns) not in shifts]
    seen = sum((copied(features, ground.usable, count, shift)[1].astype(np.int64) for shift in shifts), np.zeros((height, count), np.int64))
    open_yet = seen < 2
    for _ in range(_COVERING):
        shift = _covering(open_yet, ground) if open_yet.any() else None
        if shift is None:
            break
        shifts.append(shift)
        open_yet &= ~copied(features, ground.usable, count, shift)[1]
    # A picture that is too small for any of these has one column to copy.
    return list(dict.fromkeys(shifts)) or [(0, 1)]


def _matching(features: _Float, ground: Ground, least: int, random: np.random.Generator) -> list[Shift]:
    """Shifts of at least so many columns by which what is beside the border is seen further in."""
    (height, width), count = ground.usable.shape, ground.drawn.shape[1]
    strip = min(_STRIP, width // 3)
    if strip <= _INNER:
        return []
    wander = max(2, height // _WANDER[0 if ground.is_side else 1])
    deepest = width - strip if ground.is_side else min(width - strip, count + min(height, width) // 2)
    shifts, costs = [], []
    for columns in range(least, deepest + 1):
        for rows in range(-wander, wander + 1, 1 if ground.is_side else 2):
            there, here = slice(max(0, rows), min(height, height + rows)), slice(max(0, -rows), min(height, height - rows))
            known = (ground.usable[here, _INNER:strip] & ground.usable[there, columns + _INNER : columns + strip]).astype(np.float32)
            off = np.square(features[here, _INNER:strip] - features[there, columns + _INNER : columns + strip]).sum(axis=2) * known
            total, number = (cv2.blur(each.sum(axis=1)[:, None], (1, _ALONG)).reshape(-1) for each in (off, known))
            cost = np.full(height, np.inf, np.float32)
            cost[here] = np.where(number > strip / 2, total / np.maximum(number, 1e-3), np.inf)
            shifts.append((rows, columns))
            costs.append(np.sqrt(cost) + _SEAM + _strangeness(rows, columns - count / 2, ground))
    chance = 1 + random.uniform(0, _CHANCE, (len(costs), 1))
    return _best(shifts, np.asarray(np.array(costs) * chance, np.float32)) if shifts else []


def _best(shifts: list[Shift], costs: _Float) -> list[Shift]:
    """Sets of those ``shifts`` that together match the border best, ``costs (shifts, H)``."""
    places, free, chosen = np.array(shifts), np.ones(len(shifts), np.bool_), []
    for _ in range(_ROUNDS):
        left = np.full(costs.shape[1], _DULL, np.float32)
        checkpoint()
        for _ in range(_PER_ROUND):
            gain = np.where(free, np.maximum(left - costs, 0).sum(axis=1), -1)
            number = int(gain.argmax())
            if gain[number] <= 1:
                break
            chosen.append(shifts[number])
            left = np.minimum(left, costs[number])
            free &= np.abs(places - places[number]).max(axis=1) > _ALIKE
    return chosen


def _covering(wanted: _Bool, ground: Ground) -> Shift | None:
    """The shift that shows most of the ``wanted (H, n)`` cells, the nearest in height first."""
    height, count = wanted.shape
    around = cv2.copyMakeBorder(
        ground.usable.astype(np.float32), height - 1, height - 1, count - 1, count - 1, cv2.BORDER_CONSTANT, value=0
    )
    number = np.asarray(cv2.matchTemplate(around, wanted.astype(np.float32), cv2.TM_CCORR))
    rows, columns = np.arange(number.shape[0])[:, None] - (height - 1), np.arange(number.shape[1])[None, :] + 1
    shorter = min(ground.usable.shape)
    along, deep = np.abs(rows) / height, np.maximum(0, columns - count / 2) / shorter
    worth = number * np.exp(-_FAR[0] * along if ground.is_side else -_FAR[1] * deep - _FAR[2] * along)
    place = np.unravel_index(int(worth.argmax()), worth.shape)
    return (int(rows[place[0], 0]), int(columns[0, place[1]])) if number[place] > 0.5 else None


def _strangeness(rows: int, depth: float | _Float, ground: Ground) -> _Float:
    """Cost of a cell that is copied from so many ``rows`` away at a ``depth`` in columns from the border."""
    height, width = ground.usable.shape
    along, shorter = _HEIGHT * abs(rows) / height, min(height, width)
    if ground.is_side:
        return np.asarray(along + _ASIDE * _HEIGHT * np.maximum(0, depth - ground.drawn.shape[1] / 2) / shorter, np.float32)
    return np.asarray(_ASIDE * along + _HEIGHT * np.maximum(0, depth) / shorter, np.float32)


def _cost(features: _Float, ground: Ground, shift: Shift, there: _Bool) -> _Float:
    """``(H, n)``: the cost of each cell that ``shift`` copies, were it alone."""
    height, count = there.shape
    rows, columns = shift
    cost = np.zeros((height, count), np.float32) + _strangeness(rows, np.arange(-count, 0, dtype=np.float32) + columns, ground)
    # The columns at the border go on as they do where the shift leads to.
    reach = min(3, features.shape[1])
    beside = copied(features, ground.usable, reach, (rows, columns + reach))[0]
    off = np.linalg.norm(features[:, :reach] - beside, axis=2)[:, _INNER:].mean(axis=1) if reach > _INNER else np.zeros(height, np.float32)
    cost[:, -1] += np.where(ground.usable[:, 0], _MEETING * off, 0)
    cost[~there] = _NEVER
    return cost


def _others(features: _Float, mirrored: _Float, ground: Ground) -> Iterable[_Float]:
    """The same for what is reflected and for what is drawn out."""
    height, count = ground.mirrors.shape
    depth = np.arange(count, 0, -1, dtype=np.float32) / (_MIRROR * min(ground.usable.shape))
    cost = np.repeat(_REFLECTED * (1 + np.square(depth))[None, :], height, axis=0)
    reach = min(_KINK, count, features.shape[1] - 1)
    if reach > 0:
        here, beyond = features[:, 1 : 1 + reach], mirrored[:, -reach:]
        broken = np.abs(_slant(here) - _slant(beyond)).mean(axis=1)
        # What rises towards the border falls beyond it: in a texture that is nothing, in a shade a ridge.
        rise = (here[..., -2] - beyond[..., -2]).mean(axis=1, keepdims=True)
        folded = np.abs(cv2.GaussianBlur(rise, (0, 0), _KINK, borderType=cv2.BORDER_REPLICATE)).reshape(-1)
        cost[:, -1] += _BREAK * (broken + folded)
    yield np.where(ground.mirrors, cost, _NEVER).astype(np.float32)
    yield np.full((height, count), _DRAWN, np.float32)


def _slant(features: _Float) -> _Float:
    """``(H, w)``: how strong lines are, by how far they run slantwise, and to which side: a reflection that breaks them changes the sign."""
    across, along = features[..., -2], features[..., -1]
    return np.asarray(2 * across * along / np.maximum(np.hypot(across, along), 1e-3), np.float32)


class _Expansion:
    """Alpha expansion: label after label takes all the cells that are better off with it, by one cut of a graph."""

    def __init__(self, looks: _Float, costs: _Float) -> None:
        self._shape = costs.shape[1:]
        self._looks = looks.reshape(len(looks), -1, looks.shape[-1])
        self._costs = costs.reshape(len(costs), -1)
        self._cells = np.arange(self._costs.shape[1])
        self._one, self._other = neighbours(self._shape)

    def run(self, random: np.random.Generator) -> _Ints:
        """``(H, n)``: the labels."""
        labels = self._costs.argmin(axis=0)
        seams, tried = self._seams(labels), np.flatnonzero((self._costs < _NEVER).any(axis=1))
        least = self._energy(labels, seams)
        for _ in range(_SWEEPS):
            before = least
            for label in random.permutation(tried):
                checkpoint()
                expanded = self._expanded(labels, int(label), seams)
                if expanded is None:
                    continue
                new = self._seams(expanded)
                if (energy := self._energy(expanded, new)) < least:
                    labels, seams, least = expanded, new, energy
            if least == before:
                break
        return np.asarray(labels.reshape(self._shape), np.int64)

    def _energy(self, labels: _Ints, seams: _Float) -> float:
        return float(self._costs[labels, self._cells].sum() + seams.sum())

    def _seams(self, labels: _Ints) -> _Float:
        """The cost of a seam between the cells of each pair."""
        return self._between(labels[self._one], labels[self._other], self._one, self._other)

    def _between(self, first: _Ints | int, second: _Ints | int, one: _Ints, other: _Ints) -> _Float:
        """The cost of a seam of cells ``one`` and ``other``, were they of these labels: the difference of the two on both cells."""
        off = sum(np.linalg.norm(self._looks[first, at] - self._looks[second, at], axis=1) for at in (one, other))
        return np.asarray((off + _SEAM) * np.not_equal(first, second), np.float32)

    def _expanded(self, labels: _Ints, label: int, seams: _Float) -> _Ints | None:
        """The ``labels`` with those changed to ``label`` that are better off so; ``None`` if none is.

        ``seams`` are those of the ``labels``. Cells that cannot be changed, or are so already, are no part of the graph: what a pair of such a
        cell costs is its neighbour's alone.
        """
        free = (self._costs[label] < _NEVER) & (labels != label)
        pairs = np.flatnonzero(free[self._one] | free[self._other])
        one, other = self._one[pairs], self._other[pairs]
        stay, second = seams[pairs], self._between(labels[one], label, one, other)
        first = self._between(label, labels[other], one, other)
        # E(a, b) of a pair, 1 for a change, is written as sums of one cell's and of (1 - a) b (Kolmogorov and Zabih, 2004).
        cells = self._cells.size
        change = self._costs[label] - self._costs[labels, self._cells]
        change = change + np.bincount(one, first - stay, cells) - np.bincount(other, first, cells)
        pair, single = (_rounded(each) for each in (np.maximum(first + second - stay, 0), change))
        single = single + np.bincount(other, np.where(free[one], 0, pair), cells).astype(np.int32)
        if not (free & (single < 0)).any():
            return None
        inner, number = free[one] & free[other], np.cumsum(free) - 1
        single, size = single[free], np.count_nonzero(free)
        source, sink = size, size + 1
        starts = np.concatenate([number[one[inner]], np.full(size, source), np.arange(size)])
        ends = np.concatenate([number[other[inner]], np.arange(size), np.full(size, sink)])
        capacity = np.concatenate([pair[inner], np.maximum(single, 0), np.maximum(-single, 0)])
        used = capacity > 0
        graph = csr_matrix((capacity[used], (starts[used], ends[used])), shape=(size + 2, size + 2))
        rest = graph - maximum_flow(graph, source, sink).flow
        rest.data = np.maximum(rest.data, 0)
        rest.eliminate_zeros()
        stays = np.zeros(size + 2, np.bool_)
        stays[breadth_first_order(rest, source, return_predecessors=False)] = True
        expanded = labels.copy()
        expanded[np.flatnonzero(free)[~stays[:size]]] = label
        return expanded


def _rounded(costs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int32]:
    return np.asarray(np.rint(np.clip(costs, -1e6, 1e6) * _WHOLE), np.int32)
