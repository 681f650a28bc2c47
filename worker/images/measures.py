"""How well an edit sits in its picture: the seam at its border, and the colours on both sides of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.mask import Box, bounding_box

_BESIDE = (2.0, 10.0)
"""Pixels from the border at which a picture shows how it changes by itself."""
_RING = 6.0
"""Pixels on each side of the border whose colours are compared."""
_TILE, _WIDEST, _LEAST_IN_TILE = 16, 28, 24
"""Pixels: with a feather of 16 px a square of 28 holds both sides. Further apart, photos differ by themselves (ΔE2000 4 in the median at 32 px)."""
_FLOOR = 0.5
"""Grey levels added to both gradients, so that a flat wall's noise makes no ratio."""
_LEAST = 64
"""Pixels below which nothing is said."""
_LINE = 1.5
"""Pixels on both sides of the edge that are its line, however hard it is."""
_RAMP = 64
"""Pixels of a soft edge that are its line. A wider one is no line to the eye."""
_PIECE, _HALO = 512, _RAMP + 32
"""Pixels: the side of what is looked at at once, and how far beyond it must be seen for the same answer."""


@dataclass(frozen=True, eq=False)
class _Points:
    """Some pixels of a frame."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    normal_x: npt.NDArray[np.float32]
    """Across the border."""
    normal_y: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_]
    """Whether they are of the edit."""

    def where(self, chosen: npt.NDArray[np.bool_]) -> _Points:
        return _Points(*(values[chosen] for values in vars(self).values()))

    @classmethod
    def joined(cls, parts: list[_Points]) -> _Points:
        return cls(*(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


@dataclass(frozen=True, eq=False)
class Border:
    """The border of an edit. Found once, it measures any number of pictures ``(H, W, 3)`` into which something was pasted there.

    Only its pixels are held, and it is found piece by piece: what it takes grows with its length and not with the frame.
    """

    window: tuple[slice, slice]
    """Around the edit; points are counted from its corner."""
    line: _Points
    """Where the paste rises, with a pixel on each side."""
    beside: _Points
    """At which a picture shows how it changes by itself."""
    near: _Points
    """Those beside the line whose colours are compared."""
    tile: int
    """Side in pixels of the squares in which colours are compared: both sides of the border lie in one."""

    @classmethod
    def of(cls, alpha: npt.NDArray[np.uint8], clear: npt.NDArray[np.bool_] | None = None) -> Border | None:
        """The border of ``alpha (H, W)``, how much of the fill is pasted; ``None`` where there is none.

        Beside what is ``clear (H, W)``, where nothing is seen that the edit could be off, it has none.
        """
        box = bounding_box(alpha)
        if box is None:
            return None
        window = box.padded(round(_BESIDE[1]) + 4, alpha.shape).slices
        pasted, unseen = alpha[window], None if clear is None else clear[window]
        most, (height, width) = int(pasted.max()), pasted.shape
        if pasted.all():
            return None
        parts, tile = [], _TILE
        for top in range(0, height, _PIECE):
            for left in range(0, width, _PIECE):
                found = _piece(pasted, unseen, most, Box(left, top, min(width, left + _PIECE), min(height, top + _PIECE)))
                if found is not None:
                    parts.append(found[0])
                    tile = max(tile, int(found[1] + 2 * _RING))
        line, beside, near = (_Points.joined([part[kind] for part in parts]) for kind in range(3))
        return cls(window, line, beside, near, tile)

    def seam(self, pixels: npt.NDArray[np.uint8]) -> float | None:
        """The gradient across the border over the same beside it: 1 is invisible, 2 is seen; ``None`` where there is too little of it.

        The gradient is that of luma along the border's normal, in grey levels a pixel.
        """
        if min(self.line.rows.size, self.beside.rows.size) < _LEAST:
            return None
        luma = np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels[self.window]), cv2.COLOR_RGB2GRAY), np.uint8)
        on, off = (float(_across(luma, points).mean()) for points in (self.line, self.beside))
        return (on + _FLOOR) / (off + _FLOOR)

    def colour_shift(self, pixels: npt.NDArray[np.uint8]) -> float | None:
        """ΔE2000 by which the fill is off its surroundings: 0 is none; ``None`` where there is too little of either, or the edit fades too widely.

        In each tile along the border the mean CIELAB just inside is set against that just outside; the median of the tiles counts, so that a
        thing which happens to end at the border says little. Photos that nobody edited have about 1.
        """
        if not self.near.rows.size or self.tile > _WIDEST:
            return None
        lab, inside = to_lab(pixels[self.window][self.near.rows, self.near.columns][None])[0], self.near.inside
        tiles, total = self._tiles()
        both = np.concatenate([lab, lab]), np.concatenate([inside, inside])
        (counts_in, lab_in), (counts_out, lab_out) = (_by_tile(both[0][side], tiles[side], total) for side in (both[1], ~both[1]))
        there = (counts_in >= _LEAST_IN_TILE) & (counts_out >= _LEAST_IN_TILE)
        if not there.any():
            return None
        around = np.median(lab_out[there], axis=0)
        return float(delta_e_2000(around, around + np.median(lab_in[there] - lab_out[there], axis=0)))

    def _tiles(self) -> tuple[npt.NDArray[np.int64], int]:
        """The tile of each point near the line in one grid, then in another that is half a tile off, and how many there are.

        Where the one parts the two sides of the border, the other does not.
        """
        across = (self.window[1].stop - self.window[1].start) // self.tile + 2
        half = self.tile // 2
        grids = [(self.near.rows + off) // self.tile * across + (self.near.columns + off) // self.tile for off in (0, half)]
        first = int(grids[0].max()) + 1
        return np.concatenate([grids[0], grids[1] + first]), first + int(grids[1].max()) + 1


def _piece(
    alpha: npt.NDArray[np.uint8], clear: npt.NDArray[np.bool_] | None, most: int, box: Box
) -> tuple[tuple[_Points, _Points, _Points], float] | None:
    """The line, what is beside it and what is near it in ``box`` of a window, and how wide the paste rises there, pixels; ``None`` without a line."""
    view = box.padded(_HALO, alpha.shape)
    pasted = alpha[view.slices]
    edit = pasted > 0
    if not edit.any() or int(pasted.min()) == most:
        return None
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (edit, ~edit))
    signed = np.clip(inside - outside, -_HALO, _HALO).astype(np.float32)
    fades = edit & (pasted < most) & (inside <= _RAMP)
    line = (np.abs(signed) <= _LINE) | fades
    if not line.any():
        return None
    away = np.asarray(cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    smooth = np.asarray(cv2.GaussianBlur(signed, (0, 0), 2), np.float32)
    x, y = _gradient(smooth, 1), _gradient(smooth, 0)
    length = np.maximum(np.hypot(x, y), np.float32(1e-3))
    chosen = away <= _BESIDE[1]
    if clear is not None:
        reach = np.ones((2 * round(_BESIDE[1]) + 1,) * 2, np.uint8)
        chosen &= cv2.dilate((clear[view.slices] & ~edit).astype(np.uint8), reach) == 0
    own = np.zeros_like(chosen)
    own[box.top - view.top : box.bottom - view.top, box.left - view.left : box.right - view.left] = True
    rows, columns = np.nonzero(chosen & own)
    across, down = ((part / length)[rows, columns].astype(np.float32) for part in (x, y))
    points = _Points(rows + view.top, columns + view.left, across, down, edit[rows, columns])
    off, on_line = away[rows, columns], line[rows, columns]
    # Under less than half of the fill its colours say little.
    compared = ~on_line & (off <= _RING) & (~points.inside | (pasted[rows, columns] >= most / 2))
    rise = fades & own
    width = float(inside[rise].max()) if rise.any() else 0.0
    return (points.where(on_line), points.where(off > _BESIDE[0]), points.where(compared)), width


def _across(luma: npt.NDArray[np.uint8], points: _Points) -> npt.NDArray[np.float32]:
    """The gradient of ``luma (h, w)`` along the normal at each point, absolute: central differences, one-sided at the frame's border."""
    found = np.zeros(points.rows.size, np.float32)
    for normal, (y, x) in ((points.normal_x, (0, 1)), (points.normal_y, (1, 0))):
        (rows_after, columns_after), (rows_before, columns_before) = (
            (np.clip(points.rows + sign * y, 0, luma.shape[0] - 1), np.clip(points.columns + sign * x, 0, luma.shape[1] - 1))
            for sign in (1, -1)
        )
        step = np.maximum(rows_after - rows_before + columns_after - columns_before, 1).astype(np.float32)
        rise = luma[rows_after, columns_after].astype(np.float32) - luma[rows_before, columns_before]
        found += rise / step * normal
    return np.abs(found)


