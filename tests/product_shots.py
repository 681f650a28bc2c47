"""Product pictures, drawn to be as a rule asks, or not."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Shot:
    """A round product on a plain background."""

    width: int = 400
    height: int = 400
    fill: float = 0.88
    """Diameter of the product over the shorter side."""
    ground: Colour = WHITE
    at: tuple[float, float] = (0.5, 0.5)
    """Of its middle, as shares of width and height."""

    def draw(self) -> Image.Image:
        """Mode RGB, with a soft edge and detail that a JPEG must work at."""
        size = round(min(self.width, self.height) * self.fill)
        mask = Image.new("L", (4 * size, 4 * size))
        ImageDraw.Draw(mask).ellipse((0, 0, 4 * size - 1, 4 * size - 1), fill=255)
        noise = Image.effect_noise((size, size), 60).filter(ImageFilter.BoxBlur(1))
        product = Image.merge("RGB", (noise.point(lambda level: level // 2), noise.point(lambda level: level // 3), noise))
        picture = Image.new("RGB", (self.width, self.height), self.ground)
        place = (round(self.width * self.at[0] - size / 2), round(self.height * self.at[1] - size / 2))
        picture.paste(product, place, mask.resize((size, size), Image.Resampling.LANCZOS))
        return picture


def cut_out(width: int = 400, height: int = 400, fill: float = 0.88) -> Image.Image:
    """Mode RGBA: the product of a ``Shot`` on nothing."""
    size = round(min(width, height) * fill)
    alpha = Image.new("L", (width, height))
    left, top = (width - size) // 2, (height - size) // 2
    ImageDraw.Draw(alpha).ellipse((left, top, left + size - 1, top + size - 1), fill=255)
    picture = Shot(width, height, fill).draw()
    picture.putalpha(alpha)
    return picture
