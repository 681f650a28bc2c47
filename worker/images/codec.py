"""Bytes to pixels and back.

What a file becomes, by its mode (docs/formats.md has it by format; tests/odd_files.py holds a file for each rule):

- 1-bit and grey become RGB with r = g = b; a palette is looked up.
- An alpha channel, or a transparent colour or palette entry, becomes ``Frame.alpha``; without one ``alpha`` is ``None``.
- 16 bits a channel become 8 by taking the high byte, also of a transparent RGB colour. 12 bits take their high 8; 32-bit integers
  are read as 16-bit ones (clipped to 0..65535). Where a TIFF says that 0 is white, it is.
- CMYK becomes sRGB through the file's own ICC profile where that is a CMYK one, else by Pillow's plain conversion. The inks of a JPEG
  are read inverted, as Adobe writes them.
- YCbCr and Lab become RGB. Floating-point pixels have no agreed white, so they are refused (``UnsupportedFormat``).
- The orientation is applied, as EXIF has it, else XMP; one that cannot be read counts as upright. Nothing else of the metadata is kept
  but two things. The ICC profile, byte for byte, and that only where lcms can use it and the pixels are still in its RGB space: the profile of a
  grey, Lab or CMYK file is dropped. A profile that would cost lcms too much is refused (``imagefiles.icc``). And the resolution in dots per inch (PNG's
  ``pHYs``, JPEG's JFIF density, else its EXIF, TIFF, BMP), which PNG and JPEG carry; WebP could only in EXIF, which is written for a resolution that
  was asked for, and holds nothing else.

How a mask is read (``decode_mask``; by the same rule the service refuses a mask without a pixel of strength 0, or of 255):

1. ``white_edits``: strength = luma (Rec. 601, as Pillow's ``convert("L")``); any alpha of the mask is ignored.
   ``black_edits``: strength = 255 - luma. ``alpha``: strength = 255 - alpha.
2. ``invert``: strength = 255 - strength.
3. Strengths up to 16 become 0 and from 239 on 255, which takes JPEG noise away; what is between stays as soft strength.

How a product's mask is read (``decode_product_mask``; the service by the same rule): where some alpha is below 239, strength = alpha, exactly. Else
strength = luma, and rule 3 holds.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from api_schemas.errors import ImageCorrupt, ImageTooLarge, Invalid, MaskHasNoAlpha, NotAnImage, OutfillError, UnsupportedFormat
from api_schemas.requests import ImageFormat, MaskOptions, OutputOptions, Polarity
from imagefiles import bounds, exif, icc
from imagefiles.formats import PHONE_JPEG
from imagefiles.png import MAX_TEXT
from worker.images.resolution import INCH, METRES_PER_INCH, Dpi, declared_dpi

# Our own cap (max_pixels) is checked on the header, with an error of our own; Pillow's would warn or raise at a size of its choosing.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT

MASK_ZERO = 16
"""Mask strengths up to this become 0."""
MASK_ONE = 239
"""Mask strengths from this on become 255."""
JPEG_QUALITY = 92
MAX_SIDE = {ImageFormat.PNG: 1_000_000, ImageFormat.JPEG: 65_500, ImageFormat.WEBP: 16_383}
"""Pixels, by the limits of libpng, libjpeg and libwebp."""

# Of what was measured (python -m scripts.bench_codecs) the fastest, and smaller than Pillow's files: noise has no repeats to look for.
_PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH),
)
_PNG_HEAD = 33  # bytes of the signature and of IHDR
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_MODES = ("1", "L", "LA", "La", "CMYK", "LAB", *icc.RGB_MODES, *_SIXTEEN_BIT)
_BAND = 2**18
"""Pixels that are copied at a time."""
_GREY_SCALE = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded picture."""

    pixels: npt.NDArray[np.uint8]
    """``uint8 (H, W, 3)`` RGB, upright."""
    alpha: npt.NDArray[np.uint8] | None = None
    """``uint8 (H, W)``, 255 = opaque; ``None`` where the file has no transparency."""
    icc: bytes | None = None
    """The RGB profile that ``pixels`` are in; ``None``: sRGB is assumed."""
    dpi: Dpi | None = None
    """Of the upright picture; ``None`` where the file does not say."""

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, the colours of which may lie in Pillow's memory yet."""

    colours: Image.Image | npt.NDArray[np.uint8]
    """RGB, upright; an array is ``uint8 (H, W, 3)``."""
    alpha: npt.NDArray[np.uint8] | None
    icc: bytes | None
    dpi: Dpi | None

    def frame(self) -> Frame:
        """The same in arrays."""
        return Frame(self.colours if isinstance(self.colours, np.ndarray) else _array(self.colours), self.alpha, self.icc, self.dpi)