def _by_tile(
    lab: npt.NDArray[np.float32], tiles: npt.NDArray[np.int64], total: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each of ``total`` tiles how many of the colours ``(N, 3)`` lie in it, and their mean ``(total, 3)``."""
    counts = np.bincount(tiles, minlength=total)
    sums = np.stack([np.bincount(tiles, lab[:, channel], total) for channel in range(3)], axis=1)
    return counts, sums / np.maximum(counts, 1)[:, None]


def to_lab(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """From sRGB ``(…, 3)`` in levels to CIELAB under D65, ``float32``: L in 0..100."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)


def delta_e_2000(first: npt.ArrayLike, second: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """CIEDE2000 between CIELAB colours ``(…, 3)``, after Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula" (2005): ``(…)``."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(np.asarray(lab, np.float64), -1, 0) for lab in (first, second))
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 for a, b in ((a1, b1), (a2, b2)))  # 0 where there is no hue
    coloured = c1 * c2 != 0
    turn = np.where(coloured, (h2 - h1 + 180) % 360 - 180, 0.0)
    turn = np.where(coloured & (h2 - h1 == 180), 180.0, turn)  # the formula keeps +180 where the two are opposite
    lightness, chroma, hue = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean_l, c = (l1 + l2) / 2, (c1 + c2) / 2
    both, apart = h1 + h2, np.abs(h1 - h2) > 180
    h = np.where(coloured, both / 2 + np.where(apart, np.where(both < 360, 180.0, -180.0), 0.0), both)
    t = (
        1
        - 0.17 * np.cos(np.radians(h - 30))
        + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6))
        - 0.20 * np.cos(np.radians(4 * h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c, 1 + 0.015 * c * t
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    terms = (lightness / s_l) ** 2 + (chroma / s_c) ** 2 + (hue / s_h) ** 2 + rotation * (chroma / s_c) * (hue / s_h)
    return np.asarray(np.sqrt(np.maximum(0.0, terms)), np.float64)


def _gradient(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values), np.float32)
