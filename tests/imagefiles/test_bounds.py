"""Files that cost more than their pictures are refused by their structure, and honest ones pass."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from odd_files import RAMP, bmp_file, chunk, png_file, saved, scanlines, tiff_file

from api_schemas.errors import AnimatedImage, ImageError, ImageTooLarge, NotAnImage, UnsupportedFormat
from imagefiles import avif, bmp, bounds, jpeg, png, tiff, webp

LIMIT = 80_000_000
ROWS = scanlines(RAMP)
JPEG = saved(RAMP, "JPEG", quality=95)


def with_segments(*segments: bytes) -> bytes:
    """A JPEG with more behind its first marker."""
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP's container."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def box(kind: bytes, body: bytes) -> bytes:
    """A box of an AVIF."""
    return struct.pack(">I", len(body) + 8) + kind + body


def exif_avif(length: int) -> bytes:
    """An AVIF's boxes, in which an EXIF item has so many bytes."""
    infe = box(b"infe", struct.pack(">IHH4s", 2 << 24, 7, 0, b"Exif") + b"\0")
    iloc = struct.pack(">IBBHHHHII", 0, 0x44, 0, 1, 7, 0, 1, 0, length)
    return box(b"ftyp", b"avif" + bytes(4)) + box(b"meta", bytes(4) + box(b"iinf", struct.pack(">IH", 0, 1) + infe) + box(b"iloc", iloc))


def canvas(width: int, height: int) -> bytes:
    """The chunk of a WebP that declares a canvas."""
    return bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


