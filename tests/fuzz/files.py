"""Files at random, part by part: each is made again by the same seed and number.

Not bytes are drawn but structures: chunks, segments, boxes, tags and tables of every format that is accepted, with counts and sizes at which
something may go wrong. One part of some is repeated until the file is full, others lie about lengths, are cut, or hold a part of another format.
Random bytes alone do not get past a file's first chunk; Atheris sees no coverage inside of libraries that are not rebuilt for it.
"""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import file_grammar as parts
import numpy as np
from file_grammar import Tag, longs, segment
from odd_files import RAMP, chunk, saved
from PIL import Image

from .grammars import cap, count, edge, exif, flipped, junk, profile, tag, xmp

Role = Literal["image", "mask", "product_mask", "background", "form"]
ROLES: tuple[Role, ...] = ("image", "image", "image", "mask", "product_mask", "background")
LARGEST = 2**23 + 2**16
"""Bytes beyond which a file is cut."""


@dataclass(frozen=True)
class Fuzzed:
    """A file, what it was made as and what it is sent as."""

    number: int
    kind: str
    role: Role
    data: bytes
    content_type: str = ""
    """Of a form."""


def made(seed: int, number: int) -> Fuzzed:
    """The file of this number."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choices(tuple(_KINDS), tuple(weight for weight, _ in _KINDS.values()))[0]
    if kind == "form":
        content_type, data = form(rng)
        return Fuzzed(number, kind, "form", data, content_type)
    data = _KINDS[kind][1](rng)
    if rng.random() < 0.1:
        data = _damaged(rng, data)
    return Fuzzed(number, kind, rng.choice(ROLES), data[:LARGEST])


def _damaged(rng: random.Random, data: bytes) -> bytes:
    """Cut, changed, or with a piece of another file in it."""
    drawn = rng.randrange(4)
    if drawn == 0:
        return data[: rng.randrange(len(data) + 1)]
    if drawn == 1:
        return flipped(rng, data)
    other = rng.choice(_bases())
    at, begin = rng.randrange(len(data) + 1), rng.randrange(len(other))
    return data[:at] + other[begin : begin + rng.randint(1, 500)] + data[at + (rng.randint(0, 500) if drawn == 2 else 0) :]


def _crowded(rng: random.Random, pieces: Sequence[bytes], *, first: int = 1) -> bytes:
    """Pieces of a file in a row, some of them left out, moved, damaged or repeated; the ``first`` stay."""
    head, rest = list(pieces[:first]), list(pieces[first:])
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        if not rest:
            break
        at = rng.randrange(len(rest))
        match rng.randrange(9):
            case 0:
                del rest[at]
            case 1:
                rest.insert(rng.randrange(len(rest) + 1), rest[at])
            case 2:
                rest[at] = flipped(rng, rest[at], 3)
            case 3:
                rest[at] = rest[at][: rng.randrange(len(rest[at]) + 1)]
            case _:
                rest[at] *= count(rng, max(1, cap(rng) // max(1, len(rest[at]))))
    return b"".join(head + rest)


def _side(rng: random.Random) -> int:
    """Mostly small; what is larger is claimed by files that hold little."""
    drawn = rng.random()
    if drawn < 0.75:
        return rng.randint(1, 64)
    return rng.randint(1, 2000) if drawn < 0.95 else edge(rng)


def _cells(width: int, height: int, most: int = 500_000) -> bool:
    """Whether a picture is small enough to be made whole."""
    return 0 < width * height <= most


# ---- PNG


def png(rng: random.Random) -> bytes:
    """A PNG of any kind of pixels, with chunks of all kinds before, among and behind them."""
    width, height = _side(rng), _side(rng)
    colour, depth = rng.choice(_PNG_PIXELS) if rng.random() < 0.9 else (rng.randrange(8), rng.randrange(18))
    interlaced = rng.random() < 0.2
    chunks = [parts.ihdr(width, height, depth, colour, interlaced=interlaced)]
    if colour == 3 or rng.random() < 0.1:
        chunks.append(chunk(b"PLTE", bytes(3 * rng.choice((1, 16, 256, 256, 257)))))
    chunks += [_png_chunk(rng) for _ in range(rng.choice((0, 1, 1, 2, 4)))]
    data = _png_pixels(rng, width, height, depth, colour)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 5, 200))))
    ends = zip([0, *cuts], [*cuts, len(data)], strict=True)
    chunks += [chunk(b"IDAT", data[begin:end]) for begin, end in ends]
    chunks += [_png_chunk(rng) for _ in range(rng.choice((0, 0, 0, 1)))]
    chunks += [chunk(b"IEND", b"")] if rng.random() < 0.95 else []
    return parts.PNG_SIGNATURE + _crowded(rng, chunks)


_PNG_PIXELS = ((2, 8), (2, 8), (6, 8), (3, 8), (0, 8), (4, 8), (2, 16), (0, 16), (6, 16), (4, 16), (0, 1), (0, 2), (0, 4), (3, 1), (3, 4))


def _png_pixels(rng: random.Random, width: int, height: int, depth: int, colour: int) -> bytes:
    drawn = rng.random()
    if drawn < 0.9 and _cells(width, height):
        whole = parts.png_rows(width, height, depth, colour)
        rows = bytearray(whole + bytes(8 * (width + 64)))  # enough for an interlaced one
        if len(whole) < 50_000 and rng.random() < 0.5:
            step = len(whole) // height
            rows[: len(whole)] = rng.randbytes(len(whole))
            rows[: len(whole) : step] = bytes(rng.choice((0, 1, 2, 3, 4)) for _ in range(height))
        return zlib.compress(bytes(rows), rng.choice((0, 1, 9)))
    if drawn < 0.95:
        return parts.zeros_deflated(count(rng, 300))
    return rng.choice((b"", junk(rng), zlib.compress(junk(rng))))


def _png_chunk(rng: random.Random) -> bytes:
    deflated = zlib.compress(rng.choice((junk(rng, 2000), bytes(count(rng, 2**21)), b"a" * count(rng, 2**20))), 1)
    name = b"k" * rng.choice((0, 1, 79, 80, 200))
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: parts.png_profile(profile(rng)),
        lambda: parts.png_profile(profile(rng)),
        lambda: chunk(b"eXIf", exif(rng)),
        lambda: chunk(b"eXIf", exif(rng)),
        lambda: chunk(b"iCCP", name + b"\0\0" + deflated),
        lambda: chunk(b"tEXt", name + b"\0" + junk(rng)),
        lambda: chunk(b"zTXt", name + b"\0\0" + deflated),
        lambda: chunk(b"iTXt", name + b"\0" + rng.choice((b"\0\0", b"\1\0")) + b"en\0" + "\U0001f600".encode() + b"\0" + deflated),
        lambda: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(rng)),
        lambda: chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_exif_in_digits(rng))),
        lambda: chunk(b"tRNS", junk(rng, rng.choice((6, 300)))),
        lambda: chunk(b"pHYs", struct.pack(">IIB", edge(rng) & 0xFFFFFFFF, edge(rng) & 0xFFFFFFFF, rng.randrange(3))),
        lambda: chunk(b"acTL", struct.pack(">II", edge(rng) & 0xFFFFFFFF, 0)),
        lambda: chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, _side(rng) & 0xFFFF, 9, 0, 0, 1, 10, 0, 0)),
        lambda: chunk(b"fdAT", bytes(4) + deflated),
        lambda: chunk(
            rng.choice((b"prVt", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"hIST", b"tIME", b"sPLT", b"cICP")), junk(rng, 40)
        ),
        lambda: struct.pack(">I", edge(rng) & 0xFFFFFFFF) + b"prVt" + junk(rng),
    )
    return rng.choice(makers)()


def _exif_in_digits(rng: random.Random) -> bytes:
    block = (b"Exif\0\0" + exif(rng))[:250_000]
    return b"\nexif\n%8d\n" % (len(block) if rng.random() < 0.8 else edge(rng)) + block.hex().encode()


# ---- JPEG


@cache
def _jpegs() -> tuple[bytes, ...]:
    cyan = Image.new("CMYK", (32, 24), (255, 0, 0, 0))
    noise = np.random.default_rng(1).integers(0, 256, (40, 56, 3), np.uint8)
    return (
        saved(RAMP, "JPEG"),
        saved(RAMP, "JPEG", progressive=True),
        saved(noise, "JPEG", quality=95, progressive=True, subsampling=0),
        saved(Image.fromarray(noise).convert("L"), "JPEG"),
        saved(cyan, "JPEG"),
        saved(noise, "JPEG", restart_marker_blocks=1),
    )


def jpeg(rng: random.Random) -> bytes:
    """A JPEG with segments of all kinds, and scans, sizes and tables that may be repeated."""
    base = rng.choice(_jpegs())
    if rng.random() < 0.15:
        base = parts.with_jpeg_size(base, rng.choice((_side(rng), 2000, 4000)), rng.choice((_side(rng), 2000, 4000)))
    pieces = parts.jpeg_segments(base)
    more = [each for _ in range(rng.choice((0, 1, 1, 2, 4))) for each in _jpeg_segment(rng)]
    at = rng.choice((1, 1, 1, 1, 1, 1, rng.randrange(1, len(pieces) + 1)))
    if rng.random() < 0.15:
        last = max(number for number, piece in enumerate(pieces) if piece[:2] == b"\xff\xda")
        pieces[last:last] = [pieces[last]] * count(rng, rng.choice((99, 110, 2000)))
    return _crowded(rng, [*pieces[:at], *more, *pieces[at:]])


def _jpeg_segment(rng: random.Random) -> list[bytes]:
    makers: tuple[Callable[[], list[bytes]], ...] = (
        lambda: _exif_segments(rng),
        lambda: _exif_segments(rng),
        lambda: parts.profile_segments(profile(rng)[:1_000_000], parts=edge(rng) if rng.random() < 0.2 else None),
        lambda: parts.profile_segments(profile(rng)[:1_000_000]),
        lambda: [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(rng)[:65_000])],
        lambda: [segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\4\4\0\0" + struct.pack(">I", edge(rng) & 0xFF)) * count(rng, 5000))],
        lambda: [segment(0xE2, b"MPF\0" + _index_of_pictures(rng)[:65_000])],
        lambda: [segment(0xEE, b"Adobe" + junk(rng, 9))],
        lambda: [segment(0xE0, b"JFIF\0" + junk(rng, 12))],
        lambda: [segment(0xDB, (b"\0" + b"\1" * 64) * rng.randint(1, 9))],
        lambda: [segment(0xC4, b"\0" + bytes(rng.choice((0, 0, 1, 255)) for _ in range(16)) + junk(rng))],
        lambda: [segment(0xDD, struct.pack(">H", edge(rng) & 0xFFFF))],
        lambda: [segment(rng.randrange(0xC0, 0xFF), junk(rng), length=edge(rng) if rng.random() < 0.3 else None)],
        lambda: [rng.choice((b"\xff", b"\0", b"\xff\0", b"\xff\xff\xd0")) * count(rng, cap(rng))],
    )
    return rng.choice(makers)()


def _exif_segments(rng: random.Random) -> list[bytes]:
    block = exif(rng)
    step = rng.choice((65_000, 65_000, 2000, 100))
    return [segment(0xE1, b"Exif\0\0" + block[at : at + step]) for at in range(0, min(len(block), step * 5000), step)] or [
        segment(0xE1, b"Exif\0\0")
    ]


def _index_of_pictures(rng: random.Random) -> bytes:
    number = count(rng, 4000)
    entries = Tag(0xB002, 7, struct.pack("<IIIHH", 0x030000, edge(rng) & 0xFFFFFFFF, rng.choice((0, 50, 2**31)), 0, 0) * number)
    claimed = edge(rng) if rng.random() < 0.3 else number
    return parts.tiff([Tag(0xB000, 7, b"0100"), Tag(0xB001, 4, longs(claimed)), entries], following=rng.choice((0, 8)))


# ---- WebP


@cache
def _webps() -> tuple[bytes, ...]:
    see_through = np.dstack([RAMP, RAMP[..., :1]])
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(RAMP[::-1].copy())]}
    return (
        saved(RAMP, "WEBP"),
        saved(RAMP, "WEBP", lossless=True),
        saved(see_through, "WEBP"),
        saved(see_through, "WEBP", lossless=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        saved(Image.fromarray(RAMP), "WEBP", **frames),
    )


def webp(rng: random.Random) -> bytes:
    """A WebP whose canvas, frames and chunks may be anything."""
    chunks = parts.webp_chunks(rng.choice(_webps()))
    pictures = [parts.riff(*each) for each in chunks if each[0] in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")]
    has_frames = pictures[0][:4] == b"ANIM"
    pieces = []
    for _ in range(rng.choice((0, 1, 2))):
        name = rng.choice((b"ICCP", b"EXIF", b"EXIF", b"XMP ", b"abcd"))
        body = {b"ICCP": profile, b"EXIF": exif, b"XMP ": xmp}.get(name, junk)(rng)
        body = b"Exif\0\0" + body if name == b"EXIF" and rng.random() < 0.5 else body
        pieces.append(parts.riff(name, body, length=edge(rng) if rng.random() < 0.1 else None))
    if rng.random() < 0.2:
        has_frames, single = True, parts.riff(*parts.webp_chunks(_webps()[1])[0])
        frame = parts.frame_of_webp(single, rng.choice((0, 0, _side(rng) & 0xFFFE)), 0, 32, 24)
        pictures = [parts.riff(b"ANIM", bytes(6)), frame * count(rng, cap(rng) // len(frame) + 1)]
    at = rng.choice((rng.randrange(len(pieces) + 1), sum(piece[:4] == b"ICCP" for piece in pieces)))
    pieces.sort(key=lambda piece: piece[:4] != b"ICCP")
    canvas = (32, 24) if rng.random() < 0.7 else (_canvas(rng), _canvas(rng))
    flags = 0x3C | 2 * has_frames if rng.random() < 0.9 else rng.randrange(256)
    head = [parts.vp8x(*canvas, flags)] if rng.random() < 0.9 or pieces else []
    return parts.webp(_crowded(rng, [*head, *pieces[:at], *pictures, *pieces[at:]]))


def _canvas(rng: random.Random) -> int:
    return rng.choice((32, 32, 32, 32, 24, 24, rng.randint(1, 100), 2000, 4000, 16_384, 2**24))


# ---- AVIF


@cache
def _avifs() -> tuple[bytes, ...]:
    _, ten = cv2.imencode(".avif", RAMP.astype(np.uint16) << 2, [cv2.IMWRITE_AVIF_DEPTH, 10])
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(RAMP[::-1].copy())]}
    return (
        saved(RAMP, "AVIF", icc_profile=parts.icc(parts.MATRIX), exif=b"Exif\0\0" + parts.exif(Tag(0x010E, 2, b"abcdefgh\0"))),
        saved(np.dstack([RAMP, RAMP[..., :1]]), "AVIF"),
        saved(Image.new("RGB", (1000, 800), "teal"), "AVIF"),
        ten.tobytes(),
        saved(Image.fromarray(RAMP), "AVIF", **frames),
    )


def avif(rng: random.Random) -> bytes:
    """An AVIF whose boxes, properties, items and places may be anything."""
    base = rng.choice(_avifs())
    tree = parts.boxes(base)
    every = [inner for outer in tree for inner in outer.walk()]
    for each in every:
        if each.name == b"ispe" and rng.random() < 0.1:
            each.body = struct.pack(">III", 0, _canvas(rng), _canvas(rng))
        elif each.name == b"colr" and rng.random() < 0.5:
            each.body = b"prof" + profile(rng)
        elif each.name in (b"iloc", b"iinf", b"ipma", b"iref", b"av1C", b"pixi", b"stsz", b"stco") and rng.random() < 0.05:
            each.body = flipped(rng, each.body, 3)
    for _ in range(rng.choice((0, 0, 1, 2))):
        chosen = rng.choice(every)
        more = rng.choice((parts.Box(b"free", junk(rng), []), chosen, parts.Box(b"ispe", bytes(12), []), parts.Box(b"uuid", junk(rng), [])))
        holders = [each for each in every if each.inner]
        place = rng.choice(holders).inner if holders and rng.random() < 0.7 else tree
        if not any(inner.inner is place for inner in more.walk()):
            place.extend([more] * count(rng, max(1, cap(rng) // (8 + len(more.written())))))
    if rng.random() < 0.1:
        _add_items(rng, every)
    return parts.moved_avif(base, tree) if b"mdat" in b"".join(each.name for each in tree) else b"".join(each.written() for each in tree)


def _add_items(rng: random.Random, every: Sequence[parts.Box]) -> None:
    number = min(60_000, count(rng, cap(rng) // 20))
    for each in every:
        if each.name == b"iinf":
            item = b"".join(
                parts.box(b"infe", struct.pack(">IHH4sB", 0x02000000, 100 + each_id, 0, b"av01", 0)) for each_id in range(number)
            )
            each.body = each.body[:4] + struct.pack(">H", min(number + int.from_bytes(each.body[4:6], "big"), 65535)) + each.body[6:] + item


# ---- TIFF


def tiff(rng: random.Random) -> bytes:
    """A TIFF whose tags, strips and tiles may be anything."""
    width, height = _side(rng), _side(rng)
    bits, photometric = rng.choice(
        (
            ((8,), 1),
            ((8,), 0),
            ((8, 8, 8), 2),
            ((8, 8, 8, 8), 5),
            ((16,), 1),
            ((1,), 1),
            ((8, 8, 8), 6),
            ((8,), 3),
            ((12,), 1),
            ((16,) * 3, 2),
            ((8,) * 3, 8),
        )
    )
    compression = rng.choice((1, 1, 1, 1, 8, 8, 8, 5, 32773, 7, 34925, 50000, 2, 4, 6, 34676, 65535))
    rows = rng.choice((height, height, height, 1, 8, edge(rng)))
    data = _strip(rng, width, height, len(bits) * max(1, bits[0] // 8), compression)
    number = 1 if rows >= height else min(1000, -(-height // max(1, rows)))
    if rng.random() < 0.1:
        number = count(rng, cap(rng) // 8)
    tags = parts.picture_tags(width, height, bits=bits, compression=compression, photometric=photometric)
    tags += [
        tag(rng, rng.choice((700, 33723, 34377, 37724, 65000, 317, 339, 338, 284, 274, 282, 283, 530)))
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    tags += [Tag(parts.PROFILE, 7, profile(rng))] if rng.random() < 0.3 else []
    tags += [Tag(320, 3, bytes(2 * count(rng, cap(rng) // 2)))] if photometric == 3 or rng.random() < 0.05 else []
    if rng.random() < 0.1:
        tags += [tag(rng, each, 16) for each in range(1000, 1000 + count(rng, min(60_000, cap(rng) // 12)))]
    if rng.random() < 0.15:
        tags[rng.randrange(len(tags))] = tag(rng, rng.choice((256, 257, 258, 259, 262, 277)))
    big, tiled = rng.random() < 0.1, rng.random() < 0.15

    def whole(at: int) -> bytes:
        where = longs(at) * number
        lengths = longs(len(data) if rng_length is None else rng_length) * number
        places = (
            [Tag(324, 4, where), Tag(325, 4, lengths), *sides]
            if tiled
            else [Tag(273, 4, where), Tag(278, 4, longs(rows)), Tag(279, 4, lengths)]
        )
        return parts.tiff(sorted([*tags, *places], key=lambda each: each.number), data, order="<", big=big, following=following, count=lie)

    sides = [Tag(322, 4, longs(_tile_side(rng))), Tag(323, 4, longs(_tile_side(rng)))]
    rng_length = edge(rng) if rng.random() < 0.1 else None
    following = rng.choice((0, 0, 0, 8, edge(rng)))
    lie = edge(rng) if rng.random() < 0.05 else None
    return whole(len(whole(0)) - len(data))


def _tile_side(rng: random.Random) -> int:
    return rng.choice((16, 32, 64, 64, 256, 8192, 16_000, 40_000, edge(rng)))


def _strip(rng: random.Random, width: int, height: int, size: int, compression: int) -> bytes:
    if compression == 7:
        return jpeg(rng) if rng.random() < 0.5 else rng.choice(_jpegs())
    if compression == 8 and rng.random() < 0.2:
        return parts.zeros_deflated(count(rng, 600))
    plain = bytes(width * height * size) if _cells(width, height, 200_000) else junk(rng)
    match compression:
        case 8:
            return zlib.compress(plain)
        case 5:
            return b"\x80\0\1\1" * 50
        case 32773:
            return b"\x81\0" * (len(plain) // 128 + 1)
    return plain


# ---- BMP

_BMP_PIXELS = ((8, 1), (8, 1), (8, 1), (4, 2), (4, 2), (1, 0), (4, 0), (8, 0), (16, 0), (24, 0), (32, 0), (32, 3))


def bmp(rng: random.Random) -> bytes:
    """A BMP whose runs, palette and sizes may be anything."""
    width, height = rng.choice((_side(rng), _side(rng), 5000, 40_000)), rng.choice((_side(rng), 100))
    bits, compression = rng.choice(_BMP_PIXELS) if rng.random() < 0.9 else (rng.randrange(33), rng.randrange(7))
    palette = bytes(rng.randrange(256) for _ in range(4 * min(256, 2 ** min(bits, 8)))) if bits <= 8 else b""
    if compression in (1, 2) and rng.random() < 0.8:
        runs = (b"\xff\1", b"\1\1", b"\0\0", b"\0\2\0\0", b"\0\2\xff\xff", b"\0\2\0\1", b"\0\4abcd", b"\1\1\0\0")
        line = b"".join(rng.choice(runs) for _ in range(rng.randint(1, 6)))
        data = line * count(rng, cap(rng) // len(line)) + b"\0\1"
    else:
        size = ((width * bits + 31) // 32 * 4) * height
        data = bytes(size) if size < 200_000 else junk(rng)
    colours = edge(rng) if rng.random() < 0.1 else None
    signed = max(-(2**31), min(2**31 - 1, rng.choice((height, -height))))
    head = rng.choice((40, 40, 40, 12, 52, 56, 64, 108, 124))
    return parts.bmp(min(width, 2**31 - 1), signed, bits, data, compression=compression, palette=palette, colours=colours, head=head)


# ---- Formats that are opened to be refused


@cache
def _bases() -> tuple[bytes, ...]:
    others = (saved(RAMP, "GIF"), saved(RAMP[:16, :16], "ICO"), saved(RAMP, "JPEG2000"), saved(RAMP, "PPM"))
    return (*_jpegs(), *_webps(), *_avifs(), *others, saved(RAMP), saved(RAMP, "TIFF", compression="tiff_lzw"), saved(RAMP, "BMP"))


def other(rng: random.Random) -> bytes:
    """A GIF, icon, PPM, PSD or JPEG 2000 whose pieces are repeated, or any file with another's begin."""
    drawn = rng.randrange(6)
    if drawn == 0:
        blocks = rng.choice((b"!\xfe\1a\0", b"!\xf0\1a\0", b",\0\0\0\0\1\0\1\0\0\2\2D\1\0", b"\1a", b"\xff" + b"a" * 255))
        return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + b"!\xfe" + blocks * count(rng, cap(rng) // len(blocks)) + b";"
    if drawn == 1:
        number = count(rng, min(65_535, cap(rng) // 16))
        inner = png(rng)[: cap(rng)]
        return (
            struct.pack("<HHH", 0, 1, number) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 6 + 16 * number) * number + inner
        )
    if drawn == 2:
        return b"P6\n" + rng.choice((b"#a\n", b"# ", b" ", b"1")) * count(rng, cap(rng)) + b"9 9 255\n"
    if drawn == 3:
        return b"\0\0\0\x0cjP  \r\n\x87\n" + parts.box(rng.choice((b"uuid", b"jp2h")), junk(rng)) * count(rng, cap(rng) // 200)
    return flipped(rng, rng.choice(_bases()), 20)


# ---- Forms


def form(rng: random.Random) -> tuple[str, bytes]:
    """A body of multipart/form-data and its ``Content-Type``."""
    boundary = rng.choice(("XB", "X" * rng.choice((1, 70, 300)), "-" * 30, "a b"))
    request = {"operation": "outpaint", "image": "file:photo", "expand": {"left": 8}}
    head = b'Content-Disposition: form-data; name="request"'
    if rng.random() < 0.1:
        head = (
            b"Content-Disposition: form-data; "
            + rng.choice((b"a=b;", b"name*0=a;", b'n="\\";', b";")) * count(rng, 1000)
            + b'name="request"'
        )
    bodies = [(head, rng.choice((json.dumps(request).encode(), junk(rng), b"[" * count(rng, 50_000), b"a" * count(rng, cap(rng)))))]
    for _ in range(rng.choice((0, 1, 2, 9, 30, count(rng, 300)))):
        name = rng.choice(("photo", "request", "", "file", "x" * rng.choice((10, 3000)), "\U0001f600"))
        disposition = f'Content-Disposition: form-data; name="{name}"' + rng.choice(
            ("", '; filename="a.png"', "; filename*=punycode''a%80", '; filename="\\')
        )
        bodies.append(
            (
                disposition.encode()
                + rng.choice(
                    (b"", b"\r\nContent-Transfer-Encoding: base64", b"\r\nX: " + b"y" * count(rng, 3000), b"\r\nA:b" * count(rng, 200))
                ),
                rng.choice(_FILES),
            )
        )
    if rng.random() < 0.1:
        bodies.append((head, (b"\r\n--" + boundary.encode()[:-1]) * count(rng, cap(rng) // (4 + len(boundary)))))
    line = b"\r\n--" + boundary.encode()
    data = (
        b"".join(line + b"\r\n" + disposition + b"\r\n\r\n" + content for disposition, content in bodies)[2:]
        + line
        + rng.choice((b"--\r\n", b"", b"--"))
    )
    charset = rng.choice(
        ("", "", "", "; charset=utf-8", "; charset=punycode", "; charset=utf-7", "; charset=idna", "; charset=utf-16", "; charset=nope")
    )
    quoted = rng.choice(
        (f"boundary={boundary}", f'boundary="{boundary}"', "boundary=", f"boundary={boundary};" + "a=b;" * count(rng, 1000))
    )
    if rng.random() < 0.15:
        data = _damaged(rng, data)
    return f"multipart/form-data; {quoted}{charset}", data[:LARGEST]


_FILES = (saved(RAMP), b"", b"no image", base64.b64encode(saved(RAMP)), b"a" * 5000)
_KINDS: dict[str, tuple[float, Callable[[random.Random], Any]]] = {
    "png": (20, png),
    "jpeg": (20, jpeg),
    "webp": (14, webp),
    "avif": (12, avif),
    "tiff": (18, tiff),
    "bmp": (6, bmp),
    "other": (4, other),
    "form": (6, form),
}