def decode(data: bytes, *, max_pixels: int) -> Frame:
    """The picture in a PNG, JPEG, WebP, AVIF, TIFF or BMP file, by the rule above; of several frames the first.

    Raises ``ImageTooLarge`` where the header declares more than ``max_pixels``, ``UnsupportedFormat`` for floating-point pixels and for
    structures and profiles that cost too much (``imagefiles``), and ``ImageCorrupt`` for everything else that cannot be decoded.
    """
    return read(data, max_pixels=max_pixels).frame()


def read(data: bytes, *, max_pixels: int) -> Picture:
    """The same for callers that copy the pixels to a place of their own (``bands``)."""
    with _as_corrupt():
        return _picture(_open(data, max_pixels))


def bands(picture: Image.Image) -> Iterator[npt.NDArray[Any]]:
    """The pixels of a picture a few rows at a time: what is copied stays in the processor's cache, a quarter of the time of ``np.array(picture)``."""
    for _, band in _placed_bands(picture):
        yield band


def _placed_bands(picture: Image.Image) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """The same with the rows that each has."""
    height = max(1, _BAND // picture.width)
    for top in range(0, picture.height, height):
        rows = slice(top, min(top + height, picture.height))
        yield rows, np.asarray(picture.crop((0, rows.start, picture.width, rows.stop)))


def decode_mask(data: bytes, options: MaskOptions, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """The strength of the edit at each pixel, ``uint8 (H, W)``, 255 = edit, by the rule above.

    Raises what ``decode`` raises, and ``MaskHasNoAlpha`` where ``polarity: alpha`` meets a file without transparency.
    """
    with _as_corrupt():
        picture = _open(data, max_pixels)
        if picture.mode == "L" and options.polarity is not Polarity.ALPHA:  # as most are: no colours to make and to weigh
            values = _array(picture)
        else:
            values = _mask_values(_picture(picture).frame(), options)
    return _strengths(values, flip=(options.polarity is not Polarity.WHITE_EDITS) != options.invert)


def decode_product_mask(data: bytes, *, max_pixels: int) -> npt.NDArray[np.uint8]:
    """How much of the product is in each pixel, ``uint8 (H, W)``, 255 = product, by the rule above. Raises what ``decode`` raises."""
    with _as_corrupt():
        picture = _open(data, max_pixels)
        if picture.mode == "L" and "transparency" not in picture.info:
            return _strengths(_array(picture), flip=False)
        frame = _picture(picture).frame()
        if frame.alpha is not None and int(frame.alpha.min()) < MASK_ONE:
            return frame.alpha
        return _strengths(_luma(frame), flip=False)


def _strengths(values: npt.NDArray[np.uint8], *, flip: bool) -> npt.NDArray[np.uint8]:
    """Rule 3 for the mask's ``values (H, W)``, after a ``flip``."""
    table = np.arange(256, dtype=np.uint8)
    table[: MASK_ZERO + 1] = 0
    table[MASK_ONE:] = 255
    return np.asarray(cv2.LUT(values, table[::-1].copy() if flip else table), np.uint8)


def _luma(frame: Frame) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame.pixels).convert("L"))


def _mask_values(frame: Frame, options: MaskOptions) -> npt.NDArray[np.uint8]:
    if options.polarity is not Polarity.ALPHA:
        return _luma(frame)
    if frame.alpha is None:
        raise MaskHasNoAlpha("The mask has no alpha channel, and polarity is alpha.")
    return frame.alpha


def encode(frame: Frame, output: OutputOptions) -> bytes:
    """``frame`` as a file with its ICC profile, its resolution (PNG and JPEG; WebP that of ``output``) and no other metadata.

    PNG, and WebP without a quality, are lossless in pixels and alpha, the colours of transparent pixels included. JPEG is flattened on
    white, with chroma at full resolution. Raises ``Invalid`` where the format cannot hold so large a picture.
    """
    limit = MAX_SIDE[output.format]
    if max(frame.width, frame.height) > limit:
        raise Invalid(f"{output.format.value} holds at most {limit} pixels on a side.", field="output.format")
    pixels = frame.pixels if frame.alpha is None else np.dstack([frame.pixels, frame.alpha])
    match output.format:
        case ImageFormat.PNG:
            return _png(pixels, frame.icc, frame.dpi)
        case ImageFormat.JPEG:
            picture = Image.fromarray(pixels)
            if frame.alpha is not None:
                picture = Image.new("RGB", picture.size, "white")
                picture.paste(Image.fromarray(frame.pixels), mask=Image.fromarray(frame.alpha))
            options: dict[str, Any] = {"quality": output.quality or JPEG_QUALITY, "subsampling": 0}
            options |= {"dpi": frame.dpi} if frame.dpi else {}
        case ImageFormat.WEBP:
            picture = Image.fromarray(pixels)
            lossy = output.quality is not None
            # A lossless file's quality is only effort: 20 takes about half the time of 40, for 0 to 11 % more bytes.
            options = {"quality": output.quality, "method": 4} if lossy else {"lossless": True, "quality": 20, "method": 2}
            options |= {"exact": True} | ({"exif": _resolution(output.dpi)} if output.dpi else {})
    buffer = BytesIO()
    picture.save(buffer, output.format.value.upper(), icc_profile=frame.icc, **options)
    return buffer.getvalue()


