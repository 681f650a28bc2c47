"""What is refused by its header, before anything is stored."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from conftest import png, png_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from api_schemas.errors import AnimatedImage, ImageError, ImageTooLarge, MaskEmpty, MaskFull, MaskHasNoAlpha, NotAnImage, UnsupportedFormat
from api_schemas.requests import MaskOptions
from service.intake import check_mask_pixels, read_header
from worker.images.codec import decode, decode_mask

LIMIT = 80_000_000


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_accepted_formats_are_read(image_format: str) -> None:
    """Each accepted format is known by its header, with its size."""
    header = read_header(saved(Image.new("RGB", (30, 20), "teal"), image_format), LIMIT)
    assert (header.format, header.width, header.height) == (image_format.lower(), 30, 20)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(orientation: int, image_format: str) -> None:
    """EXIF orientations 5 to 8 swap width and height, and the worker decodes to the size that the header told."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.new("RGB", (30, 20)), image_format, exif=exif)
    header, frame = read_header(data, LIMIT), decode(data, max_pixels=LIMIT)
    assert (header.width, header.height) == (frame.width, frame.height)
    assert image_format == "AVIF" or (header.width, header.height) == ((20, 30) if orientation >= 5 else (30, 20))


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_files_of_several_frames_are_refused(image_format: str) -> None:
    """Animations and multi-page files are refused, whatever their format."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    with pytest.raises(AnimatedImage):
        read_header(saved(frames[0], image_format, save_all=True, append_images=frames[1:]), LIMIT)


def test_other_formats_are_named() -> None:
    """A still GIF is an image, of a format that is not accepted."""
    with pytest.raises(UnsupportedFormat):
        read_header(saved(Image.new("P", (8, 8)), "GIF"), LIMIT)


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"\x00" * 100, b"%PDF-1.7"])
def test_other_bytes_are_not_an_image(data: bytes) -> None:
    """Bytes without an image header are no image."""
    with pytest.raises(NotAnImage):
        read_header(data, LIMIT)


def test_a_header_of_a_bomb_is_refused_undecoded() -> None:
    """A hundred bytes that declare 50,000×50,000 pixels are refused."""
    with pytest.raises(ImageTooLarge):
        read_header(png_header(50_000, 50_000), LIMIT)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of broken EXIF and goes on
@given(
    data=st.binary(max_size=64),
    head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\x00\x00\x00\x00WEBP", b"II*\x00", b"BM", b"GIF89a", b""]),
)
def test_no_bytes_raise_anything_but_an_image_error(head: bytes, data: bytes) -> None:
    """Whatever follows a magic number, the answer is a header or one of our errors."""
    with suppress(ImageError):
        read_header(head + data, LIMIT)


@pytest.mark.parametrize(
    ("mask", "options", "error"),
    [
        (np.zeros((4, 4), np.uint8), {}, MaskEmpty),
        (np.full((4, 4), 255, np.uint8), {}, MaskFull),
        (np.full((4, 4), 255, np.uint8), {"polarity": "black_edits"}, MaskEmpty),
        (np.zeros((4, 4), np.uint8), {"invert": True}, MaskFull),
        (np.full((4, 4), 10, np.uint8), {}, MaskEmpty),
        (np.full((4, 4, 4), 255, np.uint8), {"polarity": "alpha"}, MaskEmpty),
        (np.zeros((4, 4, 4), np.uint8), {"polarity": "alpha"}, MaskFull),
        (np.zeros((4, 4, 3), np.uint8), {"polarity": "alpha"}, MaskHasNoAlpha),
    ],
)
def test_masks_that_mark_nothing_or_everything_are_refused(mask: Any, options: dict[str, Any], error: type[Exception]) -> None:
    """Under every polarity an empty, a full and an alpha-less mask each have an error of their own."""
    with pytest.raises(error):
        check_mask_pixels(png(mask), MaskOptions.model_validate(options))


@given(
    values=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "I;16"]),
    polarity=st.sampled_from(["white_edits", "black_edits", "alpha"]),
    invert=st.booleans(),
)
def test_the_service_and_the_worker_read_masks_alike(values: list[int], mode: str, polarity: str, invert: bool) -> None:  # noqa: FBT001
    """A mask is refused as empty or full exactly when what the worker would read of it is all 0 or all 255."""
    grey = np.array(values, np.uint8).reshape(2, 2)
    variants: dict[str, np.ndarray[Any, Any]] = {
        "L": grey,
        "RGB": np.dstack([grey, grey, grey]),
        "RGBA": np.dstack([grey, grey, grey, grey]),
        "LA": np.dstack([grey, grey]),
        "I;16": grey.astype(np.uint16) * 257,
    }
    data = png(variants[mode])
    options = MaskOptions.model_validate({"polarity": polarity, "invert": invert})
    try:
        check_mask_pixels(data, options)
        verdict = "usable"
    except (MaskEmpty, MaskFull, MaskHasNoAlpha) as error:
        verdict = error.code
    try:
        read = decode_mask(data, options, max_pixels=LIMIT)
        expected = "mask_empty" if not read.any() else "mask_full" if read.min() == 255 else "usable"
    except MaskHasNoAlpha as error:
        expected = error.code
    assert verdict == expected
