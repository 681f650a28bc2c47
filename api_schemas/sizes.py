"""Sizes that a request asks for, in whole pixels: of an extended canvas, and of the output. The service checks them, the worker makes them."""

from __future__ import annotations

from fractions import Fraction

from api_schemas.requests import Canvas, Expand, JobRequest, OutpaintRequest, OutputOptions

Size = tuple[int, int]
"""Width and height."""

MOST_ENLARGED = 4.0
"""Output pixels to one of the photo's, along a side, at most: what is enlarged more shows nothing but blur."""


def canvas_size(canvas: Canvas, size: Size) -> Size:
    """The size of ``canvas`` around a picture of ``size``: as given, or the smallest of its ratio that holds the picture.

    Of the side that follows from the ratio the nearest whole pixel is taken, but none that would cut the picture.
    """
    width, height = size
    if canvas.width is not None and canvas.height is not None:
        return canvas.width, canvas.height
    across, down = (Fraction(part) for part in (canvas.ratio or "").split(":"))
    ratio = across / down
    if width < height * ratio:
        return max(width, round(height * ratio)), height
    return width, max(height, round(width / ratio))


def expanded_size(expand: Expand, size: Size) -> Size:
    """The size of a picture of ``size`` once its sides are extended."""
    return size[0] + expand.left + expand.right, size[1] + expand.top + expand.bottom


def painted_size(request: JobRequest, size: Size) -> Size:
    """The size at which a photo of ``size`` is edited, before the output is scaled: larger for an outpainting, else the photo's."""
    if isinstance(request, OutpaintRequest):
        if request.canvas is not None:
            return canvas_size(request.canvas, size)
        if request.expand is not None:
            return expanded_size(request.expand, size)
    return size


def output_size(output: OutputOptions, size: Size) -> Size:
    """The size of the output of a picture of ``size``: with one side given the other follows, to the nearest whole pixel."""
    match output.width, output.height:
        case int(width), int(height):
            return width, height
        case int(width), None:
            return width, max(1, round(Fraction(width * size[1], size[0])))
        case None, int(height):
            return max(1, round(Fraction(height * size[0], size[1]))), height
        case _:
            return size
