"""Measurements of a device itself: times, kernels, memory and graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

GIB = 2**30


@dataclass(frozen=True)
class Profile:
    """One call as the profiler saw it."""

    wall_ms: float
    busy_ms: float
    """In which a kernel or a copy ran; the sum, as all of them run on one stream."""
    kernels: int
    copies: int
    waits: int
    """Calls that wait for the device, without the profiler's own."""
    times: Mapping[str, float]
    """By the name of the kernel, in ms."""


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
        """Times of ``call`` after ``warm`` calls that are not timed."""
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


def median_ms(device: Device, call: Callable[[], object], *, repeats: int = 7, warm: int = 2) -> float:
    """The median time of ``call`` in ms, in inference mode."""
    with torch.inference_mode():
        return statistics.median(device.times_ms(call, repeats=repeats, warm=warm))


def seconds_of(device: Device, call: Callable[[], object]) -> float:
    """Seconds that ``call`` takes until the device is done with it."""
    device.synchronize()
    began = time.perf_counter()
    call()
    device.synchronize()
    return time.perf_counter() - began


def longest(times: Mapping[str, float], most: int = 3) -> dict[str, float]:
    """The ``most`` that took longest, longest first."""
    return dict(sorted(times.items(), key=lambda entry: -entry[1])[:most])
