"""Fills a small picture patch by patch from the border of its hole inwards, lines first (Criminisi et al., 2004): where a larger fill starts from.

Of the patches that fit about as well as the best the seed chooses one, so that another seed begins another texture.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from worker.images.checkpoint import checkpoint

_Known = npt.NDArray[np.bool_]
_Float = npt.NDArray[np.float32]

_LIKE = 1.1
"""Times the least difference, and …"""
_NOISE = 2.5
"""… squared levels a pixel more than it: a patch up to there fits about as well as the best."""
_FAR = 1.0
"""By how much of itself a difference counts more at the hole's own depth away from it: what is near belongs there rather than what is far."""
_STRANGE = 0.5
"""How much of the squared distance of a patch's mean from the nearest mean around the hole is added to its difference: things that only stand
elsewhere are not put into the hole (a product into the table beside it)."""
_AROUND = 3
"""Pixels: patches whose edge is that near the hole are around it, and …"""
_MOST_AROUND = 256
"""… so many of them are looked at."""
_MIDDLE = 128
"""Values are whole numbers around 0: the sums of their squares over a patch are then exact in 32 bits, in whatever order they are added."""
_FLAT = 1.0
"""Levels: what a front pulls where no line meets it, so that flat parts are filled in the order of confidence."""


def peel(pixels: _Float, unknown: _Known, centres: _Known, half: int, seed: int) -> npt.NDArray[np.int32]:
    """``int32 (H, W, 2)``: the (x, y) that each pixel of ``pixels (H, W, 3)`` is copied from; itself where it is not ``unknown (H, W)``.

    ``centres (H, W)`` are the middles of the patches of ``2 × half + 1`` pixels that may be copied; there is at least one.
    """
    rng = np.random.default_rng(seed)
    side = 2 * half + 1
    source = np.stack(np.meshgrid(np.arange(unknown.shape[1]), np.arange(unknown.shape[0])), axis=-1).astype(np.int32)
    values = np.rint(pixels) - _MIDDLE
    middles = np.argwhere(centres)
    bank = _patches(values, middles, half)
    squares = (bank * bank).reshape(len(middles), side * side, 3).sum(axis=2)
    prejudice = _prejudice(bank, unknown, centres, half)
    # Outside the frame nothing is known, and nothing is missing.
    frame, done = np.pad(np.ones_like(unknown), half), np.pad(~unknown, half)
    canvas = np.pad(np.where(unknown[..., None], 0, values), ((half, half), (half, half), (0, 0))).astype(np.float32)
    trust = done.astype(np.float32)
    while (missing := frame & ~done).any():
        checkpoint()
        confidence = np.asarray(cv2.boxFilter(trust, -1, (side, side), borderType=cv2.BORDER_CONSTANT), np.float32)
        row, column = _next(canvas, done, missing, confidence)
        part = slice(row - half, row + half + 1), slice(column - half, column + half + 1)
        chosen = _fitting(bank, squares, prejudice, canvas[part], done[part], rng)
        new = missing[part].copy()
        canvas[part][new] = bank[chosen].reshape(side, side, 3)[new]
        trust[part][new] = confidence[row, column]
        done[part] |= new
        y, x = np.nonzero(new)
        corner = middles[chosen] - half
        source[row - 2 * half + y, column - 2 * half + x] = np.stack([corner[1] + x, corner[0] + y], axis=-1)
    return source


def _patches(values: _Float, middles: npt.NDArray[np.int64], half: int) -> _Float:
    """``(n, side × side × 3)``: the patch around each of ``middles (n, 2)``, row by row."""
    side = 2 * half + 1
    windows = np.lib.stride_tricks.sliding_window_view(values, (side, side), axis=(0, 1))
    found = windows[middles[:, 0] - half, middles[:, 1] - half].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(found, np.float32).reshape(len(middles), -1)


def _prejudice(bank: _Float, unknown: _Known, centres: _Known, half: int) -> tuple[_Float, _Float]:
    """Two ``(n,)``: by how much the difference of each patch is multiplied, and what is added to it for each pixel."""
    away = cv2.distanceTransform((~unknown).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[centres]
    depth = cv2.distanceTransform(np.pad(unknown, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    means = bank.reshape(len(bank), -1, 3).mean(axis=1)
    around = means[away <= max(away.min(), half + _AROUND)]
    around = around[:: -(-len(around) // _MOST_AROUND)]
    unlike = np.square(means[:, None] - around).sum(axis=2).min(axis=1)
    return np.asarray(1 + _FAR * away / depth, np.float32), np.asarray(_STRANGE * unlike, np.float32)


def _next(canvas: _Float, done: _Known, missing: _Known, confidence: _Float) -> tuple[int, int]:
    """The (row, column) of the missing pixel beside known ones around which the next patch is laid."""
    front = missing & (cv2.dilate(done.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    priority = np.where(front, confidence * _pull(canvas, done), -1)
    row, column = divmod(int(priority.argmax()), priority.shape[1])
    return row, column


def _pull(canvas: _Float, done: _Known) -> _Float:
    """How strong the lines are that run over the border of what is ``done``, at each pixel: gradients along the border, near it."""
    grey = np.asarray(canvas.mean(axis=2), np.float32)
    kernel = np.ones((3, 3), np.uint8)
    whole = cv2.erode(done.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(np.float32)
    gx, gy = (cv2.blur(cv2.Sobel(grey, cv2.CV_32F, 1 - axis, axis) * whole, (5, 5)) for axis in (0, 1))
    nx, ny = (cv2.Sobel(done.astype(np.float32), cv2.CV_32F, 1 - axis, axis, ksize=5) for axis in (0, 1))
    along = np.abs(gx * ny - gy * nx) / np.maximum(np.hypot(nx, ny), np.float32(1e-3))
    return np.asarray(along + _FLAT, np.float32)


def _fitting(
    bank: _Float, squares: _Float, prejudice: tuple[_Float, _Float], patch: _Float, known: _Known, rng: np.random.Generator
) -> int:
    """The number of a patch of ``bank`` that differs from ``patch (side, side, 3)`` about as little as any where that is ``known``."""
    seen = known.reshape(-1).astype(np.float32)
    here = (patch * known[..., None]).reshape(-1)
    dear, strange = prejudice
    off = (squares @ seen - 2 * (bank @ here) + np.float32(here @ here)) * dear + strange * float(seen.sum())
    limit = off.min() * _LIKE + _NOISE * float(seen.sum())
    return int(rng.choice(np.flatnonzero(off <= limit)))
