"""Paints the background from a recipe instead of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from api_schemas.models import BACKDROP, ModelCard
from worker.engines.base import Backdrop, PaintRequest, Pixels, Prepared, Reading, Slot, WarmUp
from worker.images.backdrop import apply_shadow, contact_shadow, render


@dataclass(eq=False)
class BackdropSlot(Slot):
    """A background being painted."""

    result: Pixels | None = None


class BackdropEngine:
    """A colour, gradient or picture the size of the frame, with the product's shadow on it. The product is not in it."""

    card: ModelCard = BACKDROP
    reentrant = True
    dtype: str | None = None
    max_rows: int = 1
    budget: float = 1.0

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def warm_up(self) -> WarmUp:
        """Nothing to warm."""
        return WarmUp()

    def read(self, _prompt: str, *, names_product: bool) -> Reading:  # noqa: ARG002 - the protocol's
        """Nothing is said of prompts: it is given none."""
        return Reading()

    def prepare(self, request: PaintRequest) -> Prepared:
        """Nothing to make. Raises ``TypeError`` where the recipe is not a ``Backdrop``."""
        if not isinstance(request.recipe, Backdrop):
            raise TypeError(f"the backdrop engine needs a Backdrop recipe, not {type(request.recipe).__name__}")
        return Prepared(request)

    def start(self, prepared: Sequence[Prepared]) -> list[Slot]:
        """Slots of one step."""
        return [BackdropSlot(each.request, steps=1) for each in prepared]

    def step(self, slots: Sequence[Slot]) -> None:
        """Paint every slot's background; a failing row sets ``slot.error``."""
        self.calls["eager"] += 1
        for slot in slots:
            try:
                self._paint(slot)
            except Exception as error:
                slot.error = error

    def finish(self, slots: Sequence[Slot]) -> list[Pixels]:
        """The backgrounds, ``uint8 (H, W, 3)`` at the size of each request's image."""
        return [_painted(slot) for slot in slots]

    def preview(self, slot: Slot) -> None:
        """None: it is painted in one step."""

    def _paint(self, slot: Slot) -> None:
        recipe = slot.request.recipe
        if not isinstance(slot, BackdropSlot) or not isinstance(recipe, Backdrop):
            raise TypeError("not a slot of this engine")
        height, width = slot.request.image.shape[:2]
        pixels = render((width, height), recipe.background, recipe.picture)
        if recipe.shadow is not None:
            pixels = apply_shadow(pixels, contact_shadow(255 - slot.request.mask, recipe.shadow))
        slot.result = pixels
        slot.position = slot.steps


def _painted(slot: Slot) -> Pixels:
    if not isinstance(slot, BackdropSlot) or slot.result is None:
        raise ValueError("the slot is not done")
    return slot.result
