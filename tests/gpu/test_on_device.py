"""On the device the engine computes what the stock pipeline computes, with the kernels and the memory that it was tuned for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from painting import begun, relative_error, result_of

from api_schemas.requests import Priority
from gpu.rig import Rig
from scripts.gpu_facts.compiled import compile_call
from scripts.stock import run_stock
from worker.engines.base import OutOfMemory, Slot
from worker.engines.device import read_device
from worker.engines.diffusion import residency
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.kernels import attention_kernels
from worker.engines.diffusion.residency import warm_up
from worker.engines.diffusion.unet_call import blank_call
from worker.scheduler import Scheduler, Task
from worker.tuning import TuningRefused, Wishes

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

FAMILIES = ("sd15", "sdxl")
BOUND = {"cpu": 1e-4, "cuda": 0.05}
"""Of the relative error of latents: float32 on the CPU, float16 on the GPU, where kernels depend on the batch."""
FAST = {"flash", "cudnn", "efficient"}
KERNELS: dict[str, dict[str, set[str]]] = {
    "cpu": {"auto": {"flash_for_cpu"}, "flash": {"flash_for_cpu"}, "math": {"math"}},
    "cuda": {"auto": FAST, **{name: {name} for name in (*FAST, "math", "xformers")}},
}
"""By device and attention, the kernels that may run: by default any fast one, as which is fastest depends on the card and the shape."""


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_those_of_the_stock_pipeline(rig: Rig, family: str) -> None:
    """A picture painted in company ends where the stock pipeline ends alone, to the precision of the device."""
    engine = rig.engine(family)
    subject, neighbour = begun(engine, rig.request(family)), begun(engine, rig.request(family, seed=8, steps=4))
    while not subject.done:
        engine.step([neighbour, subject])
    assert subject.error is None
    stock: torch.Tensor = run_stock(rig.stock(family), rig.request(family), output_type="latent")
    assert relative_error(subject.latents.float(), stock.float()) <= BOUND[rig.device]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["auto", "flash", "efficient", "cudnn", "math", "xformers"])
def test_the_kernel_that_was_chosen_really_runs(rig: Rig, family: str, attention: Any) -> None:
    """Every attention of the UNet runs the kernel that was asked for; by default a fast one, never math. What the device lacks is refused."""
    wishes = replace(rig.wishes, attention=attention)
    if attention not in KERNELS[rig.device]:
        with pytest.raises(TuningRefused, match="OUTFILL_WORKER__ATTENTION"):
            rig.tuning(family, wishes)
        return
    if attention == "xformers":
        pytest.importorskip("xformers")
    engine = rig.engine(family, rig.tuning(family, replace(wishes, compile="off")))
    slot = begun(engine, rig.request(family))
    ran = set(attention_kernels(lambda: engine.step([slot])))
    assert ran
    assert ran <= KERNELS[rig.device][attention]
    assert slot.error is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_engine_paints_the_same(rig: Rig, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for the native shape, the engine's latents are those that it has without."""
    monkeypatch.setattr(residency, "CPU_PATIENCE_S", float("inf"))  # a busy machine compiles both sizes, too
    plain = result_of(rig.engine(family, rig.tuning(family, replace(rig.wishes, compile="off"))), rig.request(family))
    engine = rig.engine(family, rig.tuning(family, replace(rig.wishes, compile="on")))
    measured = warm_up(compile_call(engine), rig.device, most_rows=2)
    assert [entry.rows for entry in measured.table] == [1, 2]
    assert relative_error(result_of(engine, rig.request(family)).float(), plain.float()) <= BOUND[rig.device]
    assert engine.calls["compiled"] > 0
    assert engine.calls["eager"] == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offload", ["text_encoders", "group"])
