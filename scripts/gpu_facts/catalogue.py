"""The thirteen items in the order in which they are asked, and what each decides. Their code is loaded when one is run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.runner import Item

if TYPE_CHECKING:
    from scripts.gpu_facts.stage import Stage

HALVES = {1: range(1, 8), 2: range(8, 14)}
"""Of about six minutes each; the weights are drawn again for the second."""


def _run(module: str) -> Callable[[Stage, Findings], None]:
    def run(stage: Stage, findings: Findings) -> None:
        import_module(f"scripts.gpu_facts.items.{module}").run(stage, findings)

    return run


ITEMS: tuple[Item[Stage], ...] = (
    Item(1, "the machine", 60, "whether Triton can build here, and which attention torch prefers", _run("machine")),
    Item(2, "parity with the stock pipelines", 60, "whether the engine computes the same on CUDA", _run("parity")),
    Item(3, "attention kernels", 40, "which attention is fastest, by shape", _run("attention")),
    Item(4, "one step, profiled", 30, "what launches, waits and samplers cost a step", _run("one_step")),
    Item(5, "whole pictures", 90, "the seconds of a picture, against the stock pipelines", _run("pictures")),
    Item(6, "a plain CUDA graph of the UNet", 40, "whether to replay steps rather than launch them", _run("graphs")),
    Item(7, "channels last, cuDNN's search", 20, "the order of weights without compiling", _run("layouts")),
    Item(8, "VAE, text and prepare", 30, "the VAE's precision by its time, and what leaves the engine's thread", _run("vae_text")),
    Item(9, "first calls", 15, "which thread warms up, and with which shapes", _run("first_calls")),
    Item(10, "compiling by blocks, and whole", 200, "how to compile, and whether to", _run("regional")),
    Item(11, "short memory", 60, "halving, offloading and what a second model sees", _run("memory")),
    Item(12, "a LoRA that comes late", 25, "what a LoRA leaves behind", _run("late_lora")),
    Item(13, "the worker's parts together", 50, "how busy the engine is kept, and what threads beside it cost", _run("service")),
)


def chosen(half: int | None, numbers: str | None) -> tuple[Item[Stage], ...]:
    """The items of a half, or those of ``numbers`` (``3,6``), or all. Raises ``ValueError`` for a number that no item has."""
    if numbers is None:
        return tuple(item for item in ITEMS if half is None or item.number in HALVES[half])
    known = {str(item.number): item for item in ITEMS}
    wanted = [number.strip() for number in numbers.split(",")]
    if unknown := [number for number in wanted if number not in known]:
        raise ValueError(f"--items: there is no item {', '.join(unknown)}; there are 1 to {len(ITEMS)}")
    return tuple(item for item in ITEMS if str(item.number) in wanted)
