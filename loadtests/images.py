"""Product photos and masks, drawn by Pillow: every one differs, so that nothing can be answered from a cache."""

from __future__ import annotations

import io
import random

from PIL import Image, ImageDraw, ImageFilter

SIDE = 768
"""Pixels of the square photos."""


def product_photo(rng: random.Random) -> bytes:
    """A bottle on a table before a pale wall, as JPEG."""
    wall = tuple(rng.randint(190, 235) for _ in range(3))
    table = tuple(channel - 45 for channel in wall)
    photo = Image.new("RGB", (SIDE, SIDE), wall)
    draw = ImageDraw.Draw(photo)
    draw.rectangle((0, int(SIDE * 0.72), SIDE, SIDE), fill=table)
    photo = photo.filter(ImageFilter.GaussianBlur(6))
    _bottle(ImageDraw.Draw(photo), rng)
    grain = Image.effect_noise((SIDE, SIDE), 12).convert("RGB")
    return _encoded(Image.blend(photo, grain, 0.05), "JPEG")


def _bottle(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    middle, half = SIDE // 2 + rng.randint(-60, 60), rng.randint(80, 120)
    top, shoulder, base = int(SIDE * 0.18), int(SIDE * 0.38), int(SIDE * 0.86)
    glass = (rng.randint(10, 90), rng.randint(40, 120), rng.randint(20, 110))
    draw.rounded_rectangle((middle - half // 3, top, middle + half // 3, shoulder + 40), radius=12, fill=glass)
    draw.rounded_rectangle((middle - half, shoulder, middle + half, base), radius=40, fill=glass)
    draw.rectangle((middle - half, shoulder + 90, middle + half, base - 90), fill=(240, 235, 215))
    draw.rectangle((middle - half + 20, shoulder + 120, middle + half - 20, shoulder + 150), fill=(170, 30, 40))
    draw.rounded_rectangle((middle - half // 3 - 6, top - 30, middle + half // 3 + 6, top + 24), radius=8, fill=(30, 30, 30))


def blemish_mask(rng: random.Random) -> bytes:
    """White, to be erased, in one blot of 60 to 120 pixels; PNG of one channel."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    size = rng.randint(60, 120)
    left, top = rng.randint(0, SIDE - size), rng.randint(0, SIDE - size)
    ImageDraw.Draw(mask).ellipse((left, top, left + size, top + size), fill=255)
    return _encoded(mask, "PNG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
