"""Small files that cost much: the worst of each kind that was found or that the formats allow, made by code.

Each is to be refused, or read, within 1 s of CPU and 256 MiB beyond its pixels (``tests/service/test_hostile_files.py``), and ``make bench-tenants``
sends them all. ``cost`` says what a reader without limits does with it.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import file_grammar as parts
import numpy as np
from file_grammar import Tag, longs, segment, shorts, small_png
from odd_files import RAMP, chunk, saved
from PIL import Image


@dataclass(frozen=True)
class HostileFile:
    """A file that costs much."""

    name: str
    cost: str
    """What a reader without limits does with it."""
    make: Callable[[], bytes]

    @cached_property
    def data(self) -> bytes:
        """Its bytes, made when they are asked for."""
        return self.make()


Row = tuple[str, str, Callable[[], bytes]]


def hostile_files() -> dict[str, HostileFile]:
    """Every file by name."""
    groups = (_pngs, _profiles, _jpegs, _webps, _avifs, _tiffs, _bmps, _others)
    return {name: HostileFile(name, cost, make) for group in groups for name, cost, make in group()}


def _pngs() -> Iterator[Row]:
    empty = chunk(b"prVt", b"")
    yield "png_empty_chunks", "each is read in Python", lambda: small_png(empty * 500_000)
    yield "png_chunks_behind_the_pixels", "each is read in Python", lambda: small_png(behind=[empty * 800_000])
    yield "png_empty_pixel_chunks", "each is read in Python, among the pixels", _png_of_pixel_chunks
    yield (
        "png_texts_without_text",
        "an object for each",
        lambda: small_png(*(chunk(b"tEXt", b"%d\0" % number) for number in range(400_000))),
    )
    yield "png_wide_texts", "64 MiB of text, four bytes for each letter", _png_of_wide_texts
    yield "png_palettes", "each is read", lambda: small_png(chunk(b"PLTE", bytes(3)) * 800_000)
    yield "png_exif_of_fractions", "an object for each fraction", lambda: small_png(chunk(b"eXIf", _fractions(1_000_000)))
    yield "png_exif_in_text", "read from its digits, and an object for each fraction", _png_of_exif_in_text
    yield "png_pixels_without_end", "2 GiB of rows that the picture does not have", _png_of_endless_pixels
    yield "png_pixels_behind_pixels", "8 GiB of them in chunks", _png_of_pixels_behind
    yield "png_one_row_of_chunks", "an interlaced picture one pixel high", lambda: _interlaced(4_000_000, 1)
    yield "png_frames", "each frame is looked at", _png_of_frames


def _png_of_pixel_chunks() -> bytes:
    data, empty = zlib.compress(parts.png_rows(32, 32)), chunk(b"IDAT", b"")
    return parts.png(parts.ihdr(32, 32), chunk(b"IDAT", data[:20]), empty * 2_000_000, chunk(b"IDAT", data[20:]))


def _png_of_wide_texts() -> bytes:
    text = zlib.compress("\U0001f600".encode() + b"a" * 1_040_000, 9)
    name = "\U0001f600".encode() + b"a" * 8_000_000  # a keyword does not count as text
    named = chunk(b"iTXt", b"name\0\0\0\0" + name + b"\0text")
    return small_png(named, *(chunk(b"iTXt", b"%d\0\1\0\0\0" % number + text) for number in range(62)))


def _png_of_exif_in_text() -> bytes:
    block = b"Exif\0\0" + parts.exif(parts.fractions(parts.ORIENTATION, 60_000))
    digits = b"\nexif\n%8d\n" % len(block) + block.hex().encode()
    return small_png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits, 9)))


def _png_of_endless_pixels() -> bytes:
    return parts.png(parts.ihdr(32, 32), chunk(b"IDAT", parts.zeros_deflated(2048)))


def _png_of_pixels_behind() -> bytes:
    data = parts.zeros_deflated(8192)
    return parts.png(parts.ihdr(32, 32), *(chunk(b"IDAT", data[at : at + 100]) for at in range(0, len(data), 100)))


def _interlaced(width: int, height: int) -> bytes:
    rows = zlib.compress(bytes(width * 4 + 8 * 7), 9)
    return parts.png(parts.ihdr(width, height, interlaced=True), chunk(b"IDAT", rows))


def _png_of_frames() -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 32, 32, 0, 0, 1, 10, 0, 0)
    more = b"".join(chunk(b"fcTL", struct.pack(">I", number) + control[4:]) for number in range(1, 60_000))
    return small_png(chunk(b"acTL", struct.pack(">II", 60_000, 0)), chunk(b"fcTL", control), behind=[more])


def _fractions(count: int) -> bytes:
    return parts.exif(parts.fractions(parts.ORIENTATION, count))


def _profiles() -> Iterator[Row]:
    same = parts.matrix_element()

    def rgb(pipeline: bytes) -> bytes:
        return parts.icc([(b"D2B0", pipeline), (b"A2B0", pipeline), *parts.MATRIX])

    def in_png(profile: bytes) -> bytes:
        return small_png(parts.png_profile(profile))

    yield "icc_elements", "a matrix 8000 times for each of 33³ nodes", lambda: in_png(rgb(parts.elements([same], [0] * 8000)))
    yield "icc_elements_of_minutes", "the same 20 000 times", lambda: in_png(rgb(parts.elements([same], [0] * 20_000)))
    yield "icc_segments", "curves of 3000 segments, searched one by one", lambda: in_png(rgb(_curves(3000)))
    yield "icc_wide_table", "a table of 15 inputs: 2¹⁵ nodes are weighed for each of 33³", lambda: in_png(rgb(_wide_table(15)))
    yield "icc_elements_in_webp", "as in a PNG", lambda: _webp_with(b"ICCP", rgb(parts.elements([same], [0] * 8000)), 32)
    yield "icc_elements_in_jpeg", "as in a PNG", lambda: _jpeg_with_profile(rgb(parts.elements([same], [0] * 8000)))
    yield "icc_elements_in_tiff", "as in a PNG", lambda: _rgb_tiff(Tag(parts.PROFILE, 7, rgb(parts.elements([same], [0] * 8000))))
    yield "icc_elements_in_avif", "as in a PNG", lambda: saved(RAMP, "AVIF", icc_profile=rgb(parts.elements([same], [0] * 8000)))
    yield (
        "icc_elements_of_inks",
        "for each of 17⁴ or 23⁴ nodes",
        lambda: _cmyk_jpeg(_inks(parts.elements([_inks_to_lab(), same], [0] + [1] * 3000, 4))),
    )
    yield "icc_table_of_inks", "16 MiB of nodes", lambda: _cmyk_tiff(_inks(parts.lut16(4, 3, 40)))
    yield (
        "icc_tags",
        "80 000 entries of the table",
        lambda: in_png(parts.icc(parts.MATRIX, places=[(b"%04d" % (n % 10_000), 132, 12) for n in range(80_000)])),
    )
    yield "icc_texts", "a description in 80 000 languages", lambda: in_png(parts.icc([*parts.MATRIX, (b"desc", parts.texts(80_000))]))
    yield "icc_overlapping_tags", "a hundred tables, all of them one", _overlapping
    yield "icc_curve_of_a_megabyte", "a curve of 300 000 entries, turned round", lambda: in_png(_long_curve())
    yield "icc_claimed_table", "a table of 255³ nodes that are not there", lambda: in_png(rgb(_claimed_table()))


def _curves(segments: int) -> bytes:
    return parts.elements([parts.curves_element(3, segments)], [0] * 20)


def _wide_table(inputs: int) -> bytes:
    return parts.elements([parts.matrix_element(3, inputs), parts.clut_element(inputs, 3, 2)], [0, 1])


def _inks_to_lab() -> bytes:
    return parts.matrix_element(4, 3)


def _inks(pipeline: bytes) -> bytes:
    name = b"D2B0" if pipeline[:4] == b"mpet" else b"A2B0"
    return parts.icc([(name, pipeline), (b"A2B0", parts.lut16(4, 3, 2)), parts.MATRIX[0]], space=b"CMYK", pcs=b"Lab ", kind=b"prtr")


def _overlapping() -> bytes:
    table = parts.lut16(3, 3, 40)
    names = [b"%s%d" % (name, number) for name in (b"A2B", b"B2A", b"D2B", b"B2D") for number in range(4)]
    places = [(name, 132 + 12 * (len(names) + len(parts.MATRIX) + 1), len(table)) for name in names]
    return _jpeg_with_profile(parts.icc([(b"x000", table), *parts.MATRIX], places=places))


def _long_curve() -> bytes:
    curve = b"curv" + bytes(4) + struct.pack(">I", 300_000) + bytes(600_000)
    return parts.icc([*parts.MATRIX[:4], (b"rTRC", curve), *((name, parts.gamma_curve()) for name in (b"gTRC", b"bTRC"))])


def _claimed_table() -> bytes:
    table = parts.lut16(3, 3, 2)
    return table[:10] + b"\xff" + table[11:]


def _webp_with(name: bytes, body: bytes, flag: int) -> bytes:
    picture = parts.webp_chunks(saved(RAMP, "WEBP", lossless=True))[0]
    first, last = ([parts.riff(name, body)], []) if name == b"ICCP" else ([], [parts.riff(name, body)])
    return parts.webp(parts.vp8x(32, 24, flag), *first, parts.riff(*picture), *last)


def _jpeg(*segments: bytes) -> bytes:
    return parts.with_segments(saved(RAMP, "JPEG", quality=95), *segments)


def _jpeg_with_profile(profile: bytes) -> bytes:
    return _jpeg(*parts.profile_segments(profile))


def _cmyk_jpeg(profile: bytes) -> bytes:
    return parts.with_segments(saved(Image.new("CMYK", (32, 24), (255, 0, 0, 0)), "JPEG"), *parts.profile_segments(profile))


def _cmyk_tiff(profile: bytes) -> bytes:
    return saved(Image.new("CMYK", (32, 24), (255, 0, 0, 0)), "TIFF", icc_profile=profile)


def _rgb_tiff(*more: Tag) -> bytes:
    picture = parts.picture_tags(32, 32, bits=(8, 8, 8), photometric=2)

    def made(at: int) -> bytes:
        return parts.tiff(sorted([*picture, *parts.strip_tags([at], [3072], 32), *more], key=lambda tag: tag.number), bytes(3072))

    return made(len(made(0)) - 3072)


def _jpegs() -> Iterator[Row]:
    yield "jpeg_scans", "100 scans, each of them through all blocks of 4 megapixels", lambda: _scans(2048, 2048, 99)
    yield "jpeg_scans_of_a_row", "the same of a picture 60 000 wide", lambda: _scans(60_000, 64, 99)
    yield "jpeg_segments", "each is kept", lambda: _jpeg(segment(0xE5) * 1_000_000)
    yield "jpeg_comments", "each is kept", lambda: _jpeg(segment(0xFE, b"a") * 1_200_000)
    yield "jpeg_tables", "each is unpacked in Python", lambda: _jpeg(segment(0xDB, b"\0" + b"\1" * 64) * 400_000)
    yield "jpeg_filling", "each byte is read in Python", lambda: _jpeg(b"\xff" * 4_000_000)
    yield "jpeg_filling_of_zeros", "each byte is read in Python", lambda: _jpeg(segment(0xE5) + bytes(12_000_000))
    yield "jpeg_exif_in_parts", "each part is added to those before it", lambda: _jpeg(segment(0xE1, b"Exif\0\0" + bytes(250)) * 30_000)
    yield "jpeg_exif_of_fractions", "an object for each", _jpeg_of_fractions
    yield "jpeg_resolution_of_fractions", "an object for each", lambda: _jpeg_of_fractions(parts.X_RESOLUTION)
    yield "jpeg_photoshop", "each block is read in Python", lambda: _jpeg(_photoshop(5000) * 400)
    yield "jpeg_pictures", "an index of pictures that are not there", _phone_jpeg
    yield "jpeg_restarts", "a restart after each block of 16 megapixels", lambda: _restarts(4000, 4000)
    yield "jpeg_without_pixels", "80 megapixels are filled in", lambda: parts.with_jpeg_size(saved(RAMP, "JPEG", quality=95), 8900, 8900)


def _scans(width: int, height: int, more: int) -> bytes:
    pieces = parts.jpeg_segments(parts.with_jpeg_size(saved(RAMP, "JPEG", quality=95, progressive=True), width, height))
    last = max(number for number, piece in enumerate(pieces) if piece[:2] == b"\xff\xda")
    count = sum(piece[:2] == b"\xff\xda" for piece in pieces)
    return b"".join([*pieces[: last + 1], *[pieces[last]] * (more - count), *pieces[last + 1 :]])


def _jpeg_of_fractions(tag: int = parts.ORIENTATION) -> bytes:
    block = b"Exif\0\0" + parts.exif(parts.fractions(tag, 1_000_000))
    first, rest = block[:65_000], block[65_000:]
    return _jpeg(segment(0xE1, first), *(segment(0xE1, b"Exif\0\0" + rest[at : at + 65_000]) for at in range(0, len(rest), 65_000)))


def _photoshop(blocks: int) -> bytes:
    return segment(0xED, b"Photoshop 3.0\0" + (b"8BIM\4\4\0\0" + bytes(4)) * blocks)


def _phone_jpeg() -> bytes:
    count = 4000
    index = Tag(0xB002, 7, struct.pack("<IIIHH", 0x030000, 100, 0, 0, 0) * count)
    return _jpeg(segment(0xE2, b"MPF\0" + parts.tiff([Tag(0xB000, 7, b"0100"), Tag(0xB001, 4, longs(count)), index])))


def _restarts(width: int, height: int) -> bytes:
    jpeg = parts.with_jpeg_size(saved(RAMP[:8, :8], "JPEG", quality=95), width, height)
    return parts.with_segments(jpeg, segment(0xDD, b"\0\1"))[:-2] + b"\xff\xd0\xff\xd1\xff\xd2\xff\xd3" * 200_000 + b"\xff\xd9"


def _webps() -> Iterator[Row]:
    small = parts.webp_chunks(saved(RAMP[:2, :2], "WEBP", lossless=True))[0]
    frame = parts.frame_of_webp(parts.riff(*small), 0, 0, 2, 2)
    loop = parts.riff(b"ANIM", bytes(6))
    yield "webp_canvas", "two canvases of 268 megapixels are made", lambda: parts.webp(parts.vp8x(16384, 16384, 2), loop, frame)
    yield (
        "webp_canvas_within_the_limit",
        "two canvases of 79 megapixels are made",
        lambda: parts.webp(parts.vp8x(8900, 8900, 2), loop, frame),
    )
    yield "webp_frames", "each frame is kept in a list", lambda: parts.webp(parts.vp8x(32, 24, 2), loop, frame * 100_000)
    yield "webp_chunks", "each is kept in a list", lambda: _webp_with(b"abcd", b"", 0) + parts.riff(b"efgh", b"") * 300_000
    yield "webp_known_chunks", "each is kept in a list", _webp_of_chunks
    yield "webp_exif_of_fractions", "an object for each", lambda: _webp_with(b"EXIF", b"Exif\0\0" + _fractions(1_000_000), 8)
    yield "webp_xmp", "searched for the orientation", lambda: _webp_with(b"XMP ", b"tiff:Orientation=" * 900_000, 4)


def _webp_of_chunks() -> bytes:
    picture = parts.webp_chunks(saved(RAMP, "WEBP", lossless=True))[0]
    return parts.webp(parts.vp8x(32, 24), parts.riff(*picture), parts.riff(b"efgh", b"") * 500_000)


def _avifs() -> Iterator[Row]:
    yield "avif_of_another_size", "its pixels are 268 million, its header says 64×64", _avif_of_another_size
    yield "avif_items", "each item is looked for among all", lambda: _avif_of_items(60_000)
    yield "avif_properties", "each item has all of them", lambda: _avif_of_properties(30_000)
    yield "avif_boxes", "each is read", lambda: saved(RAMP, "AVIF") + parts.box(b"free", b"") * 500_000
    yield "avif_exif_of_fractions", "an object for each", _avif_of_fractions
    yield "avif_huge_header", "room for 80 megapixels is made", lambda: _with_ispe(saved(RAMP, "AVIF"), 8900, 8900)
    yield "avif_extents", "one item of 60 000 pieces", lambda: _avif_of_extents(60_000)


_TEAL_AVIF = "eNpjYGBQSCupLEgsy0xjAAIQnZuZZpibmZjm62joCBR6nZtaksgAAYoZKTlFUDZDQWZyCQMa4CvILMkFsxiBWC4zJz8ZxHEB8RkhoozCDAw8d4BsjczMvDS4WikgJ5UJykssMzB0zs/JB9uVlVlQVACkvTMLkvOBtEhmcUEqxDoHKGYQKMisyAQxmDk4OIAUT2KZoXOjPViRcHJ+TlFeck4F0GReBrYGoJB4ZkEuzE9Ah7EwMjWzADU9yU1JLBFi4OK2/17////fJSwmUg5GpyQlBA1mnFRwZBE+ocDAkHT+XOBaLeevrS45CavFtd5KtK5ytS9a0FXdxqbTqbRqKbd8yfp6a8OWtIlvZwjMXrjjQ2BAfZbr9alvDaofhDWk5NreXvbcQmLek8LInYf+JOu3nLyucURmaZj/o90POXL05/BG7dNzSDl/LqKc6ds0vtULeV+L38xtZ956spZzn7D0X4+4SQXZK74ynTpvtmpKg27xdhOpbTGTe/dvubvijmRUal7VVf2MWoYTt6q3+54rMLQ98WhzceuPY/Gck9cFdlh6rZl/tPyQwI14C6mtNTENo7aM2jJqy6gto7aM2jJqy6gto7aM2jJqy0DZQhdLAMQ4ksc="
"""One colour, 16384×16384, 4:4:4, which take half a minute to encode; deflated, base64."""


def _avif_of_another_size() -> bytes:
    return _with_ispe(zlib.decompress(base64.b64decode(_TEAL_AVIF)), 64, 64)


def _avif_of_fractions() -> bytes:
    # Pillow reads what it writes: so the entry gets its number and its type afterwards.
    count = 1_000_000
    written = saved(RAMP, "AVIF", exif=b"Exif\0\0" + parts.exif(Tag(0xC000, 7, bytes(8 * count))))
    entry = struct.pack("<HHI", 0xC000, 7, 8 * count)
    return written.replace(entry, struct.pack("<HHI", parts.ORIENTATION, parts.RATIONAL, count), 1)


def _with_ispe(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def _avif_of_items(count: int) -> bytes:
    data = saved(RAMP, "AVIF")
    tree = parts.boxes(data)
    for each in (inner for outer in tree for inner in outer.walk()):
        if each.name == b"iinf":
            entries = b"".join(
                parts.box(b"infe", struct.pack(">IHH4sB", 0x02000000, number, 0, b"av01", 0)) for number in range(100, 100 + count)
            )
            before = int.from_bytes(each.body[4:6], "big")
            each.body = each.body[:4] + struct.pack(">H", before + count) + each.body[6:] + entries
        elif each.name == b"iloc":
            places = b"".join(struct.pack(">HHHII", number, 0, 1, 0, 1) for number in range(100, 100 + count))
            before = int.from_bytes(each.body[6:8], "big")
            each.body = each.body[:6] + struct.pack(">H", before + count) + each.body[8:] + places
    return parts.moved_avif(data, tree)


def _avif_of_properties(count: int) -> bytes:
    data = saved(RAMP, "AVIF")
    tree = parts.boxes(data)
    for each in (inner for outer in tree for inner in outer.walk()):
        if each.name == b"ipco":
            each.inner += [parts.Box(b"ispe", struct.pack(">III", 0, 32, 24), [])] * count
    return parts.moved_avif(data, tree)


def _avif_of_extents(count: int) -> bytes:
    data = saved(RAMP, "AVIF")
    tree = parts.boxes(data)
    for each in (inner for outer in tree for inner in outer.walk()):
        if each.name == b"iloc":
            item, index, _, where, length = struct.unpack_from(">HHHII", each.body, 8)
            pieces = struct.pack(">II", where, length) * count
            rest = each.body[8 + 14 :]
            each.body = each.body[:8] + struct.pack(">HHH", item, index, count & 0xFFFF) + pieces + rest
    return parts.moved_avif(data, tree)


def _tiffs() -> Iterator[Row]:
    yield "tiff_tile", "a tile of 512 megapixels for a picture of 64×64", lambda: _tile(16_000, 32_000)
    yield "tiff_tile_of_nothing", "the same, without its pixels", lambda: _tile(40_000, 40_000, whole=False)
    yield "tiff_fractions", "an object for each", lambda: parts.simple_tiff(bytes(1024), parts.fractions(parts.X_RESOLUTION, 1_000_000))
    yield "tiff_orientations", "an object for each", lambda: parts.simple_tiff(bytes(1024), parts.fractions(parts.ORIENTATION, 1_000_000))
    yield "tiff_tags", "65 535 entries", lambda: parts.simple_tiff(bytes(1024), *(Tag(n, 3, b"ab") for n in range(400, 65_500)))
    yield "tiff_tags_of_one_number", "a million entries", _big_tiff
    yield "tiff_strips", "a million strips of a row of a pixel", lambda: _strips(1, 1_000_000)
    yield "tiff_strips_deflated", "the same, deflated", lambda: _strips(1, 200_000, compression=8)
    yield "tiff_strips_that_are_not_there", "a million places of strips for 32 rows", lambda: _strips(32, 32, count=1_000_000)
    yield (
        "tiff_strip_without_end",
        "a strip of 32 rows that inflates to 2 GiB",
        lambda: parts.simple_tiff(parts.zeros_deflated(2048), compression=8),
    )
    yield "tiff_lzma_dictionary", "room for a dictionary of 1.5 GiB", _lzma_tiff
    yield "tiff_numbers", "an object for each of two million bits per sample", _tiff_of_numbers
    yield "tiff_pages", "60 000 pages", _pages
    yield "tiff_jpeg_scans", "a strip that is a JPEG of 99 scans", _tiff_of_scans
    yield "tiff_colours", "a palette of a million colours", _tiff_of_colours
    yield "tiff_xmp", "searched for the orientation", lambda: parts.simple_tiff(bytes(1024), Tag(700, 1, b"tiff:Orientation=" * 600_000))


def _tile(width: int, height: int, *, whole: bool = True) -> bytes:
    if whole:
        deflate = zlib.compressobj(9)
        row = (b"\xff" * 32).ljust(width, b"\0")
        data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    else:
        data = zlib.compress(bytes(10_000))
    tags = [*parts.picture_tags(64, 64, compression=8), Tag(322, 4, longs(width)), Tag(323, 4, longs(height))]

    def made(at: int) -> bytes:
        return parts.tiff([*tags, Tag(324, 4, longs(at)), Tag(325, 4, longs(len(data)))], data)

    return made(len(made(0)) - len(data))


def _big_tiff() -> bytes:
    data = bytes(1024)
    tags = [*parts.picture_tags(32, 32), *parts.strip_tags([16], [1024], 32)]
    return parts.tiff([*sorted(tags, key=lambda tag: tag.number), *[Tag(65_000, 3, b"ab")] * 1_200_000], data, big=True)


def _strips(width: int, height: int, *, compression: int = 1, count: int | None = None) -> bytes:
    number = height if count is None else count
    data = bytes(width) if compression == 1 else zlib.compress(bytes(width))
    tags = parts.picture_tags(width, height, compression=compression)
    where = [Tag(273, 4, longs(*[8] * number)), Tag(278, 4, longs(1)), Tag(279, 4, longs(*[len(data)] * number))]
    made = parts.tiff(sorted([*tags, *where], key=lambda tag: tag.number), data)
    place = len(made) - len(data)
    where[0] = Tag(273, 4, longs(*[place] * number))
    return parts.tiff(sorted([*tags, *where], key=lambda tag: tag.number), data)


def _lzma_tiff() -> bytes:
    # A stream of liblzma whose header asks for a dictionary of 1.5 GiB, then nonsense.
    header = b"\xfd7zXZ\0\0\4"
    block = b"\2\0\x21\1\x27\0\0\0"
    data = header + struct.pack("<I", zlib.crc32(header[6:8])) + block + struct.pack("<I", zlib.crc32(block)) + bytes(2000)
    return parts.simple_tiff(data, compression=34925)


def _tiff_of_numbers() -> bytes:
    tags = [tag for tag in parts.picture_tags(32, 32) if tag.number != 258]
    return parts.tiff(
        sorted([*tags, Tag(258, 3, shorts(8) * 2_000_000), *parts.strip_tags([8], [1024], 32)], key=lambda tag: tag.number), bytes(1024)
    )


def _pages() -> bytes:
    tags = [*parts.picture_tags(1, 1), *parts.strip_tags([8], [1], 1)]
    each = len(parts.directory(tags, 8))
    pages = [parts.directory(tags, 8 + number * each, following=8 + (number + 1) * each) for number in range(20_000)]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def _tiff_of_scans() -> bytes:
    data = _scans(2048, 2048, 99)
    picture = parts.picture_tags(2048, 2048, bits=(8, 8, 8), compression=7, photometric=6)

    def made(at: int) -> bytes:
        tags = [*picture, *parts.strip_tags([at], [len(data)], 2048), Tag(530, 3, shorts(2, 2))]
        return parts.tiff(sorted(tags, key=lambda tag: tag.number), data)

    return made(len(made(0)) - len(data))


def _tiff_of_colours() -> bytes:
    picture = parts.picture_tags(32, 32, photometric=3)
    return parts.tiff(
        sorted([*picture, *parts.strip_tags([8], [1024], 32), Tag(320, 3, bytes(24_000_000))], key=lambda tag: tag.number), bytes(1024)
    )


def _bmps() -> Iterator[Row]:
    grey = bytes(1024)
    yield (
        "bmp_rle_ends_of_line",
        "each missing pixel is added in Python",
        lambda: parts.bmp(40_000, 400, 8, b"\1\1\0\0" * 400 + b"\0\1", compression=1, palette=grey),
    )
    yield (
        "bmp_rle_of_four_bits",
        "each pixel is added in Python",
        lambda: parts.bmp(2000, 2000, 4, (b"\xff\x12" * 8 + b"\0\0") * 2000 + b"\0\1", compression=2, palette=bytes(64)),
    )
    yield (
        "bmp_rle_of_nothing",
        "each step is taken in Python",
        lambda: parts.bmp(64, 64, 8, b"\0\2\0\0" * 3_000_000, compression=1, palette=grey),
    )
    yield (
        "bmp_rle_full_rows",
        "each step is taken in Python",
        lambda: parts.bmp(1, 64, 8, b"\1\1" * 40 + b"\2\1" * 10 + b"\0\0" * 7_000_000, compression=1, palette=grey),
    )
    yield "bmp_claimed_palette", "a palette of 2³² colours", lambda: parts.bmp(32, 32, 8, bytes(1024), palette=grey, colours=2**32 - 1)


def _others() -> Iterator[Row]:
    # Those that are refused are opened to be named.
    yield "gif_frames", "each frame is read in Python", lambda: _gif(_GIF_FRAME, 600_000)
    yield "gif_blocks", "each block is read in Python", lambda: _gif(b"!\xf0" + b"\1a" * 4_000_000 + b"\0" + _GIF_FRAME, 1)
    yield (
        "gif_comments",
        "each is added to those before it",
        lambda: _gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 30_000 + b"\0" + _GIF_FRAME, 1),
    )
    yield "ico_entries", "65 535 pictures are listed and sorted", lambda: _icon(65_535)
    yield "ico_of_a_hostile_png", "the PNG in it is opened", lambda: _icon(1, small_png(chunk(b"prVt", b"") * 700_000))
    yield "ppm_comment", "each byte is read in Python", lambda: b"P6\n#" + b"a" * 8_000_000 + b"\n9 9 255\n" + bytes(300)
    yield "psd_layers", "each layer is read in Python", lambda: _psd(32_000)
    yield "jpeg2000_boxes", "each is read in Python", _jpeg_2000


_GIF_FRAME = b"!\xf9\4\0\0\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2D\1\0"


def _gif(blocks: bytes, count: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + blocks * count + b";"


def _icon(count: int, picture: bytes = b"") -> bytes:
    at = 6 + 16 * count
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), at)
    return struct.pack("<HHH", 0, 1, count) + entry * count + picture


def _psd(layers: int) -> bytes:
    record = struct.pack(">iiiiH", 0, 0, 1, 1, 3) + b"".join(struct.pack(">hI", channel, 3) for channel in range(3))
    record += b"8BIMnorm" + bytes(4) + struct.pack(">I", 12) + bytes(8) + b"\1a\0\0"
    body = struct.pack(">h", layers) + record * layers + bytes(9 * layers)
    info = struct.pack(">I", len(body)) + body
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 8, 8, 3)
    return head + bytes(4) + bytes(4) + struct.pack(">I", len(info)) + info + bytes(2 + 192)


def _jpeg_2000() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.ascontiguousarray(RAMP)).save(buffer, "JPEG2000")
    data = buffer.getvalue()
    at = data.index(b"jp2h") - 4
    return data[:at] + parts.box(b"uuid", b"") * 3_000_000 + data[at:]


# ---- Forms


def hostile_forms() -> dict[str, tuple[str, bytes]]:
    """Bodies of multipart/form-data that cost much, by name, with their ``Content-Type``."""
    boundary = b"XBOUNDARYX"
    kind = f"multipart/form-data; boundary={boundary.decode()}"
    head, end = b"--" + boundary + b"\r\n", b"--" + boundary + b"--\r\n"

    def part(told: bytes, data: bytes) -> bytes:
        return head + b"Content-Disposition: form-data; " + told + b"\r\n\r\n" + data + b"\r\n"

    text, many = (
        part(b'name="request"', b"a" * 1_000_000) + end,
        b"".join(part(b'name="p%d"; filename="a"' % n, b"") for n in range(20_000)),
    )
    return {
        "form_in_punycode": (f"{kind}; charset=punycode", text),
        "form_in_idna": (f"{kind}; charset=idna", text),
        "form_in_utf_7": (f"{kind}; charset=utf-7", text),
        "form_of_many_parts": (kind, many + end),
        "form_of_long_names": (kind, part(b'name="' + b"x" * 60_000 + b'"', b"") * 8 + end),
        "form_of_parameters": (kind, part(b"a=b;" * 15_000 + b'name="request"', b"{}") + end),
        "form_of_near_ends": (kind, part(b'name="request"', (b"\r\n--" + boundary[:-1]) * 1_000_000) + end),
        "form_of_line_ends": (kind, part(b'name="file"; filename="a"', b"\r" * 20_000_000) + end),
        "form_of_brackets": (kind, part(b'name="request"', b"[" * 10_000_000) + end),
    }
