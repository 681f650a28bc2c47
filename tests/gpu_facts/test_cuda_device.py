"""Counts that are made of what a CUDA device's profiler saw."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from scripts.gpu_facts.cuda_device import CudaDevice

OWN = ("cudaDeviceSynchronize", "cudaDeviceSynchronize")
"""Waits of the profiler and of the call that ends what is timed."""


class Traced(CudaDevice):
    """A device whose profiler sees what the call returns, beside its own waits, and more the first time."""

    def __init__(self) -> None:
        self.traces = 0

    def traced(self, call: Callable[[], object]) -> tuple[float, list[Any]]:
        self.traces += 1
        setting_up = ("cudaStreamSynchronize",) * 3 if self.traces == 1 else ()
        seen = (*(call() or ()), *OWN, *setting_up)  # type: ignore[misc]
        return 1.0, [event(name, "CPU") for name in seen] + [event("volta_sgemm", "DeviceType.CUDA", 2000.0)]


def event(name: str, device: str, us: float = 0.0) -> Any:
    return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: us))


def test_the_waits_of_the_profiler_are_not_those_of_the_call() -> None:
    """Of a profiled call those waits count that a call of nothing does not have."""
    device = Traced()
    assert device.profiled(lambda: ("cudaStreamSynchronize", "cudaMemcpyAsync")).waits == 1
    assert device.profiled(lambda: ()).waits == 0
    assert device.profiled(lambda: ()).times == {"volta_sgemm": 2.0}
    assert device.traces == 2 + 3
