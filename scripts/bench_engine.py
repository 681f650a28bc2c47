"""What continuous batching and the CPU profile are worth: ``make bench-engine``. One table of ratios from one run, and build/bench/engine.json.

- 16 mixed requests through the engine, against the stock diffusers pipeline called for one after the other, in the same dtype.
- Poisson arrivals at 80 % of what one at a time can do: time in system, against first come, first served, one at a time.
- Stable Diffusion 1.5 inpainting of true size (random weights) at 512×512: seconds a step, against the stock pipeline in float32.
- Intake and output work of eight busy jobs beside the engine: seconds a step, against the engine alone.

Weights are random everywhere: they cost what real ones cost. The first two use a UNet of 11 M parameters with the four levels of Stable
Diffusion, at 32×32 latents.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table

from api_schemas.requests import Priority, Scheduler
from scripts import bench_engine_intake, tiny_pipeline, true_size
from scripts.figures import exit_status, timed, write_figures
from scripts.figures import figure as limited
from scripts.stock import load_stock, run_stock
from worker.engines.base import Engine, PaintRequest, Sampling, Slot, begin
from worker.engines.device import read_device
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.slot import DiffusionSlot
from worker.engines.registry import EngineOptions, build_engine, discover
from worker.scheduler import Scheduler as Batches
from worker.scheduler import Task
from worker.tuning import Dtype, Wishes

SIDE = 256
SMALL_UNET = {
    "sample_size": SIDE // 8,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (32, 64, 128, 192),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4, 6),
    "cross_attention_dim": tiny_pipeline.WIDTH,
    "norm_num_groups": 8,
}
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
ROUNDS = 3
TRUE_SIZE_STEPS = 9
"""The first is not counted."""
ARRIVALS = 160
LOAD = 0.8
LIMITS = {
    "sixteen_mixed_requests_over_stock_one_by_one": 0.5,
    "poisson_mean_time_in_system_over_fifo": 0.7,
    "poisson_p99_time_in_system_over_fifo": 1.0,
    "sd15_cpu_profile_step_over_stock_float32": 0.4,
    "step_beside_eight_busy_jobs_over_alone": 1.1,
}


@dataclass
class Figure:
    """One line of the table: ``measured`` over ``against``, in the same unit."""

    measured: float
    against: float
    unit: str = "s"
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """What the limit is for."""
        return self.measured / self.against


def main() -> int:
    """Run, print, write; 1 if a limit does not hold. With names as arguments, run those figures alone and write nothing."""
    if sys.argv[1:] == ["--peak-memory"]:
        return _print_peak_memory(Path(sys.stdin.read().strip()))
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in (_mixed, _poisson, _true_size, _beside):
            if not sys.argv[1:] or part.__name__.strip("_") in sys.argv[1:]:
                figures |= part(Path(folder))
    return _report(figures, write=not sys.argv[1:])


# -- sixteen mixed requests -----------------------------------------------------------------------------------------------------------


def _mixed(folder: Path) -> dict[str, Figure]:
    path = _small(folder)
    requests = [_request(number) for number in range(16)]
    notes: dict[str, Any] = {}
    figure = Figure(0.0, 0.0)
    for dtype in DTYPES:
        engine, stock = _engine(path, dtype), load_stock(path, dtype=getattr(torch, dtype))
        _paint_together(engine, requests)
        _paint_one_by_one(stock, requests[:2])
        ours, theirs = _in_turns(lambda e=engine: _paint_together(e, requests), lambda s=stock: _paint_one_by_one(s, requests))  # type: ignore[misc]
        figure = Figure(ours, theirs)
        notes[f"ratio_{dtype}"] = round(figure.ratio, 3)
        notes[f"unet_ms_per_row_{dtype}"] = _unet_ms_per_row(engine)
        notes[f"share_of_unet_{dtype}"] = round(_share_of_unet(engine, requests), 2)
    notes["dtype_of_the_figure"] = "bfloat16, the CPU profile's; float32 is in the notes"
    notes["bound"] = "the UNet's arithmetic on two cores: beyond about 16 rows a row costs the same"
    figure.notes = notes
    return {"sixteen_mixed_requests_over_stock_one_by_one": figure}


def _request(number: int) -> PaintRequest:
    """Steps from 8 to 25; one in four without guidance; all samplers; a picture and a mask of its own."""
    chance = random.Random(number)  # noqa: S311 - a benchmark's requests
    sampling = Sampling(
        prompt=f"a product on a table, number {number}",
        negative_prompt="" if number % 3 else "people",
        steps=chance.randint(8, 25),
        guidance_scale=1.0 if number % 4 == 0 else chance.choice((3.0, 5.0, 7.5, 9.0)),
        strength=1.0,
        scheduler=list(Scheduler)[number % len(Scheduler)],
    )
    picture = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[32 : chance.randrange(96, 224, 8), 64 : chance.randrange(96, 224, 8)] = 255
    return PaintRequest(picture, mask, number, sampling)


def _paint_together(engine: Engine, requests: Sequence[PaintRequest]) -> None:
    batches: Batches[Slot] = Batches({"model": engine.budget})
    for request in requests:
        batches.add(_task(engine, request, 0.0))
    while batch := batches.next():
        engine.step(batch.slots)
        engine.finish([task.slot for task in batches.collect()])


def _paint_one_by_one(stock: Any, requests: Iterable[PaintRequest]) -> None:
    for request in requests:
        run_stock(stock, request)


def _unet_ms_per_row(engine: DiffusionEngine) -> dict[str, float]:
    def rows(number: int) -> float:
        recipe = Sampling("a", "", 50, 1.0, 1.0, Scheduler.DDIM)
        slots = begin(engine, (PaintRequest(_request(0).image, _request(0).mask, seed, recipe) for seed in range(number)))
        times = [timed(lambda: engine.step(slots)) for _ in range(6)]
        return round(1000 * statistics.median(times[1:]) / number, 2)

    return {f"{number}": rows(number) for number in (1, 2, 4, 8, 16, 32)}


def _share_of_unet(engine: DiffusionEngine, requests: Sequence[PaintRequest]) -> float:
    """Of the engine's time, what is spent in the UNet's call."""
    unet = engine._unet.module  # noqa: SLF001 - the bound is inside
    spent, call = [0.0], unet.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        answer = call(*args, **kwargs)
        spent[0] += time.perf_counter() - began
        return answer

    unet.forward = counted
    try:
        whole = timed(lambda: _paint_together(engine, requests))
    finally:
        unet.forward = call
    return spent[0] / whole


# -- Poisson arrivals -----------------------------------------------------------------------------------------------------------------


def _poisson(folder: Path) -> dict[str, Figure]:
    engine = _engine(_small(folder), "bfloat16")
    requests = [_request(number) for number in range(ARRIVALS)]
    _paint_together(engine, requests[:8])
    service = statistics.mean(timed(lambda r=request: _paint_together(engine, [r])) for request in requests[:24])  # type: ignore[misc]
    chance = random.Random(7)  # noqa: S311 - a benchmark's arrivals
    arrivals, now = [], 0.0
    for _ in requests:
        now += chance.expovariate(LOAD / service)
        arrivals.append(now)
    together, fifo = _serve(engine, requests, arrivals, together=True), _serve(engine, requests, arrivals, together=False)
    notes = {"jobs": ARRIVALS, "service_s_one_at_a_time": round(service, 3), "dtype": "bfloat16", "fifo": "the same engine, one at a time"}
    return {
        "poisson_mean_time_in_system_over_fifo": Figure(statistics.mean(together), statistics.mean(fifo), notes=notes),
        "poisson_p99_time_in_system_over_fifo": Figure(_p99(together), _p99(fifo), notes=notes),
    }


def _serve(engine: Engine, requests: Sequence[PaintRequest], arrivals: Sequence[float], *, together: bool) -> list[float]:
    """Seconds from arrival to picture of each request; arrivals are in seconds from now."""
    waiting = deque(zip(arrivals, requests, strict=True))
    batches: Batches[Slot] = Batches({"model": engine.budget})
    arrived: dict[int, float] = {}
    took: list[float] = []
    began = time.perf_counter()

    def now() -> float:
        return time.perf_counter() - began

    while waiting or len(batches):
        while waiting and waiting[0][0] <= now() and (together or not len(batches)):
            arrival, request = waiting.popleft()
            task = _task(engine, request, arrival)
            arrived[id(task.slot)] = arrival
            batches.add(task)
        batch = batches.next()
        if batch is None:
            time.sleep(max(waiting[0][0] - now(), 0.0))
            continue
        engine.step(batch.slots)
        done = [task.slot for task in batches.collect()]
        engine.finish(done)
        took.extend(now() - arrived[id(slot)] for slot in done)
    return took


def _p99(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.99))


# -- Stable Diffusion 1.5 of true size ------------------------------------------------------------------------------------------------


def _true_size(folder: Path) -> dict[str, Figure]:
    path = folder / "sd15"
    true_size.build_sd15(path)
    engine, stock = _engine(path, "auto"), load_stock(path)
    request = PaintRequest(
        np.zeros((512, 512, 3), np.uint8),
        np.pad(np.full((256, 256), 255, np.uint8), 128),
        0,
        Sampling("a product on a table", "", TRUE_SIZE_STEPS, 7.5, 1.0, Scheduler.DPMPP_2M_KARRAS),
    )
    slot = cast(DiffusionSlot, begin(engine, [request])[0])
    ours: list[float] = []
    theirs: list[float] = []
    last = [time.perf_counter()]

    def between(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Our step runs between two of theirs, so that what else the machine does weighs on both."""
        theirs.append(time.perf_counter() - last[0])
        ours.append(timed(lambda: engine.step([slot])))
        last[0] = time.perf_counter()
        return tensors

    run_stock(stock, request, output_type="latent", callback_on_step_end=between)
    if not torch.isfinite(slot.latents).all():
        raise ValueError("the latents of the true-size model are not finite: its figure would mean nothing")
    del stock
    notes = {
        "peak_memory_gib_of_one_guided_job_decode_included": round(_peak_memory(path) / 2**30, 2),
        "tuning": ", ".join(f"{name} {value}" for name, value in asdict(engine.tuning).items() if name != "reasons"),
        "cpu_flags": sorted(read_device("cpu").cpu_flags),
    }
    return {"sd15_cpu_profile_step_over_stock_float32": Figure(statistics.median(ours[1:]), statistics.median(theirs[1:]), notes=notes)}


