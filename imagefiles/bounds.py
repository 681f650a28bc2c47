"""The bounds of a file, whatever its format: asked before any library opens it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from api_schemas.errors import AnimatedImage, NotAnImage, UnsupportedFormat
from imagefiles import avif, bmp, gif, jpeg, png, tiff, webp
from imagefiles.formats import ACCEPTED, format_of

_CHECKS: Mapping[str, Callable[[bytes, int], int]] = {
    "PNG": png.check,
    "JPEG": jpeg.check,
    "WEBP": webp.check,
    "AVIF": avif.check,
    "TIFF": tiff.check,
    "BMP": bmp.check,
}
_BYTES_PER_PIXEL = {"PNG": 12, "JPEG": 16, "WEBP": 24, "AVIF": 24, "TIFF": 20, "BMP": 12}
"""Memory that decoding takes, of the formats' libraries, of Pillow and of what becomes of its picture: of a progressive JPEG the coefficients of all
scans (6 bytes), of a WebP two canvases and a copy of one. 16 bits a channel are among them."""


@dataclass(frozen=True)
class Bounded:
    """A file that is within its bounds."""

    format: str
    """By Pillow's name."""
    pixels: int
    """Of the largest picture that it declares."""

    @property
    def opens_decoded(self) -> bool:
        """Whether the library makes room for the picture as soon as its header is read."""
        return self.format == "WEBP"

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoding it may take."""
        return _BYTES_PER_PIXEL[self.format] * self.pixels


def check(data: bytes, max_pixels: int) -> Bounded:
    """Find the format of a file and hold it to its bounds. Takes milliseconds for any file of 32 MiB.

    Raises ``NotAnImage``, ``UnsupportedFormat``, ``AnimatedImage``, ``ImageTooLarge`` and ``ImageCorrupt``.
    """
    kind = format_of(data)
    if kind is None:
        raise NotAnImage("the bytes are not an image")
    if kind == "GIF" and gif.is_animated(data):
        raise AnimatedImage("the file holds more than one frame or page")
    if kind not in ACCEPTED:
        raise UnsupportedFormat(f"{kind} is not accepted; send PNG, JPEG, WebP, AVIF, TIFF or BMP")
    return Bounded(kind, _CHECKS[kind](data, max_pixels))
