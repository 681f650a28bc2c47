"""PNG: chunks (W3C PNG, third edition, section 5). Pillow walks them one by one in Python."""

from __future__ import annotations

from struct import unpack_from

from api_schemas.errors import UnsupportedFormat
from imagefiles.sizes import pixels_of

MAX_CHUNKS = 1_000
"""Chunks other than pixels: files have some dozens."""
MAX_PIXEL_CHUNKS = 16_384
"""``IDAT`` chunks: libpng writes 8 KiB each, and the largest file that is accepted has 32 MiB."""

MAX_TEXT = 2**24
"""Bytes of inflated text that Pillow may read, of which nothing is kept."""


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of a PNG that costs no more than its picture. Raises ``UnsupportedFormat`` and ``ImageTooLarge``."""
    at, others, parts, pixels = 8, 0, 0, 0
    while at + 8 <= len(data):
        length, kind = unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            parts += 1
        else:
            others += 1
        if others > MAX_CHUNKS or parts > MAX_PIXEL_CHUNKS:
            raise UnsupportedFormat(f"the PNG has more than {MAX_CHUNKS} chunks, or {MAX_PIXEL_CHUNKS} of pixels; save it anew")
        if kind == b"IHDR" and length >= 8 and at + 16 <= len(data):
            width, height = unpack_from(">II", data, at + 8)
            pixels = max(pixels, pixels_of(width, height, max_pixels))
        at += 12 + length
    return pixels
