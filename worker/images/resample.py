"""One resampling: a picture brought to its place on a canvas, straight from its own pixels.

Shrinking takes the mean of all that an output pixel covers, by exact areas and in linear light, as a camera with larger pixels would have seen it:
fine black and white stripes become the grey that they look like from afar. In the numbers of a file, which are not light, they would become
darker than they look. Enlarging is a cubic convolution (Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981, a = -1/2), in
the file's own numbers: there its slight overshoot is the same beside a light and a dark edge. Colours are weighed by their opacity (premultiplied), so
that what is hidden under clear pixels is not mixed in, and a soft edge keeps its colours.

The transfer curve is that of sRGB, whatever profile the picture is in: it only weighs colours against each other, and is undone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from worker.images.codec import Frame

_Float = npt.NDArray[np.float32]

_STRIP = 1 << 18
"""Pixels of a strip of the source in work at once: bounds what a large photo takes beside itself, to what a cache holds."""
_ROUNDING = 1e-4
"""Share of a pixel that counts for nothing."""
_LEVELS = 1 << 16
"""Steps of linear light from black to white: the finest step of 8 bits is 20 of them."""


@dataclass(frozen=True)
class Landing:
    """Where a picture lands on a canvas, in pixels of the canvas, which need not be whole."""

    canvas: tuple[int, int]
    """Width and height."""
    left: float
    """Of the picture's left border; negative: it is cut off."""
    top: float
    across: float
    """Pixels of the canvas to one of the picture, from left to right."""
    down: float

    @property
    def scale(self) -> float:
        """Pixels of the canvas to one of the picture, along a side."""
        return self.across if self.across == self.down else math.sqrt(self.across * self.down)

    @property
    def is_exact(self) -> bool:
        """Whether pixels are moved and not mixed."""
        return self.across == self.down == 1 and self.left == int(self.left) and self.top == int(self.top)


def resample(frame: Frame, landing: Landing) -> Frame:
    """``frame`` as it stands on the canvas: clear where it is not, and without an alpha where it has none and covers everything.

    Clear pixels are black: colours that a file hides do not survive.
    """
    width, height = landing.canvas
    if landing.is_exact:
        return _moved(frame, landing)
    x = _weights(frame.width, landing.left, landing.across, width)
    y = _weights(frame.height, landing.top, landing.down, height)
    opaque = frame.alpha is None and _is_covered(x) and _is_covered(y)
    light = landing.scale < 1
    columns = _span(x)
    x = x[:, columns]
    pixels = np.empty((height, width, 3), np.uint8)
    alpha = None if opaque else np.empty((height, width), np.uint8)
    each = max(1, round(_STRIP * min(1.0, landing.down) / max(columns.stop - columns.start, width)))
    for top in range(0, height, each):
        part = slice(top, min(height, top + each))
        rows = _span(y[part])
        source = _premultiplied(frame, rows, columns, opaque=opaque, light=light)
        down = np.maximum(_mixed(y[part, rows], source), 0)
        if not opaque and not light:
            # Nothing is less than clear or more than opaque, the colours with it: overshoots of both axes would multiply to specks beside corners.
            down /= np.maximum(down[..., 3:], 1)
        mixed = _mixed(x, down.transpose(1, 0, 2)).transpose(1, 0, 2)
        if alpha is not None:
            alpha[part] = np.rint(np.clip(mixed[..., 3], 0, 1) * 255)
            mixed = np.where((alpha[part] > 0)[..., None], mixed[..., :3] / np.maximum(mixed[..., 3:], np.float32(1e-6)), np.float32(0))
        pixels[part] = _encoded(mixed, light=light)
    return Frame(pixels, alpha, frame.icc, frame.dpi)


