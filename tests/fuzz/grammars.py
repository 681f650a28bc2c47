"""Profiles and EXIF at random: structures whose counts, sizes and places may be anything."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

import file_grammar as parts
from file_grammar import Tag

EDGES = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    127,
    128,
    255,
    256,
    1000,
    4095,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 2,
    2**32 - 1,
)
CAPS = ((0.6, 2**12), (0.95, 2**16), (0.99, 2**20), (1.0, 2**23))
"""How likely a file is to stay below so many bytes."""


def cap(rng: random.Random) -> int:
    """The most bytes that one thing of a file may be repeated to."""
    drawn = rng.random()
    return next(size for share, size in CAPS if drawn <= share)


def count(rng: random.Random, most: int) -> int:
    """From 1 to ``most``; small numbers and the largest are the likeliest."""
    if rng.random() < 0.2:
        return max(1, most)
    return max(1, min(most, int(2 ** rng.uniform(0, most.bit_length()))))


def edge(rng: random.Random) -> int:
    """A number at which something may go wrong."""
    return rng.choice(EDGES) if rng.random() < 0.8 else rng.getrandbits(rng.randint(1, 32))


def junk(rng: random.Random, most: int = 200) -> bytes:
    """Bytes without a meaning."""
    return rng.choice((rng.randbytes, bytes))(rng.randint(0, most))


# ---- ICC profiles

_SPACES = (b"RGB ",) * 12 + (b"GRAY", b"CMYK", b"CMYK", b"Lab ", b"XYZ ", b"YCbr", b"6CLR", b"FCLR", b"nope")
_CLASSES = (b"mntr",) * 5 + (b"scnr", b"prtr", b"spac", b"link", b"abst", b"nmcl", b"nope")
_TABLES = (b"A2B0", b"A2B0", b"D2B0", b"D2B0", b"A2B1", b"D2B1", b"B2A0", b"B2D0", b"gamt")
_OTHERS = (b"rTRC", b"gTRC", b"wtpt", b"chad", b"vcgt", b"ncl2", b"pseq", b"meta")
_TEXTS = (b"desc", b"cprt", b"dmnd", b"dmdd", b"tech")


def profile(rng: random.Random) -> bytes:
    """A profile, nearly whole or hardly one."""
    space = rng.choice(_SPACES)
    channels = {b"GRAY": 1, b"CMYK": 4, b"6CLR": 6, b"FCLR": 15}.get(space, 3)
    tags: list[tuple[bytes, bytes]] = list(parts.MATRIX) if rng.random() < 0.95 else []
    if space == b"GRAY":
        tags.append((b"kTRC", _curve(rng)))
    tags += [(rng.choice(_TABLES), _table(rng, channels)) for _ in range(rng.choice((0, 1, 1, 2)))]
    tags += [(rng.choice(_TEXTS), _text(rng)) for _ in range(rng.choice((0, 0, 1)))]
    tags += [(rng.choice(_OTHERS), _other(rng)) for _ in range(rng.choice((0, 0, 1)))]
    if tags and rng.random() < 0.15:
        number = rng.randrange(len(tags))
        tags[number] = (tags[number][0], _curve(rng))
    rng.shuffle(tags)
    places = _places(rng, tags) if rng.random() < 0.3 else ()
    lies = {"count": edge(rng)} if rng.random() < 0.1 else {}
    lies |= {"size": edge(rng)} if rng.random() < 0.1 else {}
    pcs = rng.choice((b"XYZ ", b"XYZ ", b"Lab ", b"RGB "))
    version = rng.choice((0x04300000, 0x04300000, 0x02100000, 0x05000000, 0))
    if rng.random() < 0.5:  # nothing is wrong with it but how much there is
        made = parts.icc(tags, space=space, pcs=b"XYZ " if space != b"CMYK" else b"Lab ")
        return made if len(made) <= 2**20 else made[: 2**20]
    made = parts.icc(tags, space=space, pcs=pcs, kind=rng.choice(_CLASSES), version=version, places=places, **lies)
    return flipped(rng, made) if rng.random() < 0.2 else made


def _places(rng: random.Random, tags: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, int, int]]:
    """More entries of the table: of what is there already, beyond the end, or very many."""
    number = count(rng, rng.choice((3, 50, cap(rng) // 12)))
    names = [*_TABLES, *_TEXTS, *(name for name, _ in tags)]
    where = [(rng.randrange(128, 2000), rng.randrange(0, 2000)) for _ in range(5)] + [(edge(rng), edge(rng))]
    return [(rng.choice(names) if number < 1000 else b"%04x" % (each & 0xFFFF), *where[each % len(where)]) for each in range(number)]


def _table(rng: random.Random, channels: int) -> bytes:
    return rng.choice((_elements, _elements, _lut, _lut, _pipeline))(rng, channels)


def _elements(rng: random.Random, channels: int) -> bytes:
    wide = rng.choice((channels, 3, 3, rng.randint(1, 15)))
    makers: tuple[Callable[[], bytes], ...] = (
        lambda: parts.matrix_element(wide, wide),
        lambda: parts.curves_element(wide, count(rng, rng.choice((3, 100, 4000)))),
        lambda: parts.clut_element(wide, 3, _grid(rng, wide, 3)),
        lambda: b"bACS\0\0\0\0" + struct.pack(">HHI", wide, wide, 0),
    )
    own = [rng.choice(makers)() for _ in range(rng.randint(1, 3))]
    first, last = [parts.matrix_element(channels, wide)], [parts.matrix_element(wide, 3)]
    order = [rng.randrange(1, len(own) + 1) for _ in range(count(rng, min(40_000, cap(rng) // 8)))]
    return parts.elements(first + own + last, [0, *order, len(own) + 1], channels, 3)


def _grid(rng: random.Random, inputs: int, outputs: int) -> int:
    """As many nodes on an axis as make half a megabyte at most."""
    most = 2
    largest = rng.choice((2**12, 2**16, 2**19))
    while outputs * (most + 1) ** inputs * 4 < largest and most < 254:
        most += 1
    return most if rng.random() < 0.5 else rng.randint(2, most)


def _lut(rng: random.Random, channels: int) -> bytes:
    inputs = channels if rng.random() < 0.9 else rng.randint(1, 16)
    made = parts.lut16(inputs, 3, _grid(rng, inputs, 3), rng.choice((2, 2, 256, 4096)))
    if rng.random() < 0.3:  # lies about channels, nodes or entries
        at = rng.choice((8, 9, 10, 48, 50))
        made = made[:at] + bytes([rng.choice((0, 1, 15, 16, 255))]) + made[at + 1 :]
    return made


def _pipeline(rng: random.Random, channels: int) -> bytes:
    """``mAB``: places of curves, a matrix and a table, which may be anywhere."""
    curve = _curve(rng)[: rng.choice((12, 14, 1000))]
    grid = _grid(rng, min(channels, 6), 3)
    table = bytes([grid] * channels).ljust(16, b"\0") + bytes([rng.choice((1, 2)), 0, 0, 0]) + bytes(6 * grid ** min(channels, 6))
    at = [32, 32 + 16 * 3, 32 + 16 * 3 + 48, 32, 32]
    if rng.random() < 0.4:
        at[rng.randrange(5)] = edge(rng)
    name = rng.choice((b"mAB ", b"mBA "))
    return name + bytes(4) + bytes([channels, 3, 0, 0]) + struct.pack(">5I", *at) + curve.ljust(96, b"\0")[:96] + table


def _curve(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return b"para" + bytes(4) + struct.pack(">HH", rng.choice((0, 1, 2, 3, 4, 5, 65535)), 0) + rng.randbytes(28)
    number = count(rng, rng.choice((2, 256, cap(rng) // 2)))
    claimed = edge(rng) if rng.random() < 0.2 else number
    values = bytes(2 * number) if number > 5000 else rng.randbytes(2 * number)
    return b"curv" + bytes(4) + struct.pack(">I", claimed & 0xFFFFFFFF) + values


def _text(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return parts.texts(count(rng, cap(rng) // 12), length=rng.choice((0, 20, 2**31, 65536)) & 0xFFFF)
    if kind == 1:
        return b"desc" + bytes(4) + struct.pack(">I", edge(rng)) + b"a" * rng.randint(0, 300)
    return (b"text", b"dict")[kind - 2] + bytes(4) + struct.pack(">II", edge(rng), edge(rng)) + junk(rng)


def _other(rng: random.Random) -> bytes:
    kind = rng.choice((b"XYZ ", b"sf32", b"vcgt", b"ncl2", b"pseq", b"psid", b"view", b"meas", b"chrm", b"dtim", b"clrt", b"MHC2"))
    if kind == b"ncl2":
        number = count(rng, cap(rng) // 44)
        return kind + bytes(8) + struct.pack(">II", edge(rng) if rng.random() < 0.2 else number, 3) + bytes(64) + bytes(44 * number)
    return kind + bytes(4) + struct.pack(">I", edge(rng)) + parts.fixed(*(rng.uniform(-2, 2) for _ in range(rng.randint(0, 30))))


def flipped(rng: random.Random, data: bytes, most: int = 8) -> bytes:
    """``data`` with some bytes, or a number of four bytes, changed."""
    made = bytearray(data)
    for _ in range(rng.randint(1, most)):
        if not made:
            break
        at = rng.randrange(min(len(made), rng.choice((64, 1024, len(made)))))
        if rng.random() < 0.5:
            made[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        else:
            made[at : at + 4] = struct.pack(rng.choice("<>") + "I", edge(rng) & 0xFFFFFFFF)[: len(made) - at]
    return bytes(made)


# ---- EXIF and other directories

_NUMBERS = (parts.ORIENTATION,) * 4 + (
    parts.X_RESOLUTION,
    parts.Y_RESOLUTION,
    parts.RESOLUTION_UNIT,
    parts.EXIF_DIRECTORY,
    0x8825,
    0x927C,
    0xA005,
    0x010E,
    0x02BC,
)


def tag(rng: random.Random, number: int | None = None, most: int | None = None) -> Tag:
    """An entry whose type and count may be anything; ``most``: bytes of its value."""
    chosen = rng.choice(_NUMBERS) if number is None else number
    kind = rng.choice((1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 0, 255))
    drawn = rng.random()
    if drawn < 0.5:
        return Tag(chosen, kind, struct.pack(rng.choice("<>") + "HH", rng.choice((0, 1, 6, 8, 9, 65535)), 0), 1)
    if drawn < 0.8:
        unit = {5: 8, 10: 8, 12: 8, 3: 2, 4: 4}.get(kind, 1)
        number_of = count(rng, (cap(rng) if most is None else most) // unit)
        return Tag(chosen, kind, rng.choice((b"\3\0\0\0\7\0\0\0", b"\0\0\0\3\0\0\0\7", bytes(8))) * (number_of * unit // 8 + 1))
    return Tag(chosen, kind, junk(rng, 16), edge(rng), edge(rng) if rng.random() < 0.5 else rng.randrange(0, 500))


def exif(rng: random.Random) -> bytes:
    """A block of EXIF, without the word that it begins with in a JPEG."""
    tags = [tag(rng) for _ in range(rng.randint(0, 5))]
    if rng.random() < 0.1:
        tags += [tag(rng, rng.choice((0, number)), 16) for number in range(count(rng, 4000))]
    if rng.random() < 0.2:
        tags.append(Tag(rng.choice((parts.EXIF_DIRECTORY, 0x8825, 0xA005)), 4, b"", 1, rng.choice((8, 0, 2, 10_000))))
    if rng.random() < 0.8:
        tags.sort(key=lambda each: each.number)
    following = rng.choice((0, 0, 8, edge(rng)))
    made = parts.exif(*tags, order=rng.choice("<>"), following=following)
    return flipped(rng, made) if rng.random() < 0.2 else made


def xmp(rng: random.Random) -> bytes:
    """XMP that may tell an orientation, again and again."""
    word = rng.choice((b'<x tiff:Orientation="6"/>', b"<tiff:Orientation>3</tiff:Orientation>", b"tiff:Orientation=", b"<" * 9, b"a\xff\0"))
    return word * count(rng, cap(rng) // len(word))