def test_an_offloaded_engine_paints_the_same(rig: Rig, family: str, offload: Any) -> None:
    """What waits in main memory changes no picture, and is not on the device while it waits."""
    resident = rig.tuning(family, replace(rig.wishes, offload="none", compile="off"))
    plain = result_of(rig.engine(family, resident), rig.request(family))
    engine = rig.engine(family, replace(resident, offload=offload))
    latents = result_of(engine, rig.request(family))
    assert relative_error(latents.float(), plain.float()) <= BOUND[rig.device]
    for parked in engine._parts.text_encoders.values():
        assert {parameter.device.type for parameter in parked._module.parameters()} == {"cpu"}
    if rig.on_gpu and offload == "group":
        assert torch.cuda.memory_allocated() - rig.held_bytes < sum(parameter.nbytes for parameter in engine._unet.module.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("offload", ["text_encoders", "group"])
def test_an_adapter_that_comes_later_is_offloaded_too(rig: Rig, family: str, offload: Any) -> None:
    """A LoRA read after the first picture changes an offloaded model as it changes a resident one."""
    rig.write_lora(family, "late")
    resident = rig.tuning(family, replace(rig.wishes, offload="none", compile="off"))
    request = rig.request(family, loras=(("late", 1.0),))
    expected = result_of(rig.engine(family, resident), request)
    engine = rig.engine(family, replace(resident, offload=offload))
    plain = result_of(engine, rig.request(family))
    assert relative_error(result_of(engine, request).float(), expected.float()) <= BOUND[rig.device]
    assert relative_error(plain.float(), expected.float()) > BOUND[rig.device]


@pytest.mark.parametrize("family", FAMILIES)
def test_out_of_memory_halves_the_batch_and_goes_on(rig: Rig, family: str, cap: Any) -> None:
    """A batch that the device has no room for is tried again with half, and every picture is painted as if alone."""
    engine = rig.engine(family, rig.tuning(family, replace(rig.wishes, compile="off")))
    alone = result_of(engine, rig.request(family))
    pictures = 32 if rig.on_gpu else 8
    slots = [begun(engine, rig.request(family)) for _ in range(pictures)]
    make_room_for_few(rig, engine, cap)
    scheduler: Scheduler[Slot] = Scheduler({family: 64.0})
    for number, slot in enumerate(slots):
        scheduler.add(Task(f"job{number}", family, Priority.STANDARD, 0.0, slot))
    halvings = 0
    while (batch := scheduler.next()) is not None:
        try:
            engine.step(batch.slots)
        except OutOfMemory:
            assert len(batch.slots) > 1
            scheduler.ran_out(batch)
            halvings += 1
    assert halvings >= 1
    for slot in slots:
        assert slot.error is None
        assert relative_error(slot.latents.float(), alone.float()) <= BOUND[rig.device]


def make_room_for_few(rig: Rig, engine: DiffusionEngine, cap: Any) -> None:
    """Room beside what is held for about six guided pictures; a CPU has no such bound, so there the UNet says so itself."""
    if rig.on_gpu:
        torch.cuda.empty_cache()
        (one,) = warm_up(blank_call(engine._unet, 64, 64, tokens=77), rig.device, most_rows=1).table
        torch.cuda.empty_cache()
        area = engine.card.native_size or 512
        cap(torch.cuda.memory_allocated() - rig.held_bytes + 12 * one.peak_bytes * (area // 8) ** 2 // 64**2 + 2**29)
        return

    def refuse(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 4:
            raise torch.OutOfMemoryError("as if the device were full")

    engine._unet.module.register_forward_pre_hook(refuse)


def test_what_is_not_there_is_refused(rig: Rig) -> None:
    """float16 is for GPUs; a GPU with a number that no GPU has is refused by name."""
    with pytest.raises(TuningRefused, match="OUTFILL_WORKER__DEVICE=cuda:99"):
        read_device("cuda:99", Wishes(compile="off"))
    if not rig.on_gpu:
        with pytest.raises(TuningRefused, match="OUTFILL_WORKER__DTYPE=float16"):
            rig.tuning("sd15", Wishes(dtype="float16"))
