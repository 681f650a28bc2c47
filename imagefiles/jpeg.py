"""JPEG: segments and scans (ITU-T T.81, annex B). Pillow walks the segments before the first scan in Python; libjpeg decodes every scan."""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import unpack_from

from api_schemas.errors import UnsupportedFormat
from imagefiles.sizes import pixels_of

MAX_SEGMENTS = 2_048
"""Segments before the first scan. Each holds 64 KiB: 32 MiB of them, as an extended XMP may have, are 512."""
MAX_SKIPPED = 2**16
"""Bytes between segments, which Pillow skips one by one."""
MAX_EXIF = 2**18
"""Bytes of EXIF in all. The standard allows one segment of 64 KiB; Pillow joins several, and makes an object of each value of some tags."""
MAX_PHOTOSHOP = 2**21
"""Bytes of Photoshop's resources in all, which Pillow takes apart."""
MAX_TABLES = 2**16
"""Bytes of quantization tables and frame headers in all; a file has some hundred."""
MAX_SCANS = 100
"""Each scan of a progressive file walks all its blocks and may take but a hundred bytes: a megabyte of them would decode for minutes. Encoders write
about ten; libtiff draws the line here too."""
MAX_SCANNED = 16
"""Scans of a picture as large as is accepted; a smaller one may have more."""

_FILL = re.compile(rb"\xff*")
_START_OF_SCAN, _END = b"\xff\xda", 0xD9
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Not what is escaped, nor what restarts."""
_ALONE = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers without a segment, as Pillow reads them."""
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE}) - {0xC4, 0xC8, 0xCC}


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of a JPEG that costs no more than its picture. Raises ``UnsupportedFormat`` and ``ImageTooLarge``."""
    pixels, first = _check_segments(data, max_pixels)
    most = min(MAX_SCANS, max(MAX_SCANNED * max_pixels // max(pixels, 1), 1))
    if (scans := _scans(data, first, most)) > most:
        raise UnsupportedFormat(f"the JPEG has {scans} scans or more, and {most} may be of this size; save it anew")
    return pixels


def _scans(data: bytes, first: int, most: int) -> int:
    """Scans of the picture, counted to one more than ``most``. What is behind its end is not its own: phones keep videos there."""
    at, scans = first, 0
    for _ in range(MAX_SEGMENTS):
        if at < 0 or at + 4 > len(data) or data[at + 1] == _END:
            return scans
        scans += data[at + 1] == _START_OF_SCAN[1]
        if scans > most:
            return scans
        length = 0 if data[at + 1] in _ALONE else unpack_from(">H", data, at + 2)[0]
        at = _marker_after(data, at + 2 + length)
    raise UnsupportedFormat(f"the JPEG has more than {MAX_SEGMENTS} segments among its scans; save it anew")


def _marker_after(data: bytes, at: int) -> int:
    """Where the next marker is that ends a scan's data; -1 where there is none."""
    found = _MARKER.search(data, at)
    return found.start() if found else -1


def _check_segments(data: bytes, max_pixels: int) -> tuple[int, int]:
    """The pixels of the largest frame that is declared before the first scan, and where that is; -1 for nowhere."""
    pixels, first = 0, -1
    held = {"exif": 0, "photoshop": 0, "tables": 0}
    for number, (marker, at, length) in enumerate(_segments(data)):
        if number >= MAX_SEGMENTS:
            raise UnsupportedFormat(f"the JPEG has more than {MAX_SEGMENTS} segments; save it anew")
        if kind := _kind(marker, data[at + 2 : at + 16]):
            held[kind] += length
        if marker in _FRAMES and at + 7 <= len(data):
            height, width = unpack_from(">HH", data, at + 3)
            pixels = max(pixels, pixels_of(width, height, max_pixels))
        if marker == _START_OF_SCAN[1]:
            first = at - 2
    for kind, most in (("exif", MAX_EXIF), ("photoshop", MAX_PHOTOSHOP), ("tables", MAX_TABLES)):
        if held[kind] > most:
            raise UnsupportedFormat(f"the JPEG has {held[kind]} bytes of {kind}, more than {most}; save it anew")
    return pixels, first


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The markers before the first scan, as Pillow finds them, with place and length of each one's segment (0 of one that has none)."""
    at = 2
    skipped = 0
    while skipped <= MAX_SKIPPED:
        found = data.find(b"\xff", at, at + MAX_SKIPPED + 1)
        if found < 0:
            skipped += len(data) - at
            break
        fill = _FILL.match(data, found, found + MAX_SKIPPED + 3)
        end = fill.end() if fill else found + 1
        skipped += end - at - 1
        if end + 2 >= len(data):
            break
        if data[end] == _START_OF_SCAN[1]:
            yield data[end], end + 1, 0
            break
        marker, at = data[end], end + 1
        if marker == 0:
            skipped += 2
        elif marker in _ALONE:
            yield marker, at, 0
        else:
            length = max(unpack_from(">H", data, at)[0], 2)
            yield marker, at, length
            at += length
    if skipped > MAX_SKIPPED:
        raise UnsupportedFormat(f"the JPEG has more than {MAX_SKIPPED} bytes between its segments; save it anew")


def _kind(marker: int, beginning: bytes) -> str | None:
    if marker == 0xE1 and beginning.startswith(b"Exif\0\0"):
        return "exif"
    if marker == 0xED and beginning.startswith(b"Photoshop 3.0\0"):
        return "photoshop"
    return "tables" if marker == 0xDB or marker in _FRAMES else None
