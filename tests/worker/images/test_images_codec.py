"""Bytes to pixels and back."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odd_files import Becomes, Refused, odd_files, private_files
from PIL import Image, ImageCms

from api_schemas.errors import ImageCorrupt, ImageError, ImageTooLarge, Invalid, MaskHasNoAlpha, UnsupportedFormat
from api_schemas.requests import ImageFormat, MaskOptions, OutputOptions, Polarity
from worker.images.codec import MAX_SIDE, Frame, decode, decode_mask, encode, encode_mask

LIMIT = 10**6
ODD = odd_files()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
few = settings(max_examples=40, deadline=None)

sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))
frames = sizes.flatmap(
    lambda size: st.builds(
        Frame,
        hnp.arrays(np.uint8, (*size, 3)),
        st.none() | hnp.arrays(np.uint8, size),
        st.sampled_from([None, SRGB]),
    )
)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 30) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)


@few
@given(frame=frames, lossless=st.sampled_from([ImageFormat.PNG, ImageFormat.WEBP]))
def test_lossless_round_trip(frame: Frame, lossless: ImageFormat) -> None:
    """PNG and lossless WebP give back every pixel, the colours under transparency, the alpha and the ICC profile."""
    back = decode(encode(frame, OutputOptions(format=lossless)), max_pixels=LIMIT)
    assert np.array_equal(back.pixels, frame.pixels)
    assert back.icc == frame.icc
    if frame.alpha is None or (back.alpha is None and frame.alpha.min() == 255):
        assert back.alpha is None
    else:
        assert back.alpha is not None
        assert np.array_equal(back.alpha, frame.alpha)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_formats(kind: str) -> None:
    """Every accepted format decodes to about the pixels that were saved."""
    pixels = photo()
    back = decode(saved(Image.fromarray(pixels), kind), max_pixels=LIMIT)
    assert (back.width, back.height) == (40, 30)
    assert float(np.abs(back.pixels.astype(int) - pixels).mean()) < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_orientation(orientation: int, kind: str) -> None:
    """A picture stored turned or mirrored is decoded upright, in every format that can say so."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255
    stored: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored[orientation](upright)))
    back = decode(saved(picture, kind, exif=exif, **({"quality": 95} if kind in {"JPEG", "AVIF"} else {})), max_pixels=LIMIT)
    assert back.pixels.shape == upright.shape
    assert float(np.abs(back.pixels.astype(int) - upright).mean()) < 12


def test_private_metadata_is_dropped() -> None:
    """No EXIF of the input reaches an output."""
    exif = Image.Exif()
    exif[0x010E] = "private note"
    frame = decode(saved(Image.fromarray(photo()), "JPEG", exif=exif), max_pixels=LIMIT)
    for kind in ImageFormat:
        data = encode(frame, OutputOptions(format=kind))
        assert b"private note" not in data
        assert not Image.open(BytesIO(data)).getexif()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken metadata, which is dropped
@pytest.mark.parametrize("name", [name for name, file in ODD.items() if isinstance(file.outcome, Becomes)])
def test_the_resolution_is_what_the_file_declares(name: str) -> None:
    """A picture has the dots per inch that its file declares, upright, and none where it declares none."""
    outcome = ODD[name].outcome
    assert isinstance(outcome, Becomes)
    dpi = decode(ODD[name].data, max_pixels=LIMIT).dpi
    assert dpi == (outcome.dpi and pytest.approx(outcome.dpi, abs=0.02))


@pytest.mark.parametrize(("kind", "quality"), [("png", None), ("jpeg", 80), ("webp", None), ("webp", 80)])
def test_every_format_carries_a_resolution_that_was_asked_for(kind: str, quality: int | None) -> None:
    """PNG and JPEG in their own fields; WebP in an EXIF that holds nothing else."""
    output = OutputOptions.model_validate({"format": kind, "quality": quality, "dpi": 300})
    picture = Image.open(BytesIO(encode(Frame(photo(), dpi=(300.0, 300.0)), output)))
    exif = picture.getexif()
    if kind == "webp":
        assert {tag: float(value) for tag, value in exif.items()} == {0x011A: 300, 0x011B: 300, 0x0128: 2}
    else:
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.02)
        assert not exif


