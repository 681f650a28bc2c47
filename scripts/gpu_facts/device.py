"""What items ask of the device itself: times, kernels, memory and graphs. A CUDA device, or a CPU that stands in for one in a rehearsal."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

from scripts.gpu_facts.findings import Refused

GIB = 2**30
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Profile:
    """One call as the profiler saw it."""

    wall_ms: float
    busy_ms: float
    """In which a kernel or a copy ran; the sum, as all of them run on one stream."""
    kernels: int
    copies: int
    waits: int
    """Calls that wait for the device: those in the call, less the one that ends it."""
    longest: Mapping[str, float]
    """The names of the kernels that took longest, in ms."""


class Replay(Protocol):
    """A recorded call. It computes anew from the tensors that the recorded one read, into those that it wrote."""

    def replay(self) -> None:
        """Compute."""
        ...


class Device(Protocol):
    """A device to measure."""

    kind: str
    """``cuda`` or ``cpu``, as torch takes it."""
    name: str

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""
        ...

    def times_ms(self, call: Callable[[], object], *, repeats: int, warm: int) -> list[float]:
        """How long ``call`` takes, each time, after ``warm`` calls that are not timed."""
        ...

    def profiled(self, call: Callable[[], object]) -> Profile:
        """Run ``call`` once under the profiler. Raises ``Refused`` where that sees nothing."""
        ...

    def record(self, call: Callable[[], object], pool: Any = None) -> Replay:
        """Record ``call``, which must have run before; recordings that share a ``pool`` share memory."""
        ...

    def pool(self) -> Any:
        """A new pool for ``record``."""
        ...

    def held_gib(self) -> float:
        """Memory that torch has of the device."""
        ...

    def allocated_gib(self) -> float:
        """Memory in tensors."""
        ...

    def peak_gib(self) -> float:
        """Most memory that torch had since ``empty``."""
        ...

    def empty(self) -> None:
        """Give back what no tensor holds, and count peaks anew."""
        ...

    def capped(self, gib: float) -> Any:
        """A context in which this process has so much of the device."""
        ...

    def filled(self, gib: float) -> Any:
        """A context in which so much of the device is free, to everybody."""
        ...

    def needs_cuda(self, what: str) -> None:
        """Raise ``Refused`` where this is no CUDA device."""
        ...


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
        longest = {each.key: each.self_cpu_time_total / 1e3 for each in averages}
        copies = sum(each.count for each in averages if each.key == "aten::copy_")
        return Profile(wall_ms, sum(longest.values()), sum(each.count for each in averages), copies, 0, _longest(longest))

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


class CudaDevice:
    """The CUDA device that is current."""

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
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            began = time.perf_counter()
            call()
            torch.cuda.synchronize()
            wall_ms = (time.perf_counter() - began) * 1e3
        events = list(profiler.events() or ())
        on_device = [event for event in events if str(event.device_type).endswith("CUDA")]
        if not on_device:
            raise Refused("the profiler saw no kernel: CUPTI is not to be had here")
        calls = Counter(event.name for event in events)
        times: Counter[str] = Counter()
        for event in on_device:
            times[event.name] += event.time_range.elapsed_us() / 1e3
        copies = sum(event.name.startswith("Memcpy") for event in on_device)
        kernels = sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)
        waits = sum(calls[name] for name in WAITS) - 1
        return Profile(wall_ms, sum(times.values()), kernels, copies, max(waits, 0), _longest(times))

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
        """It is one."""


def median_ms(device: Device, call: Callable[[], object], *, repeats: int = 7, warm: int = 2) -> float:
    """The median time of ``call`` in ms, in inference mode."""
    with torch.inference_mode():
        return statistics.median(device.times_ms(call, repeats=repeats, warm=warm))


def seconds_of(device: Device, call: Callable[[], object]) -> float:
    """How long ``call`` takes until the device is done with it."""
    device.synchronize()
    began = time.perf_counter()
    call()
    device.synchronize()
    return time.perf_counter() - began


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _longest(times: Mapping[str, float], most: int = 3) -> dict[str, float]:
    return dict(sorted(times.items(), key=lambda entry: -entry[1])[:most])
