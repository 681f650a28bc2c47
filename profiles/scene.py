"""The product in a picture and the background around it, and how white that is.

Where a matte is given, or the file has transparency of its own, that tells the two apart. Otherwise the background is what is connected to the
picture's border and of nearly its colour: it is found where it is plain, as it is in most product pictures, and a white product on white is
taken for background as far as it is as white. Where the border has no such colour (a room, a table) product and background are unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce

from PIL import Image, ImageChops, ImageFilter, ImageStat

from profiles.picture import Picture

NEAR = 15
"""Levels by which a pixel of a plain background may differ from the border's median, in each channel: noise, JPEG, uneven light."""
PLAIN = 0.5
"""Share of the border's pixels that must be near their median, for a background to be plain: a product that is cut covers the rest."""
EDGE = 16
"""Pixels around the product in which a JPEG whose colours are halved (4:2:0) holds its edge, and does not keep white."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom: the pixels of ``Image.crop``."""
_OPAQUE = 128
_CLEAR = 16  # strength of a matte up to which a pixel is background: the fringe of a segmenter
_FULL = 255
_RUN = re.compile(rb"\xff+")


@dataclass(frozen=True, eq=False)
class Scene:
    """Which pixels are background."""

    ground: Image.Image
    """Mode L: 255 is background, 0 is not."""
    box: Box | None
    """Around the product; ``None`` where there is none."""
    is_given: bool
    """Whether a matte or the file's transparency said so, and not the colours."""


def scene(picture: Picture, matte: Image.Image | None = None) -> Scene | None:
    """The product and its background; ``matte`` has the picture's size, mode L, 255 = product. None where neither can be told."""
    if matte is None and picture.alpha is not None and lowest_of(picture.alpha) == 0:
        matte = picture.alpha
    if matte is not None:
        product = matte.point([0] * _OPAQUE + [_FULL] * (_FULL + 1 - _OPAQUE))
        return Scene(matte.point([_FULL] * (_CLEAR + 1) + [0] * (_FULL - _CLEAR)), product.getbbox(), is_given=True)
    near = near_colour(picture.rgb, border_colour(picture.rgb))
    if share(border_of(near)) < PLAIN:
        return None
    ground = connected_to_border(near)
    return Scene(ground, _box(ImageChops.invert(ground)), is_given=False)


def border_of(image: Image.Image) -> Image.Image:
    """The outermost pixels of a picture, as one row."""
    width, height = image.size
    sides = [image.crop((0, 0, width, 1)), image.crop((0, height - 1, width, height))]
    sides += [image.crop((x, 0, x + 1, height)).transpose(Image.Transpose.ROTATE_90) for x in (0, width - 1)]
    row = Image.new(image.mode, (sum(side.width for side in sides), 1))
    for number, side in enumerate(sides):
        row.paste(side, (sum(each.width for each in sides[:number]), 0))
    return row


def border_colour(image: Image.Image) -> tuple[int, ...]:
    """The median of the outermost pixels, channel by channel."""
    return tuple(int(value) for value in ImageStat.Stat(border_of(image)).median)


def near_colour(image: Image.Image, colour: tuple[int, ...], within: int = NEAR) -> Image.Image:
    """Mode L: 255 where every channel is ``within`` so many levels of ``colour``, else 0."""
    channels = zip(image.split(), colour, strict=True)
    return reduce(
        ImageChops.darker,
        (channel.point([_FULL * (abs(level - value) <= within) for level in range(_FULL + 1)]) for channel, value in channels),
    )


def share(mask: Image.Image) -> float:
    """Share of pixels that are 255 in a mask of mode L."""
    return mask.histogram()[_FULL] / (mask.width * mask.height)


_Run = tuple[int, int, int]  # of one row: from, up to, and a label


