"""The loop that the autoencoder, the text encoder and the judge are trained in: it stops at a signal and goes on from a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.studio import checkpoint
from training.studio.recipe import Recipe
from training.studio.schedule import warm_cosine


@dataclass(frozen=True)
class Run:
    """What is trained, for how many ``steps``, at which ``peak`` of the rate, reached after ``warm_up`` steps."""

    name: str
    folder: Path
    model: torch.nn.Module
    optimiser: torch.optim.Optimizer
    steps: int
    peak: float
    warm_up: int


def train(
    run: Run,
    recipe: Recipe,
    log: Callable[[str], None],
    learn: Callable[[int], dict[str, float]],
    show: Callable[[int], None] = lambda _done: None,
) -> bool:
    """Call ``learn(step)``, which takes one step and tells its figures, until all are done; ``show(done)`` follows each.

    False if it was told to stop before the end.
    """
    start = 0
    if state := checkpoint.newest(run.folder):
        run.model.load_state_dict(state["model"])
        run.optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    stopper = checkpoint.Stopper()
    figures: list[dict[str, float]] = []
    since = time.monotonic()
    for step in range(start, run.steps):
        for group in run.optimiser.param_groups:
            group["lr"] = warm_cosine(step, steps=run.steps, warm_up=min(run.warm_up, run.steps), peak=run.peak)
        figures.append(learn(step))
        done = step + 1
        if done % recipe.log_every == 0:
            means = ", ".join(f"{name} {np.mean([each[name] for each in figures]):.4f}" for name in figures[0])
            log(f"{run.name} {done} of {run.steps}: {means}, {(time.monotonic() - since) / len(figures):.3f} s")
            figures, since = [], time.monotonic()
        if done % recipe.checkpoint_every == 0 or done == run.steps or stopper.stopped:
            checkpoint.save(run.folder, done, {"model": run.model.state_dict(), "optimiser": run.optimiser.state_dict()})
        show(done)
        if stopper.stopped:
            return False
    return True
