"""In which numbers is computed: bfloat16 where the processor has instructions for it, a third of the time; elsewhere it is emulated, a hundredfold."""

from __future__ import annotations

from functools import cache

import torch

from worker.engines.device import read_device


def autocast(device: str = "cpu") -> torch.autocast:
    """bfloat16 for what may be computed in it, if ``device`` is fast at it."""
    return torch.autocast(device, torch.bfloat16, enabled=_fast(device))


@cache
def _fast(device: str) -> bool:
    return read_device(device).bfloat16
