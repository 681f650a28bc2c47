"""The output at the size that was asked for: scaled, padded or cropped, once, after everything else."""

from __future__ import annotations

import math

import numpy as np

from api_schemas.requests import ColorBackground, Fit, OutputOptions
from api_schemas.sizes import Size, output_size
from worker.images.backdrop import render
from worker.images.codec import Frame, into_space
from worker.images.resample import Landing, resample


def landing_of(output: OutputOptions, size: Size) -> Landing:
    """Where a picture of ``size`` lands on the output: all of it, centred and as large as fits, or with ``cover`` so that nothing else is seen.

    A picture that is padded ends on whole pixels, the odd one on the right and at the bottom.
    """
    canvas = output_size(output, size)
    if output.width is None or output.height is None:
        return Landing(canvas, 0, 0, canvas[0] / size[0], canvas[1] / size[1])
    scales = canvas[0] / size[0], canvas[1] / size[1]
    if output.fit is Fit.COVER:
        scale = max(scales)
        left, top = ((have - scale * side) / 2 for have, side in zip(canvas, size, strict=True))
        if scale == 1:  # half a pixel aside would only blur
            left, top = float(math.floor(left)), float(math.floor(top))
        return Landing(canvas, left, top, scale, scale)
    width, height = (min(have, max(1, round(min(scales) * side))) for have, side in zip(canvas, size, strict=True))
    return Landing(canvas, (canvas[0] - width) // 2, (canvas[1] - height) // 2, width / size[0], height / size[1])


def sized(frame: Frame, output: OutputOptions) -> Frame:
    """``frame`` at the size that ``output`` asks for; the same where it has it already. ``pad_color`` is sRGB, the frame in its own space."""
    landing = landing_of(output, (frame.width, frame.height))
    if landing.is_exact and landing.canvas == (frame.width, frame.height):
        return frame
    scaled = resample(frame, landing)
    if output.pad_color is None or scaled.alpha is None:
        return scaled
    return _padded(frame, scaled, landing, output.pad_color)


def _padded(frame: Frame, scaled: Frame, landing: Landing, color: str) -> Frame:
    """``scaled`` with ``color`` around it. What is translucent in the picture itself stays so."""
    pad = into_space(render((1, 1), ColorBackground(color=color)), None, frame.icc)
    left, top = int(landing.left), int(landing.top)
    there = slice(top, top + round(landing.down * frame.height)), slice(left, left + round(landing.across * frame.width))
    pixels = np.broadcast_to(pad, scaled.pixels.shape).copy()
    pixels[there] = scaled.pixels[there]
    if frame.alpha is None or scaled.alpha is None:
        return Frame(pixels, None, scaled.icc, scaled.dpi)
    alpha = np.full_like(scaled.alpha, 255)
    alpha[there] = scaled.alpha[there]
    return Frame(pixels, alpha, scaled.icc, scaled.dpi)
