"""A picture reflected at its left border, sheared so that lines cross the border without a kink."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]
_Pixels = npt.NDArray[np.uint8]

_BAND = 16
"""Pixels beside the border whose gradients say how lines run across it."""
_SIGMA = 20.0
"""Pixels along the border over which that direction is averaged."""
_NOISE = 4.0
"""Mean square gradient, (levels per pixel)², below which there is no line to follow."""
_STEEPEST = 1.2
_FOLD = 0.45
"""How far rows may be pushed together, of their distance: at 1 the sheared reflection would fold over."""


def mirrored(picture: _Pixels, count: int) -> _Pixels:
    """``uint8 (H, count, 3)``: what lies to the left of ``picture (H, W, 3)``, the nearest column first."""
    x, y = coordinates(picture, count)
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.uint8)


def coordinates(picture: _Pixels, count: int) -> tuple[_Float, _Float]:
    """The columns and rows, ``(H, count)`` each, that ``picture (H, W, 3)`` shows to its left, the nearest column first."""
    height, width = picture.shape[:2]
    # The first column is the axis: it is not repeated, which would show as a flat line.
    depth = max(0.5, min(count, width - 1))
    step = np.arange(1, count + 1, dtype=np.float32)[None, :]
    column = depth - np.abs(depth - step % (2 * depth))
    # A line of slope s that leaves at row r is at r - s × step out there and at r + s × column in here.
    shear = sheared(picture, step + column)
    return np.repeat(column, height, axis=0).astype(np.float32), (np.arange(height)[:, None] + shear).astype(np.float32)


def sheared(picture: _Pixels, across: _Float) -> _Float:
    """``float32 (H, count)``: how many rows a line of ``picture (H, W, 3)`` moves over ``across (1, count)`` columns at its left border.

    Less for distant columns where lines turn along the border: rows that are pushed together would fold over.
    """
    slope = _slopes(picture)
    turn = float(np.percentile(np.abs(np.diff(slope)), 90)) if len(slope) > 1 else 0.0
    reach = _FOLD / max(turn, 1e-3)
    return np.asarray(slope[:, None] * reach * np.tanh(across / reach), np.float32)


def _slopes(picture: _Pixels) -> _Float:
    """``float32 (H,)``: how many rows a line moves down for each column to the right, at the left border.

    The least squares of ``gx + s × gy = 0`` over the gradients near each row.
    """
    if min(picture.shape[:2]) < 3:
        return np.zeros(picture.shape[0], np.float32)
    band = cv2.GaussianBlur(picture[:, :_BAND].astype(np.float32), (0, 0), 1.0, borderType=cv2.BORDER_REFLECT)
    gy, gx = np.gradient(band, axis=(0, 1))
    cross = _smooth((gx * gy).sum(axis=2).mean(axis=1))
    square = _smooth((gy * gy).sum(axis=2).mean(axis=1))
    return _smooth(np.clip(-cross / (square + _NOISE), -_STEEPEST, _STEEPEST))


def _smooth(values: _Float) -> _Float:
    column = np.ascontiguousarray(values[:, None], dtype=np.float32)
    smooth = cv2.GaussianBlur(column, (1, 6 * int(_SIGMA) + 1), 1.0, sigmaY=_SIGMA, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(smooth, dtype=np.float32).reshape(-1)
