"""Checkpoints: written whole or not at all, the last two kept.

Batches, noise and captions of a step are drawn from (seed, stage, step) alone, so a checkpoint needs no state of any random
generator: a run that was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from training.studio.store import write_whole

KEPT = 2


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write ``state`` as the checkpoint after ``step`` steps."""
    write_whole(folder / f"step-{step:07d}.pt", lambda path: torch.save({**state, "step": step}, path))
    for old in sorted(folder.glob("step-*.pt"))[:-KEPT]:
        old.unlink()


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint, or ``None``."""
    files = sorted(folder.glob("step-*.pt"))
    if not files:
        return None
    state: dict[str, Any] = torch.load(files[-1], map_location="cpu", weights_only=True)
    return state


def is_done(work: Path, stage: str, steps: int) -> bool:
    """Whether ``stage``, which saves in the folder of its name, has done ``steps``."""
    return max((int(file.stem.removeprefix("step-")) for file in (work / stage).glob("step-*.pt")), default=-1) >= steps


def of_stage(work: Path, stage: str, steps: int = 0) -> dict[str, Any]:
    """The newest checkpoint of ``stage``. Raises ``FileNotFoundError`` before it has done ``steps``."""
    state = newest(work / stage) if is_done(work, stage, steps) else None
    if state is None:
        raise FileNotFoundError(f"the stage `{stage}` is not finished in {work}: run it first")
    return state


def step_rngs(seed: int, stage: int, step: int, device: str = "cpu") -> tuple[np.random.Generator, torch.Generator]:
    """The generators of one step, the same whenever it is run; torch's for ``device``, each kind of which has its own numbers."""
    rng = np.random.default_rng([seed, stage, step])
    return rng, torch.Generator(device).manual_seed(int(rng.integers(2**62)))


class Stopper:
    """True after SIGTERM or SIGINT: the loop then saves and ends."""

    def __init__(self) -> None:
        self.stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopped = True
