"""Checks image bytes before anything is stored: format, frames and size by the header alone; of masks the pixels too.

What only decoding can show (a truncated photo) fails the job later with the same codes. The rule by which a mask's pixels are read
is the worker's (worker/images/codec.py); here it only serves to refuse a mask that marks nothing or everything.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from PIL import Image, UnidentifiedImageError

from api_schemas.errors import (
    AnimatedImage,
    ImageCorrupt,
    ImageTooLarge,
    MaskEmpty,
    MaskFull,
    MaskHasNoAlpha,
    MaskSizeMismatch,
    NotAnImage,
    OutfillError,
    UnsupportedFormat,
)
from api_schemas.jobs import InputRef
from api_schemas.requests import MaskOptions, Polarity

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")
# Known well enough to say what is wrong with them; anything else is "not an image".
_REFUSED_FORMATS = ("GIF", "ICO", "PSD", "PPM", "JPEG2000")
_PHONE_JPEG = "MPO"  # a JPEG with a depth or gain map behind it, as phones write them; the first picture is the photo
_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_NOISE, _SOLID = 16, 239

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
            return _header_of(image, max_pixels)
    except UnidentifiedImageError as error:
        raise NotAnImage("the bytes are not an image") from error
    except OutfillError:
        raise
    except Exception as error:  # Pillow's format readers raise whatever a broken header makes them trip over
        raise ImageCorrupt("the image's header is broken") from error


def _header_of(image: Image.Image, max_pixels: int) -> Header:
    file_format = "JPEG" if image.format == _PHONE_JPEG else image.format
    if image.format != _PHONE_JPEG and _has_second_frame(image):
        raise AnimatedImage("the file holds more than one frame or page")
    if file_format not in FORMATS:
        raise UnsupportedFormat(f"{image.format} is not accepted; send PNG, JPEG, WebP, AVIF, TIFF or BMP")
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}")
    # The base class's method: PNG's own decodes all pixels to look for EXIF behind them (where we do not honour it).
    # Pillow turns TIFF itself.
    if image.format != "TIFF" and Image.Image.getexif(image).get(_EXIF_ORIENTATION) in _TURNED:
        width, height = height, width
    return Header(file_format.lower(), width, height)


def _has_second_frame(image: Image.Image) -> bool:
    """Whether there is more than one frame or page, without counting them all: a TIFF may hold a million."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > 1
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def check_mask_pixels(data: bytes, options: MaskOptions) -> None:
    """Refuse a mask that marks nothing or everything. Raises ``MaskEmpty``, ``MaskFull`` and ``MaskHasNoAlpha``.

    A mask that cannot be decoded passes: decoding is the worker's, and fails the job.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            lowest, highest = _strength_range(image, options)
    except OutfillError:
        raise
    except Exception:
        return
    if highest <= _NOISE:
        raise MaskEmpty("the mask marks nothing; see mask_options.polarity and mask_options.invert")
    if lowest >= _SOLID:
        raise MaskFull("the mask marks everything; see mask_options.polarity and mask_options.invert")


def _extrema(channel: Image.Image) -> tuple[int, int]:
    lowest, highest = cast("tuple[float, float]", channel.getextrema())
    return int(lowest), int(highest)


def _strength_range(image: Image.Image, options: MaskOptions) -> tuple[int, int]:
    """The lowest and highest strength of the edit, 0 to 255."""
    if options.polarity is Polarity.ALPHA:
        if not image.has_transparency_data:
            raise MaskHasNoAlpha("the mask has no alpha channel; see mask_options.polarity")
        highest, lowest = (255 - value for value in _extrema(image.convert("RGBA").getchannel("A")))
    elif image.mode.startswith("I"):  # 16 bit: the high byte counts
        lowest, highest = (value >> 8 for value in _extrema(image))
    else:
        lowest, highest = _extrema(image.convert("RGB").convert("L"))
    if (options.polarity is Polarity.BLACK_EDITS) != options.invert:
        lowest, highest = 255 - highest, 255 - lowest
    return lowest, highest


def check(blobs: Mapping[str, bytes], mask_options: MaskOptions | None, max_pixels: int) -> dict[str, Header]:
    """Check every input of a request. Raises with ``field`` set to the input to blame."""
    headers: dict[str, Header] = {}
    for field, data in blobs.items():
        try:
            headers[field] = read_header(data, max_pixels)
            if field == "mask" and mask_options is not None:
                _check_mask_size(headers["image"], headers["mask"])
                check_mask_pixels(data, mask_options)
        except OutfillError as error:
            error.field = field
            raise
    return headers


def _check_mask_size(image: Header, mask: Header) -> None:
    if (image.width, image.height) != (mask.width, mask.height):
        raise MaskSizeMismatch(f"the mask has {mask.width}×{mask.height} pixels, the image {image.width}×{image.height}")


def reference(key: str, header: Header, data: bytes) -> InputRef:
    """The record of a checked input that is stored under ``key``."""
    return InputRef(
        key=key, format=header.format, width=header.width, height=header.height, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
