"""The GPUs on which this process holds memory, as torch and NVML see them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker.nvml import Nvml

_MIG = " MIG "
"""Part of the name of a MIG slice, as in "NVIDIA A100-SXM4-40GB MIG 3g.20gb"."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, or slice of one, that this process uses."""

    device: int
    """Its number as CUDA counts those that are visible."""
    uuid: str
    """Its UUID as ``nvidia-smi -L`` prints it: the same in every process, whatever is visible there."""
    name: str
    driver: str
    """The version of the driver; empty where NVML does not tell."""
    capability: str


class GpuMetrics(Collector):
    """Exports identity, memory and utilisation of each GPU; a figure that cannot be had is no series (not a zero)."""

    def __init__(self, torch: Any = None, nvml: Nvml | None = None) -> None:
        """``torch`` is, without it, the one that an engine has imported, if any has."""
        self._given_torch = torch
        self._nvml = nvml or Nvml()
        self._known: dict[int, Gpu] = {}

    def gpus(self) -> list[Gpu]:
        """The GPUs on which this process holds memory now. Never wakes CUDA."""
        torch = self._torch
        if not hasattr(torch, "cuda") or not torch.cuda.is_initialized():  # another thread may just be importing it
            return []
        used = [device for device in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(device)]
        for device in used:
            if device not in self._known:
                self._known[device] = self._read(torch.cuda, device)
        return [self._known[device] for device in used]

    def reset_peaks(self) -> None:
        """Let ``peak`` begin anew: it is the most that was allocated at once since the last call of this."""
        for gpu in self.gpus():
            self._torch.cuda.reset_peak_memory_stats(gpu.device)

    def collect(self) -> Iterable[Metric]:
        """Read everything now."""
        memory = GaugeMetricFamily(
            "outfill_gpu_memory_bytes",
            "Of the whole card (NVML): total, used, free. Of this process (torch): allocated, reserved, "
            "and peak, the most allocated since the warm-up.",
            labels=["device", "uuid", "kind"],
        )
        utilization = GaugeMetricFamily(
            "outfill_gpu_utilization_ratio", "Share of the last second in which any kernel ran (NVML).", labels=["device", "uuid"]
        )
        info = GaugeMetricFamily(
            "outfill_gpu_info", "1 for each GPU that this process uses.", labels=["device", "uuid", "name", "driver", "capability"]
        )
        gpus = self.gpus()
        for gpu in gpus:
            labels = [str(gpu.device), gpu.uuid]
            for kind, size in {**(self._nvml.memory(gpu.uuid) or {}), **self._allocator(gpu.device)}.items():
                memory.add_metric([*labels, kind], size)
            if (ratio := self._nvml.utilization(gpu.uuid)) is not None:
                utilization.add_metric(labels, ratio)
            info.add_metric([*labels, gpu.name, gpu.driver, gpu.capability], 1)
        if gpus:
            yield from (memory, utilization, info)

    @property
    def _torch(self) -> Any:
        return self._given_torch or sys.modules.get("torch")

    def _read(self, cuda: Any, device: int) -> Gpu:
        properties = cuda.get_device_properties(device)
        # torch gives the 16 bytes as hexadecimal digits, without the prefix by which NVML tells slices from cards.
        uuid = f"{'MIG' if _MIG in properties.name else 'GPU'}-{properties.uuid}"
        capability = f"{properties.major}.{properties.minor}"
        return Gpu(device, uuid, properties.name, self._nvml.driver() or "", capability)

    def _allocator(self, device: int) -> dict[str, int]:
        cuda = self._torch.cuda
        return {
            "allocated": cuda.memory_allocated(device),
            "reserved": cuda.memory_reserved(device),
            "peak": cuda.max_memory_allocated(device),
        }
