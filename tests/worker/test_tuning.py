"""How a model is run follows from the device, the model and the wishes, and from nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest
import torch

from core.settings import Worker
from worker.engines.device import free_bytes, read_device, use_device
from worker.tuning import GIB, DeviceFacts, ModelFacts, Tuning, TuningRefused, Wishes, choose, choose_all, peak_bytes

SD15 = ModelFacts(unet_bytes=1_719_070_728, vae_bytes=167_307_726, text_encoder_bytes=(246_120_960,), latent_area=64 * 64)
SDXL = ModelFacts(
    unet_bytes=5_134_956_168,
    vae_bytes=167_307_726,
    text_encoder_bytes=(246_120_960, 1_389_319_680),
    latent_area=128 * 128,
    vae_overflows=True,
)
OLD_CPU = DeviceFacts("cpu", "old", total_bytes=32 * GIB, free_bytes=24 * GIB)
NEW_CPU = replace(OLD_CPU, cpu_flags=frozenset({"avx512_bf16"}))


def card(gib: float, *, capability: tuple[int, int] = (8, 6), **facts: Any) -> DeviceFacts:
    """A CUDA device of a nominal size; the context and what is not usable of it take 0.7 GiB."""
    return DeviceFacts("cuda", "a card", int(gib * GIB), int((gib - 0.7) * GIB), capability=capability, **facts)


@pytest.mark.parametrize(
    ("device", "model", "expected"),
    [
        (OLD_CPU, SD15, {"dtype": "float32", "attention": "sdpa", "compile": False, "offload": "none", "vae_tiling": False}),
        (NEW_CPU, SD15, {"dtype": "bfloat16", "vae_dtype": "bfloat16", "attention": "chunked", "compile": False, "vae_slicing": True}),
        (card(80), SD15, {"dtype": "float16", "vae_dtype": "float16", "attention": "fastest", "compile": True, "vae_slicing": False}),
        (card(80), SDXL, {"dtype": "float16", "vae_dtype": "float32", "offload": "none", "vae_slicing": False}),
        (card(12), SDXL, {"offload": "none", "vae_tiling": False, "vae_slicing": True}),
        (card(8), SD15, {"offload": "none", "vae_tiling": False, "compile": True}),
        (card(8), SDXL, {"offload": "text_encoders", "vae_tiling": True, "vae_slicing": True, "compile": True}),
        (card(8), replace(SDXL, vae_overflows=False), {"vae_dtype": "float16", "offload": "text_encoders", "vae_tiling": False}),
        (card(6), SDXL, {"offload": "group", "compile": False}),
        (card(4), SD15, {"offload": "none"}),
        (card(16, capability=(7, 5)), SD15, {"dtype": "float16", "attention": "fastest"}),
        (card(80, compile_obstacle="no compiler"), SD15, {"compile": False, "compile_fault": "no compiler"}),
        (card(11, capability=(6, 1)), SD15, {"compile": False}),
    ],
)
def test_what_is_chosen_where_nothing_is_wished(device: DeviceFacts, model: ModelFacts, expected: dict[str, Any]) -> None:
    """Each device gets the fastest way that it has and that fits."""
    tuning = choose(device, model)
    assert {name: getattr(tuning, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("device", "wishes", "expected"),
    [
        (card(80), Wishes(dtype="bfloat16"), {"dtype": "bfloat16", "vae_dtype": "bfloat16"}),
        (card(80), Wishes(dtype="float32"), {"dtype": "float32", "vae_dtype": "float32"}),
        (card(80, has_xformers=True), Wishes(attention="xformers"), {"attention": "xformers", "compile": False}),
        (card(80, has_xformers=True), Wishes(attention="xformers", compile="on"), {"compile": True, "must_compile": True}),
        (card(80, has_xformers=True, xformers_fault="no library"), Wishes(attention="xformers"), {"attention": "fastest"}),
        (card(80), Wishes(attention="math"), {"attention": "math"}),
        (card(80), Wishes(offload="group"), {"offload": "group", "vae_tiling": False, "compile": False}),
        (card(80), Wishes(vae_tiling="on"), {"offload": "none", "vae_tiling": True}),
        (card(8), Wishes(vae_tiling="off"), {"offload": "group", "vae_tiling": False}),
        (card(6), Wishes(offload="none"), {"offload": "none", "vae_tiling": True}),
        (card(80), Wishes(compile="off"), {"compile": False}),
        (card(80, compile_obstacle="no compiler"), Wishes(compile="off"), {"compile": False, "compile_fault": None}),
        (card(80), Wishes(), {"compile": True, "must_compile": False}),
        (NEW_CPU, Wishes(dtype="float32"), {"dtype": "float32", "attention": "sdpa"}),
        (OLD_CPU, Wishes(dtype="bfloat16"), {"dtype": "bfloat16", "attention": "chunked"}),
        (NEW_CPU, Wishes(attention="flash"), {"attention": "flash"}),
        (NEW_CPU, Wishes(compile="on"), {"compile": True}),
        (NEW_CPU, Wishes(offload="none", vae_tiling="on"), {"offload": "none", "vae_tiling": True}),
    ],
)
def test_what_is_wished_is_done(device: DeviceFacts, wishes: Wishes, expected: dict[str, Any]) -> None:
    """A wish that the device can grant decides; what was not wished follows from it."""
    tuning = choose(device, SDXL, wishes)
    assert {name: getattr(tuning, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("device", "wishes", "setting"),
    [
        (NEW_CPU, Wishes(dtype="float16"), "OUTFILL_WORKER__DTYPE=float16"),
        (card(16, capability=(7, 5)), Wishes(dtype="bfloat16"), "OUTFILL_WORKER__DTYPE=bfloat16"),
        (NEW_CPU, Wishes(attention="xformers"), "OUTFILL_WORKER__ATTENTION=xformers"),
        (NEW_CPU, Wishes(attention="efficient"), "OUTFILL_WORKER__ATTENTION=efficient"),
        (NEW_CPU, Wishes(attention="cudnn"), "OUTFILL_WORKER__ATTENTION=cudnn"),
        (card(80), Wishes(attention="xformers"), "OUTFILL_WORKER__ATTENTION=xformers"),
        (card(16, capability=(7, 5)), Wishes(attention="flash"), "OUTFILL_WORKER__ATTENTION=flash"),
        (card(80), Wishes(attention="flash", dtype="float32"), "OUTFILL_WORKER__ATTENTION=flash"),
        (card(80, compile_obstacle="no compiler"), Wishes(compile="on"), "OUTFILL_WORKER__COMPILE=on: no compiler"),
        (card(80), Wishes(compile="on", offload="group"), "OUTFILL_WORKER__COMPILE=on"),
        (card(6), Wishes(compile="on"), "OUTFILL_WORKER__COMPILE=on"),
        (replace(NEW_CPU, compile_obstacle="no compiler"), Wishes(compile="on"), "OUTFILL_WORKER__COMPILE=on"),
        (NEW_CPU, Wishes(offload="group"), "OUTFILL_WORKER__OFFLOAD=group"),
        (NEW_CPU, Wishes(offload="text_encoders"), "OUTFILL_WORKER__OFFLOAD=text_encoders"),
    ],
)
def test_what_cannot_be_done_is_refused(device: DeviceFacts, wishes: Wishes, setting: str) -> None:
    """A wish that the device cannot grant is an error that names the setting, and not something else done instead."""
    with pytest.raises(TuningRefused, match=setting):
        choose(device, SDXL, wishes)


@pytest.mark.parametrize("device", [OLD_CPU, NEW_CPU, card(4), card(80)])
def test_every_value_has_its_reason(device: DeviceFacts) -> None:
    """The log can say of each value why it was taken."""
    tuning = choose(device, SDXL)
    assert set(tuning.reasons) == {field.name for field in fields(Tuning)} - {"reasons"}
    assert all(tuning.reasons.values())


def test_a_model_that_may_not_fit_is_said_to() -> None:
    """Where even the smallest way is too large by the estimate, it is taken, and its reason says so."""
    assert "MAY NOT FIT" in choose(card(3), SDXL).reasons["offload"]
    assert "MAY NOT FIT" not in choose(card(8), SDXL).reasons["offload"]


def test_a_broken_xformers_is_told() -> None:
    """A worker that was told to use xformers, and cannot, says why in its log."""
    tuning = choose(card(80, has_xformers=True, xformers_fault="libcudart.so.12 is missing"), SD15, Wishes(attention="xformers"))
    assert "libcudart.so.12 is missing" in tuning.reasons["attention"]


@pytest.mark.parametrize(
    ("gib", "models", "expected"),
    [
        (24, {"a": SDXL, "b": SDXL}, {"a": ("none", False), "b": ("none", False)}),
        (16, {"a": SDXL, "b": SDXL}, {"a": ("text_encoders", False), "b": ("text_encoders", False)}),
        (12, {"xl": SDXL}, {"xl": ("none", False)}),
        (12, {"xl": SDXL, "small": SD15}, {"xl": ("text_encoders", False), "small": ("none", False)}),
        (10, {"xl": SDXL, "small": SD15}, {"xl": ("text_encoders", True), "small": ("none", False)}),
        (8, {"a": SD15, "b": SD15}, {"a": ("none", False), "b": ("none", False)}),
    ],
)
def test_models_that_share_a_device_fit_together(gib: float, models: dict[str, ModelFacts], expected: dict[str, tuple[str, bool]]) -> None:
    """All weights and the largest activations fit, whichever model comes first, and no more waits in main memory than must."""
    for order in (models, dict(reversed(models.items()))):
        tunings = choose_all(card(gib), order)
        assert {name: (tuning.offload, tuning.vae_tiling) for name, tuning in tunings.items()} == expected
        assert all("MAY NOT FIT" not in tuning.reasons["offload"] for tuning in tunings.values())


def test_models_that_cannot_share_a_device_are_told() -> None:
    """Where not even the smallest way lets all fit, each is placed so, and says that it may not fit."""
    tunings = choose_all(card(4), {"a": SDXL, "b": SDXL})
    assert {tuning.offload for tuning in tunings.values()} == {"group"}
    assert all("2 models together" in tuning.reasons["offload"] for tuning in tunings.values())
    assert all("MAY NOT FIT" in tuning.reasons["offload"] for tuning in tunings.values())


def test_each_saving_saves() -> None:
    """Every offload needs less memory than the one before it, and tiling never needs more."""
    needs = [peak_bytes(SDXL, "float16", "float32", offload=offload, tiling=True) for offload in ("none", "text_encoders", "group")]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] < peak_bytes(SDXL, "float16", "float32", offload="none", tiling=False)


def test_stable_diffusion_15_is_far_below_8_gb() -> None:
    """The smaller model stays resident whole, with room for many rows."""
    assert peak_bytes(SD15, "float16", "float16", offload="none", tiling=False) < 3 * GIB


def test_the_settings_offer_what_the_tuning_knows() -> None:
    """Each wish is a setting of the worker's, with the same values and the same default."""
    hints = get_type_hints(Wishes)
    for wish in fields(Wishes):
        setting = Worker.model_fields[wish.name]
        assert values(setting.annotation) == values(hints[wish.name]), wish.name
        assert setting.default == wish.default


