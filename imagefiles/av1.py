"""AV1: the size that a sequence header declares (AV1 Bitstream and Decoding Process Specification, section 5.5), for which a decoder makes room."""

from __future__ import annotations

from collections.abc import Iterator

from api_schemas.errors import UnsupportedFormat

_SEQUENCE_HEADER = 1
HEADER_COST = 20
_HEADER_BYTES = 64
"""Of a sequence header, in which the size comes first."""


def sizes(data: bytes, begin: int, end: int, units: list[int]) -> Iterator[tuple[int, int]]:
    """Columns and rows of each sequence header among the open bitstream units from ``begin`` to ``end``.

    ``units`` is how many may be looked at in all, a header as ``HEADER_COST`` of them. Raises ``UnsupportedFormat`` where there are more.
    """
    at, end = begin, min(end, len(data))
    while 0 <= at < end:
        units[0] -= HEADER_COST if data[at] >> 3 & 15 == _SEQUENCE_HEADER else 1
        if units[0] < 0:
            raise UnsupportedFormat("the AVIF's pictures have too many parts; save it anew")
        kind, has_extension, has_size = data[at] >> 3 & 15, data[at] >> 2 & 1, data[at] >> 1 & 1
        at += 1 + has_extension
        size, at = _leb128(data, at, end) if has_size else (end - at, at)
        if kind == _SEQUENCE_HEADER:
            try:
                yield _Bits(data[at : min(at + size, at + _HEADER_BYTES, end)]).size()
            except IndexError:
                return
        at += size


def _leb128(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = 0
    for number in range(8):
        if at >= end:
            break
        byte, at = data[at], at + 1
        value |= (byte & 127) << 7 * number
        if not byte & 128:
            break
    return value, at


class _Bits:
    """A sequence header, bit by bit. Raises ``IndexError`` behind its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def _read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError("the header ends before its size")
        return self._value >> self._left & (1 << count) - 1

    def size(self) -> tuple[int, int]:
        """Columns and rows of the largest frame."""
        self._read(4)  # profile, still picture
        if self._read(1):  # a reduced header
            self._read(5)
        else:
            self._skip_timing()
        wide, high = self._read(4) + 1, self._read(4) + 1
        return self._read(wide) + 1, self._read(high) + 1

    def _skip_timing(self) -> None:
        delay_bits = 0
        if self._read(1):  # timing
            self._read(64)
            if self._read(1):
                self._skip_uvlc()
            if self._read(1):  # the decoder's model
                delay_bits = self._read(5) + 1
                self._read(32 + 5 + 5)
        has_delay = self._read(1)
        for _ in range(self._read(5) + 1):
            self._read(12)
            if self._read(5) > 7:  # level
                self._read(1)
            if delay_bits and self._read(1):
                self._read(2 * delay_bits + 1)
            if has_delay and self._read(1):
                self._read(4)

    def _skip_uvlc(self) -> None:
        zeros = 0
        while not self._read(1):
            zeros += 1
        if zeros < 32:
            self._read(zeros)
