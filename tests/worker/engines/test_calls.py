"""Every engine counts its model calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painting import begun, request_for

from api_schemas.requests import ColorBackground
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Backdrop, Engine, PaintRequest
from worker.engines.exemplar import ExemplarEngine
from worker.engines.registry import build_engine, discover

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

MASK = np.zeros((64, 64), np.uint8)
MASK[20:40, 20:40] = 255
PLAIN = PaintRequest(np.full((64, 64, 3), 90, np.uint8), MASK, 1)
WHITE = PaintRequest(PLAIN.image, MASK, 1, Backdrop(ColorBackground(color="#ffffff"), None))


def painted(engine: Engine, request: PaintRequest) -> int:
    """Paint ``request``; the number of its steps."""
    slot = begun(engine, request)
    while not slot.done:
        engine.step([slot])
    assert slot.error is None
    return int(slot.steps)


@pytest.mark.parametrize("kind", ["exemplar", "backdrop", "diffusion"])
def test_each_step_is_one_call(kind: str, tiny_model: Path) -> None:
    """An engine that compiles nothing counts one eager call for each step."""
    engines: dict[str, tuple[Engine, PaintRequest]] = {"exemplar": (ExemplarEngine(), PLAIN), "backdrop": (BackdropEngine(), WHITE)}
    engine, request = engines.get(kind) or (build_engine(discover({"tiny": tiny_model})[0], path=tiny_model), request_for())
    before = engine.calls.copy()
    steps = painted(engine, request)
    assert engine.calls - before == {"eager": steps}
