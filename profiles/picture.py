"""A picture's file: its facts, and its pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from api_schemas.errors import ImageCorrupt, ImageTooLarge, NotAnImage, OutfillError, UnsupportedFormat

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "ICO")
MAX_PIXELS = 2**28
"""What is decoded, four times the 64 megapixels that the most generous place takes and more than any reader of profiles needs."""
SRGB = "sRGB"
_PHONE_JPEG = "MPO"  # a JPEG with a depth or gain map behind it; the first picture is the photo
_UNREADABLE = ("F", "LAB", "HSV")
_SAME = 3  # levels by which two transforms of one colour may differ and still be one colour space: profiles round their curves
_CUBE = (0, 32, 64, 96, 128, 160, 192, 224, 255)
# The Independent JPEG Group's table of luminance at quality 50 (ITU-T T.81, table K.1), of which every other quality is a multiple.
_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(
        18,
        22,
        37,
        56,
        68,
        109,
        103,
        77,
        24,
        35,
        55,
        64,
        81,
        104,
        113,
        92,
        49,
        64,
        78,
        87,
        103,
        121,
        120,
        101,
        72,
        92,
        95,
        98,
        112,
        100,
        103,
        99,
    ),
)

# Our own cap has a code; Pillow's would warn or raise first, at a size of its choosing.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file, upright."""

    format: str
    """In lower case: ``jpeg``, ``png``, …"""
    bytes: int
    is_single: bool
    """Whether the file holds one frame or page."""
    colour_space: str
    """``sRGB``, or what the embedded profile calls itself, or the file's colours where they are not RGB (``CMYK``)."""
    quality: int | None
    """Of a JPEG, 1 to 100."""
    rgb: Image.Image
    """Mode RGB."""
    alpha: Image.Image | None
    """Mode L; ``None`` where the file has no transparency."""

    @property
    def width(self) -> int:
        """Pixels, after EXIF orientation."""
        return self.rgb.width

    @property
    def height(self) -> int:
        """Pixels, after EXIF orientation."""
        return self.rgb.height


def read(data: bytes) -> Picture:
    """The picture in a file. Raises ``NotAnImage``, ``UnsupportedFormat``, ``ImageTooLarge`` and ``ImageCorrupt``."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _picture(image, len(data))
    except UnidentifiedImageError as error:
        raise NotAnImage(f"the file is no picture of a kind that is read here: {', '.join(FORMATS)}") from error
    except OutfillError:
        raise
    except Exception as error:  # Pillow's readers raise whatever broken bytes make them trip over
        raise ImageCorrupt(f"the picture cannot be decoded: {error}") from error


def _picture(image: Image.Image, size: int) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise ImageTooLarge(f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}")
    if image.mode in _UNREADABLE:
        raise UnsupportedFormat(f"pixels of the mode {image.mode} are not read here; convert the picture to RGB")
    is_jpeg = image.format in ("JPEG", _PHONE_JPEG)
    is_single = image.format == _PHONE_JPEG or not _has_second_frame(image)
    image.load()
    upright = ImageOps.exif_transpose(image)
    alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
    return Picture(
        format="jpeg" if is_jpeg else str(image.format).lower(),
        bytes=size,
        is_single=is_single,
        colour_space=_colour_space(image.mode, image.info.get("icc_profile")),
        quality=_quality(image) if is_jpeg else None,
        rgb=_rgb(upright),
        alpha=alpha,
    )


def _has_second_frame(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: the high byte counts
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    # By way of RGBA colours under transparency stay what they are; the short way would turn a palette's into its transparent colour.
    return image.convert("RGB")


def _quality(image: Image.Image) -> int | None:
    """The quality that scales the standard table nearest to the file's own. None where the file has no table to read."""
    tables: dict[int, list[int]] = getattr(image, "quantization", {})
    if 0 not in tables:
        return None
    scale = sum(100 * own / standard for own, standard in zip(sorted(tables[0]), sorted(_LUMINANCE), strict=True)) / len(_LUMINANCE)
    return max(1, min(100, round((200 - scale) / 2 if scale <= 100 else 5000 / scale)))


def _colour_space(mode: str, profile: object) -> str:
    colours = "CMYK" if mode == "CMYK" else "L" if mode in ("1", "L", "LA", "La") or mode.startswith("I") else "RGB"
    if colours == "CMYK":
        return colours
    if not isinstance(profile, bytes) or not profile:
        return SRGB
    try:
        name, off = _against_srgb(profile, colours)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return f"a profile that cannot be used ({error})"
    return SRGB if off <= _SAME else name or "a profile without a name"


@lru_cache(maxsize=16)
def _against_srgb(profile: bytes, mode: str) -> tuple[str, int]:
    """The profile's name, and the most levels (of 255) by which a colour is another than in sRGB."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "L":
        before = Image.frombytes("L", (len(_CUBE), 1), bytes(_CUBE))
    else:
        cube = bytes(value for red in _CUBE for green in _CUBE for blue in _CUBE for value in (red, green, blue))
        before = Image.frombytes("RGB", (len(_CUBE) ** 2, len(_CUBE)), cube)
    after = cast("Image.Image", ImageCms.applyTransform(before, transform))
    differences = zip(before.convert("RGB").tobytes(), after.tobytes(), strict=True)
    return ImageCms.getProfileDescription(opened).strip(), max(abs(own - srgb) for own, srgb in differences)
