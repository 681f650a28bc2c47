"""``make race``: Outfill beside its peers, from photo to photo, in one run. One table of ratios, and build/bench/race.json.

One model (Studio), the same photos, masks, prompts, steps and seeds. Every peer has the stock pipeline of diffusers in an environment of its own
(build/peers). Saturation: so many requests at once, each followed by the next. The rounds are in turns, and the median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from loadtests.peers.contest import Asked, Batching, Contestant, Locked, Outfill, Queued, bare, environment
from scripts.figures import at_least, exit_status, figure, figure_table, write_figures
from scripts.processes import cpu_s, memory_mib
from worker.engines.weights import EMBEDDED

MODEL = EMBEDDED / "studio"
IN_FLIGHT, STEPS, MIXED = 16, 20, (10, 20, 30)
DTYPES = ("float32", "bfloat16")
_SEAM, _PAINTED = 0.1, 0.5
"""Shares: of kept pixels that may change (a seam is softened a few pixels beyond the mask), and of marked ones that must."""
_KILLED, _PATIENCE = 8, 3.0
"""Requests in flight at a kill, and how long is waited for them, in the time that all would have taken one after the other."""
_LITTLE_S = 0.005
"""Seconds of CPU for a picture below which a process is not told."""
_LEAST = {"256": 1.1, "mixed": 1.6}
"""Of the best peer, by event; at larger photos 1.3."""
PROMPTS = ("white marble table", "teal wall", "dark wood", "pink paper backdrop")


@dataclass
class Lap:
    """One contestant's round."""

    pictures_s: float
    cpu_s: Mapping[str, float]
    """Of CPU for a picture, by process."""
    memory_mib: float
    cold_s: float
    each_s: list[float] = field(default_factory=list)
    busy: float | None = None
    """Share of the time in which the engine was called, where the contestant tells."""
    row_over_warm_up: float | None = None
    """Seconds of a row in service over those that the warm-up measured."""


def asked(side: int, count: int, steps: Sequence[int]) -> list[Asked]:
    """As many pictures, all of them different, of a photo with sides of ``side`` pixels."""
    image, mask = photo(side)
    return [Asked(image, mask, PROMPTS[number % len(PROMPTS)], steps[number % len(steps)], number) for number in range(count)]


@cache
def photo(side: int) -> tuple[bytes, bytes]:
    """The coffee cup on a square, and a mask of its upper left quarter, at most 170 pixels wide: the model's own pixels suffice for each size."""
    with Image.open(io.BytesIO((files("skimage.data") / "coffee.png").read_bytes())) as image:
        square = image.convert("RGB").crop((100, 0, 500, 400)).resize((side, side), Image.Resampling.LANCZOS)
    mask = np.zeros((side, side), np.uint8)
    edge = min(side // 2, 170)
    mask[side // 8 : side // 8 + edge, side // 8 : side // 8 + edge] = 255
    return _png(square), _png(Image.fromarray(mask))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def saturated(contestant: Contestant, jobs: Sequence[Asked]) -> Lap:
    """Ask for all of them, ``IN_FLIGHT`` at once."""
    processes = contestant.processes()
    engine, before, began = contestant.engine(), {name: cpu_s([pid]) for name, pid in processes.items()}, time.perf_counter()
    each = asyncio.run(_all(contestant, jobs))
    seconds = time.perf_counter() - began
    used = {name: (cpu_s([pid]) - before[name]) / len(jobs) for name, pid in processes.items()}
    lap = Lap(len(jobs) / seconds, used, memory_mib(processes.values()), contestant.cold_s, each)
    if engine:
        spent = {name: value - engine[name] for name, value in contestant.engine().items()}
        lap.busy, lap.row_over_warm_up = spent["busy_s"] / seconds, spent["step_s"] / spent["rows"] / engine["row_s"]
    return lap


def lost_at_a_kill(contestant: Contestant, jobs: Sequence[Asked]) -> int:
    """Of requests that are all in flight, those without a picture where the process that paints is killed at the first answer, and started again at once.

    Nobody asks twice. Who has not answered after ``_PATIENCE`` times as long as all of them would have taken one after the other never will.
    """

    async def run() -> int:
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=4 * len(jobs))) as http:
            began = time.monotonic()
            await contestant.paint(http, jobs[0])
            patience_s = _PATIENCE * len(jobs) * (time.monotonic() - began) + contestant.cold_s
            asked = [asyncio.create_task(contestant.paint(http, job)) for job in jobs]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(contestant.kill)
            done, waiting = await asyncio.wait(asked, timeout=patience_s)
            for task in waiting:
                task.cancel()
            return len(waiting) + sum(task.exception() is not None for task in done)

    return asyncio.run(run())


