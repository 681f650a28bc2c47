"""The CUDA device that is current."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.gpu_facts.device import GIB, Profile, Replay
from scripts.gpu_facts.findings import Refused

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class CudaDevice:
    """Times by events, kernels by CUPTI, memory as torch counts it."""

    kind = "cuda"

    def __init__(self) -> None:
        self.name = torch.cuda.get_device_name()

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def times_ms(self, call: Callable[[], object], *, repeats: int, warm: int) -> list[float]:
        """By events on the current stream."""
        for _ in range(warm):
            call()
        event: Any = torch.cuda.Event
        events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(repeats)]
        for began, ended in events:
            began.record()
            call()
            ended.record()
        torch.cuda.synchronize()
        return [began.elapsed_time(ended) for began, ended in events]

    def profiled(self, call: Callable[[], object]) -> Profile:
        """Kernels, copies and waits by CUPTI."""
        own_waits = self._waits_of_profiler
        wall_ms, events = self.traced(call)
        on_device = [event for event in events if str(event.device_type).endswith("CUDA")]
        if not on_device:
            raise Refused("the profiler saw no kernel: CUPTI is not to be had here")
        times: Counter[str] = Counter()
        for event in on_device:
            times[event.name] += event.time_range.elapsed_us() / 1e3
        copies = sum(event.name.startswith("Memcpy") for event in on_device)
        kernels = sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)
        return Profile(wall_ms, sum(times.values()), kernels, copies, max(_waits(events) - own_waits, 0), times)

    def traced(self, call: Callable[[], object]) -> tuple[float, list[Any]]:
        """Milliseconds of ``call`` until the device is done with it, and the profiler's events."""
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            began = time.perf_counter()
            call()
            torch.cuda.synchronize()
            wall_ms = (time.perf_counter() - began) * 1e3
        return wall_ms, list(profiler.events() or ())

    @cached_property
    def _waits_of_profiler(self) -> int:
        """Those of a call that does nothing, by the second profile of a process: the first also sets CUPTI up."""
        for _ in range(2):
            _, events = self.traced(_nothing)
        return _waits(events)

    def record(self, call: Callable[[], object], pool: Any = None) -> Replay:
        """A CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool):
            call()
        return graph

    def pool(self) -> Any:
        """A memory pool for graphs."""
        return torch.cuda.graph_pool_handle()

    def held_gib(self) -> float:
        """As torch counts it."""
        return torch.cuda.memory_reserved() / GIB

    def allocated_gib(self) -> float:
        """As torch counts it."""
        return torch.cuda.memory_allocated() / GIB

    def peak_gib(self) -> float:
        """As torch counts it."""
        return torch.cuda.max_memory_reserved() / GIB

    def empty(self) -> None:
        """Give the allocator's cache back."""
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def capped(self, gib: float) -> Iterator[None]:
        """Of the whole card, what this process may have."""
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / torch.cuda.mem_get_info()[1]))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    @contextmanager
    def filled(self, gib: float) -> Iterator[None]:
        """By one tensor that takes all but ``gib``."""
        free, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(max(free - int(gib * GIB), 0), dtype=torch.uint8, device="cuda")
        try:
            yield
        finally:
            del ballast
            torch.cuda.empty_cache()

    def needs_cuda(self, what: str) -> None:
        """Nothing to refuse: this is one."""


def _waits(events: Sequence[Any]) -> int:
    return sum(event.name in WAITS for event in events)


def _nothing() -> None:
    """Asks the device for nothing."""
