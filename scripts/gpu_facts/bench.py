"""``make bench-gpu``: both halves, then the figures that have limits in one table, and in build/bench/gpu.json.

An item that broke is a failure. Without a GPU it is a rehearsal: the same code runs on the CPU, and no figure is claimed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from api_schemas.requests import Scheduler
from scripts.figures import exit_status, figure, write_figures
from scripts.gpu_facts.answers import CUT, Answers
from scripts.gpu_facts.catalogue import HALVES, ITEMS
from scripts.gpu_facts.items.parity import PLAIN_SAMPLERS
from scripts.gpu_facts.report import NOT_MEASURED
from scripts.gpu_facts.stage import FAMILIES
from scripts.gpu_facts.supervisor import supervise

BROKEN = ("failed", "deadline", CUT)
ANSWERS = Path("build/bench/gpu-facts.jsonl")
ABSOLUTE: Mapping[str, float] = {"sd15_picture_of_50_steps_s": 0.45, "sdxl_picture_of_30_steps_s": 1.40}
"""For an H100, and no slower card: what the engine is meant to reach there."""
ABSOLUTE_CARDS = ("H100", "H200")
LIMITS: Mapping[str, float] = {
    "sd15_over_stock_eager_ratio": 1.0,
    "sdxl_over_stock_eager_ratio": 1.0,
    "sd15_over_stock_compiled_ratio": 1.0,
    "sdxl_over_stock_compiled_ratio": 1.0,
    "sd15_time_per_picture_in_a_batch_over_alone_ratio": 0.8,  # published: 0.7 compiled, 0.4 as it is
    "sdxl_time_per_picture_in_a_batch_over_alone_ratio": 1.0,
    "sd15_alone_peak_gib": 4.0,
    "sdxl_in_8_peak_gib": 8.0,
}
MOST_LATENTS_ERROR = 0.05
"""Of our latents against the stock pipeline's in float16, whose kernels depend on the batch."""
PARITY: Mapping[str, float] = dict.fromkeys(
    (
        *(f"{family}_latents_in_company_error" for family in FAMILIES),
        *(f"sd15_{sampler}_latents_error" for sampler in Scheduler),
        *(f"sd15_of_4_channels_{sampler}_latents_error" for sampler in PLAIN_SAMPLERS),
    ),
    MOST_LATENTS_ERROR,
)
REHEARSAL_S = 300.0
"""For a rehearsal on two cores."""
Figures = Mapping[str, float | None]


def main() -> int:
    """Run, print, write; 1 if a limit does not hold or was not measured, or if an item broke."""
    rehearsal = not torch.cuda.is_available()
    ANSWERS.unlink(missing_ok=True)
    began = time.monotonic()
    for half in HALVES:
        arguments = ["--half", str(half), "--out", str(ANSWERS), *(["--rehearse"] if rehearsal else [])]
        if status := supervise(arguments):
            return status
    answers = Answers(ANSWERS)
    return _rehearsed(answers, time.monotonic() - began) if rehearsal else _measured(answers)


def limited(card: str, figures: Figures) -> dict[str, dict[str, Any]]:
    """``{figure: {value, limit, holds}}``. What was not measured has no value and neither holds nor fails to, which ``why`` says."""
    limits = {**(ABSOLUTE if any(name in card for name in ABSOLUTE_CARDS) else {}), **LIMITS, **PARITY}
    return {name: _limited(lambda name=name: _figure(name, figures), limit) for name, limit in limits.items()}  # type: ignore[misc]


def _limited(value: Callable[[], float | None], limit: float) -> dict[str, Any]:
    try:
        measured = value()
    except KeyError:
        return {"value": None, "limit": limit, "holds": None, "why": NOT_MEASURED}
    return {"value": None, "limit": limit, "holds": False, "why": "not finite"} if measured is None else figure(measured, limit)


def _figure(name: str, figures: Figures) -> float | None:
    """From the figures of the items. Raises ``KeyError`` for one that is not there."""
    family = name.partition("_")[0]
    if name in ABSOLUTE:  # as it ships, compiled where it can be
        known = [value for mode in ("eager", "compiled") if (value := figures.get(f"{family}_outfill_{mode}_picture_s")) is not None]
        if not known:
            raise KeyError(name)
        return min(known)
    if name.endswith("_over_alone_ratio"):
        alone = figures[f"{family}_1_at_once_pictures_per_s"]
        rates = [value for key, value in figures.items() if key.startswith(family) and key.endswith("_at_once_pictures_per_s") and value]
        return alone / max(rates) if alone else None
    return figures[name.replace(f"{family}_over_stock", f"{family}_outfill_over_stock")]


def _figures_of(answers: Answers, key: str) -> dict[str, float | None]:
    return {name: value for answer in answers.by_item.values() for name, value in answer.get(key, {}).items()}


def _measured(answers: Answers) -> int:
    result = limited(answers.header["card"], _figures_of(answers, "figures"))
    table = Table("figure", "value", "limit", "holds", title=answers.header["card"])
    for name, entry in result.items():
        value = entry.get("why") or str(entry["value"])
        table.add_row(name, value, str(entry["limit"]), {True: "yes", False: "NO", None: "unknown"}[entry["holds"]])
    Console(width=120).print(table)
    write_figures("gpu", result)
    return 1 if _tell_broken(answers) else exit_status(result)


def _rehearsed(answers: Answers, seconds: float) -> int:
    of_the_rehearsal = {
        "rehearsal_s": figure(seconds, REHEARSAL_S),
        "items_without_an_answer_count": figure(len(ITEMS) - len(answers.by_item), 0),
    }
    note = {
        "rehearsal": "There was no GPU: the code ran on a CPU with tiny weights. No figure was measured.",
        "ran": sorted(_figures_of(answers, "rehearsed")),
        **of_the_rehearsal,
    }
    write_figures("gpu-rehearsal", note)
    if _tell_broken(answers):
        return 1
    print(f"This was a rehearsal of {seconds:.0f} s: there is no GPU here. It ran through; no figure is claimed.")
    return exit_status(of_the_rehearsal)


def _tell_broken(answers: Answers) -> bool:
    """Say which items broke or ran out of time, in whole or in part; true where one did."""
    broken = {number: answer for number, answer in answers.by_item.items() if answer["answer"] in BROKEN or answer.get("faults")}
    for number, answer in broken.items():
        print(f"item {number}: {answer['answer']}: {answer.get('reason') or answer.get('faults')}")
    return bool(broken)