def values(annotation: Any) -> set[str]:
    """The strings of a literal, or of a union of literals."""
    return {value for part in get_args(annotation) for value in (get_args(part) or (part,))}


def test_this_device_is_read() -> None:
    """The CPU's facts are there, and a device that is not is refused by the name of its setting."""
    facts = read_device("cpu")
    assert facts.kind == "cpu"
    assert 0 < facts.free_bytes <= facts.total_bytes
    assert facts.threads > 0
    with pytest.raises(TuningRefused, match="OUTFILL_WORKER__DEVICE=cuda:99"):
        read_device("cuda:99")


@pytest.fixture
def numbered_only(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Torch with two CUDA devices, of which the second is current, and whose functions want a number, as some of torch's do."""
    asked: list[torch.device] = []

    def numbered(answer: Any) -> Any:
        def ask(device: Any) -> Any:
            asked.append(torch.device(device))
            if asked[-1].index is None:
                raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
            return answer

        return ask

    plain = {"is_available": True, "device_count": 2, "current_device": 1}
    by_device = {
        "mem_get_info": (6 * GIB, 8 * GIB),
        "get_per_process_memory_fraction": 0.5,
        "memory_reserved": GIB,
        "memory_allocated": GIB // 2,
        "get_device_name": "a card",
        "get_device_capability": (8, 6),
        "set_device": None,
    }
    for name, value in plain.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name, answer in by_device.items():
        monkeypatch.setattr(torch.cuda, name, numbered(answer))
    return asked


def test_a_cuda_device_without_a_number_is_the_current_one(numbered_only: list[torch.device]) -> None:
    """``cuda`` is read as ``cuda:1`` is; what lies in torch's own cache is free, as far as this process may go."""
    facts = read_device("cuda", Wishes(compile="off"))
    assert (facts.total_bytes, facts.free_bytes, facts.capability) == (8 * GIB, 7 * GIB // 2, (8, 6))
    assert free_bytes("cuda") == facts.free_bytes
    assert set(numbered_only) == {torch.device("cuda:1")}


def test_a_gpu_is_read_without_trials_where_nobody_wishes(numbered_only: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask for the facts of a GPU, as Studio's training does, starts no compiler."""
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a trial was made"))
    assert read_device("cuda").compile_obstacle is None


@pytest.mark.parametrize(("device", "chosen"), [("cpu", []), ("cuda", [1]), ("cuda:0", [0])])
def test_a_thread_works_on_the_device_that_it_is_given(numbered_only: list[torch.device], device: str, chosen: list[int]) -> None:
    """The device becomes the thread's current one, with or without a number; a CPU has no such state."""
    use_device(device)
    assert [each.index for each in numbered_only] == chosen


def test_deciding_needs_no_torch() -> None:
    """The module is imported, and a choice made, without torch."""
    code = "import sys; from worker.tuning import *; choose(DeviceFacts('cpu', '', 0, 0), ModelFacts(1, 1, (1,), 1)); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
