"""ICC profiles (ICC.1:2022, section 7), before lcms builds a transform of one."""

from __future__ import annotations

from struct import unpack_from

from api_schemas.errors import UnsupportedFormat

MAX_RGB = 2**20
"""Bytes of the largest RGB profile, which the output would have to hold: of a PNG, readers (Pillow among them) take no larger one."""
MAX_PROFILE = 2**23
"""Bytes of any profile. Those of printers have two or three million."""
MAX_TAGS = 100
"""As lcms has it."""
_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
"""Of devices and spaces. Links, abstract profiles and named colours describe no picture's pixels."""
_ELEMENTS = b"mpet"
RGB_MODES = frozenset({"RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "P", "PA"})


def check(profile: bytes) -> None:
    """Refuse a profile that lcms would walk for minutes. Raises ``UnsupportedFormat``; what is merely broken passes, and lcms says so at once.

    Of multiProcessElements lcms evaluates any number at each node of a grid, and finds each by walking the list: 600 bytes once took a minute.
    """
    most = MAX_RGB if profile[16:20] == b"RGB " else MAX_PROFILE
    if len(profile) > most:
        raise UnsupportedFormat(f"the ICC profile has {len(profile)} bytes, more than {most}; convert the image to sRGB")
    for _, at, size in _tags(profile):
        if size >= 4 and profile[at : at + 4] == _ELEMENTS:
            raise UnsupportedFormat("the ICC profile has multiProcessElements, which are not read; convert the image to sRGB")


def used(profile: object, mode: str) -> bytes | None:
    """The profile of a picture, if its pixels, of a mode of Pillow, are read by it: RGB by one of RGB, CMYK by one of CMYK.

    Raises ``UnsupportedFormat`` where that would cost more than it may.
    """
    space = b"CMYK" if mode == "CMYK" else b"RGB " if mode in RGB_MODES else None
    if not isinstance(profile, bytes) or profile[16:20] != space:
        return None
    check(profile)
    is_of_pixels = profile[12:16] in _CLASSES and profile[36:40] == b"acsp" and _count(profile) <= MAX_TAGS
    return profile if is_of_pixels else None


def _count(profile: bytes) -> int:
    return int(unpack_from(">I", profile, 128)[0]) if len(profile) >= 132 else 0


def _tags(profile: bytes) -> list[tuple[bytes, int, int]]:
    """Name, place and size of each tag that lies in the profile."""
    places = range(132, min(132 + 12 * min(_count(profile), MAX_TAGS), len(profile) - 11), 12)
    found = [unpack_from(">4sII", profile, place) for place in places]
    return [(name, at, size) for name, at, size in found if at + size <= len(profile)]
