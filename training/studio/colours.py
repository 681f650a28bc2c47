"""Colours by name: what a caption may ask for, and the RGB that the renderer then paints."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from training.studio.arrays import Field, Rng, field

NAMED: dict[str, tuple[int, int, int]] = {
    "white": (244, 243, 240),
    "black": (26, 26, 28),
    "grey": (140, 140, 141),
    "light grey": (204, 204, 205),
    "dark grey": (72, 73, 76),
    "beige": (220, 202, 174),
    "cream": (245, 235, 210),
    "brown": (114, 76, 50),
    "red": (198, 36, 38),
    "burgundy": (112, 26, 46),
    "orange": (238, 124, 32),
    "coral": (244, 116, 98),
    "peach": (250, 198, 164),
    "yellow": (248, 210, 52),
    "mustard": (206, 158, 44),
    "olive": (116, 118, 54),
    "green": (48, 142, 68),
    "mint": (170, 226, 200),
    "sage": (158, 174, 142),
    "teal": (18, 118, 124),
    "turquoise": (60, 196, 198),
    "blue": (36, 94, 192),
    "light blue": (152, 198, 236),
    "navy": (26, 38, 86),
    "lavender": (198, 182, 232),
    "purple": (112, 50, 152),
    "pink": (246, 166, 192),
    "magenta": (208, 40, 130),
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "grey": ("gray",),
    "light grey": ("light gray", "pale grey", "silver"),
    "dark grey": ("charcoal", "dark gray", "anthracite"),
    "beige": ("tan", "sand coloured"),
    "cream": ("ivory", "off white"),
    "burgundy": ("maroon", "wine red"),
    "coral": ("salmon",),
    "mustard": ("ochre",),
    "mint": ("mint green",),
    "sage": ("sage green",),
    "teal": ("petrol",),
    "turquoise": ("aqua", "cyan"),
    "light blue": ("sky blue", "baby blue", "pale blue"),
    "navy": ("navy blue", "dark blue"),
    "lavender": ("lilac",),
    "purple": ("violet",),
    "magenta": ("fuchsia", "hot pink"),
    "brown": ("chocolate",),
}
SHADES = {"light": ("light", "pale", "pastel"), "dark": ("dark", "deep"), "bright": ("bright", "vivid")}
SHADED = ("red", "orange", "yellow", "green", "teal", "purple", "pink", "brown")
"""Colours that also come in shades; the other names are already shades of something."""


@dataclass(frozen=True)
class Colour:
    """A colour of one thing in a scene. ``name`` is a key of ``NAMED``; ``shade`` one of ``SHADES``, or empty."""

    name: str
    shade: str
    rgb: tuple[float, float, float]

    @property
    def array(self) -> Field:
        return field(self.rgb)


def draw_colour(rng: Rng, names: tuple[str, ...] = tuple(NAMED), *, shades: bool = True) -> Colour:
    """One of ``names``, a little off its centre, sometimes a shade of it."""
    name = names[int(rng.integers(len(names)))]
    shade = ""
    if shades and name in SHADED and rng.random() < 0.3:
        shade = tuple(SHADES)[int(rng.integers(3))]
    rgb = field(NAMED[name]) / 255
    if shade == "light":
        rgb = rgb * 0.5 + 0.48
    elif shade == "dark":
        rgb = rgb * 0.52
    elif shade == "bright":
        rgb = rgb.mean() + (rgb - rgb.mean()) * 1.3 + 0.04
    rgb = rgb * rng.uniform(0.95, 1.05) + rng.normal(0, 0.012, 3)
    red, green, blue = (float(np.clip(value, 0.01, 0.99)) for value in rgb)
    return Colour(name, shade, (red, green, blue))


def any_rgb(rng: Rng) -> Field:
    """Any colour at all, for what captions do not name."""
    hsv = field([[[rng.uniform(0, 360), rng.uniform(0, 1) ** 0.8, rng.uniform(0.12, 1)]]])
    return field(field(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))[0, 0])