async def _all(contestant: Contestant, jobs: Sequence[Asked]) -> list[float]:
    waiting, each = list(reversed(jobs)), []
    limits = httpx.Limits(max_connections=4 * IN_FLIGHT)

    async def one_after_another(http: httpx.AsyncClient) -> None:
        while waiting:
            job, began = waiting.pop(), time.perf_counter()
            check(await contestant.paint(http, job), job)
            each.append(time.perf_counter() - began)

    async with httpx.AsyncClient(timeout=600, limits=limits) as http, asyncio.TaskGroup() as group:
        for _ in range(min(IN_FLIGHT, len(jobs))):
            group.create_task(one_after_another(http))
    return each


def arriving(contestant: Contestant, jobs: Sequence[Asked], per_s: float) -> list[float]:
    """Seconds of each picture, where they are asked for at even intervals, whatever is still being painted."""

    async def run() -> list[float]:
        each: list[float] = []

        async def one(http: httpx.AsyncClient, number: int, job: Asked) -> None:
            await asyncio.sleep(number / per_s)
            began = time.perf_counter()
            await contestant.paint(http, job)
            each.append(time.perf_counter() - began)

        async with httpx.AsyncClient(timeout=600) as http, asyncio.TaskGroup() as group:
            for number, job in enumerate(jobs):
                group.create_task(one(http, number, job))
        return each

    return asyncio.run(run())


def check(picture: bytes, job: Asked) -> None:
    """Raise ``RuntimeError`` where the answer has another size, most of what is kept was changed, or nothing was painted."""
    with Image.open(io.BytesIO(picture)) as after, Image.open(io.BytesIO(job.image)) as before, Image.open(io.BytesIO(job.mask)) as mask:
        if after.size != before.size:
            raise RuntimeError(f"the answer has a size of {after.size}")
        is_changed = (np.asarray(after.convert("RGB")) != np.asarray(before)).any(axis=2)
        marked = np.asarray(mask) > 0
    if is_changed[~marked].mean() > _SEAM:
        raise RuntimeError("what is kept was changed")
    if is_changed[marked].mean() < _PAINTED:
        raise RuntimeError("nothing was painted")


