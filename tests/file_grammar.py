"""Parts of image files as they are laid out in bytes, for files that no library would write: their counts, sizes and offsets may be anything.

``tests/hostile_files.py`` makes the worst of each kind of them, ``tests/fuzz/files.py`` makes them at random.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from odd_files import chunk

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 7, 12, 16
"""Types of TIFF's tags."""
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, EXIF_DIRECTORY, PROFILE = 0x0112, 0x011A, 0x011B, 0x0128, 0x8769, 0x8773


# ---- PNG


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, *, interlaced: bool = False) -> bytes:
    """The first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, int(interlaced)))


def png(*chunks: bytes) -> bytes:
    """A PNG of these chunks and ``IEND``."""
    return PNG_SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


def png_rows(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """Scanlines of zeros."""
    bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1) * depth
    return bytes((1 + (width * bits + 7) // 8) * height)


def small_png(*before: bytes, behind: Iterable[bytes] = (), side: int = 32) -> bytes:
    """A black RGB PNG with more chunks before and behind its pixels."""
    return png(ihdr(side, side), *before, chunk(b"IDAT", zlib.compress(png_rows(side, side))), *behind)


def png_profile(profile: bytes) -> bytes:
    """A PNG's chunk of an ICC profile."""
    return chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile, 9))


def zeros_deflated(mib: int) -> bytes:
    """A zlib stream of so many MiB of zeros, made without deflating them all. Its checksum is wrong."""
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (mib - 1) + packer.flush()


# ---- JPEG


def segment(marker: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A segment of a JPEG; ``length`` is a lie about it."""
    return struct.pack(">BBH", 0xFF, marker, (len(body) + 2 if length is None else length) & 0xFFFF) + body


def jpeg_segments(data: bytes) -> list[bytes]:
    """A JPEG in pieces: its first marker, each segment, that of a scan with the scan's data, and the rest."""
    pieces, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xD9, 0xFF):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while end + 1 < len(data) and (data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))):
                end += 1
        pieces.append(data[at:end])
        at = end
    return [*pieces, data[at:]] if at < len(data) else pieces


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """``jpeg`` with more segments behind its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_jpeg_size(jpeg: bytes, width: int, height: int) -> bytes:
    """``jpeg`` with another size in its frame's header."""
    pieces = jpeg_segments(jpeg)
    for number, piece in enumerate(pieces):
        if piece[:1] == b"\xff" and piece[1:2] in (b"\xc0", b"\xc1", b"\xc2"):
            pieces[number] = piece[:5] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + piece[9:]
    return b"".join(pieces)


def profile_segments(profile: bytes, *, parts: int | None = None) -> list[bytes]:
    """A JPEG's segments of an ICC profile; ``parts`` is a lie about their number."""
    pieces = [profile[at : at + 65_000] for at in range(0, len(profile), 65_000)]
    total = (len(pieces) if parts is None else parts) & 255
    return [segment(0xE2, b"ICC_PROFILE\0" + bytes([number & 255, total]) + piece) for number, piece in enumerate(pieces, 1)]


# ---- WebP


