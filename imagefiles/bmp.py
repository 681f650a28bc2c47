"""BMP: Pillow decodes its run lengths in Python, a run or a row at a time."""

from __future__ import annotations

from struct import unpack_from

from api_schemas.errors import UnsupportedFormat
from imagefiles.sizes import pixels_of

MAX_RUN_PIXELS = 2**19
"""Pixels of a file of run lengths, and bytes of its runs: a second of Python is 2 million."""
_RUN_LENGTHS = (1, 2)
_OLDEST, _HEADERS = 12, (40, 52, 56, 64, 108, 124)


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of a BMP that costs no more than its picture. Raises ``UnsupportedFormat`` and ``ImageTooLarge``."""
    if len(data) < 34:
        return 0
    (header,) = unpack_from("<I", data, 14)
    if header == _OLDEST:
        width, height = unpack_from("<HH", data, 18)
        return pixels_of(width, height, max_pixels)
    if header not in _HEADERS:
        return 0  # Pillow refuses it
    width, height = unpack_from("<ii", data, 18)
    pixels = pixels_of(abs(width), abs(height), max_pixels)
    (compression,) = unpack_from("<I", data, 30)
    if compression in _RUN_LENGTHS and max(pixels, len(data)) > MAX_RUN_PIXELS:
        raise UnsupportedFormat(f"a BMP of run lengths may have {MAX_RUN_PIXELS} pixels and bytes; save it anew")
    return pixels
