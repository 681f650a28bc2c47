"""From one picture into another across a strip: colours led by a membrane, and textures crossed by equal power."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float32]


def led(off: _Float, steps: npt.NDArray[np.int64], length: int, sigma: float) -> _Float:
    """``(h, w, 3)``: how far colours that are ``off (h, 3)`` at a border are to be moved ``steps (w,)`` pixels from it; 0 from ``length`` on.

    The solution of Laplace's equation in a strip (separation of variables; the membrane of Pérez et al., "Poisson Image Editing", 2003, with an end):
    what changes quickly along the border is soon gone. ``off`` is first smoothed by ``sigma`` pixels along the border.
    """
    mirrored = np.concatenate([off, off[::-1]])
    waves = (2 * np.pi * np.arange(off.shape[0] + 1) / mirrored.shape[0])[:, None]
    spectrum = np.fft.rfft(mirrored, axis=0) * np.exp(-((waves * sigma) ** 2) / 2)
    left = np.maximum(length - steps, 0)[None, :]
    # sinh(k left) / sinh(k length), written so that it does not overflow; k = 0 has a limit, left / length, which a small k is near enough to.
    k = np.maximum(waves, 1e-6)
    share = np.exp(k * (left - length)) * np.expm1(-2 * k * left) / np.expm1(-2 * k * length)
    moved = np.fft.irfft(spectrum[:, None] * share[..., None], n=mirrored.shape[0], axis=0)
    return moved[: off.shape[0]].astype(np.float32)


def faded(first: _Float, then: _Float, reach: int) -> _Float:
    """``(h, reach, 3)``: ``first`` at column 0, ``then`` at column ``reach``.

    Smooth colours are mixed, and textures, which know nothing of each other, by equal power, so that neither is weak half-way (two bands, after
    Burt and Adelson, "A Multiresolution Spline", 1983).
    """
    at = (np.arange(reach, dtype=np.float32) + np.float32(0.5)) / np.float32(reach)
    share = (1 - at * at * (3 - 2 * at))[None, :, None]
    smooth = [cv2.GaussianBlur(each, (0, 0), max(reach / 6, 1), borderType=cv2.BORDER_REFLECT) for each in (first, then)]
    mixed = smooth[0] * share + smooth[1] * (1 - share)
    return np.asarray(mixed + (first - smooth[0]) * np.sqrt(share) + (then - smooth[1]) * np.sqrt(1 - share), np.float32)
