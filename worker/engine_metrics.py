"""The engine thread's time by phase and the engines' model calls by mode, read when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import get_args

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.engines.base import Engine
from worker.stopwatch import IDLE, Phase, Stopwatch


class EngineMetrics(Collector):
    """Reads a stopwatch and counts of engines.

    A call or a wait that lasts long is counted while it lasts: a scrape in the middle sees neither a frozen counter nor a jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stopwatch = Stopwatch(clock)
        """The engine thread's, which alone turns it."""
        self._engines: Mapping[str, Engine] = {}

    def watch(self, engines: Mapping[str, Engine]) -> None:
        """Export the figures of ``engines``. It may be filled later."""
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        """Read the stopwatch and the engines now."""
        seconds = CounterMetricFamily(
            "outfill_engine_seconds",
            "Time of the engine thread, in one phase at any moment: encode, step, decode (previews too), or idle, which is all else.",
            labels=["model", "phase"],
        )
        calls = CounterMetricFamily("outfill_model_calls", "Model calls, those of the warm-up included.", labels=["model", "mode"])
        engines = dict(self._engines)
        # From the start, so that rates see the first call of a phase too.
        phases = {(model, phase): 0.0 for model in engines for phase in get_args(Phase)}
        for (model, phase), spent in {IDLE: 0.0, **phases, **self.stopwatch.seconds()}.items():
            seconds.add_metric([model, phase], spent)
        for model, engine in engines.items():
            for mode, count in dict(engine.calls).items():
                calls.add_metric([model, mode], count)
        yield from (seconds, calls)
