"""The backdrop engine."""

from __future__ import annotations

import numpy as np
import pytest
from painting import begun

from api_schemas.requests import ColorBackground, PictureBackground, Shadow
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Backdrop, Engine, PaintRequest, Slot

WHITE = ColorBackground(color="#ffffff")


def request(recipe: Backdrop | None) -> PaintRequest:
    """A product in the middle of a frame; the mask marks what is around it."""
    mask = np.full((90, 120), 255, np.uint8)
    mask[20:70, 40:80] = 0
    return PaintRequest(np.zeros((90, 120, 3), np.uint8), mask, 0, recipe)


def test_background_only() -> None:
    """The result is the background alone, at the request's size: the product is composited later."""
    engine: Engine = BackdropEngine()
    slot = begun(engine, request(Backdrop(WHITE, None)))
    assert not slot.done
    engine.step([slot])
    assert slot.done
    (pixels,) = engine.finish([slot])
    assert pixels.shape == (90, 120, 3)
    assert (pixels == 255).all()


def test_shadow_is_under_the_product() -> None:
    """The shadow is that of what the mask keeps."""
    engine = BackdropEngine()
    slot = begun(engine, request(Backdrop(WHITE, Shadow())))
    engine.step([slot])
    (pixels,) = engine.finish([slot])
    assert pixels[71, 60, 0] < 200
    assert (pixels[:40] == 255).all()


def test_a_failing_row_fails_alone() -> None:
    """A picture that was not given is that row's error, and its neighbour is painted."""
    engine = BackdropEngine()
    bad = begun(engine, request(Backdrop(PictureBackground(image="file:x"), None)))
    good = begun(engine, request(Backdrop(WHITE, None)))
    engine.step([bad, good])
    assert isinstance(bad.error, ValueError)
    assert good.error is None
    assert len(engine.finish([good])) == 1
    with pytest.raises(ValueError, match="not done"):
        engine.finish([bad])


def test_recipe_is_needed() -> None:
    """A request without a backdrop recipe, or a slot of another engine, is refused."""
    engine = BackdropEngine()
    with pytest.raises(TypeError, match="NoneType"):
        begun(engine, request(None))
    slot = Slot(request(None), steps=1)
    engine.step([slot])
    assert isinstance(slot.error, TypeError)