def riff(name: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A chunk of a WebP; ``length`` is a lie about it."""
    return name + struct.pack("<I", (len(body) if length is None else length) & 0xFFFFFFFF) + body + b"\0" * (len(body) % 2)


def webp(*chunks: bytes) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and bodies of a WebP's chunks."""
    found, at = [], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return found


def vp8x(width: int, height: int, flags: int = 0) -> bytes:
    """A WebP's extended header: its canvas, and what is to come (2: frames, 4: XMP, 8: EXIF, 16: alpha, 32: profile)."""
    return riff(b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def frame_of_webp(picture: bytes, left: int, top: int, width: int, height: int) -> bytes:
    """A frame of an animation at an even place."""
    places = b"".join(value.to_bytes(3, "little") for value in (left // 2, top // 2, width - 1, height - 1, 100))
    return riff(b"ANMF", places + b"\0" + picture)


# ---- AVIF


def box(name: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """A box of an AVIF; ``length`` is a lie about it."""
    return struct.pack(">I", (len(body) + 8 if length is None else length) & 0xFFFFFFFF) + name + body


CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
"""Boxes that hold boxes, and how many bytes of their own are before those."""


@dataclass
class Box:
    """A box in a tree, to be changed and written again."""

    name: bytes
    body: bytes
    """What is not in boxes."""
    inner: list[Box]

    def written(self) -> bytes:
        """Its bytes, with lengths as they are."""
        return box(self.name, self.body + b"".join(each.written() for each in self.inner))

    def walk(self) -> Iterator[Box]:
        """The box and all in it."""
        yield self
        for each in self.inner:
            yield from each.walk()


def boxes(data: bytes) -> list[Box]:
    """The boxes of an AVIF, whose lengths are true."""
    found, at = [], 0
    while at + 8 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        size = size if size >= 8 else len(data) - at
        body = data[at + 8 : at + size]
        own = CONTAINERS.get(name)
        found.append(Box(name, body, []) if own is None else Box(name, body[:own], boxes(body[own:])))
        at += size
    return found


def moved_avif(data: bytes, tree: Sequence[Box]) -> bytes:
    """``tree`` of the AVIF ``data`` as a file, with the places of its items moved as far as its data moved."""
    before = data.index(b"mdat")
    moved = b"".join(each.written() for each in tree).index(b"mdat") - before
    for each in tree:
        for inner in each.walk():
            if inner.name == b"iloc":
                inner.body = _moved_places(inner.body, moved)
    return b"".join(each.written() for each in tree)


def _moved_places(body: bytes, moved: int) -> bytes:
    """An ``iloc`` of version 0 with offsets and lengths of 4 bytes and without a base, as libavif writes it."""
    made, at = bytearray(body), 8
    if body[:1] != b"\0" or body[4:6] != b"\x44\0":
        return body
    for _ in range(int.from_bytes(body[6:8], "big")):  # which may be a lie
        extents = int.from_bytes(body[at + 4 : at + 6], "big")
        at += 6
        for _ in range(extents):
            if at + 8 > len(body):
                return bytes(made)
            struct.pack_into(">I", made, at, (struct.unpack_from(">I", made, at)[0] + moved) & 0xFFFFFFFF)
            at += 8
    return bytes(made)


# ---- TIFF and EXIF


@dataclass(frozen=True)
class Tag:
    """An entry of a directory. Its value stands behind the directory, unless it fits or ``at`` says where it is."""

    number: int
    kind: int
    value: bytes = b""
    count: int | None = None
    """As the entry claims; ``None``: as many as there are."""
    at: int | None = None


_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def shorts(*values: int, order: str = "<") -> bytes:
    """Values of type ``SHORT``."""
    return struct.pack(f"{order}{len(values)}H", *(value & 0xFFFF for value in values))


def longs(*values: int, order: str = "<") -> bytes:
    """Values of type ``LONG``."""
    return struct.pack(f"{order}{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def directory(tags: Sequence[Tag], at: int, *, order: str = "<", big: bool = False, following: int = 0, count: int | None = None) -> bytes:
    """A directory that stands at ``at``, with its values behind it; ``count`` is a lie about the number of its entries."""
    word, entry = ("Q", 20) if big else ("I", 12)
    room = 8 if big else 4
    total = len(tags) if count is None else count
    head = struct.pack(f"{order}{'Q' if big else 'H'}", total & (2**64 - 1 if big else 0xFFFF))
    values_at = at + len(head) + entry * len(tags) + room
    entries, pool = [], bytearray()
    for tag in tags:
        claimed = len(tag.value) // _SIZES.get(tag.kind, 1) if tag.count is None else tag.count
        if tag.at is not None:
            value = struct.pack(order + word, tag.at & (2 ** (8 * room) - 1))
        elif len(tag.value) <= room:
            value = tag.value.ljust(room, b"\0")
        else:
            value = struct.pack(order + word, values_at + len(pool))
            pool += tag.value + b"\0" * (len(tag.value) % 2)
        limit = 2**64 - 1 if big else 2**32 - 1
        entries.append(struct.pack(f"{order}HH{word}", tag.number, tag.kind, claimed & limit) + value)
    return head + b"".join(entries) + struct.pack(order + word, following) + bytes(pool)


def tiff(
    tags: Sequence[Tag], data: bytes = b"", *, order: str = "<", big: bool = False, following: int = 0, count: int | None = None
) -> bytes:
    """A TIFF of one directory at its begin; ``data`` stands at its end."""
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else mark + struct.pack(f"{order}HI", 42, 8)
    return head + directory(tags, len(head), order=order, big=big, following=following, count=count) + data


def picture_tags(width: int, height: int, *, bits: Sequence[int] = (8,), compression: int = 1, photometric: int = 1) -> list[Tag]:
    """What every TIFF says of its picture but where its strips are."""
    return [
        Tag(256, LONG, longs(width)),
        Tag(257, LONG, longs(height)),
        Tag(258, SHORT, shorts(*bits)),
        Tag(259, SHORT, shorts(compression)),
        Tag(262, SHORT, shorts(photometric)),
        Tag(277, SHORT, shorts(len(bits))),
    ]


def strip_tags(offsets: Sequence[int], lengths: Sequence[int], rows: int) -> list[Tag]:
    """Where strips are."""
    return [Tag(273, LONG, longs(*offsets)), Tag(278, LONG, longs(rows)), Tag(279, LONG, longs(*lengths))]


def simple_tiff(data: bytes, *more: Tag, width: int = 32, height: int = 32, compression: int = 1, big: bool = False) -> bytes:
    """A grey TIFF of one strip, and more tags."""
    picture = picture_tags(width, height, compression=compression)

    def made(at: int) -> bytes:
        return tiff(sorted([*picture, *strip_tags([at], [len(data)], height), *more], key=lambda tag: tag.number), data, big=big)

    return made(len(made(0)) - len(data))


def exif(*tags: Tag, order: str = "<", following: int = 0) -> bytes:
    """EXIF of one directory, without the word that it begins with in a JPEG."""
    return tiff(tags, order=order, following=following)


def fractions(number: int, count: int) -> Tag:
    """A tag of so many fractions."""
    return Tag(number, RATIONAL, struct.pack("<II", 3, 7) * count)


# ---- BMP


def bmp(
    width: int,
    height: int,
    bits: int,
    data: bytes,
    *,
    compression: int = 0,
    palette: bytes = b"",
    colours: int | None = None,
    head: int = 40,
) -> bytes:
    """A BMP; ``colours`` is a lie about its palette, ``head`` the size of its header."""
    at = 14 + head + len(palette)
    counted = len(palette) // 4 if colours is None else colours
    info = struct.pack("<IiiHHIIiiII", head, width, height, 1, bits, compression, len(data), 0, 0, counted & 0xFFFFFFFF, 0)
    return b"BM" + struct.pack("<IHHI", (at + len(data)) & 0xFFFFFFFF, 0, 0, at) + info[:head].ljust(head, b"\0") + palette + data


# ---- ICC profiles


def fixed(*values: float) -> bytes:
    """Numbers of 16.16 bits."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(*values: float) -> bytes:
    """A tag of one colour."""
    return b"XYZ \0\0\0\0" + fixed(*values)


def gamma_curve() -> bytes:
    """A curve that is straight."""
    return b"curv" + bytes(8)


MATRIX = (
    (b"wtpt", xyz(0.9642, 1, 0.8249)),
    (b"rXYZ", xyz(0.43, 0.22, 0.01)),
    (b"gXYZ", xyz(0.38, 0.71, 0.09)),
    (b"bXYZ", xyz(0.14, 0.06, 0.71)),
    (b"rTRC", gamma_curve()),
    (b"gTRC", gamma_curve()),
    (b"bTRC", gamma_curve()),
)
"""All that an RGB profile needs."""


def icc(
    tags: Sequence[tuple[bytes, bytes]],
    *,
    space: bytes = b"RGB ",
    pcs: bytes = b"XYZ ",
    kind: bytes = b"mntr",
    version: int = 0x04300000,
    places: Sequence[tuple[bytes, int, int]] = (),
    count: int | None = None,
    size: int | None = None,
) -> bytes:
    """An ICC profile; ``places`` are more entries of its table, as name, offset and size; ``count`` and ``size`` are lies."""
    at, table, body = 132 + 12 * (len(tags) + len(places)), b"", b""
    for name, data in tags:
        padded = data + b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += padded
    table += b"".join(name + struct.pack(">II", where & 0xFFFFFFFF, length & 0xFFFFFFFF) for name, where, length in places)
    whole = at + len(body) if size is None else size & 0xFFFFFFFF
    head = struct.pack(">I4sI4s4s4s6H", whole, b"lcms", version, kind, space, pcs, 2024, 1, 1, 0, 0, 0) + b"acspAPPL" + bytes(24)
    head = (head + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0")
    counted = len(tags) + len(places) if count is None else count & 0xFFFFFFFF
    return head + struct.pack(">I", counted) + table + body


def matrix_element(inputs: int = 3, outputs: int = 3) -> bytes:
    """An element of a multiProcessElements tag that keeps what it is given."""
    rows = [1.0 if column == row % inputs else 0.0 for row in range(outputs) for column in range(inputs)]
    return b"matf\0\0\0\0" + struct.pack(f">HH{len(rows) + outputs}f", inputs, outputs, *rows, *[0.0] * outputs)


def clut_element(inputs: int, outputs: int, grid: int) -> bytes:
    """A table of ``grid`` nodes on each axis, all zero."""
    return (
        b"clut\0\0\0\0" + struct.pack(">HH", inputs, outputs) + bytes([grid] * inputs).ljust(16, b"\0") + bytes(4 * outputs * grid**inputs)
    )


def curves_element(channels: int, segments: int) -> bytes:
    """The same curve of so many segments for each channel."""
    breaks = [number / segments for number in range(1, segments)]
    body = b"parf\0\0\0\0" + struct.pack(">HH4f", 0, 0, 1, 1, 0, 0)
    curve = b"curf\0\0\0\0" + struct.pack(f">HH{len(breaks)}f", segments, 0, *breaks) + body * segments
    head = b"cvst\0\0\0\0" + struct.pack(">HH", channels, channels)
    return head + struct.pack(">II", len(head) + 8 * channels, len(curve)) * channels + curve


def elements(parts: Sequence[bytes], order: Sequence[int], inputs: int = 3, outputs: int = 3) -> bytes:
    """A multiProcessElements tag: ``order`` names the ``parts`` that stand one behind the other, each as often as one likes."""
    head = b"mpet\0\0\0\0" + struct.pack(">HHI", inputs, outputs, len(order))
    at, places = len(head) + 8 * len(order), []
    for part in parts:
        places.append(struct.pack(">II", at, len(part)))
        at += len(part)
    return head + b"".join(places[number] for number in order) + b"".join(parts)


def lut16(inputs: int, outputs: int, grid: int, entries: int = 2) -> bytes:
    """A table of 16 bits with ``grid`` nodes on each axis and curves of so many entries."""
    head = b"mft2\0\0\0\0" + bytes([inputs, outputs, grid, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">HH", entries, entries)
    return head + bytes(2 * entries * inputs) + bytes(2 * outputs * grid**inputs) + bytes(2 * entries * outputs)


def texts(records: int, *, length: int = 20) -> bytes:
    """A description in so many languages, all of them one text."""
    head = b"mluc\0\0\0\0" + struct.pack(">II", records, 12)
    return head + (b"enUS" + struct.pack(">II", length, len(head) + 12 * records)) * records + b"\0a" * (length // 2)
