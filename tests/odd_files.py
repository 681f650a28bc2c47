"""Odd and hostile image files, made by code, each with what docs/formats.md says becomes of it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

Pixels = npt.NDArray[np.uint8]

SECRET = b"outfill-private-note"
"""Stands in every private field of ``private_files``."""


@dataclass(frozen=True, eq=False)
class Becomes:
    """The file is decoded."""

    pixels: Pixels
    """``uint8 (H, W, 3)``, upright."""
    alpha: Pixels | None = None
    """``uint8 (H, W)``; ``None``: the file has no transparency."""
    icc: bytes | None = None
    """The profile that the output carries, byte for byte."""
    off_by: int = 0
    """Levels that any channel may differ by: what a lossy format loses."""
    dpi: tuple[float, float] | None = None
    """The resolution that the output carries, to a whole pixel per metre (0.02)."""


@dataclass(frozen=True)
class Refused:
    """The file is not decoded."""

    code: str
    by: Literal["request", "job"] = "request"
    """Who finds it: the service by the header, or the worker by decoding."""


@dataclass(frozen=True, eq=False)
class OddFile:
    """A file and what becomes of it as ``image``."""

    name: str
    data: bytes
    outcome: Becomes | Refused


def _ramp(width: int = 32, height: int = 24) -> Pixels:
    """Smooth, so that lossy formats keep it, and different in every corner."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + x * 160 // width, 60 + y * 150 // height, 200 - (x + y) * 120 // (width + height)], axis=-1).astype(np.uint8)


RAMP = _ramp()
GREY = np.ascontiguousarray(RAMP[..., 0])
FADE = np.ascontiguousarray(_ramp()[..., 1])
"""An alpha that is neither 0 nor 255 anywhere."""


def _rgb(grey: npt.ArrayLike) -> Pixels:
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def _flat(colour: Sequence[int], width: int = 32, height: int = 24) -> Pixels:
    return np.full((height, width, 3), colour, np.uint8)


# ---- Writers, for what Pillow cannot write


def saved(picture: Image.Image | Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """A file as Pillow writes it."""
    buffer = BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_file(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG; ``rows`` are its scanlines with their filter bytes, ``chunks`` stand before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def scanlines(values: npt.NDArray[Any]) -> bytes:
    """Rows of unfiltered samples, 16 bit in PNG's byte order."""
    values = values.astype(">u2") if values.dtype == np.uint16 else values
    return b"".join(b"\0" + row.tobytes() for row in values)


Tags = Mapping[int, tuple[int, Sequence[int]]]
_PACK = {1: "B", 3: "H", 4: "I", 7: "B"}


def tiff_file(
    size: tuple[int, int], bits: Sequence[int], strip: bytes, *, photometric: int = 1, big: bool = False, tags: Tags | None = None
) -> bytes:
    """A TIFF of one strip; ``tags`` are type and values by number, type 3 short, 4 long."""
    order, (width, height) = ">" if big else "<", size
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, bits),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [0]),
        277: (3, [len(bits)]),
        278: (4, [height]),
        279: (4, [len(strip)]),
        **(tags or {}),
    }
    pool_at = 8 + 2 + 12 * len(entries) + 4
    pool = {number: struct.pack(order + _PACK[kind] * len(values), *values) for number, (kind, values) in entries.items()}
    far = {number: body for number, body in pool.items() if len(body) > 4}
    pool[273] = struct.pack(order + "I", pool_at + sum(map(len, far.values())))
    directory = b""
    for number, (kind, values) in sorted(entries.items()):
        before = sum(len(body) for other, body in far.items() if other < number)
        where = struct.pack(order + "I", pool_at + before) if number in far else pool[number].ljust(4, b"\0")
        directory += struct.pack(order + "HHI", number, kind, len(values)) + where
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(order + "IH", 8, len(entries))
    return head + directory + bytes(4) + b"".join(far[number] for number in sorted(far)) + strip


def bmp_file(size: tuple[int, int], bits: int, rows: bytes, palette: bytes = b"", compression: int = 0) -> bytes:
    """A BMP with a header of 40 bytes; a negative height is stored from the top."""
    at = 54 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(rows), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at) + info + palette + rows


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    body, table, at = b"", b"", 128 + 4 + 12 * (len(tags) + 2)
    text = b"outfill test"
    described = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(4 + 4 + 2 + 1 + 67),
        b"cprt": b"text" + bytes(4) + text + b"\0",
        **tags,
    }
    for name, data in described.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I", at + len(body)) + bytes(4) + b"\2\x10\0\0" + kind + space + pcs + bytes(12) + b"acsp" + bytes(28)
    head += _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(described)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(red: Sequence[float], green: Sequence[float], blue: Sequence[float]) -> bytes:
    """A matrix profile (ICC.1:2001) of primaries in XYZ, adapted to D50, with a gamma of 2.2."""
    primaries = {b"rXYZ": _xyz(*red), b"gXYZ": _xyz(*green), b"bXYZ": _xyz(*blue), b"wtpt": _xyz(0.9642, 1.0, 0.8249)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**primaries, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(2.2))})