class _Labels:
    """Numbers of regions, of which some turn out to be one. 0 is the border's."""

    def __init__(self) -> None:
        self._parents = [0]

    def new(self) -> int:
        self._parents.append(len(self._parents))
        return len(self._parents) - 1

    def root(self, label: int) -> int:
        parents = self._parents
        while parents[label] != label:
            parents[label] = label = parents[parents[label]]
        return label

    def join(self, one: int, other: int) -> int:
        """The two are one region; its number."""
        low, high = sorted((self.root(one), self.root(other)))
        self._parents[high] = low
        return low


def connected_to_border(mask: Image.Image) -> Image.Image:
    """What of a mask (mode L, 255 and 0) is connected to the border by its 255, along rows and columns.

    Runs of a row are joined to those of the row before (Rosenfeld and Pfaltz 1966), so that a plain background costs a step a row.
    """
    width, height, data, labels = *mask.size, mask.tobytes(), _Labels()
    rows: list[list[_Run]] = []
    for y in range(height):
        spans = ((match.start() - y * width, match.end() - y * width) for match in _RUN.finditer(data, y * width, (y + 1) * width))
        on_border = y in (0, height - 1)
        begun = [(start, end, 0 if on_border or start == 0 or end == width else labels.new()) for start, end in spans]
        rows.append(_joined(begun, rows[-1] if rows else [], labels))
    connected = bytearray(width * height)
    for y, runs in enumerate(rows):
        for start, end, label in runs:
            if labels.root(label) == 0:
                connected[y * width + start : y * width + end] = data[y * width + start : y * width + end]
    return Image.frombytes("L", mask.size, bytes(connected))


def _joined(runs: list[_Run], above: list[_Run], labels: _Labels) -> list[_Run]:
    """The runs of a row with the labels of those that they touch in the row ``above``."""
    joined, first = [], 0
    for start, end, own in runs:
        label = own
        while first < len(above) and above[first][1] <= start:
            first += 1
        other = first
        while other < len(above) and above[other][0] < end:
            label = labels.join(label, above[other][2])
            other += 1
        joined.append((start, end, label))
    return joined


def _box(product: Image.Image) -> Box | None:
    """Around what is 255, without specks of one or two pixels (dust, noise) unless there is nothing else."""
    core = product.filter(ImageFilter.MinFilter(3)).getbbox()
    if core is None:
        return product.getbbox()
    left, top, right, bottom = core
    return max(left - 1, 0), max(top - 1, 0), min(right + 1, product.width), min(bottom + 1, product.height)


def white_shares(picture: Picture, found: Scene | None, *, or_transparent: bool) -> tuple[float, float]:
    """Shares of the background's pixels, and of the picture's outermost, that are pure white, or wholly transparent where that is as good.

    Of the background those within ``EDGE`` of the product are left out, unless there are no others; without a scene the border tells of both.
    """
    pure = near_colour(picture.rgb, (_FULL, _FULL, _FULL), within=0)
    if picture.alpha is not None:
        opaque = picture.alpha.point([0] * _FULL + [_FULL])
        pure = ImageChops.darker(pure, opaque)
        if or_transparent:
            pure = ImageChops.lighter(pure, picture.alpha.point([_FULL] + [0] * _FULL))
    if found is None:
        return share(border_of(pure)), share(border_of(pure))
    border = border_of(found.ground)
    on_border = ImageChops.darker(border_of(pure), border)
    ground = found.ground
    # A mean of 17 × 17 pixels is 255 only where all are: one that is 0 takes 0.9 away. Twice is 16 pixels.
    for _ in range(EDGE // 8):
        ground = ground.filter(ImageFilter.BoxBlur(8)).point([0] * _FULL + [_FULL])
    if not ground.getbbox():
        ground = found.ground
    return _of(ImageChops.darker(pure, ground), ground), _of(on_border, border)


def _of(part: Image.Image, whole: Image.Image) -> float:
    count = whole.histogram()[_FULL]
    return part.histogram()[_FULL] / count if count else 0.0


def lowest_of(channel: Image.Image) -> int:
    """The lowest level in a picture of mode L."""
    return next(level for level, count in enumerate(channel.histogram()) if count)
