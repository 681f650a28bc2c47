"""Checks image bytes before anything is stored: format, frames and size by the header alone; of masks the pixels too.

What only decoding can show (a truncated photo) fails the job later with the same codes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image, PngImagePlugin, UnidentifiedImageError

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
from imagefiles import bounds, exif, icc
from imagefiles.formats import ACCEPTED, PHONE_JPEG
from imagefiles.png import MAX_TEXT
from imagefiles.sandbox import Allowance, Call, Sandbox
from service.masks import check_meaning, check_product

if TYPE_CHECKING:
    from core.settings import Limits

T = TypeVar("T")

_FLOAT = "F"  # the mode of floating-point pixels, which have no agreed white
_KEY_SCALE = {"L;2": 85, "L;4": 17}  # PNG's transparent grey in eight bits, where Pillow leaves it in the file's depth
_TURNED = (5, 6, 7, 8)
_BMP_HEAD = 18  # bytes up to the size of the header that follows
_CHECKED_BYTES = 16
"""Bytes per pixel that looking at a decoded mask takes: its channels, and what is made of them."""

# The cap below is ours and has a code; Pillow's own would warn or raise first.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT


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
    bounded = bounds.check(data, max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=(bounded.format,)) as image:
            return _header_of(image, max_pixels)
    except UnidentifiedImageError as error:
        raise _unidentified(data, bounded.format) from error
    except (OutfillError, MemoryError):
        raise
    except Exception as error:  # Pillow's format readers raise whatever a broken header makes them trip over
        raise ImageCorrupt("the image's header is broken") from error


def _unidentified(data: bytes, kind: str) -> OutfillError:
    """What is wrong with a file that Pillow does not take for the format that it begins as."""
    if kind == "TIFF":
        return UnsupportedFormat("this TIFF is broken, or of a kind that is not accepted; send 8 or 16 bits a channel: grey, RGB or CMYK")
    if kind == "BMP" and len(data) < _BMP_HEAD:
        return NotAnImage("the bytes are not an image")
    return ImageCorrupt(f"the {kind} file's header is broken")


def _header_of(image: Image.Image, max_pixels: int) -> Header:
    file_format = "JPEG" if image.format == PHONE_JPEG else str(image.format)
    if image.format not in (PHONE_JPEG, "TIFF") and getattr(image, "n_frames", 1) > 1:  # a TIFF's pages are counted by its directories
        raise AnimatedImage("the file holds more than one frame or page")
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}")
    if image.mode == _FLOAT:
        raise UnsupportedFormat("floating-point pixels have no agreed white; send 8 or 16 bits a channel")
    icc.used(image.info.get("icc_profile"), image.mode)
    if image.format != "TIFF" and exif.orientation(image.info) in _TURNED:  # Pillow turns TIFF itself
        width, height = height, width
    return Header(file_format.lower(), width, height)


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
        with Image.open(io.BytesIO(data), formats=ACCEPTED) as image:
            if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
                image.info["transparency"] *= _KEY_SCALE.get(str(image.tile[0].args), 1)
            image.load()
            return checked(image)
    except (OutfillError, MemoryError):
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
        with _blaming(field):
            headers[field] = read_header(data, max_pixels)
            if field == "mask" and mask_options is not None:
                _check_mask_size(headers["image"], headers["mask"])
                has_room = check_mask_pixels(data, mask_options, growth_px)
            elif field == "product_mask":
                _check_mask_size(headers["image"], headers[field])
                check_product_mask_pixels(data)
    return Checked(headers, has_room)


def check_apart(
    sandbox: Sandbox,
    limits: Limits,
    blobs: Mapping[str, bytes],
    mask_options: MaskOptions | None = None,
    growth_px: int = 0,
) -> Checked:
    """``check`` in a process of its own, which is ended where a file takes more than ``limits`` allow. Raises ``ImageTooCostly`` then."""
    memory = limits.decoding_slack_bytes
    for field, data in blobs.items():
        with _blaming(field):
            bounded = bounds.check(data, limits.max_image_pixels)
        if field in ("mask", "product_mask") or bounded.opens_decoded:  # of the others only the header is read
            memory += bounded.decoded_bytes + _CHECKED_BYTES * bounded.pixels
    asked = {
        "fields": list(blobs),
        "mask_options": mask_options and mask_options.model_dump(mode="json"),
        "max_pixels": limits.max_image_pixels,
        "growth_px": growth_px,
    }
    with _blaming(_first(blobs)):
        found = sandbox.call("check", asked, list(blobs.values()), Allowance(limits.decoding_s, memory)).value
    return Checked({field: Header(*header) for field, header in found["headers"].items()}, found["has_room"])


def _first(blobs: Mapping[str, bytes]) -> str:
    """The field to blame where no other can be told."""
    return next((field for field in ("mask", "product_mask") if field in blobs), next(iter(blobs)))


def _check_in_sandbox(asked: Any, files: list[bytes]) -> tuple[Any, Sequence[Any]]:
    options = MaskOptions.model_validate(asked["mask_options"]) if asked["mask_options"] else None
    found = check(dict(zip(asked["fields"], files, strict=True)), options, asked["max_pixels"], asked["growth_px"])
    return {"headers": {field: astuple(header) for field, header in found.headers.items()}, "has_room": found.has_room}, ()


CALLS: Mapping[str, Call] = {"check": _check_in_sandbox}
"""Of the sandbox."""


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    """Names the field that an error raised inside is to be blamed on, unless it names one."""
    try:
        yield
    except OutfillError as error:
        error.field = error.field or field
        raise


def _check_mask_size(image: Header, mask: Header) -> None:
    if (image.width, image.height) != (mask.width, mask.height):
        raise MaskSizeMismatch(f"the mask has {mask.width}×{mask.height} pixels, the image {image.width}×{image.height}")


def reference(key: str, header: Header, data: bytes) -> InputRef:
    """The record of a checked input that is stored under ``key``."""
    return InputRef(
        key=key, format=header.format, width=header.width, height=header.height, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
