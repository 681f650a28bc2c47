"""Fields and pictures as the renderer holds them: ``float32``, 0..1, ``(H, W)`` or ``(H, W, 3)`` in RGB."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Rng = np.random.Generator
SIDE = 256
"""Pixels of a scene's side."""

cv2.setNumThreads(1)


def field(values: Any) -> Field:
    """``values`` as ``float32``, which is what OpenCV's loose types are narrowed to."""
    return np.asarray(values, dtype=np.float32)


def grid(height: int, width: int) -> tuple[Field, Field]:
    """The rows and columns of every pixel, ``(H, 1)`` and ``(1, W)``."""
    return field(np.arange(height))[:, None], field(np.arange(width))[None, :]


def resize(values: Field, height: int, width: int, *, smooth: bool = True) -> Field:
    return field(cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC if smooth else cv2.INTER_AREA))


def blur(values: Field, sigma: float) -> Field:
    """Gaussian blur; wide ones on a smaller copy, which costs less and looks the same."""
    if sigma < 0.3:
        return values
    height, width = values.shape[:2]
    shrink = 4 if sigma > 8 else 1
    small = resize(values, height // shrink, width // shrink, smooth=False) if shrink > 1 else values
    blurred = field(cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=cv2.BORDER_REFLECT))
    return field(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)) if shrink > 1 else blurred


def sample(values: Field, rows: Field, columns: Field) -> Field:
    """``values`` looked up at fractional places, mirrored beyond its borders."""
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    return field(
        cv2.remap(
            values,
            field(np.broadcast_to(columns, shape)).copy(),
            field(np.broadcast_to(rows, shape)).copy(),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    )


def fbm(
    rng: Rng, height: int, width: int, *, cells: tuple[float, float], octaves: int = 4, gain: float = 0.5, normalise: bool = True
) -> Field:
    """Fractal noise: ``octaves`` of smooth random fields, each twice as fine as the last and ``gain`` as strong.

    ``cells`` are the first octave's lumps down and across; unequal ones stretch the noise. Scaled to 0..1, or left around 0.
    """
    out = np.zeros((height, width), np.float32)
    strength = 1.0
    down, across = cells
    for _ in range(octaves):
        lattice = rng.standard_normal((min(height, max(2, round(down)) + 1), min(width, max(2, round(across)) + 1)), dtype=np.float32)
        out += strength * resize(lattice, height, width)
        strength *= gain
        down, across = down * 2, across * 2
    return stretch(out) if normalise else out


def stretch(values: Field) -> Field:
    """``values`` moved to span 0..1."""
    low, high = float(values.min()), float(values.max())
    return field((values - low) / max(high - low, 1e-6))


def speckle(rng: Rng, height: int, width: int, sigma: float = 0.6) -> Field:
    """Fine grain around 0 with deviation about 1."""
    grain = rng.standard_normal((height, width), dtype=np.float32)
    grain = blur(grain, sigma)
    return grain / max(float(grain.std()), 1e-6)


def smoothstep(low: float, high: float, values: Field) -> Field:
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return field(t * t * (3.0 - 2.0 * t))


def mix(first: Any, second: Any, share: Any) -> Field:
    """``first`` where ``share`` is 0, ``second`` where it is 1. A ``(H, W)`` share applies to all channels."""
    share = field(share)
    if share.ndim == 2:
        share = share[..., None]
    return field(field(first) * (1.0 - share) + field(second) * share)


def tint(values: Field, colour: Any) -> Field:
    """``(H, W)`` times a colour: ``(H, W, 3)``."""
    return values[..., None] * field(colour)


def one_of(rng: Rng, options: dict[str, float]) -> str:
    """A key drawn by weight."""
    weights = np.array(list(options.values()), np.float64)
    return list(options)[int(rng.choice(len(weights), p=weights / weights.sum()))]
