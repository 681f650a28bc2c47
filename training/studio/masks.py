"""What is painted: mostly all but the object; also strokes, boxes, bands at a border, and the whole picture. The object is always kept."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.studio.arrays import Rng, one_of

Bits = npt.NDArray[np.bool_]

_WITH_SUBJECT = {"surroundings": 0.74, "strokes": 0.09, "box": 0.07, "band": 0.10}
_EMPTY = {"whole": 0.50, "strokes": 0.14, "box": 0.12, "band": 0.24}


def draw_mask(rng: Rng, subject: npt.NDArray[np.uint8]) -> Bits:
    """``(H, W)``, true where the picture is to be painted. Never empty."""
    height, width = subject.shape
    there = bool((subject > 127).any())
    kind = one_of(rng, _WITH_SUBJECT if there else _EMPTY)
    kept = _nearly(rng, subject > 127) if there else np.zeros((height, width), np.bool_)
    if kind == "strokes":
        painted = _strokes(rng, height, width)
    elif kind == "box":
        painted = _box(rng, height, width)
    elif kind == "band":
        painted = _band(rng, height, width)
    else:
        painted = np.ones((height, width), np.bool_)
    painted &= ~kept
    if np.count_nonzero(painted) < 0.01 * painted.size:
        painted = ~kept if not kept.all() else np.ones_like(kept)
    return painted


def _nearly(rng: Rng, kept: Bits) -> Bits:
    """``kept`` as a segmenter would find it: up to two pixels too wide or too narrow."""
    reach = int(rng.integers(-2, 3))
    if reach == 0:
        return kept
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(reach) + 1,) * 2)
    change = cv2.dilate if reach > 0 else cv2.erode
    return np.asarray(change(kept.astype(np.uint8), disc), np.uint8) > 0


def _strokes(rng: Rng, height: int, width: int) -> Bits:
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 6))):
        point = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        angle, thick = rng.uniform(0, 2 * np.pi), int(rng.uniform(0.05, 0.22) * width)
        for _ in range(int(rng.integers(2, 8))):
            angle += rng.normal(0, 0.8)
            ahead = point + rng.uniform(0.06, 0.25) * width * np.array([np.cos(angle), np.sin(angle)])
            cv2.line(canvas, np.rint(point).astype(int).tolist(), np.rint(ahead).astype(int).tolist(), 1, thick)
            point = ahead
    return canvas > 0


def _box(rng: Rng, height: int, width: int) -> Bits:
    tall, wide = (int(rng.uniform(0.2, 0.75) * side) for side in (height, width))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    painted = np.zeros((height, width), np.bool_)
    painted[top : top + tall, left : left + wide] = True
    return painted


def _band(rng: Rng, height: int, width: int) -> Bits:
    """One border, two opposite ones, or all round."""
    painted = np.zeros((height, width), np.bool_)
    reach = [int(rng.uniform(0.12, 0.6) * side) for side in (height, width)]
    kind = one_of(rng, {"one": 0.5, "two": 0.3, "around": 0.2})
    sides = {"one": [int(rng.integers(4))], "two": [[0, 1], [2, 3]][int(rng.integers(2))], "around": [0, 1, 2, 3]}[kind]
    half = [max(8, size // (1 if kind == "one" else 2)) for size in reach]
    for side in sides:
        strip = (slice(None, half[0]), slice(-half[0], None))[side] if side < 2 else slice(None)
        column = (slice(None, half[1]), slice(-half[1], None))[side - 2] if side >= 2 else slice(None)
        painted[strip, column] = True
    return painted
