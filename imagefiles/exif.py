"""EXIF (CIPA DC-008): the orientation and the resolution, and nothing else. Pillow makes an object of each value of a tag that it is asked for, of a
million too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from struct import unpack_from
from typing import Any

from imagefiles.tiff import Entry, Reader

ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x0112, 0x011A, 0x011B, 0x0128
UPRIGHT = 1
_WANTED = frozenset({ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT})
_TEXT, _RATIONALS = 2, {5: "II", 10: "ii"}
_LONGEST_TEXT = 8
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_RAW_PROFILE = "Raw profile type exif"
"""Where ImageMagick keeps EXIF in a PNG: hexadecimal text behind three lines."""


def read(block: bytes) -> dict[int, float]:
    """Orientation and resolution of an EXIF block, by tag: the tags that have one value. A fraction of 0/0 is not a number."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    reader = Reader.of(block)
    found: dict[int, float] = {}
    for entry in reader.entries(reader.first) if reader else ():
        if entry.tag in _WANTED and entry.tag not in found and reader and (value := _value(reader, entry)) is not None:
            found[entry.tag] = value
    return found


def _value(reader: Reader, entry: Entry) -> float | None:
    if entry.kind == _TEXT and entry.count <= _LONGEST_TEXT:
        text = reader.bytes_of(entry).rstrip(b"\0")
        return int(text) if text.isdigit() else None
    if entry.count != 1:
        return None
    if (layout := _RATIONALS.get(entry.kind)) is not None:
        if entry.at + 8 > len(reader.data):
            return None
        above, below = unpack_from(reader.order + layout, reader.data, entry.at)
        return float(above / below) if below else float("nan")
    return reader.integer(entry)


def block_of(info: Mapping[Any, Any]) -> bytes:
    """The EXIF block of a picture that Pillow has opened, by its ``info``; empty where there is none."""
    block = info.get("exif")
    if isinstance(block, bytes):
        return block
    text = info.get(_RAW_PROFILE)
    if not isinstance(text, str):
        return b""
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def orientation(info: Mapping[Any, Any]) -> int:
    """The orientation, 1 to 8, of a picture that Pillow has opened, by its ``info``: as EXIF has it, else XMP. 1 where neither can be read."""
    found = read(block_of(info)).get(ORIENTATION)
    if found is None:
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
        match = _IN_XMP.search(xmp.encode(errors="replace") if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else b"")
        found = int(match[1]) if match else UPRIGHT
    return int(found) if found in range(1, 9) else UPRIGHT
