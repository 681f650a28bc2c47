"""AVIF: boxes (ISO/IEC 14496-12 and 23008-12). libavif bounds what it reads; EXIF it hands on whole, and Pillow takes that apart."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from api_schemas.errors import UnsupportedFormat
from imagefiles.jpeg import MAX_EXIF
from imagefiles.sizes import pixels_of

MAX_BOXES = 2_000
"""In all: a picture in a grid of 512×512 has some hundred items."""
_FULL = 4
"""Bytes of the version and the flags of a full box."""

Box = tuple[bytes, int, int]
"""Kind, and where its body begins and ends."""


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of an AVIF that costs no more than its picture. Raises ``UnsupportedFormat`` and ``ImageTooLarge``."""
    budget, pixels = [MAX_BOXES], 0
    exif: set[int] = set()
    for kind, begin, end in _boxes(data, 0, len(data), budget):
        if kind != b"meta":
            continue
        for inner, at, stop in sorted(_boxes(data, begin + _FULL, end, budget)):  # iinf, iloc, iprp
            if inner == b"iinf":
                exif = _exif_items(data, at, stop, budget)
            elif inner == b"iloc" and exif and (found := _bytes_of(data[at:stop], exif)) > MAX_EXIF:
                raise UnsupportedFormat(f"the AVIF has {found} bytes of exif, more than {MAX_EXIF}; save it anew")
            elif inner == b"iprp":
                pixels = max(pixels, _declared(data, at, stop, budget, max_pixels))
    return pixels


def _boxes(data: bytes, begin: int, end: int, budget: list[int]) -> Iterator[Box]:
    at = begin
    while at + 8 <= end:
        budget[0] -= 1
        if budget[0] < 0:
            raise UnsupportedFormat(f"the AVIF has more than {MAX_BOXES} boxes; save it anew")
        size, kind = unpack_from(">I4s", data, at)
        head = 8
        if size == 1 and at + 16 <= end:
            size, head = unpack_from(">Q", data, at + 8)[0], 16
        stop = min(at + size, end) if size else end
        if stop < at + head:
            return
        yield kind, at + head, stop
        at = stop


def _exif_items(data: bytes, at: int, stop: int, budget: list[int]) -> set[int]:
    """The ids of EXIF items."""
    begin = at + _FULL + (2 if data[at : at + 1] == b"\0" else 4)
    found = set()
    for kind, body, end in _boxes(data, begin, stop, budget):
        version = data[body] if body < end else 0
        wide = version == 3
        if kind == b"infe" and version in (2, 3) and body + (14 if wide else 12) <= end:
            item_id, _, item_type = unpack_from(">IH4s" if wide else ">HH4s", data, body + _FULL)
            if item_type == b"Exif":
                found.add(item_id)
    return found


def _bytes_of(iloc: bytes, items: set[int]) -> int:
    """Bytes of ``items`` by the location box; as far as that can be read."""
    if len(iloc) < 8:
        return 0
    version, sizes = iloc[0], (iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15 if iloc[0] else 0)
    offset, length, base, index = sizes
    wide, at, total = version == 2, 6, 0

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(iloc[at - size : at], "big")

    for _ in range(min(number(4 if wide else 2), MAX_BOXES)):
        item_id = number(4 if wide else 2)
        at += (2 if version else 0) + 2 + base
        extents, each = number(2), index + offset + length
        if item_id in items:
            lengths = range(at + index + offset, min(at + extents * each, len(iloc)), each) if each else ()
            total += sum(int.from_bytes(iloc[place : place + length], "big") for place in lengths)
        at += extents * each
    return total


def _declared(data: bytes, at: int, stop: int, budget: list[int], max_pixels: int) -> int:
    """Pixels of the largest picture among the properties."""
    pixels = 0
    for kind, begin, end in _boxes(data, at, stop, budget):
        for inner, body, last in _boxes(data, begin, end, budget) if kind == b"ipco" else ():
            if inner == b"ispe" and body + 12 <= last:
                width, height = unpack_from(">II", data, body + _FULL)
                pixels = max(pixels, pixels_of(width, height, max_pixels))
    return pixels
