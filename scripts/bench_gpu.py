"""The engine against the stock diffusers pipelines on a GPU: ``make bench-gpu``. Tables of one run, and build/bench/gpu.json.

Stable Diffusion 1.5 inpainting at 512×512 and XL inpainting at 1024×1024, of true size with random weights, at the same precision, steps,
sampler and seed. XL is loaded once more under a cap of 8 GiB. Without a GPU the same code runs on a CPU with tiny weights: a rehearsal,
whose times mean nothing and are not written.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from api_schemas.requests import Scheduler
from scripts import tiny_pipeline, true_size
from scripts.figures import exit_status, figure, write_figures
from scripts.stock import load_stock, run_stock
from worker.engines.base import Engine, OutOfMemory, PaintRequest, Sampling, Slot
from worker.engines.diffusion.kernels import attention_kernels
from worker.engines.registry import EngineOptions, build_engine, discover
from worker.tuning import Wishes

GIB = 2**30
BATCHES = (1, 2, 4, 8)
CAP_BYTES = 8 * GIB
LIMITS: Mapping[str, float] = {
    "sd15_latency_over_stock": 1.0,
    "sdxl_latency_over_stock": 1.0,
    "sd15_time_per_image_in_a_batch_over_alone": 0.8,  # published: 0.7 compiled, 0.4 as it is
    "sdxl_time_per_image_in_a_batch_over_alone": 1.0,
    "sd15_vram_peak_gib": 4.0,
    "sdxl_vram_peak_gib_under_a_cap_of_8": 8.0,
    "sd15_kernels_other_than_flash": 0,
    "sdxl_kernels_other_than_flash": 0,
}
FAMILIES = ("sd15", "sdxl")


@dataclass(frozen=True)
class Stage:
    """What one run stands on."""

    device: str
    weights: Path
    steps: int
    repeats: int

    @property
    def rehearsal(self) -> bool:
        """Whether there is no GPU, and times mean nothing."""
        return self.device == "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """That of both sides."""
        return torch.float32 if self.rehearsal else torch.float16

    def size(self, family: str) -> int:
        """Side of a picture in pixels."""
        return tiny_pipeline.NATIVE_SIZE if self.rehearsal else true_size.NATIVE_SIZES[f"{family}-inpaint"]

    def directory(self, family: str) -> Path:
        """A pipeline, built where it is not there yet."""
        directory, kind = self.weights / ("tiny" if self.rehearsal else "true") / family, f"{family}-inpaint"
        if not (directory / "outfill.json").exists():
            print(f"building {directory}", flush=True)
            building = directory.with_name(f"{family}.building")
            if self.rehearsal:
                tiny_pipeline.build(building, kind=kind)
            else:
                true_size.BUILDERS[kind](building)
            building.rename(directory)
        return directory


@dataclass(frozen=True)
class Measured:
    """One side of the comparison for one family."""

    latency_s: float
    """Median of one picture alone, from request to pixels."""
    images_per_s: Mapping[int, float]
    """By pictures at once."""
    peak_bytes: int
    """Of device memory, for one picture at a time, weights included."""
    kernels: tuple[str, ...]


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    cuda = torch.cuda.is_available()
    weights = Path("build/bench/weights")
    stage = Stage("cuda", weights, steps=25, repeats=7) if cuda else Stage("cpu", weights, steps=2, repeats=1)
    name = torch.cuda.get_device_name() if cuda else "a CPU with tiny weights: a REHEARSAL, the numbers mean nothing"
    print(f"On {name}", flush=True)
    ours, stock = {}, {}
    for family in FAMILIES:
        ours[family] = measure_engine(stage, family)
        _release()
        stock[family] = measure_stock(stage, family)
        _release()
        _print(family, stage, ours[family], stock[family])
    with capped(stage):
        peak = measure_engine(stage, "sdxl", batches=(1,)).peak_bytes
    return _report(stage, _figures(ours, stock, peak))


def request_of(
    size: int, *, seed: int, steps: int, guidance_scale: float = 7.5, scheduler: Scheduler = Scheduler.DPMPP_2M_KARRAS
) -> PaintRequest:
    """A random picture, and a mask of whole 8-pixel blocks, on which stock and ours agree."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    blocks = (random.random((size // 8, size // 8)) < 0.4).astype(np.uint8) * 255
    sampling = Sampling("a red sofa", "people", steps=steps, guidance_scale=guidance_scale, strength=1.0, scheduler=scheduler)
    return PaintRequest(image=coarse.repeat(8, 0).repeat(8, 1), mask=blocks.repeat(8, 0).repeat(8, 1), seed=seed, recipe=sampling)


