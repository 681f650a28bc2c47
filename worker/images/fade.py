"""From one picture into another across a strip: colours carried by a membrane, and textures crossed by equal power."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]

_ALIKE = 15.0
"""Levels off the colours beside a border that are still those of the same thing."""
_EDGE = 9
"""Pixels of a thing's soft edge."""


def carried(colours: _Float, steps: npt.NDArray[np.int64], sigma: float) -> _Float:
    """``(h, w, 3)``: ``colours (h, 3)`` along a border, carried ``steps (w,)`` pixels away from it.

    The solution of Laplace's equation in a half-plane (by separation of variables): what changes quickly along the border is soon gone. ``colours``
    are first smoothed by ``sigma`` pixels.
    """
    mirrored = np.concatenate([colours, colours[::-1]])
    waves = (2 * np.pi * np.arange(colours.shape[0] + 1) / mirrored.shape[0])[:, None]
    spectrum = np.fft.rfft(mirrored, axis=0) * np.exp(-((waves * sigma) ** 2) / 2)
    out = np.fft.irfft(spectrum[:, None] * np.exp(-waves * steps)[..., None], n=mirrored.shape[0], axis=0)
    return out[: colours.shape[0]].astype(np.float32)


def smoothstep(at: _Float) -> _Float:
    """0 for 0 and less, 1 for 1 and more, without a kink between."""
    at = np.clip(at, 0, 1)
    return np.asarray(at * at * (3 - 2 * at), np.float32)


def faded(first: _Float, then: _Float, share: _Float) -> _Float:
    """``(h, w, 3)``: ``first`` where ``share (h, w, 1)`` is 1, ``then`` where it is 0.

    Smooth colours are mixed, and textures, which know nothing of each other, by equal power, so that neither is weak half-way (two bands, after
    Burt and Adelson, "A Multiresolution Spline", 1983).
    """
    smooth = [cv2.GaussianBlur(each, (0, 0), max(first.shape[1] / 6, 1), borderType=cv2.BORDER_REFLECT) for each in (first, then)]
    mixed = smooth[0] * share + smooth[1] * (1 - share)
    return np.asarray(mixed + (first - smooth[0]) * np.sqrt(share) + (then - smooth[1]) * np.sqrt(1 - share), np.float32)


def alike(strip: _Float, beside: int, reach: int) -> _Float:
    """``(h, w, 1)``: 1 where the colours of ``strip (h, w, 3)`` are such as its first ``beside`` columns have within ``reach`` rows, 0 on other things."""
    border = np.ascontiguousarray(strip[:, :beside])
    along = np.ones((2 * reach + 1, 1), np.uint8)
    least, most = (cv2.erode(border, along).min(axis=1), cv2.dilate(border, along).max(axis=1))
    smooth = cv2.GaussianBlur(strip, (0, 0), 1.5, borderType=cv2.BORDER_REFLECT)
    off = np.maximum(least[:, None] - smooth, smooth - most[:, None]).max(axis=2).clip(0)
    # Its soft edge goes with a thing.
    other = cv2.dilate(1 - np.exp(-((off / _ALIKE) ** 2)), np.ones((_EDGE, _EDGE), np.uint8))
    return np.asarray(1 - cv2.GaussianBlur(other, (0, 0), _EDGE / 3, borderType=cv2.BORDER_REFLECT), np.float32)[..., None]
