"""A CPU that stands in for a CUDA device in a rehearsal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from scripts.gpu_facts.device import Profile, Replay
from scripts.gpu_facts.findings import Refused


class CpuDevice:
    """Stands in for a CUDA device: the same calls, whose times mean nothing."""

    kind = "cpu"
    name = "a CPU with tiny weights: a rehearsal"

    def synchronize(self) -> None:
        """A CPU is never behind."""

    def times_ms(self, call: Callable[[], object], *, repeats: int, warm: int) -> list[float]:
        """One call of each kind is rehearsal enough."""
        for _ in range(min(warm, 1)):
            call()
        return [_ms(call) for _ in range(min(repeats, 2))]

    def profiled(self, call: Callable[[], object]) -> Profile:
        """The operators that torch ran, in place of kernels."""
        began = time.perf_counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            call()
        wall_ms = (time.perf_counter() - began) * 1e3
        averages = list(profiler.key_averages())
        times = {each.key: each.self_cpu_time_total / 1e3 for each in averages}
        copies = sum(each.count for each in averages if each.key == "aten::copy_")
        return Profile(wall_ms, sum(times.values()), sum(each.count for each in averages), copies, 0, times)

    def record(self, call: Callable[[], object], pool: Any = None) -> Replay:  # noqa: ARG002 - the same call as for CUDA
        """A recording that calls again."""
        return _Again(call)

    def pool(self) -> Any:
        """Nothing to share."""
        return None

    def held_gib(self) -> float:
        """Not counted."""
        return 0.0

    def allocated_gib(self) -> float:
        """Not counted."""
        return 0.0

    def peak_gib(self) -> float:
        """Not counted."""
        return 0.0

    def empty(self) -> None:
        """Nothing is kept."""

    @contextmanager
    def capped(self, gib: float) -> Iterator[None]:  # noqa: ARG002 - the same call as for CUDA
        """A CPU has no cap: what runs under one is run without."""
        yield

    @contextmanager
    def filled(self, gib: float) -> Iterator[None]:  # noqa: ARG002 - the same call as for CUDA
        """A CPU's memory is left to others."""
        yield

    def needs_cuda(self, what: str) -> None:
        """Refuse."""
        raise Refused(f"needs a CUDA device: {what}")


@dataclass(frozen=True)
class _Again:
    call: Callable[[], object]

    def replay(self) -> None:
        self.call()


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3
