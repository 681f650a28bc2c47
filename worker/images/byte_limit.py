"""A file of at most so many bytes: the best quality that fits."""

from __future__ import annotations

from api_schemas.errors import OutputTooLarge
from api_schemas.requests import ImageFormat, OutputOptions
from worker.images.checkpoint import checkpoint
from worker.images.codec import JPEG_QUALITY, Frame, encode

LEAST_QUALITY = 50
"""Below it blocks and smears are seen on products, and pure white may not stay white in a JPEG: its first table then has steps that miss 255."""


def encode_within(frame: Frame, output: OutputOptions) -> tuple[bytes, int | None]:
    """The file, and its quality where it is lossy: as asked for, or the highest below at which it has no more than ``max_bytes``.

    Raises ``OutputTooLarge`` where it has more at ``LEAST_QUALITY``, or at a lower quality that was asked for.
    """
    quality = output.quality or (JPEG_QUALITY if output.format is ImageFormat.JPEG else None)
    data = encode(frame, output)
    if output.max_bytes is None or quality is None or len(data) <= output.max_bytes:
        return data, quality
    low, high = min(LEAST_QUALITY, quality), quality  # the one fits, the other does not
    found = data if low == high else _at(low, frame, output)
    if len(found) > output.max_bytes:
        told = f"at quality {low}, the lowest that is tried, the file has {len(found)} bytes, more than {output.max_bytes}"
        raise OutputTooLarge(f"{told}; ask for fewer pixels or more bytes", field="output.max_bytes")
    while high - low > 1:
        checkpoint()
        middle = (low + high) // 2
        data = _at(middle, frame, output)
        if len(data) <= output.max_bytes:
            found, low = data, middle
        else:
            high = middle
    return found, low


def _at(quality: int, frame: Frame, output: OutputOptions) -> bytes:
    return encode(frame, output.model_copy(update={"quality": quality}))
