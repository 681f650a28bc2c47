"""The same tests on two devices: on a GPU with weights of true size, and on the CPU with tiny ones, where they show that they run.

``make test-gpu`` runs those that need a GPU. Without one they are skipped, and say so.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch

from gpu.rig import Rig

NEEDS_CUDA = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"))


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """Tiny on the CPU, true on the GPU."""
    return Rig(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def _clean_device(rig: Rig) -> Iterator[None]:
    """Every test begins and ends with an empty device that it may fill, and without graphs."""
    threads = torch.get_num_threads()
    if not rig.on_gpu:
        torch.set_num_threads(1)  # tiny tensors are slower on several
    _empty(rig)
    yield
    _empty(rig)
    torch.set_num_threads(threads)


@pytest.fixture
def cap(rig: Rig) -> Callable[[int], None]:
    """Lets a test have so many bytes of the device, beside the weights that are copied; after it all again. A CPU has no cap."""

    def set_cap(size: int) -> None:
        if rig.on_gpu:
            torch.cuda.set_per_process_memory_fraction(min(1.0, (rig.held_bytes + size) / torch.cuda.mem_get_info()[1]))

    return set_cap


def _empty(rig: Rig) -> None:
    gc.collect()
    torch._dynamo.reset()
    if rig.on_gpu:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
