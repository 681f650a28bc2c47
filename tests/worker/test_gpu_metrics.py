"""The series of GPUs: the right card's figures, or none."""

from __future__ import annotations

import sys
from types import ModuleType

import pynvml
import pytest
from fake_gpus import GIB, FakeCard, FakePynvml, nvml_of, torch_of
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from worker.gpu_metrics import Gpu, GpuMetrics
from worker.nvml import Nvml

MEMORY, UTILIZATION, INFO = "outfill_gpu_memory_bytes", "outfill_gpu_utilization_ratio", "outfill_gpu_info"


@pytest.fixture
def cards() -> list[FakeCard]:
    """Two cards of one host; the first is also used by others."""
    return [
        FakeCard("11111111-2222-3333-4444-555555555555", used=30 * GIB, percent=97, allocated=4 * GIB, reserved=5 * GIB, peak=9 * GIB),
        FakeCard("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", used=7 * GIB, percent=12, allocated=GIB, reserved=2 * GIB, peak=3 * GIB),
    ]


def series(gpus: GpuMetrics) -> dict[tuple[str, ...], float]:
    """All samples, by name, device, UUID and, of memory, kind."""
    registry = CollectorRegistry()
    registry.register(gpus)
    return {
        (sample.name, *(sample.labels[label] for label in ("device", "uuid", "kind") if label in sample.labels)): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_a_scrape_while_torch_is_imported_is_answered() -> None:
    """A worker is scraped before it has loaded torch: a module that is only half there has no series, and raises nothing."""
    assert series(GpuMetrics(ModuleType("torch"))) == {}


def test_each_card_has_its_own_figures(cards: list[FakeCard]) -> None:
    """Of two cards each has its memory, as the card and as the process see it, its utilisation and its identity."""
    found = series(GpuMetrics(torch_of(cards), nvml_of(cards)))
    first, second = (("0", cards[0].uuid), ("1", cards[1].uuid))
    assert found == {
        (MEMORY, *first, "total"): 80 * GIB,
        (MEMORY, *first, "used"): 30 * GIB,
        (MEMORY, *first, "free"): 50 * GIB,
        (MEMORY, *first, "allocated"): 4 * GIB,
        (MEMORY, *first, "reserved"): 5 * GIB,
        (MEMORY, *first, "peak"): 9 * GIB,
        (MEMORY, *second, "total"): 80 * GIB,
        (MEMORY, *second, "used"): 7 * GIB,
        (MEMORY, *second, "free"): 73 * GIB,
        (MEMORY, *second, "allocated"): GIB,
        (MEMORY, *second, "reserved"): 2 * GIB,
        (MEMORY, *second, "peak"): 3 * GIB,
        (UTILIZATION, *first): 0.97,
        (UTILIZATION, *second): 0.12,
        (INFO, *first): 1,
        (INFO, *second): 1,
    }


def test_a_card_is_itself_whatever_is_visible(cards: list[FakeCard]) -> None:
    """With CUDA_VISIBLE_DEVICES=1 device 0 is the second card of the host, and so are its figures from NVML."""
    found = series(GpuMetrics(torch_of(cards[1:]), nvml_of(cards)))
    assert found[MEMORY, "0", cards[1].uuid, "used"] == 7 * GIB
    assert found[UTILIZATION, "0", cards[1].uuid] == 0.12
    assert not [key for key in found if cards[0].uuid in key]


def test_a_card_says_who_it_is(cards: list[FakeCard]) -> None:
    """A card is described by the UUID of ``nvidia-smi -L``, its name, its driver and its capability, for the log."""
    assert GpuMetrics(torch_of(cards[1:]), nvml_of(cards)).gpus() == [
        Gpu(0, "GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "NVIDIA H100 80GB HBM3", "580.95.05", "9.0")
    ]


def test_a_slice_of_a_card_has_memory_and_no_utilization() -> None:
    """A MIG slice is asked for by its own UUID; its utilisation, which NVML does not tell, is no series and not 0."""
    slices = [FakeCard("99999999-0000-0000-0000-000000000000", total=20 * GIB, reserved=1, name="NVIDIA A100-SXM4-40GB MIG 3g.20gb")]
    with capture_logs() as logs:
        gpus = GpuMetrics(torch_of(slices), nvml_of(slices, lacks={"nvmlDeviceGetUtilizationRates"}))
        found = [series(gpus) for _ in range(3)][-1]
    assert found[MEMORY, "0", "MIG-99999999-0000-0000-0000-000000000000", "total"] == 20 * GIB
    assert not [key for key in found if key[0] == UTILIZATION]
    assert [entry["log_level"] for entry in logs] == ["warning"]


@pytest.mark.parametrize("missing", ["package", "library"])
def test_without_nvml_there_is_what_torch_knows(cards: list[FakeCard], missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NVML its series are absent, torch's are there, and one warning is logged, however often it is scraped."""
    monkeypatch.setitem(sys.modules, "pynvml", None)  # to import it is an ImportError
    gpus = GpuMetrics(torch_of(cards), Nvml() if missing == "package" else nvml_of(cards, lacks={"nvmlInit"}))
    with capture_logs() as logs:
        found = [series(gpus) for _ in range(3)][-1]
    assert {key[0] for key in found} == {MEMORY, INFO}
    assert {key[3] for key in found if key[0] == MEMORY} == {"allocated", "reserved", "peak"}
    assert [gpu.driver for gpu in gpus.gpus()] == ["", ""]
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("nvml_does_not_tell", "warning")]


def test_the_real_bindings_have_what_is_asked_of_them() -> None:
    """Every function of the stand-in is one of ``pynvml``'s, and so is every field that is read of its answers."""
    functions = [name for name in vars(FakePynvml) if name.startswith("nvml")]
    assert len(functions) == 5
    assert [name for name in functions if not callable(getattr(pynvml, name, None))] == []
    assert {"total", "used", "free"} <= {name for name, _ in pynvml.c_nvmlMemory_t._fields_}
    assert "gpu" in {name for name, _ in pynvml.c_nvmlUtilization_t._fields_}


def test_a_card_that_fails_for_a_while_comes_back(cards: list[FakeCard]) -> None:
    """A figure that NVML could not give is there again once it can."""
    lacks = {"nvmlDeviceGetMemoryInfo"}
    gpus = GpuMetrics(torch_of(cards), nvml_of(cards, lacks=lacks))
    assert (MEMORY, "0", cards[0].uuid, "total") not in series(gpus)
    lacks.clear()
    assert series(gpus)[MEMORY, "0", cards[0].uuid, "total"] == 80 * GIB


def test_a_card_on_which_nothing_is_held_is_not_this_worker_s(cards: list[FakeCard]) -> None:
    """A worker on ``cuda:1`` exports that card alone, though it sees both."""
    cards[0].reserved = cards[0].allocated = 0
    found = series(GpuMetrics(torch_of(cards), nvml_of(cards)))
    assert {key[2] for key in found} == {cards[1].uuid}


def test_a_process_that_has_not_woken_cuda_exports_nothing(cards: list[FakeCard]) -> None:
    """On a host with GPUs a worker on the CPU, or one that has not begun, has no series; a scrape does not wake CUDA."""
    assert series(GpuMetrics(torch_of(cards, initialized=False), nvml_of(cards))) == {}


def test_the_peak_begins_anew_when_it_is_told_to(cards: list[FakeCard]) -> None:
    """After the warm-up the peak is no longer the warm-up's."""
    gpus = GpuMetrics(torch_of(cards), nvml_of(cards))
    gpus.reset_peaks()
    assert [series(gpus)[MEMORY, str(device), card.uuid, "peak"] for device, card in enumerate(cards)] == [4 * GIB, GIB]
