"""The series of the card are what the driver says of it."""

from __future__ import annotations

import pynvml
import torch
from prometheus_client import CollectorRegistry

from gpu.rig import Rig
from worker.gpu_metrics import GpuMetrics

KINDS = {"total", "used", "free", "allocated", "reserved", "peak"}


def test_the_card_is_found_in_nvml(rig: Rig) -> None:
    """The UUID that torch gives is one that NVML knows, with the memory that CUDA reports; without a GPU there is no series."""
    gpus, registry = GpuMetrics(), CollectorRegistry()
    registry.register(gpus)
    if not rig.on_gpu:
        assert torch.cuda.is_available() or list(registry.collect()) == []
        return
    held = torch.ones(2**20, device=rig.device)
    [gpu] = gpus.gpus()
    handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    assert pynvml.nvmlDeviceGetUUID(handle) == gpu.uuid
    samples = [sample for family in registry.collect() for sample in family.samples]
    memory = {sample.labels["kind"]: sample.value for sample in samples if sample.name == "outfill_gpu_memory_bytes"}
    assert set(memory) == KINDS
    assert memory["total"] >= torch.cuda.mem_get_info(rig.device)[1] * 0.95
    assert memory["used"] >= memory["reserved"] >= memory["allocated"] >= held.nbytes
    assert gpu.driver
