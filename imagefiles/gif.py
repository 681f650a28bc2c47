"""GIF, which is not accepted: whether it is an animation, so that the answer says so."""

from __future__ import annotations

_MAX_BLOCKS = 10_000


def is_animated(data: bytes) -> bool:
    """Whether a second picture is found among the first ``_MAX_BLOCKS`` blocks (GIF89a, section 11 and on)."""
    if len(data) < 13:
        return False
    at, pictures, blocks = 13 + _table(data[10]), 0, 0
    while at < len(data) and blocks < _MAX_BLOCKS:
        blocks += 1
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C and at + 10 <= len(data):
            pictures += 1
            at += 11 + _table(data[at + 9])
        else:
            break
        while at < len(data) and data[at] and blocks < _MAX_BLOCKS:
            blocks, at = blocks + 1, at + 1 + data[at]
        at += 1
        if pictures > 1:
            return True
    return False


def _table(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
