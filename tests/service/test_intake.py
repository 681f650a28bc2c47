"""What is refused by its header, before anything is stored."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import pytest
from conftest import png_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from api_schemas.errors import AnimatedImage, ImageError, ImageTooLarge, NotAnImage, UnsupportedFormat
from core.settings import Limits
from imagefiles.sandbox import Sandbox
from service.intake import check_apart, read_header
from worker.images.codec import decode

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


def test_a_large_webp_is_read() -> None:
    """Libwebp makes room for two canvases as soon as a file is opened: that is within what a picture of its size may take."""
    sandbox, limits = Sandbox("service.intake", 1, memory=4 * 2**30), Limits()
    found = check_apart(sandbox, limits, {"image": saved(Image.new("RGB", (7500, 6000)), "WEBP", quality=1, method=0)})
    sandbox.close()
    assert (found.headers["image"].width, found.headers["image"].height) == (7500, 6000)