def main() -> int:
    """Run, print, write; 1 if a limit does not hold."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.peers.race", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 768, 2048])
    parser.add_argument("--arrivals", type=float, nargs="*", default=[0.25, 0.5, 0.75], help="of the best peer's rate at saturation")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--without-mixed", action="store_true")
    parser.add_argument("--without-kills", action="store_true")
    arguments = parser.parse_args()
    if arguments.arrivals and 256 not in arguments.sides:
        parser.error("--arrivals are shares of a rate at 256 pixels, which --sides leaves out: add 256, or give --arrivals no value")
    python = environment(Path("build/peers"))
    race = Race(python, arguments.rounds, arguments.pictures)
    race.run_bare(arguments.sides, arguments.dtypes)
    for side in arguments.sides:
        race.run_servers(f"{side}", asked(side, arguments.pictures, (STEPS,)))
    if not arguments.without_mixed:
        race.run_servers("mixed", asked(256, arguments.pictures, MIXED))
    race.run_arrivals(arguments.arrivals)
    if not arguments.without_kills:
        race.run_kills()
    return race.report()


class Race:
    """All laps of a run."""

    def __init__(self, python: Path, rounds: int, pictures: int) -> None:
        self._python, self._rounds, self._pictures = python, rounds, pictures
        self._laps: dict[tuple[str, str], list[Lap]] = {}
        self._row_s: dict[str, float] = {}
        self._arrivals: dict[tuple[str, float], list[float]] = {}
        self._lost: dict[str, int] = {}
        self._dtype = DTYPES[0]
        self._console = Console(width=140)

    def run_bare(self, sides: Sequence[int], dtypes: Sequence[str]) -> None:
        """The loops, whose faster precision is that of all peers."""
        for side in sides:
            for dtype in dtypes:
                jobs = asked(side, max(self._pictures // 4, 4), (STEPS,))
                for _ in range(self._rounds):
                    found = bare(self._python, MODEL, dtype, jobs)
                    used = {"loop": found["cpu_s"] / len(jobs)}
                    lap = Lap(len(jobs) / found["seconds"], used, found["memory_mib"], found["cold_s"], found["each_s"])
                    self._add(f"bare loop, {dtype}", f"{side}", lap)
                    self._row_s[dtype] = min(self._row_s.get(dtype, np.inf), *found["row_s"].values())
        self._dtype = max(dtypes, key=lambda dtype: self._rate(f"bare loop, {dtype}", f"{sides[0]}"))

    def contestants(self) -> list[Callable[[], Contestant]]:
        """Each made anew for each of its laps."""
        peer = (self._python, MODEL, self._dtype)
        return [
            lambda: Outfill({"OUTFILL_WORKER__SERVE": "studio"}),
            lambda: Batching("LitServe, batches", *peer),
            lambda: Locked("FastAPI and a lock", *peer),
            lambda: Queued("RQ SimpleWorker", *peer),
        ]

    def run_servers(self, event: str, jobs: Sequence[Asked]) -> None:
        """Each contestant at saturation, in turns."""
        for _ in range(self._rounds):
            for make in self.contestants():
                with make().running(jobs[0]) as contestant:
                    asyncio.run(_all(contestant, jobs[:4]))  # warm
                    self._add(contestant.name, event, saturated(contestant, jobs))

    def run_arrivals(self, shares: Sequence[float]) -> None:
        """Each contestant at rates that are shares of the best peer's."""
        best = self._best_peer("256")
        for share in shares:
            for make in self.contestants():
                jobs = asked(256, max(self._pictures // 2, 8), (STEPS,))
                with make().running(jobs[0]) as contestant:
                    self._arrivals[contestant.name, share] = arriving(contestant, jobs, share * best)
                    self._console.print(
                        f"{contestant.name}, {share:.0%} of {best:.2f} a second: p50 {_p(self._arrivals[contestant.name, share], 50):.2f} s"
                    )

    def run_kills(self) -> None:
        """What each contestant loses when its painter is killed."""
        jobs = asked(256, _KILLED, (STEPS,))
        for make in self.contestants():
            with make().running(jobs[0]) as contestant:
                self._lost[contestant.name] = lost_at_a_kill(contestant, jobs)
                self._console.print(f"{contestant.name}: {self._lost[contestant.name]} of {_KILLED} lost at kill -9")

    def _add(self, name: str, event: str, lap: Lap) -> None:
        self._laps.setdefault((name, event), []).append(lap)
        self._console.print(
            f"{name}, {event}: {lap.pictures_s:.3f} pictures a second, {sum(lap.cpu_s.values()):.2f} s of CPU each, cold {lap.cold_s:.1f} s"
        )

    def _rate(self, name: str, event: str) -> float:
        return statistics.median(lap.pictures_s for lap in self._laps[name, event])

    def _rates(self) -> dict[tuple[str, str], float]:
        return {key: self._rate(*key) for key in self._laps}

    def report(self) -> int:
        """Print the table and write the figures."""
        self._console.print(f"{_cpu()}; stock UNet, best of 2, 8 and 16 rows: {self._row_words()}; peers in {self._dtype}")
        self._console.print(self._table())
        if self._lost:
            self._console.print(f"lost of {_KILLED} at kill -9: " + ", ".join(f"{name} {count}" for name, count in self._lost.items()))
        figures = self._figures()
        self._console.print(figure_table(figures))
        write_figures("race", figures)
        return exit_status(figures)

    def _table(self) -> Table:
        rates = self._rates()
        events = list(dict.fromkeys(event for _, event in rates))
        table = Table("event", "contestant", "pictures/s", "of the best peer", "CPU s each", "MiB", "cold s", "p50 s", "p95 s")
        for name, event in sorted(rates, key=lambda key: events.index(key[1])):
            laps = self._laps[name, event]
            each = [seconds for lap in laps for seconds in lap.each_s]
            middle = {part: statistics.median(getattr(lap, part) for lap in laps) for part in ("memory_mib", "cold_s")}
            table.add_row(
                event, name, f"{rates[name, event]:.3f}", f"{rates[name, event] / self._best_peer(event):.2f}",
                _by_process([lap.cpu_s for lap in laps]), f"{middle['memory_mib']:.0f}", f"{middle['cold_s']:.1f}", f"{_p(each, 50):.2f}",
                f"{_p(each, 95):.2f}",
            )  # fmt: skip
        for (name, share), each in self._arrivals.items():
            table.add_row(f"{share:.0%}", name, "", "", "", "", "", f"{_p(each, 50):.2f}", f"{_p(each, 95):.2f}")
        return table

    def _best_peer(self, event: str) -> float:
        return max((rate for (name, one), rate in self._rates().items() if one == event and name != Outfill.name), default=float("nan"))

    def _figures(self) -> dict[str, Any]:
        rates, ours, loop = self._rates(), Outfill.name, "bare loop, bfloat16"
        figures = {
            f"outfill_over_the_best_peer_{event}": at_least(rate / self._best_peer(event), _LEAST.get(event, 1.3))
            for (name, event), rate in rates.items()
            if name == ours
        }
        if (ours, "256") in rates:
            bound = 1 / (2 * STEPS * min(self._row_s.values()))  # guided: two rows a step
            figures["outfill_of_what_the_bare_unet_allows"] = at_least(rates[ours, "256"] / bound, 0.88)
        if (ours, "256") in rates and (loop, "256") in rates:
            figures["outfill_over_a_bare_bfloat16_loop"] = at_least(rates[ours, "256"] / rates[loop, "256"], 1.8)
        figures |= self._engine_figures(self._laps.get((ours, "256"), []))
        lowest = min((share for _, share in self._arrivals), default=None)
        if lowest is not None and (loop, "256") in self._laps:
            alone = statistics.median(seconds for lap in self._laps[loop, "256"] for seconds in lap.each_s)
            figures["p50_at_low_load_over_a_stock_bfloat16_call"] = figure(_p(self._arrivals[ours, lowest], 50) / alone, 1.15)
        if ours in self._lost:
            figures["outfill_lost_at_a_kill"] = figure(self._lost[ours], 0)
        return figures

    def _engine_figures(self, laps: Sequence[Lap]) -> dict[str, Any]:
        """At saturation: how busy the engine is, whether the CPU says so too, and whether its steps take what the warm-up measured."""
        told = [(lap, lap.busy, lap.row_over_warm_up) for lap in laps if lap.busy is not None and lap.row_over_warm_up is not None]
        if not told:
            return {}
        cores = os.cpu_count() or 1
        return {
            "engine_busy_at_saturation": at_least(statistics.median(busy for _, busy, _ in told), 0.9),
            "worker_cpu_over_busy_engine": at_least(
                statistics.median(lap.cpu_s["worker-1"] * lap.pictures_s / cores / busy for lap, busy, _ in told), 0.9
            ),
            "row_in_service_over_warm_up": figure(statistics.median(ratio for _, _, ratio in told), 1.15),
        }

    def _row_words(self) -> str:
        return ", ".join(f"{1000 * seconds:.0f} ms a row in {dtype}" for dtype, seconds in self._row_s.items())


def _by_process(laps: Sequence[Mapping[str, float]]) -> str:
    """The median of each process, the most first; those that take next to nothing are left out."""
    middle = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    told = [f"{name} {used:.2f}" for name, used in sorted(middle.items(), key=lambda entry: -entry[1]) if used >= _LITTLE_S]
    return ", ".join(told)


def _p(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile))


def _cpu() -> str:
    """The processor, and which of the instructions that decide it has."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = set(found.get("flags", "").split())
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{found.get('model name', 'unknown processor')} ({', '.join(fast) or 'none of AVX2, AVX512 and AMX'})"


if __name__ == "__main__":
    sys.exit(main())
