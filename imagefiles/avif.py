"""AVIF: boxes (ISO/IEC 14496-12 and 23008-12). libavif bounds what it reads; EXIF it hands on whole, and Pillow takes that apart; and what the
boxes say of a picture's size binds nobody who decodes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from

from api_schemas.errors import AnimatedImage, UnsupportedFormat
from imagefiles import av1
from imagefiles.jpeg import MAX_EXIF
from imagefiles.sizes import pixels_of

MAX_BOXES = 2_000
"""In all: a picture in a grid of 512×512 has some hundred items."""
MAX_UNITS = 50_000
"""Units of AV1's bitstream in all that are looked at; a sequence header counts as twenty. A grid has a header for each of its pictures."""
_FULL = 4
"""Bytes of the version and the flags of a full box."""

Box = tuple[bytes, int, int]
"""Kind, and where its body begins and ends."""


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of an AVIF that costs no more than its picture. Raises ``AnimatedImage``, ``UnsupportedFormat`` and ``ImageTooLarge``."""
    budget, pixels = [MAX_BOXES], 0
    exif: set[int] = set()
    metas = 0
    for kind, begin, end in _boxes(data, 0, len(data), budget):
        if kind == b"moov":  # tracks; a picture alone has none
            raise AnimatedImage("the file holds more than one frame or page")
        if kind != b"meta":
            continue
        metas += 1
        if metas > 1:
            raise UnsupportedFormat("the AVIF has more than one meta box; save it anew")
        inside = {inner: (at, stop) for inner, at, stop in _boxes(data, begin + _FULL, end, budget)}
        if b"iinf" in inside:
            exif = _exif_items(data, *inside[b"iinf"], budget)
        if b"iloc" in inside:
            items = _locations(data[slice(*inside[b"iloc"])], base=inside.get(b"idat", (0, 0))[0])
            pixels = max(pixels, _check_items(data, items, exif, max_pixels))
        if b"iprp" in inside:
            pixels = max(pixels, _declared(data, *inside[b"iprp"], budget, max_pixels))
    return pixels


def _check_items(data: bytes, items: list[tuple[int, int, int]], exif: set[int], max_pixels: int) -> int:
    """Pixels of the largest picture that the bitstream of an item declares, where ``exif`` are the items that have none."""
    if (found := sum(length for item, _, length in items if item in exif)) > MAX_EXIF:
        raise UnsupportedFormat(f"the AVIF has {found} bytes of exif, more than {MAX_EXIF}; save it anew")
    pixels, units = 0, [MAX_UNITS]
    for at, length in {(at, length) for item, at, length in items if item not in exif}:
        for width, height in av1.sizes(data, at, at + length, units):
            pixels = max(pixels, pixels_of(width, height, max_pixels))
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


def _locations(iloc: bytes, *, base: int) -> list[tuple[int, int, int]]:
    """Item, place and length of each extent in the location box, as far as that can be read. ``base`` is where the item data box begins."""
    if len(iloc) < 8:
        return []
    found: list[tuple[int, int, int]] = []
    version, at = iloc[0], 6
    offset_size, length_size, base_size, index_size = iloc[4] >> 4, iloc[4] & 15, iloc[5] >> 4, iloc[5] & 15 if iloc[0] else 0
    wide = 4 if version == 2 else 2

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(iloc[at - size : at], "big")

    for _ in range(min(number(wide), MAX_BOXES)):
        item, is_inside = number(wide), bool(version) and number(2) & 15 == 1
        number(2)  # the data reference
        start = number(base_size) + (base if is_inside else 0)
        for _ in range(number(2)):
            if at >= len(iloc) or len(found) >= MAX_BOXES:
                return found
            number(index_size)
            place = start + number(offset_size)
            found.append((item, place, number(length_size)))
        if at >= len(iloc):
            break
    return found


def _declared(data: bytes, at: int, stop: int, budget: list[int], max_pixels: int) -> int:
    """Pixels of the largest picture among the properties."""
    pixels = 0
    for kind, begin, end in _boxes(data, at, stop, budget):
        for inner, body, last in _boxes(data, begin, end, budget) if kind == b"ipco" else ():
            if inner == b"ispe" and body + 12 <= last:
                width, height = unpack_from(">II", data, body + _FULL)
                pixels = max(pixels, pixels_of(width, height, max_pixels))
    return pixels
