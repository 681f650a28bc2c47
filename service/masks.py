"""Masks at the door: what their pixels can mean, and whether they have room to grow.

Strengths are read by the worker's rule (worker/images/codec.py); tests/service/test_masks.py holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from PIL import Image, ImageChops, ImageOps

from api_schemas.errors import MaskEmpty, MaskFaint, MaskFull, MaskHasNoAlpha
from api_schemas.requests import MaskOptions, Polarity

KEPT = 16
"""Strengths up to this keep a pixel: JPEG's black.

A mask must keep one. Where its least strength is higher, every pixel of the picture would change a little: it has a grey ground, or is no mask.
"""
EDITED = 239
"""Strengths from this on edit a pixel wholly: JPEG's white.

A mask must have one. Between the two lie soft edges, brushes and gradients, which count as they are; but where nothing at all is wholly edited
the old content shines through all of the new, which is no edit that anybody draws a mask for. Such masks are drawn in a colour (red has a luma
of 76, green of 150), have another range of values (labels 0 and 1, video's 16 to 235, 8 bits in a file of 16), or were drawn with
a brush of less than full opacity. Who does want a fill that is half seen lays ``layers.fill`` over the photo by himself.
"""
_FULL = 255
_BRIGHTNESS = ("darkest", "lightest"), ("black", "white")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # of a TIFF
_FIRST_NEGATIVE = 2**31  # of 32 unsigned bits, which Pillow's 32 are not


@dataclass(frozen=True)
class Channel:
    """The part of a mask's file that tells what is edited."""

    image: Image.Image
    """Mode L, 255 at the file's high end."""
    lowest: int
    """In the file's own numbers."""
    highest: int
    scale: int = _FULL
    """The highest number that the file could hold."""
    of_alpha: bool = False
    note: str = ""

    def described(self, *, low_counts: bool = False, what: str = "edited") -> str:
        """The end of the scale that is ``what``, and the pixels that are nearest to it and furthest from it."""
        names, ends = (("most transparent", "most opaque"), ("clear", "opaque")) if self.of_alpha else _BRIGHTNESS
        pixels = list(zip(names, ends, (self.lowest, self.highest), (0, self.scale), strict=True))
        (name, end, value, full), (other, _, least, _) = pixels if low_counts else reversed(pixels)
        return f"{end} ({full}) is {what}, and the {name} pixel is {value} of {self.scale}, the {other} {least}{self.note}"


def check_meaning(image: Image.Image, options: MaskOptions, growth_px: int = 0) -> bool:
    """Refuse a decoded mask that does not say what is edited and what is kept. ``True`` if it keeps something when it grows by ``growth_px``.

    Raises ``MaskEmpty``, ``MaskFull``, ``MaskFaint`` and ``MaskHasNoAlpha``.
    """
    by_alpha = options.polarity is Polarity.ALPHA
    if by_alpha and not image.has_transparency_data:
        raise MaskHasNoAlpha("the mask has no alpha channel; see mask_options.polarity")
    channel, low_edits = _alpha(image) if by_alpha else _luma(image), (options.polarity is not Polarity.WHITE_EDITS) != options.invert
    strengths = ImageOps.invert(channel.image) if low_edits else channel.image
    lowest, highest = _extrema(strengths)
    found = channel.described(low_counts=low_edits)
    if highest <= KEPT:
        raise MaskEmpty(f"the mask marks nothing: {found}{_other_way(image, by_alpha=by_alpha)}")
    if lowest >= EDITED:
        raise MaskFull(f"the mask marks everything: {found}{_other_way(image, by_alpha=by_alpha)}")
    if highest < EDITED:
        raise MaskFaint(f"no pixel of the mask is wholly marked: {found}")
    if lowest > KEPT:
        raise MaskFull(f"no pixel of the mask is kept: {found}")
    return _has_room(strengths, growth_px)


def check_product(image: Image.Image) -> None:
    """Refuse a decoded mask that does not say where the product is and where it is not. Its alpha is read where some of that is below ``EDITED``,
    and may be faint everywhere: so are products of glass.

    Raises ``MaskEmpty``, ``MaskFull`` and ``MaskFaint``.
    """
    alpha = _alpha(image) if image.has_transparency_data else None
    by_alpha = alpha is not None and alpha.lowest < EDITED
    channel = alpha if alpha is not None and by_alpha else _luma(image)
    lowest, highest = _extrema(channel.image)
    found = channel.described(what="product")
    if highest <= KEPT:
        raise MaskEmpty(f"the mask marks no product: {found}{_other_channel(image, by_alpha=by_alpha)}")
    if highest < EDITED and not by_alpha:
        raise MaskFaint(f"no pixel of the mask is wholly product: {found}")
    if lowest > KEPT:
        raise MaskFull(f"no pixel of the mask is background: {found}{_other_channel(image, by_alpha=by_alpha)}")


def _other_way(image: Image.Image, *, by_alpha: bool) -> str:
    """A hint at the option by which the channel would be read that is not."""
    hint = _other_channel(image, by_alpha=by_alpha)
    return f"{hint}: see mask_options.polarity" if hint else ""


def _other_channel(image: Image.Image, *, by_alpha: bool) -> str:
    """A hint at the channel that is not read, where that would make a mask. Inverting what is all of one value would not."""
    if by_alpha:
        other = _luma(image)
    elif image.has_transparency_data:
        other = _alpha(image)
    else:
        return ""
    lowest, highest = _extrema(other.image)
    usable = lowest <= KEPT and highest >= EDITED
    return f"; its {'brightness' if by_alpha else 'alpha'} has both" if usable else ""


def _alpha(image: Image.Image) -> Channel:
    alpha = image.convert("RGBA").getchannel("A")
    return Channel(alpha, *_extrema(alpha), of_alpha=True)


def _luma(image: Image.Image) -> Channel:
    if image.mode.startswith("I"):
        return _deep(image)
    if image.mode == "L":
        return Channel(image, *_extrema(image))
    colours = image.convert("RGB")
    luma = colours.convert("L")
    coloured = len(set(cast("tuple[tuple[int, int], ...]", colours.getextrema()))) > 1
    return Channel(luma, *_extrema(luma), note="; a colour counts by its brightness" if coloured else "")


def _deep(image: Image.Image) -> Channel:
    """Integers of more than 8 bits: the high byte of 16 counts, of 12 the high 8."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    scale = 4095 if tags.get(_BITS, (16,))[0] == 12 else 65535
    numbers = image.convert("I")
    lowest, highest = _extrema(numbers)
    high = numbers.point(lambda value: value * ((_FULL + 1) / (scale + 1))).convert("L")
    if lowest < 0 and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
        # Unsigned ones of 32 bits, in Pillow's signed: the negative are the largest. The line is 1 and more for those alone.
        largest = numbers.point(lambda value: value * (-1 / _FIRST_NEGATIVE) + (1 - 0.5 / _FIRST_NEGATIVE)).convert("L")
        high = ImageChops.lighter(high, largest.point(lambda value: value * _FULL))
        lowest, highest = (scale if highest < 0 else 0), scale
    lowest, highest = (min(max(value, 0), scale) for value in (lowest, highest))
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero
        return Channel(ImageOps.invert(high), scale - highest, scale - lowest, scale)
    return Channel(high, lowest, highest, scale)


def _extrema(channel: Image.Image) -> tuple[int, int]:
    lowest, highest = cast("tuple[float, float]", channel.getextrema())
    return int(lowest), int(highest)


def _has_room(strengths: Image.Image, px: int) -> bool:
    """Whether a pixel is kept that has only kept ones within ``px`` rows and columns; beyond the picture's border all are."""
    kept, side = strengths.point([_FULL] * (KEPT + 1) + [0] * (_FULL - KEPT)), 2 * px + 1
    width, height = (length - length % side for length in kept.size)
    if width and height and _extrema(kept.reduce(side, (0, 0, width, height)))[1] == _FULL:  # a quick look, which suffices for most
        return True
    kept = ImageOps.expand(kept, px, _FULL)
    for across in (True, False):
        reach = 1
        while reach < side:  # each pixel is the least of ``reach``
            step = min(reach, side - reach)
            right, bottom = kept.width - step * across, kept.height - step * (not across)
            further = kept.crop((step * across, step * (not across), kept.width, kept.height))
            kept, reach = ImageChops.darker(kept.crop((0, 0, right, bottom)), further), reach + step
    return _extrema(kept)[1] == _FULL
