"""TIFF: directories, strips and tiles (TIFF 6.0). Pillow makes an object of each value that it looks at, and libtiff makes room for a whole tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import unpack_from

from api_schemas.errors import AnimatedImage, ImageCorrupt, ImageTooLarge, UnsupportedFormat
from imagefiles.sizes import pixels_of

MAX_TAGS = 1_000
"""Of one directory; those of cameras have some dozens."""
MAX_PIECES = 32_768
"""Strips or tiles: 80 megapixels in tiles of 64×64 are 20,000, and each costs Pillow an object."""
MAX_VALUES = 8_192
"""Values of one other tag that is not of bytes."""
MAX_COLOURS = 3 * 65_536
LEAST_TILE = 2**22
"""Pixels that a tile may have in any picture: encoders write tiles of up to 1024×1024, of small pictures too."""

WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT = 256, 257, 322, 323
_PIECES = frozenset({273, 279, 324, 325})
_COLOURS = 320
_DIRECTORIES = frozenset({34665, 34853, 40965})
"""Tags of EXIF, GPS and interoperability, which lead to a directory."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_BYTES = frozenset({1, 2, 6, 7})
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}


@dataclass(frozen=True)
class Entry:
    """One tag of a directory."""

    tag: int
    kind: int
    count: int
    at: int
    """Where in the file its values begin."""


@dataclass(frozen=True)
class Reader:
    """The bytes of a TIFF, or of EXIF, which is one."""

    data: bytes
    order: str
    """``<`` or ``>``."""
    big: bool = False

    @classmethod
    def of(cls, data: bytes) -> Reader | None:
        """Read the beginning; ``None`` where it is no TIFF's."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        return None if order is None or len(data) < 8 else cls(data, order, big=data[2] == 43)

    @property
    def first(self) -> int:
        """Where the first directory is; 0 for nowhere."""
        if self.big:
            return int(unpack_from(self.order + "Q", self.data, 8)[0]) if len(self.data) >= 16 else 0
        return int(unpack_from(self.order + "I", self.data, 4)[0])

    def count(self, at: int) -> int:
        """Tags of the directory at ``at``; 0 where there is none."""
        layout, size = ("Q", 8) if self.big else ("H", 2)
        return int(unpack_from(self.order + layout, self.data, at)[0]) if 0 < at <= len(self.data) - size else 0

    def entries(self, at: int) -> Iterator[Entry]:
        """The tags of the directory at ``at``, up to the file's end; at most ``MAX_TAGS``."""
        layout, size, inline = ("HHQ", 20, 8) if self.big else ("HHI", 12, 4)
        place = at + (8 if self.big else 2)
        for _ in range(min(self.count(at), MAX_TAGS)):
            if place + size > len(self.data):
                return
            tag, kind, count = unpack_from(self.order + layout, self.data, place)
            where = place + size - inline
            if count * _SIZES.get(kind, 0) > inline:
                (where,) = unpack_from(self.order + ("Q" if self.big else "I"), self.data, where)
            yield Entry(tag, kind, count, where)
            place += size

    def after(self, at: int) -> int:
        """Where the directory after the one at ``at`` is; 0 for nowhere."""
        end = at + (8 + 20 * self.count(at) if self.big else 2 + 12 * self.count(at))
        layout, size = ("Q", 8) if self.big else ("I", 4)
        return int(unpack_from(self.order + layout, self.data, end)[0]) if end + size <= len(self.data) else 0

    def integer(self, entry: Entry) -> int | None:
        """The first value of a tag of whole numbers."""
        layout = _INTEGERS.get(entry.kind)
        if layout is None or not entry.count or entry.at + _SIZES[entry.kind] > len(self.data):
            return None
        return int(unpack_from(self.order + layout, self.data, entry.at)[0])

    def bytes_of(self, entry: Entry) -> bytes:
        """All values of a tag as they stand there, as far as the file reaches."""
        return self.data[entry.at : entry.at + entry.count * _SIZES.get(entry.kind, 0)]


def check(data: bytes, max_pixels: int) -> int:
    """Pixels of a TIFF that costs no more than its picture, or of one of its tiles, if these are larger. Raises ``AnimatedImage``, ``UnsupportedFormat``, ``ImageCorrupt`` and ``ImageTooLarge``."""
    reader = Reader.of(data)
    if reader is None or not reader.count(reader.first):
        return 0  # Pillow says which fault it is
    declared = _check_directory(reader, reader.first)
    width, height = declared.get(WIDTH, 0), declared.get(HEIGHT, 0)
    pixels = pixels_of(width, height, max_pixels)
    tile = declared.get(TILE_WIDTH, 0), declared.get(TILE_HEIGHT, 0)
    if tile[0] * tile[1] > max(LEAST_TILE, 4 * pixels):
        raise ImageTooLarge(f"the TIFF's tiles have {tile[0]}×{tile[1]} pixels, and the picture {width}×{height}")
    following = reader.after(reader.first)
    if following >= len(data):
        raise ImageCorrupt("the image's header is broken")
    if following not in (0, reader.first):
        raise AnimatedImage("the file holds more than one frame or page")
    return max(pixels, tile[0] * tile[1])


def _check_directory(reader: Reader, at: int, *, nested: bool = False) -> dict[int, int]:
    """The first values of tags that hold whole numbers, of a directory that is within bounds."""
    if reader.count(at) > MAX_TAGS:
        raise UnsupportedFormat(f"the TIFF has {reader.count(at)} tags, more than {MAX_TAGS}; save it anew")
    found: dict[int, int] = {}
    for entry in reader.entries(at):
        most = MAX_PIECES if entry.tag in _PIECES else MAX_COLOURS if entry.tag == _COLOURS else MAX_VALUES
        if entry.kind not in _BYTES and entry.count > most:
            raise UnsupportedFormat(f"the TIFF's tag {entry.tag} has {entry.count} values, more than {most}; save it anew")
        if entry.tag not in found and (value := reader.integer(entry)) is not None:
            found[entry.tag] = value
    for tag in _DIRECTORIES & found.keys():
        if not nested:
            _check_directory(reader, found[tag], nested=True)
    return found