def _peak_memory(path: Path) -> int:
    """Bytes of a process that loads the engine and paints one guided picture of two steps."""
    command = [sys.executable, "-W", "ignore", "-m", "scripts.bench_engine", "--peak-memory"]
    answer = subprocess.run(command, input=str(path), capture_output=True, text=True, check=True)  # noqa: S603
    return int(answer.stdout.split()[-1])


def _print_peak_memory(path: Path) -> int:
    engine = _engine(path, "auto")
    picture, mask = np.zeros((512, 512, 3), np.uint8), np.full((512, 512), 255, np.uint8)
    _paint_together(engine, [PaintRequest(picture, mask, 0, Sampling("a", "", 2, 7.5, 1.0, Scheduler.DDIM))])
    # Not getrusage: its figure begins with the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024)
    return 0


# -- intake and output work beside the engine -----------------------------------------------------------------------------------------


def _beside(_folder: Path) -> dict[str, Figure]:
    return {"step_beside_eight_busy_jobs_over_alone": Figure(bench_engine_intake.measure(), 1.0, unit="of a step alone")}


# -- shared ---------------------------------------------------------------------------------------------------------------------------


def _small(folder: Path) -> Path:
    path = folder / "small"
    if not path.exists():
        tiny_pipeline.build(path)
        torch.manual_seed(0)
        unet: Any = UNet2DConditionModel(**SMALL_UNET)
        unet.save_pretrained(path / "unet", safe_serialization=True)
        notes = path / "outfill.json"
        notes.write_text(json.dumps({**json.loads(notes.read_text()), "native_size": SIDE}))
    return path


