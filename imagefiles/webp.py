"""WebP: chunks (RFC 9649, section 2). libwebp allots two canvases as soon as a file is opened."""

from __future__ import annotations

from struct import unpack_from

from api_schemas.errors import AnimatedImage, UnsupportedFormat
from imagefiles.sizes import pixels_of

MAX_CHUNKS = 1_000


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of a WebP that costs no more than its picture. Raises ``AnimatedImage``, ``UnsupportedFormat`` and ``ImageTooLarge``."""
    at, chunks, frames, pixels = 12, 0, 0, 0
    while at + 8 <= len(data):
        kind, length = unpack_from("<4sI", data, at)
        chunks, frames = chunks + 1, frames + (kind == b"ANMF")
        if frames > 1:
            raise AnimatedImage("the file holds more than one frame or page")
        if chunks > MAX_CHUNKS:
            raise UnsupportedFormat(f"the WebP has more than {MAX_CHUNKS} chunks; save it anew")
        if size := _size(kind, data[at + 8 : at + 18]):
            pixels = max(pixels, pixels_of(*size, max_pixels))
        at += 8 + length + length % 2
    return pixels


def _size(kind: bytes, body: bytes) -> tuple[int, int] | None:
    """Columns and rows that a chunk declares, if it declares any."""
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None