def _cmyk_profile() -> bytes:
    """No inks are white, and each of C, M and Y takes a quarter of the lightness, without hue: unlike any plain conversion."""
    nodes = [(c, m, y, k) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]
    grid = b"".join(bytes([0 if k else 255 * (4 - c - m - y) // 4, 128, 128]) for c, m, y, k in nodes)
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 4 + grid + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"wtpt": _xyz(0.9642, 1.0, 0.8249)})


def _one_way_profile() -> bytes:
    """Each of R, G and B gives a third of the lightness, without hue; and no table leads back, as of a scanner."""
    grid = b"".join(bytes([255 * (r + g + b) // 3, 128, 128]) for r in (0, 1) for g in (0, 1) for b in (0, 1))
    straight = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([3, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + straight * 3 + grid + straight * 3
    return _profile(b"scnr", b"RGB ", b"Lab ", {b"A2B0": table, b"wtpt": _xyz(0.9642, 1.0, 0.8249)})


DISPLAY_P3 = rgb_profile((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = rgb_profile((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
GREY_PROFILE = _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(1.8), b"wtpt": _xyz(0.9642, 1.0, 0.8249)})
CMYK_PROFILE = _cmyk_profile()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_bytes(orientation: int, kind: int = 3) -> bytes:
    """EXIF with an orientation alone, of TIFF type ``kind``: 3 short, 2 text."""
    value = struct.pack("<HH", orientation, 0) if kind == 3 else str(orientation).encode().ljust(4, b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1 if kind == 3 else 2) + value + bytes(4)


STORED: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
"""How upright pixels are stored under each EXIF orientation."""


# ---- The files


def odd_files() -> dict[str, OddFile]:
    """Every file by name."""
    groups = (
        _not_images,
        _cut_short,
        _lying,
        _bombs,
        _frames,
        _shapes,
        _profiles,
        _deep,
        _see_through,
        _resolutions,
        _turned,
        _tiffs,
        _bmps,
        _others,
    )
    return {name: OddFile(name, data, outcome) for group in groups for name, data, outcome in group()}


Row = tuple[str, bytes, Becomes | Refused]


def _not_images() -> Iterator[Row]:
    no = Refused("not_an_image")
    yield "empty", b"", no
    yield "zeros", bytes(5000), no
    yield "text", b"Hello, said the cat.\n" * 20, no
    yield "text_beginning_as_a_bmp", b"BMW, said the cat.\n" * 20, Refused("image_corrupt")
    yield "html", b"<!doctype html><title>404</title><p>Not found", no
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>', no
    yield "pdf", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF", no
    yield "zip", b"PK\x03\x04" + bytes(60), no
    unsupported = Refused("unsupported_format")
    yield "heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), unsupported
    yield "jpeg_xl", b"\xff\x0a" + bytes(100), unsupported
    yield "ppm", b"P6 1 1 255\nabc", unsupported
    yield "jpeg_2000", saved(RAMP, "JPEG2000"), unsupported
    yield "icon", saved(RAMP[:16, :16], "ICO"), unsupported
    yield "gif_still", saved(RAMP, "GIF"), unsupported


def _cut_short() -> Iterator[Row]:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    options: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}}
    header, job = Refused("image_corrupt"), Refused("image_corrupt", by="job")
    wholes = {kind: saved(noise, kind, **options.get(kind, {})) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP")}
    half: dict[str, Becomes | Refused] = {"WEBP": header, "AVIF": header}
    for kind, data in wholes.items():
        yield f"{kind.lower()}_half", data[: len(data) // 2], half.get(kind, job)
    for kind in ("PNG", "JPEG", "WEBP", "AVIF"):
        yield f"{kind.lower()}_head_only", wholes[kind][:16], header
    yield "tiff_head_only", wholes["TIFF"][:8], Refused("unsupported_format")
    yield "bmp_head_only", wholes["BMP"][:10], Refused("not_an_image")
    ramp = saved(RAMP)
    yield "png_without_iend", ramp[:-12], Becomes(RAMP)
    yield "png_trailing_garbage", ramp + b"garbage" * 99, Becomes(RAMP)
    yield "jpeg_trailing_garbage", saved(RAMP, "JPEG", quality=95) + b"\xff\xd8garbage" * 99, Becomes(RAMP, off_by=12)


def _lying() -> Iterator[Row]:
    rows = scanlines(RAMP)
    short = np.zeros((48, 32, 3), np.uint8)
    short[:24] = RAMP
    yield "png_more_rows_than_pixels", png_file(32, 48, 8, 2, rows), Becomes(short)
    yield "png_fewer_rows_than_pixels", png_file(32, 8, 8, 2, rows), Becomes(RAMP[:8])
    whole = png_file(32, 24, 8, 2, rows)
    yield "png_wrong_crc_of_header", whole[:29] + b"\0\0\0\0" + whole[33:], Refused("image_corrupt")
    yield "png_wrong_crc_of_pixels", whole[:-16] + b"\0\0\0\0" + whole[-12:], Becomes(RAMP)
    yield "png_no_width", png_file(0, 24, 8, 2, rows), Refused("image_corrupt")
    yield "png_depth_of_5", png_file(32, 24, 5, 2, rows), Refused("image_corrupt")
    jpeg = saved(RAMP, "JPEG", quality=95, subsampling=0)
    at = jpeg.index(b"\xff\xc0") + 5

    def declared(width: int, height: int) -> bytes:
        return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]

    yield "jpeg_fewer_rows_than_pixels", declared(32, 16), Becomes(RAMP[:16], off_by=12)
    yield "jpeg_no_height", declared(32, 0), Refused("image_corrupt")
    yield "jpeg_huge_header", declared(65500, 65500), Refused("image_too_large")
    yield "tiff_huge_header", tiff_file((2**31, 2**31), [8], GREY.tobytes()), Refused("image_too_large")
    yield "tiff_more_rows_than_pixels", tiff_file((32, 999), [8], GREY.tobytes()), Refused("image_corrupt", by="job")
    yield "tiff_pages_past_the_end", _with_next(tiff_file((32, 24), [8], GREY.tobytes()), 10**6), Refused("image_corrupt")
    yield "tiff_pages_in_a_circle", _with_next(tiff_file((32, 24), [8], GREY.tobytes()), 8), Becomes(_rgb(GREY))
    yield "bmp_huge_header", bmp_file((2**31 - 1, 2**31 - 1), 24, b"abc"), Refused("image_too_large")
    yield "bmp_more_rows_than_pixels", bmp_file((99, 99), 24, b"abcd"), Refused("image_corrupt", by="job")


def _with_next(tiff: bytes, offset: int) -> bytes:
    """``tiff`` with another page announced at ``offset``."""
    at = 10 + 12 * int.from_bytes(tiff[8:10], "little")
    return tiff[:at] + struct.pack("<I", offset) + tiff[at + 4 :]


def _bombs() -> Iterator[Row]:
    rows = scanlines(RAMP)
    inflated = zlib.compress(bytes(30 * 2**20), 9)
    yield "png_giant_idat", png_file(32, 24, 8, 2, bytes(60 * 2**20)), Becomes(_flat((0, 0, 0)))
    yield "png_huge_header", png_file(50_000, 50_000, 8, 2, b""), Refused("image_too_large")
    yield "png_text_bomb", png_file(32, 24, 8, 2, rows, chunk(b"zTXt", b"a\0\0" + inflated)), Refused("image_corrupt")
    yield "png_profile_bomb", png_file(32, 24, 8, 2, rows, chunk(b"iCCP", b"a\0\0" + inflated)), Refused("image_corrupt")
    many = [chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(1_000_000), 9)) for number in range(70)]
    yield "png_many_texts", png_file(32, 24, 8, 2, rows, *many), Refused("image_corrupt")
    entries = b"".join(struct.pack("<HHII", number % 65536, 4, 2**28, 8) for number in range(5000))
    bomb = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 5000) + entries
    yield "jpeg_exif_bomb", saved(RAMP, "JPEG", quality=95, exif=bomb), Becomes(RAMP, off_by=12)
    yield "jpeg_scan_bomb", _with_scans(101), Refused("unsupported_format")
    yield "jpeg_many_scans", _with_scans(100), Becomes(RAMP, off_by=12)
    yield "png_exif_bomb", saved(RAMP, exif=bomb), Becomes(RAMP)
    yield "png_raw_profile_exif_of_nonsense", saved(RAMP, pnginfo=_text("Raw profile type exif", "\nexif\n9\nzz")), Becomes(RAMP)
    yield "jpeg_profile_of_2_mib", saved(RAMP, "JPEG", icc_profile=SRGB.ljust(2**21, b"\0")), Refused("unsupported_format")


def _text(key: str, value: str) -> Any:
    info = PngInfo()
    info.add_text(key, value)
    return info


def _with_scans(count: int) -> bytes:
    """A progressive JPEG whose first scan is there again and again: ``count`` in all."""
    jpeg = saved(RAMP, "JPEG", quality=95, subsampling=0, progressive=True)
    start = jpeg.index(b"\xff\xda")
    end = min(jpeg.index(marker, start + 2) for marker in (b"\xff\xda", b"\xff\xc4"))
    return jpeg[:end] + jpeg[start:end] * (count - jpeg.count(b"\xff\xda")) + jpeg[end:]


def _frames() -> Iterator[Row]:
    two = [Image.fromarray(RAMP), Image.fromarray(RAMP[::-1].copy())]
    more: dict[str, Any] = {"save_all": True, "append_images": two[1:]}
    for kind in ("GIF", "PNG", "WEBP", "AVIF", "TIFF"):
        yield f"{kind.lower()}_of_two_frames", saved(two[0], kind, **more), Refused("animated_image")
    yield "phone_jpeg_of_two_pictures", saved(two[0], "MPO", quality=95, **more), Becomes(RAMP, off_by=12)


def _shapes() -> Iterator[Row]:
    for width, height in ((1, 1), (10000, 1), (1, 10000)):
        pixels = _ramp(width, height)
        yield f"png_{width}_by_{height}", saved(pixels), Becomes(pixels)
    yield "jpeg_1_by_1", saved(_flat((90, 90, 90), 1, 1), "JPEG"), Becomes(_flat((90, 90, 90), 1, 1), off_by=4)
    yield "webp_1_by_1", saved(_flat((9, 99, 199), 1, 1), "WEBP", lossless=True), Becomes(_flat((9, 99, 199), 1, 1))


def _profiles() -> Iterator[Row]:
    for name, icc in (("srgb", SRGB), ("display_p3", DISPLAY_P3), ("adobe_rgb", ADOBE_RGB)):
        yield f"png_{name}", saved(RAMP, icc_profile=icc), Becomes(RAMP, icc=icc)
        yield f"jpeg_{name}", saved(RAMP, "JPEG", quality=95, icc_profile=icc), Becomes(RAMP, icc=icc, off_by=12)
    yield "webp_display_p3", saved(RAMP, "WEBP", lossless=True, icc_profile=DISPLAY_P3), Becomes(RAMP, icc=DISPLAY_P3)
    yield "avif_display_p3", saved(RAMP, "AVIF", quality=95, icc_profile=DISPLAY_P3), Becomes(RAMP, icc=DISPLAY_P3, off_by=12)
    yield "tiff_adobe_rgb", saved(RAMP, "TIFF", icc_profile=ADOBE_RGB), Becomes(RAMP, icc=ADOBE_RGB)
    palette = Image.fromarray(GREY).convert("P")
    yield "png_palette_display_p3", saved(palette, icc_profile=DISPLAY_P3), Becomes(_rgb(GREY), icc=DISPLAY_P3)
    yield "tiff_ycbcr_adobe_rgb", _ycbcr_tiff(), Becomes(_flat((128, 128, 128)), icc=ADOBE_RGB)
    yield "png_grey_profile", saved(GREY, icc_profile=GREY_PROFILE), Becomes(_rgb(GREY))
    yield "png_grey_with_rgb_profile", saved(GREY, icc_profile=DISPLAY_P3), Becomes(_rgb(GREY))
    yield "png_rgb_with_grey_profile", saved(RAMP, icc_profile=GREY_PROFILE), Becomes(RAMP)
    broken = DISPLAY_P3[:132] + b"\xff" * (len(DISPLAY_P3) - 132)
    yield "png_broken_profile", saved(RAMP, icc_profile=broken), Becomes(RAMP)
    yield "png_nonsense_profile", saved(RAMP, icc_profile=b"nonsense" * 40), Becomes(RAMP)
    yield "png_profile_not_deflated", png_file(32, 24, 8, 2, scanlines(RAMP), chunk(b"iCCP", b"a\0\0nonsense")), Becomes(RAMP)
    # 2/3 of the lightness is L* = 67, which is 162 in sRGB.
    yield "png_profile_of_one_way", saved(_flat((255, 255, 0)), icc_profile=_one_way_profile()), Becomes(_flat((162,) * 3), off_by=4)
    cyan = Image.new("CMYK", (32, 24), (255, 0, 0, 0))
    yield "jpeg_cmyk", saved(cyan, "JPEG", quality=95), Becomes(_flat((0, 255, 255)), off_by=3)
    # 3/4 of the lightness is L* = 75, which is 185 in sRGB.
    yield "jpeg_cmyk_profile", saved(cyan, "JPEG", quality=95, icc_profile=CMYK_PROFILE), Becomes(_flat((185,) * 3), off_by=4)
    yield "tiff_cmyk_profile", saved(cyan, "TIFF", icc_profile=CMYK_PROFILE), Becomes(_flat((185,) * 3), off_by=4)
    yield "jpeg_cmyk_with_rgb_profile", saved(cyan, "JPEG", quality=95, icc_profile=SRGB), Becomes(_flat((0, 255, 255)), off_by=3)


def _ycbcr_tiff() -> bytes:
    return tiff_file((32, 24), [8, 8, 8], b"\x80" * (32 * 24 * 3), photometric=6, tags={34675: (7, list(ADOBE_RGB))})


def _deep() -> Iterator[Row]:
    wide = RAMP.astype(np.uint16) << 8 | 0xEE  # 0xEE would round up: the high byte is taken as it is
    grey = np.ascontiguousarray(wide[..., 0])
    fade = FADE.astype(np.uint16) << 8 | 0xEE
    yield "png_rgb_16", png_file(32, 24, 16, 2, scanlines(wide)), Becomes(RAMP)
    yield "png_grey_16", png_file(32, 24, 16, 0, scanlines(grey)), Becomes(_rgb(GREY))
    yield "png_rgba_16", png_file(32, 24, 16, 6, scanlines(np.dstack([wide, fade]))), Becomes(RAMP, FADE)
    yield "png_grey_alpha_16", png_file(32, 24, 16, 4, scanlines(np.dstack([grey, fade]))), Becomes(_rgb(GREY), FADE)
    yield "tiff_rgb_16", tiff_file((32, 24), [16] * 3, wide.astype("<u2").tobytes(), photometric=2), Becomes(RAMP)
    yield "tiff_rgb_16_big_endian", tiff_file((32, 24), [16] * 3, wide.astype(">u2").tobytes(), photometric=2, big=True), Becomes(RAMP)
    yield "tiff_grey_16", tiff_file((32, 24), [16], grey.tobytes()), Becomes(_rgb(GREY))
    yield "tiff_grey_16_big_endian", tiff_file((32, 24), [16], grey.astype(">u2").tobytes(), big=True), Becomes(_rgb(GREY))
    yield "tiff_grey_16_white_is_zero", tiff_file((32, 24), [16], (65535 - grey).tobytes(), photometric=0), Becomes(_rgb(GREY))
    twelve = _twelve_bits(GREY)
    yield "tiff_grey_12", tiff_file((32, 24), [12], twelve), Becomes(_rgb(GREY))
    clipped = np.where(np.arange(32) < 16, 0xFFFFFFFF, 0x40FF).astype("<u4")[None].repeat(24, 0)
    expected = np.where(np.arange(32) < 16, 255, 0x40)[None].repeat(24, 0)
    yield "tiff_grey_32_unsigned", tiff_file((32, 24), [32], clipped.tobytes()), Becomes(_rgb(expected))
    unsupported = Refused("unsupported_format")
    floats = RAMP.astype("<f4") / 255
    yield "tiff_float", tiff_file((32, 24), [32], floats[..., 0].tobytes(), tags={339: (3, [3])}), unsupported
    yield "tiff_float_rgb", tiff_file((32, 24), [32] * 3, floats.tobytes(), photometric=2, tags={339: (3, [3] * 3)}), unsupported
    doubles = floats[..., 0].astype("<f8")
    yield "tiff_double", tiff_file((32, 24), [64], doubles.tobytes(), tags={339: (3, [3])}), unsupported
    ten = (RAMP[..., ::-1].astype(np.uint16) << 2) | 2  # OpenCV takes BGR
    _, avif = cv2.imencode(".avif", ten, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 95])
    yield "avif_10_bit", avif.tobytes(), Becomes(RAMP, off_by=12)


def _twelve_bits(grey: Pixels) -> bytes:
    """Samples of 12 bits, two in three bytes, whose high 8 are ``grey``."""
    values = grey.reshape(-1, 2).astype(np.uint16) << 4 | 0xE
    first, second = values[:, 0], values[:, 1]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()


def _see_through() -> Iterator[Row]:
    yield "png_rgba", saved(np.dstack([RAMP, FADE])), Becomes(RAMP, FADE)
    yield "webp_rgba_lossless", saved(np.dstack([RAMP, FADE]), "WEBP", lossless=True, exact=True), Becomes(RAMP, FADE)
    clear = np.zeros_like(FADE)
    yield "png_all_transparent", saved(np.dstack([RAMP, clear])), Becomes(RAMP, clear)
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(FADE)])
    yield "png_grey_alpha", saved(grey_alpha), Becomes(_rgb(GREY), FADE)
    yield "tiff_grey_alpha", saved(grey_alpha, "TIFF"), Becomes(_rgb(GREY), FADE)
    index = (np.arange(32)[None].repeat(24, 0) % 3).astype(np.uint8)
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    table = chunk(b"PLTE", colours.tobytes())
    partly = np.array([7, 200, 255], np.uint8)
    yield "png_palette", png_file(32, 24, 8, 3, scanlines(index), table), Becomes(colours[index])
    yield (
        "png_palette_alpha",
        png_file(32, 24, 8, 3, scanlines(index), table, chunk(b"tRNS", b"\7\xc8")),
        Becomes(colours[index], partly[index]),
    )
    hidden = np.where(index == 1, 0, 255).astype(np.uint8)
    one = chunk(b"tRNS", b"\xff\0")
    yield "png_palette_one_transparent", png_file(32, 24, 8, 3, scanlines(index), table, one), Becomes(colours[index], hidden)
    four = np.tile(np.array([[0x05, 0xAF]], np.uint8), (24, 8))  # 0, 5, 10, 15 of 15
    levels = np.tile(np.array([[0, 85, 170, 255]]), (24, 8))
    key = np.where(levels == 85, 0, 255).astype(np.uint8)
    yield "png_grey_4_transparent", png_file(32, 24, 4, 0, scanlines(four), chunk(b"tRNS", b"\0\5")), Becomes(_rgb(levels), key)
    two = np.tile(np.array([[0x1B]], np.uint8), (24, 8))  # 0, 1, 2, 3 of 3
    yield "png_grey_2_transparent", png_file(32, 24, 2, 0, scanlines(two), chunk(b"tRNS", b"\0\1")), Becomes(_rgb(levels), key)
    bits = np.tile(np.array([[0x0F]], np.uint8), (24, 4))
    black = np.tile(np.repeat(np.array([[0, 255]], np.uint8), 4, 1), (24, 4))
    yield "png_1_bit_transparent", png_file(32, 24, 1, 0, scanlines(bits), chunk(b"tRNS", b"\0\0")), Becomes(_rgb(black), black)
    colour = np.where(index[..., None] == 1, [0x1234, 0x5678, 0x9ABC], [0xFFFF, 0, 0x80FF]).astype(np.uint16)
    keyed = png_file(32, 24, 16, 2, scanlines(colour), chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)))
    yield "png_rgb_16_transparent", keyed, Becomes((colour >> 8).astype(np.uint8), hidden)
    colour_8 = (colour >> 8).astype(np.uint8)
    keyed = png_file(32, 24, 8, 2, scanlines(colour_8), chunk(b"tRNS", struct.pack(">3H", 0x12, 0x56, 0x9A)))
    yield "png_rgb_transparent", keyed, Becomes(colour_8, hidden)


