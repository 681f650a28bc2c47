"""Checks image bytes before anything is stored: format, frames and size by the header alone; of masks the pixels too.

What only decoding can show (a truncated photo) fails the job later with the same codes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from api_schemas.errors import (
    AnimatedImage,
    ImageCorrupt,
    ImageTooLarge,
    MaskSizeMismatch,
    NotAnImage,
    OutfillError,
    UnsupportedFormat,
)
from api_schemas.jobs import InputRef
from api_schemas.requests import MaskOptions
from service.masks import check_meaning, check_product

T = TypeVar("T")

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")
# Known well enough to say what is wrong with them; anything else is "not an image".
_REFUSED_FORMATS = ("GIF", "ICO", "PSD", "PPM", "JPEG2000")
# What such a file begins with is enough to say that it is one, where Pillow cannot tell.
_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_XL_BEGINNINGS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
_AVIF_BRANDS, _HEIF_BRANDS = (b"avif", b"avis"), (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_FLOAT = "F"  # the mode of floating-point pixels, which have no agreed white
_MAX_PROFILE = 2**20  # bytes of an RGB profile, which the output would have to hold
_KEY_SCALE = {"L;2": 85, "L;4": 17}  # PNG's transparent grey in eight bits, where Pillow leaves it in the file's depth
_GREY_MODES = ("1", "L", "LA", "La")
_PHONE_JPEG = "MPO"  # a JPEG with a depth or gain map behind it, as phones write them; the first picture is the photo
_START_OF_SCAN = b"\xff\xda"
# Each scan of a progressive JPEG walks all its blocks and may take but a hundred bytes: a megabyte of them would decode for minutes. Encoders write
# about ten; libtiff draws the line here too.
_MAX_SCANS = 100
_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)

# The cap below is ours and has a code; Pillow's own would warn or raise first.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Header:
    """What the header of an image declares."""

    format: str
    width: int
    """Pixels, after EXIF orientation."""
    height: int


def read_header(data: bytes, max_pixels: int) -> Header:
    """Read an image's header without decoding it.

    Raises ``NotAnImage``, ``UnsupportedFormat``, ``AnimatedImage``, ``ImageTooLarge`` and ``ImageCorrupt``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=(*FORMATS, *_REFUSED_FORMATS)) as image:
            header = _header_of(image, max_pixels)
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except OutfillError:
        raise
    except Exception as error:  # Pillow's format readers raise whatever a broken header makes them trip over
        raise ImageCorrupt("the image's header is broken") from error
    if header.format == "jpeg" and (scans := data.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise UnsupportedFormat(f"the JPEG has {scans} scans, more than {_MAX_SCANS}; save it anew")
    return header


def _unidentified(data: bytes) -> OutfillError:
    """What is wrong with a file that Pillow does not know."""
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if data.startswith(beginning)), None)
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _AVIF_BRANDS:
        kind = "AVIF"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind is not None:
        return ImageCorrupt(f"the {kind} file's header is broken")
    if data.startswith(_TIFF_BEGINNINGS):
        return UnsupportedFormat("this TIFF is broken, or of a kind that is not accepted; send 8 or 16 bits a channel: grey, RGB or CMYK")
    if brand in _HEIF_BRANDS or data.startswith(_JPEG_XL_BEGINNINGS):
        return UnsupportedFormat(f"{'HEIC' if brand else 'JPEG XL'} is not accepted; send PNG, JPEG, WebP, AVIF, TIFF or BMP")
    return NotAnImage("the bytes are not an image")


def _header_of(image: Image.Image, max_pixels: int) -> Header:
    file_format = "JPEG" if image.format == _PHONE_JPEG else image.format
    if image.format != _PHONE_JPEG and _has_second_frame(image):
        raise AnimatedImage("the file holds more than one frame or page")
    if file_format not in FORMATS:
        raise UnsupportedFormat(f"{image.format} is not accepted; send PNG, JPEG, WebP, AVIF, TIFF or BMP")
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}")
    if image.mode == _FLOAT:
        raise UnsupportedFormat("floating-point pixels have no agreed white; send 8 or 16 bits a channel")
    profile = image.info.get("icc_profile") or b""
    if len(profile) > _MAX_PROFILE and profile[16:20] == b"RGB " and image.mode not in _GREY_MODES:
        raise UnsupportedFormat(f"the ICC profile has {len(profile)} bytes, more than {_MAX_PROFILE}; convert the image to sRGB")
    if image.format != "TIFF" and _orientation(image) in _TURNED:  # Pillow turns TIFF itself
        width, height = height, width
    return Header(file_format.lower(), width, height)


def _orientation(image: Image.Image) -> int:
    """As the worker reads it: what cannot be read is upright."""
    try:
        # The base class's method: PNG's own decodes all pixels to look for EXIF behind them (where we do not honour it).
        return int(Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _has_second_frame(image: Image.Image) -> bool:
    """Whether there is more than one frame or page, without counting them all: a TIFF may hold a million."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > 1
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def check_mask_pixels(data: bytes, options: MaskOptions, growth_px: int = 0) -> bool:
    """Refuse a mask that cannot mean what it says; ``True`` if it keeps something when it grows by ``growth_px``.

    Raises ``MaskEmpty``, ``MaskFull``, ``MaskFaint`` and ``MaskHasNoAlpha``. A mask that cannot be decoded passes: decoding is the worker's,
    and fails the job.
    """
    return _of_pixels(data, lambda image: check_meaning(image, options, growth_px)) is not False


def check_product_mask_pixels(data: bytes) -> None:
    """Refuse a mask of a product that cannot mean what it says; what cannot be decoded passes.

    Raises ``MaskEmpty``, ``MaskFull`` and ``MaskFaint``.
    """
    _of_pixels(data, check_product)


def _of_pixels(data: bytes, checked: Callable[[Image.Image], T]) -> T | None:
    """The answer of ``checked`` to the decoded picture; ``None`` where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
                image.info["transparency"] *= _KEY_SCALE.get(str(image.tile[0].args), 1)
            image.load()
            return checked(image)
    except OutfillError:
        raise
    except Exception:
        return None


@dataclass(frozen=True)
class Checked:
    """Inputs that may be stored."""

    headers: Mapping[str, Header]
    has_room: bool
    """Whether the mask, if there is one, keeps something when it grows by what ``check`` was given."""


def check(blobs: Mapping[str, bytes], mask_options: MaskOptions | None, max_pixels: int, growth_px: int = 0) -> Checked:
    """Check every input of a request. Raises with ``field`` set to the input to blame."""
    headers: dict[str, Header] = {}
    has_room = True
    for field, data in blobs.items():
        try:
            headers[field] = read_header(data, max_pixels)
            if field == "mask" and mask_options is not None:
                _check_mask_size(headers["image"], headers["mask"])
                has_room = check_mask_pixels(data, mask_options, growth_px)
            elif field == "product_mask":
                _check_mask_size(headers["image"], headers[field])
                check_product_mask_pixels(data)
        except OutfillError as error:
            error.field = field
            raise
    return Checked(headers, has_room)


def _check_mask_size(image: Header, mask: Header) -> None:
    if (image.width, image.height) != (mask.width, mask.height):
        raise MaskSizeMismatch(f"the mask has {mask.width}×{mask.height} pixels, the image {image.width}×{image.height}")


def reference(key: str, header: Header, data: bytes) -> InputRef:
    """The record of a checked input that is stored under ``key``."""
    return InputRef(
        key=key, format=header.format, width=header.width, height=header.height, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
