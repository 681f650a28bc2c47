"""Stand-ins for torch and NVML, with GPUs that are not here. Forms are those of torch 2.13 and nvidia-ml-py 13.

Built from the same cards, so that a mistaken identity shows: CUDA counts the visible ones, NVML knows all by UUID.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from worker.nvml import Nvml

GIB = 2**30


@dataclass
class FakeCard:
    """A card, and what is held on it: by this process as torch counts it, and by all as NVML does."""

    digits: str
    """Those of its UUID, in groups of 8-4-4-4-12."""
    total: int = 80 * GIB
    used: int = 0
    percent: int = 0
    allocated: int = 0
    reserved: int = 0
    peak: int = 0
    name: str = "NVIDIA H100 80GB HBM3"

    @property
    def uuid(self) -> str:
        """The UUID as NVML spells it."""
        return f"{'MIG' if ' MIG ' in self.name else 'GPU'}-{self.digits}"


class FakeCuda:
    """``torch.cuda`` of a process that sees ``visible``."""

    def __init__(self, visible: Sequence[FakeCard], *, initialized: bool = True) -> None:
        self._visible, self._initialized = visible, initialized

    def is_initialized(self) -> bool:
        return self._initialized

    def device_count(self) -> int:
        return len(self._visible)

    def get_device_properties(self, device: int) -> SimpleNamespace:
        card = self._visible[device]
        return SimpleNamespace(name=card.name, major=9, minor=0, uuid=card.digits)

    def memory_allocated(self, device: int) -> int:
        return self._visible[device].allocated

    def memory_reserved(self, device: int) -> int:
        return self._visible[device].reserved

    def max_memory_allocated(self, device: int) -> int:
        return self._visible[device].peak

    def reset_peak_memory_stats(self, device: int) -> None:
        self._visible[device].peak = self._visible[device].allocated


class FakeNvmlError(Exception):
    """As ``pynvml.NVMLError``: of no kind that Python knows."""


class FakePynvml:
    """The module ``pynvml`` on a host with ``cards``. Functions named in ``lacks`` are not supported."""

    def __init__(self, cards: Sequence[FakeCard], *, lacks: Collection[str] = ()) -> None:
        self._cards, self._lacks, self._begun = {card.uuid: card for card in cards}, lacks, False

    def nvmlInit(self) -> None:  # noqa: N802 - its name there
        self._offer("nvmlInit")
        self._begun = True

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._offer("nvmlSystemGetDriverVersion")
        return "580.95.05"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeCard:  # noqa: N802
        self._offer("nvmlDeviceGetHandleByUUID")
        if uuid not in self._cards:
            raise FakeNvmlError("Not Found")
        return self._cards[uuid]

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> SimpleNamespace:  # noqa: N802
        self._offer("nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=card.total, used=card.used, free=card.total - card.used)

    def nvmlDeviceGetUtilizationRates(self, card: FakeCard) -> SimpleNamespace:  # noqa: N802
        self._offer("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=card.percent, memory=1)

    def _offer(self, function: str) -> None:
        if function in self._lacks:
            raise FakeNvmlError("Not Supported")
        if function != "nvmlInit" and not self._begun:
            raise FakeNvmlError("Uninitialized")


def torch_of(visible: Sequence[FakeCard], *, initialized: bool = True) -> SimpleNamespace:
    """The module ``torch``."""
    return SimpleNamespace(cuda=FakeCuda(visible, initialized=initialized))


def nvml_of(cards: Sequence[FakeCard], *, lacks: Collection[str] = ()) -> Nvml:
    """NVML as the worker asks it, on a host with ``cards``."""
    return Nvml(FakePynvml(cards, lacks=lacks))
