"""Item 5: whole pictures, ours and the stock pipeline's in alternation, uncompiled; and several of ours at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import chain, count
from typing import Any

from scripts.gpu_facts.device import seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, Stepping, paint
from scripts.stock import run_stock
from worker.engines.base import PaintRequest
from worker.engines.diffusion.engine import DiffusionEngine

STEPS = {"sd15": 50, "sdxl": 30}
TURNS, PICTURES = 2, 3
TIMED_STEPS = 8
AT_ONCE = (1, 2, 4, 8)


def run(stage: Stage, findings: Findings) -> None:
    """One picture alone for both families first: they decide most; then several at once."""
    engines: dict[str, DiffusionEngine] = {}
    for family in FAMILIES:
        with findings.part(f"{family}_alone"):
            engines[family] = stage.shipped(INPAINT[family])
            stock = stage.stock(INPAINT[family])
            alternate(stage, findings, family, "eager", partial(ours, engines[family]), partial(theirs, stock))
    for family, engine in engines.items():
        with findings.part(f"{family}_at_once"):
            _at_once(stage, findings, family, engine)


def ours(engine: DiffusionEngine, request: PaintRequest) -> None:
    """One picture by the engine."""
    paint(engine, [request])


def theirs(stock: Any, request: PaintRequest) -> None:
    """One picture by the stock pipeline."""
    run_stock(stock, request, output_type="np")


def alternate(
    stage: Stage,
    findings: Findings,
    family: str,
    mode: str,
    outfill: Callable[[PaintRequest], object],
    stock: Callable[[PaintRequest], object],
    *,
    same_order: bool = False,
) -> None:
    """A/B/A/B: medians of both sides, how far each side's turns lie apart, and ours over theirs. No picture is painted twice by a side.

    ``same_order``: both run with channels last, as what is compiled is compiled for one order.
    """
    sides = {"outfill": (outfill, True), "stock": (stock, same_order)}
    numbers = {side: count(1) for side in sides}

    def picture_s(side: str) -> float:
        request = stage.request(INPAINT[family], seed=next(numbers[side]), steps=STEPS[family])
        return seconds_of(stage.device, partial(sides[side][0], request))

    seconds: dict[str, list[list[float]]] = {side: [] for side in sides}
    for turn in range(TURNS):
        for side, (_, channels_last) in sides.items():
            stage.arrange(INPAINT[family], channels_last=channels_last)
            with stage.stock_attention(INPAINT[family]) if side == "stock" else nullcontext():
                if turn == 0:  # later the libraries know both orders
                    findings.add(f"{family}_{side}_{mode}_first_picture_s", picture_s(side))
                seconds[side].append([picture_s(side) for _ in range(1 if stage.rehearsal else PICTURES)])
            turns = [statistics.median(each) for each in seconds[side]]
            findings.add(f"{family}_{side}_{mode}_picture_s", statistics.median(chain.from_iterable(seconds[side])))
            findings.add(f"{family}_{side}_{mode}_spread_share", (max(turns) - min(turns)) / min(turns))
    medians = {side: statistics.median(chain.from_iterable(each)) for side, each in seconds.items()}
    findings.add(f"{family}_outfill_over_stock_{mode}_ratio", medians["outfill"] / medians["stock"])
    stage.arrange(INPAINT[family], channels_last=True)


def _at_once(stage: Stage, findings: Findings, family: str, engine: DiffusionEngine) -> None:
    """Pictures a second and the step, by pictures at once. Each number of rows is painted briefly first."""
    kind, steps = INPAINT[family], stage.steps(STEPS[family])
    for pictures in AT_ONCE:
        paint(engine, [stage.request(kind, seed=seed, steps=2) for seed in range(pictures)])
        step = Stepping(engine, [stage.request(kind, seed=seed, steps=steps) for seed in range(pictures)])
        step()
        step_ms = statistics.median(seconds_of(stage.device, step) for _ in range(TIMED_STEPS)) * 1e3
        findings.add(f"{family}_{pictures}_at_once_step_ms", step_ms)
        stage.device.empty()
        held_gib = stage.device.allocated_gib()
        fresh = [stage.request(kind, seed=100 * pictures + seed, steps=steps) for seed in range(pictures)]
        whole = seconds_of(stage.device, partial(paint, engine, fresh))
        findings.add(f"{family}_{pictures}_at_once_pictures_per_s", pictures / whole)
        findings.add(f"{family}_{pictures}_at_once_beside_weights_gib", stage.device.peak_gib() - held_gib)
