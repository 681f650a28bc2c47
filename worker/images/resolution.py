"""The resolution that a picture's file declares: metadata for print and layout, which changes no pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin

Dpi = tuple[float, float]
"""Dots per inch across and down."""

METRES_PER_INCH = 0.0254
_CENTIMETRES_PER_INCH = 2.54
INCH, _CENTIMETRE = 2, 3  # units of EXIF
_LEAST, _MOST = 1, 65535
"""Dots per inch: the most that a JPEG's two bytes hold; what is below 1 stands for "not known" or is nonsense."""


def declared_dpi(picture: Image.Image, exif: Mapping[int, Any]) -> Dpi | None:
    """Dots per inch of a PNG (``pHYs``), JPEG (JFIF, else EXIF), TIFF or BMP as it is stored; ``None`` where its file does not say.

    Pillow makes up 1 for a TIFF and 72 for a JPEG with EXIF; those do not count.
    """
    if isinstance(picture, JpegImagePlugin.JpegImageFile) and not picture.info.get("jfif_unit"):
        declared = _of_exif(exif)
    elif picture.format == "TIFF" and ExifTags.Base.XResolution not in getattr(picture, "tag_v2"):  # noqa: B009 -- Pillow's types do not name it
        return None
    else:
        declared = picture.info.get("dpi")
    try:
        across, down = (float(each) for each in declared or ())
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if all(_LEAST <= each <= _MOST for each in (across, down)) else None  # not a number fails, too


def _of_exif(exif: Mapping[int, Any]) -> tuple[Any, Any] | None:
    across: Any = exif.get(ExifTags.Base.XResolution)
    down, unit = exif.get(ExifTags.Base.YResolution, across), exif.get(ExifTags.Base.ResolutionUnit, INCH)
    if unit not in (INCH, _CENTIMETRE):
        return None
    try:
        return (across, down) if unit == INCH else (across * _CENTIMETRES_PER_INCH, down * _CENTIMETRES_PER_INCH)
    except TypeError:
        return None
