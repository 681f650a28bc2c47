"""Learning rates."""

from __future__ import annotations

import math


def warm_cosine(step: int, *, steps: int, warm_up: int, peak: float, floor: float = 0.02) -> float:
    """A straight rise to ``peak`` in ``warm_up`` steps, then half a cosine down to ``floor`` × ``peak`` at ``steps``."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    share = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))