def _resolutions() -> Iterator[Row]:
    print_size, wide = (300.0, 300.0), (300.0, 150.0)
    yield "png_300_dpi", saved(RAMP, dpi=print_size), Becomes(RAMP, dpi=print_size)
    yield "png_of_aspect_alone", saved(RAMP, pnginfo=_aspect(2, 1)), Becomes(RAMP)
    yield "jpeg_300_by_150_dpi", saved(RAMP, "JPEG", quality=95, dpi=wide), Becomes(RAMP, off_by=12, dpi=wide)
    yield "tiff_300_by_150_dpi", saved(RAMP, "TIFF", dpi=wide), Becomes(RAMP, dpi=wide)
    in_centimetres = saved(RAMP, "TIFF", resolution_unit=3, x_resolution=100.0, y_resolution=100.0)
    yield "tiff_100_per_cm", in_centimetres, Becomes(RAMP, dpi=(254.0, 254.0))
    stored, exif = np.ascontiguousarray(STORED[6](RAMP)), Image.Exif()
    exif[0x0112] = 6
    yield "png_turned_300_by_150_dpi", saved(stored, exif=exif, dpi=wide), Becomes(RAMP, dpi=wide[::-1])
    yield "tiff_turned_300_by_150_dpi", saved(stored, "TIFF", exif=exif, dpi=wide), Becomes(RAMP, dpi=wide[::-1])
    exif = Image.Exif()
    exif[0x011A], exif[0x0128] = 240.0, 2
    yield "jpeg_240_dpi_in_exif", saved(RAMP, "JPEG", quality=95, exif=exif), Becomes(RAMP, off_by=12, dpi=(240.0, 240.0))
    exif_of_nothing = Image.Exif()
    exif_of_nothing[0x011A], exif_of_nothing[0x011B], exif_of_nothing[0x0128] = 240.0, IFDRational(0, 0), 2
    yield "jpeg_no_number_of_dpi_in_exif", saved(RAMP, "JPEG", quality=95, exif=exif_of_nothing), Becomes(RAMP, off_by=12)
    yield "jpeg_no_dpi", saved(RAMP, "JPEG", quality=95), Becomes(RAMP, off_by=12)
    yield "webp_240_dpi_in_exif", saved(RAMP, "WEBP", lossless=True, exif=exif), Becomes(RAMP)