@pytest.mark.parametrize(("kind", "quality", "carried"), [("png", None, True), ("jpeg", 80, True), ("webp", None, False)])
def test_png_and_jpeg_carry_the_resolution(kind: str, quality: int | None, carried: bool) -> None:  # noqa: FBT001
    """Dots per inch come back from PNG and JPEG, different ones across and down, beside the profile; WebP has none, and no EXIF."""
    frame = Frame(photo(), None, SRGB, (300.0, 150.0))
    picture = Image.open(BytesIO(encode(frame, OutputOptions(format=ImageFormat(kind), quality=quality))))
    assert picture.info.get("dpi") == (pytest.approx((300.0, 150.0), abs=0.02) if carried else None)
    assert picture.info["icc_profile"] == SRGB
    assert not picture.getexif()
    assert np.array_equal(np.asarray(picture), frame.pixels) == (kind != "jpeg")


def test_grey_modes() -> None:
    """Grey, 1-bit and 16-bit files become RGB with equal channels, 16 bits by their high byte."""
    grey = photo()[..., 0]
    assert (decode(saved(Image.fromarray(grey)), max_pixels=LIMIT).pixels == grey[..., None]).all()
    deep = grey.astype(np.uint16) * 256 + 77
    for kind in ("PNG", "TIFF"):
        assert (decode(saved(Image.fromarray(deep), kind), max_pixels=LIMIT).pixels == grey[..., None]).all()
    assert (decode(saved(Image.fromarray(deep.astype(np.int32)), "TIFF"), max_pixels=LIMIT).pixels == grey[..., None]).all()
    bits = Image.fromarray(grey).convert("1")
    assert (decode(saved(bits), max_pixels=LIMIT).pixels[..., 1] == np.asarray(bits.convert("L"))).all()


def test_transparency_of_every_kind() -> None:
    """Alpha channels, palette transparency and colour keys all become the alpha."""
    alpha = np.where(np.arange(40) < 20, 0, 255).astype(np.uint8)[None].repeat(30, 0)
    grey_alpha = Image.merge("LA", [Image.fromarray(photo()[..., 0]), Image.fromarray(alpha)])
    decoded = decode(saved(grey_alpha), max_pixels=LIMIT)
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, alpha)
    palette = Image.fromarray((alpha > 0).astype(np.uint8), "L").convert("P")
    keyed = decode(saved(palette, transparency=0), max_pixels=LIMIT)
    assert keyed.alpha is not None
    assert np.array_equal(keyed.alpha, alpha)
    partly = decode(saved(palette, transparency=bytes([7, 200])), max_pixels=LIMIT)
    assert partly.alpha is not None
    assert set(np.unique(partly.alpha)) == {7, 200}
    rgb_key = decode(saved(Image.fromarray(photo()), transparency=(0, 0, 0)), max_pixels=LIMIT)
    assert rgb_key.alpha is not None
    assert rgb_key.alpha[0, 0] == 0
    deep_key = decode(saved(Image.fromarray(photo()[..., 0].astype(np.uint16) * 256), transparency=0), max_pixels=LIMIT)
    assert deep_key.alpha is not None
    assert deep_key.alpha[0, 0] == 0
    assert deep_key.alpha[0, -1] == 255


