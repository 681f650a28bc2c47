"""The painters, and which of them paint which edits.

- *perfect*: kept pixels exactly as shown, and inside what was asked for (``fills``: plain, textured, an object). Nothing of it may be changed.
- *truth*: the photo's own content everywhere. A continuing edit may be corrected more than a prompted one, but not this one.
- *grained*: perfect, or the truth, as a decoder renders it. Nothing of it may be changed either.
- *shifted*: perfect, or the truth, and one change of colour all over, which is to be found on the kept pixels and taken back inside.
- *rimmed*: perfect, or the truth, and a line along the border that is off both sides. The report must not pass it.
- *stepped*: a step along the border of a continuing edit; for prompted edits, where a step may be the wish, kept pixels repainted wrong in a way
  that tells nothing about the inside. The report must not pass them.

An extension goes on with its photo, with a prompt too (decision 14): beside it a plain strip is a band along all of the old border, so that new content
of an ``outpaint`` is the true photo with an object that does not reach the border.

"Exactly" is meant at the model's size: what the crop loses by being scaled there and back is the crop's doing, and so all outputs are
compared with the painter's pixels scaled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from api_schemas.requests import Operation
from scripts.planted import fills
from scripts.planted.borders import Rim, Step
from scripts.planted.fills import GROUPS
from scripts.planted.flaws import Flaw, Grain, Shift, Shown, Stripes
from scripts.planted.scenes import BACKGROUND, Kind, Scene
from worker.images.crop import take

Array = npt.NDArray[np.uint8]
SHIFTS = {
    "shifted, offset": [Shift(offset=offset) for offset in ((10, 0, 0), (0, -10, 0), (0, 0, 10), (-10, 0, 0), (0, 10, 0), (0, 0, -10))],
    "shifted, gain": [Shift(gain=gain) for gain in ((0.9, 0.9, 0.9), (1.1, 1.0, 0.9), (1.1, 1.1, 1.1), (0.9, 1.0, 1.1))],
    "shifted, gamma": [Shift(gamma=gamma) for gamma in (0.9, 1.1)],
}
"""Variants take turns by photo."""
RIMS = [
    Rim(style, width)
    for style, width in (("light", 2), ("dark", 3), ("tint0", 4), ("dark", 2), ("light", 5), ("tint2", 2), ("light", 3), ("dark", 6))
]
_RIM_LEVELS = (12.0, 18.0, 30.0)
STEPS = [Step((float(levels), float(levels), float(levels))) for levels in (9, -9, 14, -14, 20)] + [
    Step((14, 0, -14)),
    Step((-9, 9, 0)),
    Step((0, 0, 18)),
]
STRIPES = [Stripes(levels) for levels in (8, 12, 20)]


@dataclass(frozen=True)
class Painter:
    """A model that means one picture and makes at most one error."""

    name: str
    fill: str
    wanted: Callable[[Scene], Array]
    flaw: Flaw | None = None

    def paint(self, shown: Shown) -> Array:
        """Pixels of the request's size, ``uint8 (h, w, 3)``."""
        clean = self.meant(shown)
        return clean if self.flaw is None else self.flaw.spoil(shown, clean)

    def meant(self, shown: Shown) -> Array:
        """The same without the error: kept pixels as shown, inside what was wanted."""
        wanted = take(_canvas(self.wanted, shown.scene), shown.region.crop)
        return np.where(shown.inside[..., None], wanted, shown.request.image)


@lru_cache(maxsize=16)
def _canvas(wanted: Callable[[Scene], Array], scene: Scene) -> Array:
    return wanted(scene)


def painters(kind: Kind, number: int) -> Iterator[Painter]:
    """Those that paint an edit of ``kind`` of the photo of this ``number``, with the variants whose turn it is."""
    yield Painter("truth", "truth", fills.truth)
    yield Painter("grained", "truth", fills.truth, Grain())
    names = ["disc"] if kind.operation is Operation.OUTPAINT else list(fills.WANTED)
    if not kind.continues:
        for name in names:
            yield Painter("perfect", name, fills.WANTED[name])
        yield _varied("grained", names[number % len(names)], Grain())
    for turn, (name, variants) in enumerate(SHIFTS.items()):
        flaw = variants[number % len(variants)]
        yield Painter(name, "truth", fills.truth, flaw)
        if not kind.continues:
            yield _varied(name, names[(number + turn + 1) % len(names)], flaw)
    rim = RIMS[number % len(RIMS)]
    rim = Rim(rim.style, rim.width, _RIM_LEVELS[number % len(_RIM_LEVELS)])
    if kind is not BACKGROUND:
        yield Painter("rimmed", "truth", fills.truth, rim)
    if kind.continues:
        yield Painter("stepped", "truth", fills.truth, STEPS[number % len(STEPS)])
    else:
        # Behind a product nothing else is painted that stands out: the report would tell of that. Nor does the report judge there how the product was rendered.
        some = names if kind is not BACKGROUND else [name for name in names if GROUPS[name] != "object"]
        yield _varied("rimmed", some[(number + 2) % len(some)], rim)
        if kind is not BACKGROUND:
            yield _varied("stepped", some[(number + 3) % len(some)], STRIPES[number % len(STRIPES)])


def _varied(name: str, fill: str, flaw: Flaw) -> Painter:
    return Painter(name, fill, fills.WANTED[fill], flaw)
