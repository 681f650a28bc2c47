"""ICC profiles are bounded before lcms sees them, and EXIF is read by tags that have one value."""

from __future__ import annotations

import math
import struct

import pytest
from odd_files import ADOBE_RGB, CMYK_PROFILE, DISPLAY_P3, GREY_PROFILE, SRGB, exif_bytes

from api_schemas.errors import UnsupportedFormat
from imagefiles import exif, icc


def with_elements(profile: bytes) -> bytes:
    """A profile with one more tag, of multiProcessElements."""
    (count,) = struct.unpack_from(">I", profile, 128)
    moved = b"".join(
        struct.pack(">4sII", name, at + 12, size)
        for name, at, size in (struct.unpack_from(">4sII", profile, 132 + 12 * n) for n in range(count))
    )
    body = profile[132 + 12 * count :]
    tag = struct.pack(">4sII", b"D2B0", 132 + 12 * (count + 1) + len(body), 16)
    return profile[:128] + struct.pack(">I", count + 1) + moved + tag + body + b"mpet" + bytes(12)


@pytest.mark.parametrize(("profile", "mode"), [(SRGB, "RGB"), (DISPLAY_P3, "RGBA"), (ADOBE_RGB, "P"), (CMYK_PROFILE, "CMYK")])
def test_a_profile_of_the_pixels_is_used(profile: bytes, mode: str) -> None:
    """RGB pixels are read by RGB profiles, CMYK by CMYK."""
    assert icc.used(profile, mode) == profile


@pytest.mark.parametrize(
    ("profile", "mode"), [(DISPLAY_P3, "L"), (GREY_PROFILE, "L"), (CMYK_PROFILE, "RGB"), (SRGB, "CMYK"), (b"", "RGB"), (None, "RGB")]
)
def test_another_profile_is_not(profile: bytes | None, mode: str) -> None:
    """A profile of another space than the pixels counts as none."""
    assert icc.used(profile, mode) is None


def test_profiles_of_links_are_not_used() -> None:
    """Nor is one that describes no device's or space's colours."""
    assert icc.used(SRGB[:12] + b"link" + SRGB[16:], "RGB") is None


@pytest.mark.parametrize(("profile", "mode"), [(DISPLAY_P3, "RGB"), (CMYK_PROFILE, "CMYK")])
def test_process_elements_are_refused(profile: bytes, mode: str) -> None:
    """Lcms would walk them for minutes."""
    with pytest.raises(UnsupportedFormat, match="multiProcessElements"):
        icc.used(with_elements(profile), mode)


@pytest.mark.parametrize(("profile", "most", "mode"), [(SRGB, icc.MAX_RGB, "RGB"), (CMYK_PROFILE, icc.MAX_PROFILE, "CMYK")])
def test_the_size_of_a_profile_is_bounded(profile: bytes, most: int, mode: str) -> None:
    """At the bound it is used, beyond it refused."""
    assert icc.used(profile.ljust(most, b"\0"), mode) is not None
    with pytest.raises(UnsupportedFormat, match="bytes"):
        icc.used(profile.ljust(most + 1, b"\0"), mode)


def block(kind: int, count: int, value: bytes, tag: int = exif.ORIENTATION) -> bytes:
    """EXIF of one tag, big-endian; values of more than four bytes stand at 26."""
    inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(">I", 26)
    return b"Exif\0\0MM\0*" + struct.pack(">IHHHI", 8, 1, tag, kind, count) + inline + bytes(4) + (value if len(value) > 4 else b"")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_read_in_either_byte_order(orientation: int) -> None:
    """A short number, as cameras write it."""
    assert exif.orientation({"exif": exif_bytes(orientation)}) == orientation
    assert exif.orientation({"exif": block(3, 1, struct.pack(">H", orientation))}) == orientation


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0nonsense",
        block(3, 1, struct.pack(">H", 9)),
        block(3, 2, struct.pack(">2H", 6, 6)),
        block(5, 2**20, struct.pack(">II", 6, 1) * 64),
        block(2, 2**20, b"6" * 64),
        block(99, 1, b"\6"),
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(12 * 100),
    ],
)
def test_an_orientation_that_cannot_be_read_is_upright(data: bytes) -> None:
    """One that is none of the eight, has several values, or is not there."""
    assert exif.orientation({"exif": data}) == 1


def test_the_orientation_of_xmp_counts_where_exif_has_none() -> None:
    """And EXIF's own comes first."""
    assert exif.orientation({"xmp": b'<x tiff:Orientation="6"/>'}) == 6
    assert exif.orientation({"xmp": b'<x tiff:Orientation="6"/>', "exif": exif_bytes(3)}) == 3
    assert exif.orientation({"XML:com.adobe.xmp": "<tiff:Orientation>8</tiff:Orientation>"}) == 8


def test_a_resolution_is_a_fraction() -> None:
    """Of nothing it is not a number."""
    assert exif.read(block(5, 1, struct.pack(">II", 600, 2), exif.X_RESOLUTION)) == {exif.X_RESOLUTION: 300.0}
    assert math.isnan(exif.read(block(5, 1, struct.pack(">II", 0, 0), exif.X_RESOLUTION))[exif.X_RESOLUTION])