def test_transparency_survives_orientation() -> None:
    """A colour key still counts when the picture is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frame = decode(saved(Image.fromarray(photo()), exif=exif, transparency=(0, 0, 0)), max_pixels=LIMIT)
    assert frame.alpha is not None
    assert frame.alpha.shape == (40, 30)


def test_cmyk_and_profiles() -> None:
    """CMYK becomes RGB; a profile stays only with pixels that are still in it, and a broken one is no error."""
    ink = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    for profile in (None, SRGB, b"x" * 200):
        frame = decode(saved(ink, "JPEG", icc_profile=profile, quality=95), max_pixels=LIMIT)
        assert frame.icc is None
        assert int(frame.pixels.max()) < 60
    fake = bytearray(SRGB)
    fake[16:20] = b"CMYK"
    assert int(decode(saved(ink, "JPEG", icc_profile=bytes(fake)), max_pixels=LIMIT).pixels.max()) < 60
    assert decode(saved(Image.fromarray(photo()), icc_profile=SRGB), max_pixels=LIMIT).icc == SRGB
    assert decode(saved(Image.fromarray(photo()[..., 0]), icc_profile=SRGB), max_pixels=LIMIT).icc is None
    assert decode(saved(Image.fromarray(photo()), icc_profile=bytes(fake)), max_pixels=LIMIT).icc is None


def test_lab_is_converted() -> None:
    """A Lab TIFF becomes RGB: full lightness is white."""
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert int(decode(saved(lab, "TIFF"), max_pixels=LIMIT).pixels.min()) > 245


def test_float_is_refused() -> None:
    """A floating-point TIFF is an unsupported format, said clearly."""
    with pytest.raises(UnsupportedFormat, match="mode F"):
        decode(saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), max_pixels=LIMIT)


def test_pixel_cap() -> None:
    """A header that declares more pixels than the cap is refused before decoding."""
    data = saved(Image.new("L", (100, 101)))
    assert decode(data, max_pixels=100 * 101).width == 100
    with pytest.raises(ImageTooLarge):
        decode(data, max_pixels=100 * 101 - 1)
    huge = bytearray(data)
    huge[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    with pytest.raises(ImageError):
        decode(bytes(huge), max_pixels=LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_truncation(kind: str) -> None:
    """Every truncation of a file is ``ImageCorrupt`` or decodes, and nothing else."""
    data = saved(Image.fromarray(photo()), kind)
    for end in range(0, len(data), max(1, len(data) // 400)):
        try:
            frame = decode(data[:end], max_pixels=LIMIT)
        except ImageCorrupt:
            continue
        assert frame.pixels.shape == (30, 40, 3)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"]), data=st.data())
def test_damage(kind: str, data: st.DataObject) -> None:
    """Whatever bytes are changed, the file decodes or raises an ``ImageError``."""
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind == "BMP" else {"exif": exif, "icc_profile": SRGB}
    damaged = bytearray(saved(Image.fromarray(photo()), kind, **options))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        decode(bytes(damaged), max_pixels=LIMIT)


@few
@given(strength=hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))), invert=st.booleans())
def test_mask_rule(strength: npt.NDArray[np.uint8], invert: bool) -> None:  # noqa: FBT001 -- hypothesis passes it
    """The three polarities read the same strength, noise at the ends is cut, and ``invert`` swaps."""
    expected = strength.copy()
    expected[strength <= 16] = 0
    expected[strength >= 239] = 255
    files = {
        Polarity.WHITE_EDITS: Image.fromarray(255 - strength if invert else strength),
        Polarity.BLACK_EDITS: Image.fromarray(strength if invert else 255 - strength),
        Polarity.ALPHA: Image.merge("LA", [Image.new("L", strength.shape[::-1]), Image.fromarray(strength if invert else 255 - strength)]),
    }
    for polarity, picture in files.items():
        read = decode_mask(saved(picture), MaskOptions(polarity=polarity, invert=invert), max_pixels=LIMIT)
        assert np.array_equal(read, expected), polarity


def test_mask_without_alpha() -> None:
    """``polarity: alpha`` with a file that has no transparency is an error of its own."""
    with pytest.raises(MaskHasNoAlpha):
        decode_mask(saved(Image.new("L", (3, 3))), MaskOptions(polarity=Polarity.ALPHA), max_pixels=LIMIT)


def test_mask_ignores_alpha_by_default() -> None:
    """A white mask edits everywhere, however transparent it is."""
    picture = Image.new("RGBA", (3, 3), (255, 255, 255, 0))
    assert (decode_mask(saved(picture), MaskOptions(), max_pixels=LIMIT) == 255).all()


def test_jpeg_is_flattened_on_white() -> None:
    """A transparent pixel is white in a JPEG, and fine colour detail is kept by full-resolution chroma."""
    frame = Frame(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.uint8), SRGB)
    data = encode(frame, OutputOptions(format=ImageFormat.JPEG))
    back = decode(data, max_pixels=LIMIT)
    assert int(back.pixels.min()) > 250
    assert back.icc == SRGB
    picture = Image.open(BytesIO(data))
    assert {layer[1:3] for layer in getattr(picture, "layer")} == {(1, 1)}  # noqa: B009 -- Pillow's types do not name it


def test_quality_is_honoured() -> None:
    """A lower quality makes a smaller JPEG and a smaller WebP."""
    frame = Frame(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    for kind in (ImageFormat.JPEG, ImageFormat.WEBP):
        low, high = (len(encode(frame, OutputOptions(format=kind, quality=q))) for q in (20, 95))
        assert low < high


@pytest.mark.parametrize("kind", ImageFormat)
def test_too_wide(kind: ImageFormat) -> None:
    """A side that a format cannot hold is refused with the field to change; the longest that it can hold is written."""
    limit = MAX_SIDE[kind]
    with pytest.raises(Invalid) as caught:
        encode(Frame(np.zeros((1, limit + 1, 3), np.uint8)), OutputOptions(format=kind))
    assert caught.value.field == "output.format"
    assert decode(encode(Frame(np.zeros((1, limit, 3), np.uint8)), OutputOptions(format=kind)), max_pixels=10**7).width == limit


@pytest.mark.filterwarnings("ignore")  # Pillow warns of broken metadata, which is dropped
@pytest.mark.parametrize("name", ODD)
def test_odd_files(name: str) -> None:
    """Every odd file is decoded to its documented pixels, alpha and profile, or is an ``ImageError``."""
    file = ODD[name]
    if isinstance(file.outcome, Refused):
        if file.outcome.by == "job":
            with pytest.raises(ImageError) as caught:
                decode(file.data, max_pixels=80_000_000)
            assert caught.value.code == file.outcome.code
            return
        with contextlib.suppress(ImageError):  # what the service refuses before: some of it decodes, of several frames the first
            decode(file.data, max_pixels=80_000_000)
        return
    frame = decode(file.data, max_pixels=80_000_000)
    assert frame.pixels.shape == file.outcome.pixels.shape
    assert int(np.abs(frame.pixels.astype(int) - file.outcome.pixels).max()) <= file.outcome.off_by
    assert (frame.alpha is None) == (file.outcome.alpha is None)
    if frame.alpha is not None and file.outcome.alpha is not None:
        assert np.array_equal(frame.alpha, file.outcome.alpha)
    assert frame.icc == file.outcome.icc


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "avif", "tiff"])
def test_png_holds_pixels_and_profile_alone(name: str) -> None:
    """A PNG that is written has no chunk but those of the pixels and the profile."""
    frame = decode(private_files()[name], max_pixels=LIMIT)
    data, at, kinds = encode(frame, OutputOptions(format=ImageFormat.PNG)), 8, set()
    while at < len(data):
        kinds.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    assert kinds == {b"IHDR", b"iCCP", b"IDAT", b"IEND"}


@few
@given(mask=hnp.arrays(np.uint8, sizes))
def test_mask_round_trip(mask: npt.NDArray[np.uint8]) -> None:
    """A mask is written exactly, as a grey PNG."""
    with Image.open(BytesIO(encode_mask(mask))) as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), mask)
