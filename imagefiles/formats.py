"""The format of a file, by its first bytes."""

from __future__ import annotations

import re

ACCEPTED = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")
"""Formats that are decoded, by Pillow's names."""
PHONE_JPEG = "MPO"
"""Pillow's name of a JPEG with a depth or gain map behind it, as phones write them; the first picture is the photo."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"MM*\0", b"II\0*")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PPM = re.compile(rb"P[1-7fF]\s+(?:\d|#|WIDTH)")
_OTHERS = (
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)


def format_of(data: bytes) -> str | None:
    """The name of the format that ``data`` begins as, accepted or not; ``None`` where no known image begins so."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in _AVIF_BRANDS or (brand in _HEIF_BRANDS and _AVIF_BRANDS[0] in data[16:80]):
            return "AVIF"
        return "HEIC" if brand in _HEIF_BRANDS else None
    if data.startswith(_TIFF):
        return "TIFF"
    if data.startswith(b"BM"):
        return "BMP"
    if other := next((name for beginning, name in _OTHERS if data.startswith(beginning)), None):
        return other
    return "PPM" if _PPM.match(data, 0, 64) else None
