"""How well an edit sits in its picture: the seam at its border, and the colours on both sides of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.mask import bounding_box

_BESIDE = (2.0, 10.0)
"""Pixels from the border at which a picture shows how it changes by itself."""
_RING = 6.0
"""Pixels on each side of the border whose colours are compared."""
_TILE, _LEAST_IN_TILE = 16, 24
_FLOOR = 0.5
"""Grey levels added to both gradients, so that a flat wall's noise makes no ratio."""
_LEAST = 64
"""Pixels below which nothing is said."""


@dataclass(frozen=True, eq=False)
class Border:
    """The border of an edit. Found once, it measures any number of pictures ``(H, W, 3)`` into which something was pasted there."""

    window: tuple[slice, slice]
    """Around the edit; all else is of its size."""
    inside: npt.NDArray[np.bool_]
    """The edit."""
    line: npt.NDArray[np.bool_]
    """Where the paste rises, with a pixel on each side."""
    away: npt.NDArray[np.float32]
    """Pixels to the line."""
    normal: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    """(x, y) across it."""

    @classmethod
    def of(cls, alpha: npt.NDArray[np.uint8]) -> Border | None:
        """The border of ``alpha (H, W)``, how much of the fill is pasted; ``None`` where there is none."""
        box = bounding_box(alpha)
        if box is None:
            return None
        window = box.padded(round(_BESIDE[1]) + 4, alpha.shape).slices
        edit = alpha[window] > 0
        if edit.all():
            return None
        inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (edit, ~edit))
        signed = (inside - outside).astype(np.float32)
        line = np.asarray((np.abs(signed) <= 1.5) | (edit & (alpha[window] < 255)))
        away = np.asarray(cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
        smooth = np.asarray(cv2.GaussianBlur(signed, (0, 0), 2), np.float32)
        x, y = _gradient(smooth, 1), _gradient(smooth, 0)
        length = np.maximum(np.hypot(x, y), np.float32(1e-3))
        return cls(window, edit, line, away, (np.asarray(x / length, np.float32), np.asarray(y / length, np.float32)))

    def seam(self, pixels: npt.NDArray[np.uint8]) -> float | None:
        """The gradient across the border over the same beside it: 1 is invisible, 2 is seen; ``None`` where there is too little of it.

        The gradient is that of luma along the border's normal, in grey levels a pixel.
        """
        luma = cv2.cvtColor(np.ascontiguousarray(pixels[self.window]), cv2.COLOR_RGB2GRAY).astype(np.float32)
        across = np.abs(_gradient(luma, 1) * self.normal[0] + _gradient(luma, 0) * self.normal[1])
        beside = (self.away > _BESIDE[0]) & (self.away <= _BESIDE[1])
        if np.count_nonzero(self.line) < _LEAST or np.count_nonzero(beside) < _LEAST:
            return None
        return float((across[self.line].mean() + _FLOOR) / (across[beside].mean() + _FLOOR))

    def colour_shift(self, pixels: npt.NDArray[np.uint8]) -> float | None:
        """ΔE2000 by which the fill is off its surroundings: 0 is none; ``None`` where there is too little of either.

        In each tile along the border the mean CIELAB just inside is set against that just outside; the median of the tiles counts, so that a
        thing which happens to end at the border says little. Photos that nobody edited have about 1.
        """
        lab = to_lab(np.ascontiguousarray(pixels[self.window]))
        near = ~self.line & (self.away <= _RING)
        (counts_in, lab_in), (counts_out, lab_out) = (_by_tile(lab, near & side) for side in (self.inside, ~self.inside))
        there = (counts_in >= _LEAST_IN_TILE) & (counts_out >= _LEAST_IN_TILE)
        if not there.any():
            return None
        around = np.median(lab_out[there], axis=0)
        return delta_e_2000(around, around + np.median(lab_in[there] - lab_out[there], axis=0))


def _by_tile(lab: npt.NDArray[np.float32], chosen: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each tile of the window how many pixels are ``chosen``, and their mean ``(tiles, 3)``."""
    height, width = chosen.shape
    rows, columns = np.nonzero(chosen)
    across = width // _TILE + 1
    tiles, total = rows // _TILE * across + columns // _TILE, (height // _TILE + 1) * across
    counts = np.bincount(tiles, minlength=total)
    values = lab[rows, columns]
    sums = np.stack([np.bincount(tiles, values[:, channel], total) for channel in range(3)], axis=1)
    return counts, sums / np.maximum(counts, 1)[:, None]


def to_lab(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """From sRGB ``uint8 (…, 3)`` to CIELAB under D65, ``float32``: L in 0..100."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)


def from_lab(lab: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The way back, clipped to what sRGB holds."""
    rgb = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.asarray(np.rint(np.clip(rgb, 0, 1) * 255), np.uint8)


def delta_e_2000(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """CIEDE2000 between two CIELAB colours, after Sharma, Wu and Dalal, "The CIEDE2000 Color-Difference Formula" (2005)."""
    (l1, a1, b1), (l2, a2, b2) = (np.asarray(lab, np.float64) for lab in (first, second))
    mean_chroma = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * np.sqrt(mean_chroma**7 / (mean_chroma**7 + 25.0**7))
    c1, c2 = np.hypot(a1 * stretch, b1), np.hypot(a2 * stretch, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * stretch)) % 360 if b or a else 0.0 for a, b in ((a1, b1), (a2, b2)))
    turn = h2 - h1
    if c1 * c2 == 0:
        turn = 0.0
    elif turn > 180:
        turn -= 360
    elif turn < -180:
        turn += 360
    lightness, chroma, hue = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    mean_l, c = (l1 + l2) / 2, (c1 + c2) / 2
    h = h1 + h2
    if c1 * c2:
        h = h / 2 if abs(h1 - h2) <= 180 else (h + 360) / 2 if h < 360 else (h - 360) / 2
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
    return float(np.sqrt(max(0.0, terms)))


def _gradient(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    return np.asarray(np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values), np.float32)
