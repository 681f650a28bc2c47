"""Item 5: whole pictures, ours and the stock pipeline's in alternation, uncompiled; and several of ours at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from itertools import chain

from scripts.gpu_facts.device import seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, Stepping, paint
from scripts.stock import run_stock

STEPS = {"sd15": 50, "sdxl": 30}
TURNS, PICTURES = 2, 3
TIMED_STEPS = 8
AT_ONCE = (1, 2, 4, 8)


def run(stage: Stage, findings: Findings) -> None:
    """One picture alone for both families first: they decide most; then several at once."""
    for family in FAMILIES:
        with findings.part(f"{family}_alone"):
            alternate(stage, findings, family, "eager", *eager_sides(stage, family))
    for family in FAMILIES:
        with findings.part(f"{family}_at_once"):
            _at_once(stage, findings, family)


def eager_sides(stage: Stage, family: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """One picture by the engine and one by the stock pipeline, each in the order of weights that it is used in."""
    kind = INPAINT[family]
    engine, stock = stage.engine(kind), stage.stock(kind)
    request = stage.request(kind, steps=STEPS[family])

    def ours() -> object:
        return paint(engine, [request])

    def theirs() -> object:
        return run_stock(stock, request, output_type="np")

    return ours, theirs


def alternate(
    stage: Stage,
    findings: Findings,
    family: str,
    mode: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    same_order: bool = False,
) -> None:
    """A/B/A/B: medians of both sides, how far each side's turns lie apart, and ours over theirs.

    ``same_order``: both run with channels last, as what is compiled is compiled for one order.
    """
    sides = {"outfill": (ours, True), "stock": (theirs, same_order)}
    seconds: dict[str, list[list[float]]] = {side: [] for side in sides}
    for turn in range(TURNS):
        for side, (call, channels_last) in sides.items():
            stage.arrange(INPAINT[family], channels_last=channels_last)
            if turn == 0:  # later the libraries know both orders
                findings.add(f"{family}_{side}_{mode}_first_picture_s", seconds_of(stage.device, call))
            seconds[side].append([seconds_of(stage.device, call) for _ in range(1 if stage.rehearsal else PICTURES)])
            turns = [statistics.median(each) for each in seconds[side]]
            findings.add(f"{family}_{side}_{mode}_picture_s", statistics.median(chain.from_iterable(seconds[side])))
            findings.add(f"{family}_{side}_{mode}_spread_share", (max(turns) - min(turns)) / min(turns))
    medians = {side: statistics.median(chain.from_iterable(each)) for side, each in seconds.items()}
    findings.add(f"{family}_outfill_over_stock_{mode}_ratio", medians["outfill"] / medians["stock"])
    stage.arrange(INPAINT[family], channels_last=True)


def _at_once(stage: Stage, findings: Findings, family: str) -> None:
    """Pictures a second and the step, by pictures at once. Each number of rows is painted briefly first."""
    kind = INPAINT[family]
    engine, steps = stage.engine(kind), stage.steps(STEPS[family])
    for pictures in AT_ONCE:
        paint(engine, [stage.request(kind, seed=seed, steps=2) for seed in range(pictures)])
        requests = [stage.request(kind, seed=seed, steps=steps) for seed in range(pictures)]
        step = Stepping(engine, requests)
        step()
        step_ms = statistics.median(seconds_of(stage.device, step) for _ in range(TIMED_STEPS)) * 1e3
        findings.add(f"{family}_{pictures}_at_once_step_ms", step_ms)
        stage.device.empty()
        held_gib = stage.device.allocated_gib()
        whole = seconds_of(stage.device, partial(paint, engine, requests))
        findings.add(f"{family}_{pictures}_at_once_pictures_per_s", pictures / whole)
        findings.add(f"{family}_{pictures}_at_once_beside_weights_gib", stage.device.peak_gib() - held_gib)
