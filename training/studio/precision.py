"""In which numbers is computed: bfloat16 where the processor has instructions for it, a third of the time; elsewhere it is emulated, a hundredfold."""

from __future__ import annotations

from functools import cache

import torch

from worker.tuning import read_device


def autocast() -> torch.autocast:
    """bfloat16 for what may be computed in it, if this CPU is fast at it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=_fast())


@cache
def _fast() -> bool:
    return read_device("cpu").bfloat16