def _engine(path: Path, dtype: Dtype | Literal["auto"]) -> DiffusionEngine:
    card = discover({"bench": path})[0]
    engine = build_engine(card, path=path, options=EngineOptions(wishes=Wishes(dtype=dtype)))
    if not isinstance(engine, DiffusionEngine):
        raise TypeError("the benchmark is of the diffusion engine")
    engine.warm_up()
    return engine


def _task(engine: Engine, request: PaintRequest, admitted_at: float) -> Task[Slot]:
    (slot,) = begin(engine, [request])
    return Task(str(request.seed), "model", Priority.STANDARD, admitted_at, slot)


def _in_turns(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
    pairs = [(timed(ours), timed(theirs)) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _report(figures: dict[str, Figure], *, write: bool) -> int:
    table = Table("figure", "measured", "against", "ratio", "limit", "holds")
    result = {}
    for name, figure in figures.items():
        result[name] = {**limited(figure.ratio, LIMITS[name]), "notes": figure.notes}
        table.add_row(
            name,
            f"{figure.measured:.3f} {figure.unit}",
            f"{figure.against:.3f}",
            f"{figure.ratio:.2f}",
            f"{LIMITS[name]:.1f}",
            "yes" if result[name]["holds"] else "NO",
        )
    console = Console(width=150)
    console.print(table)
    for name, figure in figures.items():
        for what, value in figure.notes.items():
            console.print(f"{name}: {what} = {value}", highlight=False)
    if write:
        write_figures("engine", result)
    return exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
