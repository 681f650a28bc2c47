"""Sizes that a header declares."""

from __future__ import annotations

from api_schemas.errors import ImageTooLarge


def pixels_of(width: int, height: int, max_pixels: int) -> int:
    """Pixels of a picture. Raises ``ImageTooLarge`` for more than ``max_pixels``."""
    if width * height > max_pixels:
        raise ImageTooLarge(f"{width}×{height} pixels are more than {max_pixels}")
    return width * height