def _moved(frame: Frame, landing: Landing) -> Frame:
    """The pixels themselves, elsewhere."""
    (width, height), left, top = landing.canvas, int(landing.left), int(landing.top)
    rows, columns = slice(max(0, -top), min(frame.height, height - top)), slice(max(0, -left), min(frame.width, width - left))
    there = slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left)
    pixels, alpha = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    pixels[there] = frame.pixels[rows, columns]
    alpha[there] = 255 if frame.alpha is None else frame.alpha[rows, columns]
    covered = there[0] == slice(0, height) and there[1] == slice(0, width)
    return Frame(pixels, None if covered and frame.alpha is None else alpha, frame.icc, frame.dpi)


def _weights(length: int, start: float, scale: float, count: int) -> Any:
    """How much each of ``length`` source pixels counts in each of ``count`` output pixels: a sparse ``float32 (count, length)``.

    The source begins at ``start`` and is scaled by ``scale``. A row sums to the share of its pixel that lies on the source.
    """
    step = 1 / scale
    edges = (np.arange(count + 1) - start) * step
    covered = np.clip(edges, 0, length)
    if scale < 1:
        index = np.floor(covered[:-1, None]).astype(np.intp) + np.arange(math.ceil(step) + 1)
        weight = np.clip(np.minimum(covered[1:, None], index + 1) - np.maximum(covered[:-1, None], index), 0, None) / step
    else:
        middle = (edges[:-1, None] + edges[1:, None]) / 2 - 0.5
        index = np.floor(middle).astype(np.intp) + np.arange(-1, 3)
        weight = _cubic(np.abs(middle - index)) * (np.diff(covered)[:, None] / step)
    there = weight.any(axis=1)
    index, weight = np.clip(index, 0, length - 1), weight.astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(there * index.shape[1])])
    return csr_array((weight[there].ravel(), index[there].ravel(), starts), shape=(count, length))


def _is_covered(weights: Any) -> bool:
    return bool(weights.sum(axis=1).min() > 1 - _ROUNDING)


def _span(weights: Any) -> slice:
    """The source pixels that count at all."""
    used = weights.indices
    return slice(int(used.min()), int(used.max()) + 1) if used.size else slice(0, 1)


def _mixed(weights: Any, source: _Float) -> _Float:
    """``source (n, m, c)`` mixed along its first axis."""
    return np.asarray(weights @ source.reshape(len(source), -1), np.float32).reshape(weights.shape[0], *source.shape[1:])


def _cubic(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' kernel at distances in pixels."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.asarray(np.where(distance <= 1, near, np.where(distance < 2, far, 0)))


def _premultiplied(frame: Frame, rows: slice, columns: slice, *, opaque: bool, light: bool) -> _Float:
    """Colours of 0..1, ``(h, w, 3)``, or weighed by their opacity and that, ``(h, w, 4)``."""
    colours = np.asarray(cv2.LUT(frame.pixels[rows, columns], _LIGHT if light else _NUMBERS), np.float32)
    if opaque:
        return colours
    if frame.alpha is None:
        seen = np.ones(colours.shape[:2], np.float32)
    else:
        seen = np.asarray(cv2.LUT(frame.alpha[rows, columns], _NUMBERS), np.float32)
        colours = np.asarray(cv2.multiply(colours, cv2.merge([seen] * 3)), np.float32)
    return np.asarray(cv2.merge([*cv2.split(colours), seen]), np.float32)


def _encoded(colours: _Float, *, light: bool) -> npt.NDArray[np.uint8]:
    scaled = np.rint(np.clip(colours, 0, 1) * np.float32(_LEVELS - 1 if light else 255))
    return np.asarray(_LEVEL_OF_LIGHT[scaled.astype(np.uint16)] if light else scaled, np.uint8)


def _light(level: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear light of sRGB values, both 0..1 (IEC 61966-2-1)."""
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def _level(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


_NUMBERS = np.linspace(0, 1, 256).astype(np.float32)
_LIGHT = _light(np.linspace(0, 1, 256)).astype(np.float32)
_LEVEL_OF_LIGHT = np.rint(_level(np.linspace(0, 1, _LEVELS)) * 255).astype(np.uint8)