FLAT = np.zeros((24, 32), np.uint8).tobytes()
Make = Callable[[int], bytes]
AT_THE_LIMIT: dict[str, tuple[Make, int, type[ImageError]]] = {
    "PNG chunks": (lambda n: png_file(32, 24, 8, 2, ROWS, *[chunk(b"prVt", b"")] * (n - 1)), png.MAX_CHUNKS, UnsupportedFormat),
    "PNG pixel chunks": (
        lambda n: png_file(32, 24, 8, 2, ROWS, *[chunk(b"IDAT", b"")] * (n - 1)),
        png.MAX_PIXEL_CHUNKS,
        UnsupportedFormat,
    ),
    "PNG pixels": (lambda n: png_file(n // 8000, 8000, 8, 2, b""), LIMIT, ImageTooLarge),
    "JPEG bytes between segments": (lambda n: with_segments(segment(0xFE, b"x"), b"\0" * n), jpeg.MAX_SKIPPED, UnsupportedFormat),
    "JPEG fill bytes": (lambda n: with_segments(b"\xff" * n), jpeg.MAX_SKIPPED, UnsupportedFormat),
    "JPEG tables": (
        lambda n: with_segments(*[segment(0xDB, b"\0" + bytes([1] * 64))] * (n // 67)),
        jpeg.MAX_TABLES - 500,
        UnsupportedFormat,
    ),
    "JPEG EXIF": (lambda n: with_segments(*[segment(0xE1, b"Exif\0\0" + bytes(2**14 - 8))] * (n >> 14)), jpeg.MAX_EXIF, UnsupportedFormat),
    "JPEG Photoshop": (
        lambda n: with_segments(*[segment(0xED, b"Photoshop 3.0\0" + bytes(2**14 - 16))] * (n >> 14)),
        jpeg.MAX_PHOTOSHOP,
        UnsupportedFormat,
    ),
    "WebP chunks": (lambda n: riff(*[(b"abcd", b"")] * n), webp.MAX_CHUNKS, UnsupportedFormat),
    "WebP canvas": (lambda n: riff((b"VP8X", canvas(n // 8000, 8000))), LIMIT, ImageTooLarge),
    "AVIF boxes": (lambda n: box(b"ftyp", b"avif") + box(b"free", b"") * (n - 1), avif.MAX_BOXES, UnsupportedFormat),
    "AVIF EXIF": (exif_avif, jpeg.MAX_EXIF, UnsupportedFormat),
    "TIFF strips": (
        lambda n: tiff_file((32, 24), [8], FLAT, tags={279: (4, [1] * n)}),
        tiff.MAX_PIECES,
        UnsupportedFormat,
    ),
    "TIFF values": (lambda n: tiff_file((32, 24), [8], FLAT, tags={50000: (3, [1] * n)}), tiff.MAX_VALUES, UnsupportedFormat),
    "TIFF tile": (
        lambda n: tiff_file((32, 24), [8], FLAT, tags={322: (4, [n // 2048]), 323: (4, [2048])}),
        tiff.LEAST_TILE,
        ImageTooLarge,
    ),
    "BMP of run lengths": (lambda n: bmp_file((n // 512, 512), 8, b"", compression=1), bmp.MAX_RUN_PIXELS, UnsupportedFormat),
}
STEP = {"PNG pixels": 8000, "WebP canvas": 8000, "TIFF tile": 2048, "BMP of run lengths": 512, "JPEG EXIF": 2**14, "JPEG Photoshop": 2**14}


@pytest.mark.parametrize("kind", AT_THE_LIMIT)
def test_a_file_passes_at_its_bound_and_is_refused_beyond(kind: str) -> None:
    """As many as may be are read, and not one more."""
    make, most, refusal = AT_THE_LIMIT[kind]
    bounds.check(make(most), LIMIT)
    with pytest.raises(refusal):
        bounds.check(make(most + STEP.get(kind, 600)), LIMIT)


def test_jpeg_segments_are_counted() -> None:
    """Two thousand comments pass, and a thousand more do not."""
    bounds.check(with_segments(*[segment(0xFE, b"x")] * 2000), LIMIT)
    with pytest.raises(UnsupportedFormat, match="segments"):
        bounds.check(with_segments(*[segment(0xFE, b"x")] * 3000), LIMIT)


def test_a_large_jpeg_may_have_fewer_scans_than_a_small_one() -> None:
    """A hundred scans of few pixels pass; of as many pixels as are accepted sixteen do."""
    scans = JPEG[:-2] + segment(0xDA, b"") * 50 + JPEG[-2:]
    bounds.check(scans, LIMIT)
    with pytest.raises(UnsupportedFormat, match="16 may be"):
        bounds.check(scans, RAMP.shape[0] * RAMP.shape[1])


def test_what_is_behind_a_jpeg_is_not_its_own() -> None:
    """A phone's video behind the picture may hold whatever looks like scans."""
    bounds.check(JPEG + b"\xff\xda" * 5000, LIMIT)


def test_the_parts_of_an_avif_are_counted_together() -> None:
    """Two thousand places that all lead to one long run of sequence headers are refused, and so is a second box of items."""
    header = b"\x0a\x0b" + bytes(11)
    meta = struct.pack(">IBBH", 1 << 24, 0x44, 0, 1) + struct.pack(">HHHH", 1, 0, 0, 1000)
    extents = b"".join(struct.pack(">II", 12, 13 * (number + 1)) for number in range(1000))
    data = box(b"ftyp", b"avif" + header * 90) + box(b"meta", bytes(4) + box(b"iloc", meta + extents))
    with pytest.raises(UnsupportedFormat, match="parts"):
        bounds.check(data, LIMIT)
    with pytest.raises(UnsupportedFormat, match="meta"):
        bounds.check(box(b"ftyp", b"avif") + box(b"meta", bytes(4)) * 2, LIMIT)


def test_tiff_tags_are_counted() -> None:
    """A directory of two thousand tags is refused, also where another directory of the file is meant."""
    many = {1000 + number: (3, [1]) for number in range(2000)}
    with pytest.raises(UnsupportedFormat, match="tags"):
        bounds.check(tiff_file((32, 24), [8], FLAT, tags=many), LIMIT)
    nested = tiff_file((32, 24), [8], FLAT, tags={34665: (4, [2000])}).ljust(2000, b"\0") + struct.pack("<H", 2000) + bytes(12 * 2000)
    with pytest.raises(UnsupportedFormat, match="tags"):
        bounds.check(nested, LIMIT)


def test_pages_and_frames_are_told_without_decoding() -> None:
    """A second frame of a WebP and a second page of a TIFF are found by structure."""
    with pytest.raises(AnimatedImage):
        bounds.check(riff((b"ANMF", bytes(16)), (b"ANMF", bytes(16))), LIMIT)
    page = tiff_file((32, 24), [8], FLAT)
    end = struct.unpack_from("<H", page, 8)[0] * 12 + 10
    with pytest.raises(AnimatedImage):
        bounds.check(page[:end] + struct.pack("<I", 100) + page[end + 4 :], LIMIT)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS" + bytes(40), "PSD"),
        (b"\0\0\1\0" + bytes(40), "ICO"),
        (b"P6\n# by a cat\n3 2\n255\n", "PPM"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
    ],
)
def test_other_formats_are_known_by_their_beginning(data: bytes, name: str) -> None:
    """No reader of theirs is asked, as some walk the whole file."""
    with pytest.raises(UnsupportedFormat, match=f"^{name} is not accepted"):
        bounds.check(data, LIMIT)


def test_text_is_no_picture() -> None:
    """Words that begin as a PPM does are none."""
    with pytest.raises(NotAnImage):
        bounds.check(b"P6 is where we sit, said the cat.", LIMIT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP"])
def test_the_memory_that_decoding_may_take_is_told(kind: str) -> None:
    """The pixels are those that the file declares, and so is what decoding them takes."""
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    found = bounds.check(saved(RAMP, kind, **options), LIMIT)
    assert (found.format, found.pixels) == (kind, 32 * 24)
    assert found.decoded_bytes >= 4 * 32 * 24


def test_inflated_text_is_bounded() -> None:
    """A PNG whose texts inflate to more than is kept is not decoded."""
    from service.intake import read_header

    texts = [chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(1_000_000), 9)) for number in range(20)]
    with pytest.raises(ImageError):
        read_header(png_file(32, 24, 8, 2, ROWS, *texts), LIMIT)