def measure_engine(stage: Stage, family: str, *, batches: tuple[int, ...] = BATCHES) -> Measured:
    """Ours, through what the worker calls."""
    directory = stage.directory(family)
    (card,) = discover({family: directory})
    dtype: Any = str(stage.dtype).removeprefix("torch.")
    engine = build_engine(card, path=directory, options=EngineOptions(device=stage.device, wishes=Wishes(dtype=dtype)))
    engine.warm_up()

    def paint(pictures: int) -> None:
        _paint(engine, [request_of(stage.size(family), seed=seed, steps=stage.steps) for seed in range(pictures)])

    def one_step() -> None:
        engine.step([engine.prepare(request_of(stage.size(family), seed=0, steps=stage.steps))])

    paint(1)
    return _measure(stage, paint, batches, attention_kernels(one_step))


def measure_stock(stage: Stage, family: str) -> Measured:
    """Theirs, one picture a call."""
    pipeline = load_stock(stage.directory(family), device=stage.device, dtype=stage.dtype)

    def paint(pictures: int) -> None:
        for seed in range(pictures):
            run_stock(pipeline, request_of(stage.size(family), seed=seed, steps=stage.steps), output_type="np")

    try:
        paint(1)
    except torch.OutOfMemoryError:
        return Measured(math.inf, {}, 0, ("out of memory",))
    return _measure(stage, paint, (1,), ())


@contextmanager
def capped(stage: Stage) -> Iterator[None]:
    """Let this process have ``CAP_BYTES`` of the GPU, as on a smaller one."""
    if stage.rehearsal:
        yield
        return
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, CAP_BYTES / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _paint(engine: Engine, requests: list[PaintRequest]) -> None:
    slots: list[Slot] = [engine.prepare(request) for request in requests]
    while not all(slot.done for slot in slots):
        engine.step(slots)
    engine.finish(slots)
    if errors := [slot.error for slot in slots if slot.error is not None]:
        raise errors[0]


def _measure(stage: Stage, paint: Callable[[int], None], batches: tuple[int, ...], kernels: tuple[str, ...]) -> Measured:
    if not stage.rehearsal:
        torch.cuda.empty_cache()  # what the warm-up's largest calls left
        torch.cuda.reset_peak_memory_stats()
    latency = statistics.median(_timed(stage, paint, 1) for _ in range(stage.repeats))
    peak = 0 if stage.rehearsal else torch.cuda.max_memory_reserved()
    rates = {}
    for batch in batches:
        try:
            paint(batch)  # libraries choose their kernels for each shape
        except OutOfMemory:
            break
        rates[batch] = batch / _timed(stage, paint, batch)
    return Measured(latency, rates, peak, kernels)


def _timed(stage: Stage, paint: Callable[[int], None], pictures: int) -> float:
    began = time.perf_counter()
    paint(pictures)
    if not stage.rehearsal:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _release() -> None:
    gc.collect()
    torch._dynamo.reset()  # noqa: SLF001 - has no public name; compiled graphs hold the weights
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _figures(ours: Mapping[str, Measured], stock: Mapping[str, Measured], capped_peak: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for family, measured in ours.items():
        rates = measured.images_per_s
        figures[f"{family}_latency_over_stock"] = measured.latency_s / stock[family].latency_s
        figures[f"{family}_time_per_image_in_a_batch_over_alone"] = rates[1] / max(rates.values())
        figures[f"{family}_kernels_other_than_flash"] = len(set(measured.kernels) - {"flash"}) if measured.kernels else 1
    figures["sd15_vram_peak_gib"] = ours["sd15"].peak_bytes / GIB
    figures["sdxl_vram_peak_gib_under_a_cap_of_8"] = capped_peak / GIB
    return figures


def _print(family: str, stage: Stage, ours: Measured, stock: Measured) -> None:
    table = Table("", "latency p50, s", *(f"images/s by {batch}" for batch in BATCHES), "peak, GiB", "kernels")
    for name, side in (("Outfill", ours), ("stock", stock)):
        rates = [f"{side.images_per_s[batch]:.2f}" if batch in side.images_per_s else "" for batch in BATCHES]
        table.add_row(name, f"{side.latency_s:.3f}", *rates, f"{side.peak_bytes / GIB:.2f}", ", ".join(side.kernels))
    table.title = f"{family} {stage.size(family)}×{stage.size(family)}, {stage.steps} steps{', REHEARSAL' if stage.rehearsal else ''}"
    Console(width=140).print(table)


def _report(stage: Stage, figures: Mapping[str, float]) -> int:
    if set(figures) != set(LIMITS):
        raise ValueError(f"figures and limits differ: {set(figures) ^ set(LIMITS)}")
    if stage.rehearsal:
        note = {"rehearsal": "There was no GPU: the code ran on a CPU with tiny weights. No figure was measured.", "ran": sorted(figures)}
        write_figures("gpu-rehearsal", note)
        print("This was a rehearsal: there is no GPU here. It ran through; no figure is claimed.")
        return 0
    result = {name: figure(value, LIMITS[name]) for name, value in figures.items()}
    table = Table("figure", "value", "limit", "holds")
    for name, entry in result.items():
        table.add_row(name, str(entry["value"]), str(entry["limit"]), "yes" if entry["holds"] else "NO")
    Console(width=120).print(table)
    write_figures("gpu", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