def _resolution(dpi: int) -> Image.Exif:
    """EXIF of dots per inch alone."""
    exif = Image.Exif()
    for tag, value in ((ExifTags.Base.XResolution, dpi), (ExifTags.Base.YResolution, dpi), (ExifTags.Base.ResolutionUnit, INCH)):
        exif[tag] = value
    return exif


def into_space(pixels: npt.NDArray[np.uint8], profile: bytes | None, wanted: bytes | None) -> npt.NDArray[np.uint8]:
    """``pixels (H, W, 3)`` of the space of ``profile`` in that of ``wanted``, both RGB profiles as of ``Frame.icc`` (``None``: sRGB).

    Relative colorimetric, so that white stays white.
    """
    if profile == wanted:
        return pixels
    return np.array(ImageCms.applyTransform(Image.fromarray(pixels), _transform(profile, wanted)), np.uint8)


def encode_mask(mask: npt.NDArray[np.uint8], dpi: Dpi | None = None) -> bytes:
    """A mask ``uint8 (H, W)`` as a grey PNG."""
    return _png(mask, None, dpi)


def _png(pixels: npt.NDArray[np.uint8], icc: bytes | None, dpi: Dpi | None) -> bytes:
    """``uint8 (H, W)``, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA as a PNG file, by OpenCV, which writes it twice as fast as Pillow."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(pixels.shape[-1]) if pixels.ndim == 3 else None
    _, encoded = cv2.imencode(".png", pixels if order is None else cv2.cvtColor(pixels, order), _PNG_OPTIONS)
    data, chunks = encoded.tobytes(), b""
    if icc is not None:
        # Not OpenCV's own way, by which libpng judges the profile and leaves out what it does not like.
        chunks += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi is not None:
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *(round(each / METRES_PER_INCH) for each in dpi), 1))
    return data[:_PNG_HEAD] + chunks + data[_PNG_HEAD:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


@contextmanager
def _as_corrupt() -> Iterator[None]:
    """Pillow's parsers raise whatever a hostile file makes them trip over: nothing but our own errors may leak."""
    try:
        yield
    except (OutfillError, MemoryError):
        raise
    except Exception as error:
        raise ImageCorrupt(f"The image cannot be decoded: {error or type(error).__name__}") from error


def _picture(picture: Image.Image) -> Picture:
    profile = icc.used(picture.info.get("icc_profile"), picture.mode)
    colours, alpha = _planes(picture, profile)
    made = Picture(
        colours, alpha, profile if profile is not None and picture.mode != "CMYK" and _is_readable(profile) else None, picture.info["dpi"]
    )
    if made.icc is not None and not _is_writable(made.icc):
        return replace(made, colours=into_space(made.frame().pixels, made.icc, None), icc=None)
    return made


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        kind = bounds.check(data, max_pixels).format
    except NotAnImage as error:  # it was one when it was accepted
        raise ImageCorrupt("The image cannot be decoded: its beginning is that of no image.") from error
    picture: Image.Image = Image.open(BytesIO(data), formats=(kind,))
    if picture.width * picture.height > max_pixels:
        raise ImageTooLarge(f"The image is {picture.width}×{picture.height}; at most {max_pixels} pixels are accepted.")
    if picture.mode not in _MODES:
        raise UnsupportedFormat(f"Pixels of mode {picture.mode} are not supported; save the image with 8 or 16 bits a channel.")
    turn = _TRANSPOSE.get(_orientation(picture))
    resolution = exif.read(exif.block_of(picture.info)) if picture.format in ("JPEG", PHONE_JPEG) else {}
    if "transparency" in picture.info and picture.format == "PNG":
        picture.info["transparency"] = _transparent_colour(picture)
    picture.load()
    dpi, transparent = declared_dpi(picture, resolution), picture.info.get("transparency")
    if turn is not None and picture.format != "TIFF":  # Pillow turns TIFF itself
        picture = picture.transpose(turn)
    picture.info |= {
        "dpi": dpi[::-1] if dpi and turn in _SWAPS_SIDES else dpi,
        **({} if transparent is None else {"transparency": transparent}),
    }
    return picture