def _aspect(across: int, down: int) -> Any:
    """PNG's ``pHYs`` without a unit: the shape of a pixel, and no resolution."""
    info = PngInfo()
    info.add(b"pHYs", struct.pack(">IIB", across, down, 0))
    return info


def _turned() -> Iterator[Row]:
    lossless: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}
    for orientation in range(1, 9):
        stored = np.ascontiguousarray(STORED[orientation](RAMP))
        yield f"jpeg_orientation_{orientation}", saved(stored, "JPEG", quality=95, exif=exif_bytes(orientation)), Becomes(RAMP, off_by=12)
    stored = np.ascontiguousarray(STORED[6](RAMP))
    for kind in ("PNG", "WEBP", "AVIF"):
        data = saved(stored, kind, exif=exif_bytes(6), **lossless.get(kind, {}))
        yield f"{kind.lower()}_orientation_6", data, Becomes(RAMP, off_by=0 if kind != "AVIF" else 12)
    turned = tiff_file((24, 32), [8] * 3, stored.tobytes(), photometric=2, tags={274: (3, [6])})
    yield "tiff_orientation_6", turned, Becomes(RAMP)
    yield "png_orientation_6_as_text", saved(stored, exif=exif_bytes(6, kind=2)), Becomes(RAMP)
    yield "jpeg_orientation_9", saved(RAMP, "JPEG", quality=95, exif=exif_bytes(9)), Becomes(RAMP, off_by=12)
    yield "webp_orientation_of_xmp", saved(stored, "WEBP", lossless=True, xmp=b'<x tiff:Orientation="6"/>'), Becomes(RAMP)
    for kind in ("PNG", "JPEG", "WEBP"):
        data = saved(RAMP, kind, exif=b"Exif\0\0nonsense", **lossless.get(kind, {}))
        yield f"{kind.lower()}_exif_of_nonsense", data, Becomes(RAMP, off_by=12 if kind == "JPEG" else 0)
    deep = np.ascontiguousarray(STORED[8](GREY).astype(np.uint16) << 8)
    yield "png_grey_16_orientation_8", saved(Image.fromarray(deep), exif=exif_bytes(8)), Becomes(_rgb(GREY))


