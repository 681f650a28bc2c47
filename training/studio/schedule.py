"""Learning rates."""

from __future__ import annotations

import math


def warm_cosine(step: int, *, steps: int, warm_up: int, peak: float, floor: float = 0.02) -> float:
    """A straight rise to ``peak`` in ``warm_up`` steps, then half a cosine down to ``floor`` × ``peak`` at ``steps``."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    share = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def warm_plateau(step: int, *, steps: int, warm_up: int, decay: int, peak: float, floor: float = 0.02) -> float:
    """A straight rise to ``peak`` in ``warm_up`` steps, level, and over the last ``decay`` of ``steps`` a straight fall to ``floor`` × ``peak``.

    Before the fall it does not depend on ``steps``: a run can be made longer while it goes on (Hu et al. 2024, arXiv 2404.06395, WSD).
    """
    rise, fall = (step + 1) / max(1, warm_up), (steps - step) / max(1, decay)
    return peak * max(floor, min(1.0, rise, fall))