def _transparent_colour(picture: Image.Image) -> Any:
    """PNG's transparent colour in the depth of the pixels that Pillow makes. Pillow leaves it in the file's."""
    colour, depth = picture.info["transparency"], getattr(picture, "tile")[0].args  # noqa: B009 -- Pillow's types do not name it
    if depth == "RGB;16B":
        return tuple(value >> 8 for value in colour)
    return colour * _GREY_SCALE[depth] if depth in _GREY_SCALE else colour


def _orientation(picture: Image.Image) -> int:
    if picture.format != "TIFF":
        return exif.orientation(picture.info)
    found = getattr(picture, "tag_v2").get(exif.ORIENTATION)  # noqa: B009 -- Pillow's types do not name it
    return found if isinstance(found, int) else exif.UPRIGHT


# A few profiles are those of most photos, and building a transform takes longer than decoding a small picture.
@lru_cache(16)
def _is_readable(profile: bytes) -> bool:
    """Whether lcms can read RGB pixels by the profile: a broken one would be in the way of whoever opens the output."""
    return _builds(profile, None)


@lru_cache(16)
def _is_writable(profile: bytes) -> bool:
    """Whether lcms can bring other colours into the profile's space, too: profiles of cameras and scanners need not have the way back."""
    return _builds(None, profile)


def _builds(profile: bytes | None, wanted: bytes | None) -> bool:
    try:
        _transform(profile, wanted)
    except (ImageCms.PyCMSError, OSError):
        return False
    return True


def _transform(profile: bytes | None, wanted: bytes | None) -> ImageCms.ImageCmsTransform:
    first, second = (ImageCms.ImageCmsProfile(BytesIO(icc) if icc else ImageCms.createProfile("sRGB")) for icc in (profile, wanted))
    return ImageCms.buildTransform(first, second, "RGB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)


def _planes(picture: Image.Image, profile: bytes | None) -> tuple[Image.Image | npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    if picture.mode in _SIXTEEN_BIT:
        return _sixteen_bit(picture)
    if picture.mode in {"CMYK", "LAB"}:
        return _to_srgb(picture, profile), None
    if picture.mode in {"La", "RGBa"} or picture.mode.endswith("A") or "transparency" in picture.info:
        if picture.mode == "La":
            picture = picture.convert("LA")
        return _split(picture.convert("RGBA"))
    return picture if picture.mode == "RGB" else picture.convert("RGB"), None


def _array(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """``uint8 (H, W, channels)``, of one channel ``(H, W)``."""
    channels = len(picture.getbands())
    pixels = np.empty((picture.height, picture.width, *((channels,) if channels > 1 else ())), np.uint8)
    for rows, band in _placed_bands(picture):
        pixels[rows] = band
    return pixels


def _split(rgba: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    pixels, alpha = np.empty((rgba.height, rgba.width, 3), np.uint8), np.empty((rgba.height, rgba.width), np.uint8)
    for rows, band in _placed_bands(rgba):
        pixels[rows], alpha[rows] = band[..., :3], band[..., 3]
    return pixels, alpha


def _sixteen_bit(picture: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    transparent = picture.info.get("transparency")
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    alpha = np.empty((picture.height, picture.width), np.uint8) if isinstance(transparent, int) else None
    for rows, band in _placed_bands(picture):
        values = band
        if picture.format == "TIFF":
            values = _tiff_grey(values.astype(np.int64), getattr(picture, "tag_v2"))  # noqa: B009 -- Pillow's types do not name it
        if values.dtype != np.uint16:
            values = np.clip(values, 0, 65535)
        pixels[rows] = (values >> 8).astype(np.uint8)[..., None]
        if alpha is not None:
            alpha[rows] = np.where(values == transparent, 0, 255)
    return pixels, alpha


def _tiff_grey(values: npt.NDArray[np.int64], tags: Mapping[int, Any]) -> npt.NDArray[np.int64]:
    """Integers of a TIFF on the scale of 16 bits, 0 = black: what Pillow does for 8 bits and leaves undone for more."""
    bits, unsigned = tags.get(ExifTags.Base.BitsPerSample, (1,))[0], tags.get(ExifTags.Base.SampleFormat, (1,))[0] == 1
    if bits == 32 and unsigned:
        values = values % 2**32  # Pillow's are signed
    elif bits == 12:
        values = values << 4
    return 65535 - values if tags.get(ExifTags.Base.PhotometricInterpretation) == 0 else values


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    if picture.mode == "LAB":
        return cast("Image.Image", ImageCms.profileToProfile(picture, ImageCms.createProfile("LAB"), srgb, outputMode="RGB"))
    if profile is not None:
        try:
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            return cast("Image.Image", ImageCms.profileToProfile(picture, own, srgb, outputMode="RGB"))
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: the plain conversion below
    return picture.convert("RGB")