def _tiffs() -> Iterator[Row]:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield f"tiff_of_{compression}", saved(RAMP, "TIFF", compression=compression), Becomes(RAMP)
    yield "tiff_of_jpeg", saved(RAMP, "TIFF", compression="jpeg", quality=95), Becomes(RAMP, off_by=12)
    bits = Image.fromarray(GREY > 120)
    yield "tiff_of_group4", saved(bits, "TIFF", compression="group4"), Becomes(_rgb((GREY > 120) * 255))
    yield "tiff_white_is_zero", tiff_file((32, 24), [8], (255 - GREY).tobytes(), photometric=0), Becomes(_rgb(GREY))
    half = np.dstack([RAMP // 2, np.full_like(GREY, 128)])
    premultiplied = tiff_file((32, 24), [8] * 4, half.tobytes(), photometric=2, tags={338: (3, [1])})
    yield "tiff_premultiplied", premultiplied, Becomes(RAMP, np.full_like(GREY, 128), off_by=3)
    spare = tiff_file((32, 24), [8] * 4, half.tobytes(), photometric=2, tags={338: (3, [0])})
    yield "tiff_spare_channel", spare, Becomes(RAMP // 2)
    lab = Image.merge("LAB", [Image.new("L", (32, 24), value) for value in (255, 128, 128)])
    yield "tiff_lab", saved(lab, "TIFF"), Becomes(_flat((255, 255, 255)), off_by=3)
    unsupported = Refused("unsupported_format")
    five = np.dstack([half, GREY])
    yield "tiff_cmyk_alpha", tiff_file((32, 24), [8] * 5, five.tobytes(), photometric=5, tags={338: (3, [2])}), unsupported
    yield "tiff_unknown_compression", tiff_file((32, 24), [8], GREY.tobytes(), tags={259: (3, [60000])}), unsupported
    yield "tiff_broken_deflate", tiff_file((32, 24), [8], GREY.tobytes(), tags={259: (3, [8])}), Refused("image_corrupt", by="job")


def _bmps() -> Iterator[Row]:
    yield "bmp_24", saved(RAMP, "BMP"), Becomes(RAMP, dpi=(96.01, 96.01))
    yield "bmp_32", saved(np.dstack([RAMP, FADE]), "BMP"), Becomes(RAMP, dpi=(96.01, 96.01))
    yield "bmp_8", saved(Image.fromarray(GREY), "BMP"), Becomes(_rgb(GREY), dpi=(96.01, 96.01))
    red, green = bytes([0, 0, 255, 0]), bytes([0, 255, 0, 0])
    rows = np.tile(np.array([(255, 0, 0), (0, 255, 0)], np.uint8), (2, 4, 1))
    yield "bmp_1", bmp_file((8, 2), 1, b"\x55\0\0\0" * 2, red + green), Becomes(rows)
    yield "bmp_4", bmp_file((8, 2), 4, b"\1\1\1\1" * 2, red + green), Becomes(rows)
    yield "bmp_4_rle", bmp_file((8, 2), 4, b"\x08\x01\0\0" * 2 + b"\0\1", red + green, 2), Becomes(rows)
    yield "bmp_8_rle", bmp_file((8, 2), 8, (b"\1\0\1\1" * 4 + b"\0\0") * 2 + b"\0\1", red + green, 1), Becomes(rows)
    yield "bmp_16", bmp_file((8, 2), 16, struct.pack("<2H", 0x7C00, 0x03E0) * 8), Becomes(rows)
    down = np.stack([_flat((255, 0, 0), 8, 1)[0], _flat((0, 255, 0), 8, 1)[0]])
    yield "bmp_from_the_top", bmp_file((8, -2), 32, red * 8 + green * 8), Becomes(down)
    yield "bmp_2", bmp_file((8, 2), 2, bytes(8), red + green), Refused("image_corrupt")
    yield "bmp_48", bmp_file((8, 2), 48, bytes(96)), Refused("image_corrupt")


def _others() -> Iterator[Row]:
    yield "jpeg_progressive", saved(RAMP, "JPEG", quality=95, progressive=True), Becomes(RAMP, off_by=12)
    yield "jpeg_grey", saved(Image.fromarray(GREY), "JPEG", quality=95), Becomes(_rgb(GREY), off_by=4)
    yield "webp_lossy", saved(RAMP, "WEBP", quality=95), Becomes(RAMP, off_by=16)
    yield "png_grey", saved(Image.fromarray(GREY)), Becomes(_rgb(GREY))
    yield "png_1_bit", saved(Image.fromarray(GREY > 120)), Becomes(_rgb((GREY > 120) * 255))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(scanlines(RAMP[top::down, left::across]) for left, top, across, down in passes)
    yield "png_interlaced", png_file(32, 24, 8, 2, rows, interlaced=True), Becomes(RAMP)


def private_files() -> dict[str, bytes]:
    """Files that say ``SECRET`` wherever a file can: EXIF with a position, XMP, IPTC, comments, text."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0), 29: SECRET.decode()})
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>' + SECRET + b"</a></x:xmpmeta>"
    jpeg = saved(RAMP, "JPEG", quality=95, exif=exif, xmp=xmp, comment=SECRET, icc_profile=DISPLAY_P3)
    iptc = (
        b"Photoshop 3.0\x008BIM\x04\x04\0\0"
        + struct.pack(">I", len(SECRET) + 5)
        + b"\x1c\x02\x78"
        + struct.pack(">H", len(SECRET))
        + SECRET
    )
    jpeg = jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc + jpeg[2:]
    return {
        "jpeg": jpeg,
        "png": saved(RAMP, exif=exif, pnginfo=_text("Comment", SECRET.decode()), icc_profile=DISPLAY_P3),
        "webp": saved(RAMP, "WEBP", exif=exif, xmp=xmp, icc_profile=DISPLAY_P3),
        "avif": saved(RAMP, "AVIF", exif=exif, xmp=xmp, icc_profile=DISPLAY_P3),
        "tiff": saved(RAMP, "TIFF", description=SECRET.decode(), artist=SECRET.decode(), icc_profile=DISPLAY_P3),
    }
