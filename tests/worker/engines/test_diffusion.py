"""The diffusion engine's promises beyond parity: failures, memory, masks, samplers and what it remembers."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from painting import SAMPLING, SIZE, begun, relative_error, request_for, result_of

from api_schemas.errors import EngineFailed, Invalid
from api_schemas.models import U2NETP, EngineKind
from api_schemas.requests import Scheduler
from scripts.tiny_pipeline import SCHEDULE, build
from worker.engines import device
from worker.engines.base import DeviceBroken, Engine, OutOfMemory, PaintRequest, begin
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.chunks import Text
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.parts import load_parts
from worker.engines.diffusion.pictures import ImageEncoder, Pictures, decode_latents, is_painted, mask_latents
from worker.engines.diffusion.prompts import PromptEmbeds, PromptEncoder
from worker.engines.diffusion.residency import model_facts
from worker.engines.diffusion.samplers import build_sampler, strength_timesteps
from worker.engines.diffusion.slot import DiffusionSlot
from worker.engines.registry import EngineOptions, build_engine, build_engines, discover
from worker.tuning import GIB, PLAIN, RESERVE_BYTES, DeviceFacts, TuningRefused, choose, peak_bytes

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    build(path)
    return path


@pytest.fixture(scope="module")
def engine(tiny: Path) -> DiffusionEngine:
    return DiffusionEngine.load(tiny, card_for(tiny, "tiny"))


def test_the_engine_has_the_shape_of_all_engines(engine: DiffusionEngine) -> None:
    """It can be used wherever an engine is asked for."""
    same: Engine = engine
    assert same.max_rows == 8
    assert same.card.engine is EngineKind.DIFFUSION


def test_a_row_that_turns_nan_fails_alone(engine: DiffusionEngine) -> None:
    """A row with NaN in its latents ends with an error by the next step, and its neighbours end as if they had been alone."""
    good, bad, other = (begun(engine, request_for(seed=seed)) for seed in (1, 2, 3))
    engine.step([good, bad, other])
    bad.state = torch.full_like(bad.state, float("nan"))
    engine.step([good, bad, other])
    engine.step([good, bad, other])
    assert bad.done
    assert isinstance(bad.error, EngineFailed)
    assert "step 2 of 4" in bad.error.detail
    while not good.done:
        engine.step([good, bad, other])
    for slot in (good, other):
        assert slot.error is None
        torch.testing.assert_close(slot.latents, result_of(engine, slot.request), rtol=1e-4, atol=1e-4)


def test_a_row_that_turns_nan_in_its_last_step_is_not_decoded(engine: DiffusionEngine) -> None:
    """Its error is there before its pixels are looked at, and a neighbour that ends with it has its own."""
    good, bad = begun(engine, request_for(seed=1)), begun(engine, request_for(seed=2))
    while good.position < good.steps - 1:
        engine.step([good, bad])
    bad.state = torch.full_like(bad.state, float("nan"))
    engine.step([good, bad])
    engine.finish([good, bad])
    assert isinstance(bad.error, EngineFailed)
    assert "step 4 of 4" in bad.error.detail
    assert good.error is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
    ids=["torch", "driver", "library", "cpu"],
)
def test_out_of_memory_leaves_the_slots_as_they_were(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    """Out of memory, however torch says it, is blamed on no row, and the step can be tried again with fewer."""

    def full(*_: object, **__: object) -> None:
        raise error

    slots = [begun(engine, request_for(seed=seed)) for seed in (1, 2)]
    engine.step(slots)
    with monkeypatch.context() as patch:
        patch.setattr(engine._unet.module, "forward", full)
        with pytest.raises(OutOfMemory):
            engine.step(slots)
    assert [slot.position for slot in slots] == [1, 1]
    for slot in slots:
        while not slot.done:
            engine.step([slot])
        torch.testing.assert_close(slot.latents, result_of(engine, slot.request), rtol=1e-4, atol=1e-4)


def test_only_guided_rows_are_doubled(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is one UNet call, with two rows for a guided slot and one for a slot without guidance."""
    forward, rows = engine._unet.module.forward, []

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(engine._unet.module, "forward", counted)
    engine.step([begun(engine, request_for(replace(SAMPLING, guidance_scale=scale))) for scale in (1.0, 5.0, 0.0, 2.0)])
    assert rows == [6]


def test_slots_of_another_size_have_another_batch_key(engine: DiffusionEngine) -> None:
    """Only pictures of one size may share a step, whatever else differs."""
    square = begun(engine, request_for())
    other = begun(engine, request_for(replace(SAMPLING, steps=9, scheduler=Scheduler.EULER), seed=5))
    wide = begun(engine, request_for(width=96))
    assert square.batch_key == other.batch_key != wide.batch_key


def test_pictures_of_several_sizes_are_decoded_in_order(engine: DiffusionEngine) -> None:
    """Finished slots come back in the order given, each at the size of its request."""
    requests = [request_for(), request_for(width=96), request_for(height=80), request_for(seed=1)]
    slots = [begun(engine, request) for request in requests]
    for slot in slots:
        engine.step([slot])
    pixels = engine.finish(slots)
    assert [picture.shape for picture in pixels] == [request.image.shape for request in requests]
    assert {picture.dtype for picture in pixels} == {np.dtype(np.uint8)}


def test_a_picture_that_decodes_to_nan_fails_alone(engine: DiffusionEngine) -> None:
    """A row that the VAE cannot decode gets an error, and its neighbour's pixels are unchanged."""
    good, bad = begun(engine, request_for(seed=1)), begun(engine, request_for(seed=2))
    alone = engine.finish([good])[0]
    bad.state = torch.full_like(bad.state, float("nan"))
    together = engine.finish([bad, good])[1]
    assert isinstance(bad.error, EngineFailed)
    assert good.error is None
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


@pytest.mark.parametrize("offset", range(8))
def test_a_thin_stroke_survives_the_shrink(offset: int) -> None:
    """Every 8-pixel block that a 3-pixel stroke touches is painted, wherever the stroke lies; no other block is."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 16 + offset : 19 + offset] = 255
    touched = mask.reshape(8, 8, 8, 8).max(axis=(1, 3)) // 255
    assert mask_latents(is_painted(mask), 8)[0, 0].numpy().tolist() == touched.tolist()


def test_half_painted_pixels_count_from_the_middle_up() -> None:
    """A soft mask is cut at one half, as the stock pipeline does."""
    assert is_painted(np.array([[0, 127, 128, 255]], np.uint8)).tolist() == [[False, False, True, True]]


def test_a_prompt_is_encoded_once(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder runs once for a text while it is remembered, and the text used longest ago is forgotten first."""
    prompts = PromptEncoder(engine._parts, capacity=2)
    texts: list[str] = []
    encode = prompts._encode

    def counted(given: Sequence[Text]) -> list[PromptEmbeds]:
        texts.extend(text.prompt for text in given)
        return encode(given)

    def encoded(prompt: str) -> PromptEmbeds:
        return prompts.encode([engine._reader.text(prompt)])[prompt]

    monkeypatch.setattr(prompts, "_encode", counted)
    first = encoded("a sofa")
    assert first.embeds.shape == (1, 77, 32)
    assert first.pooled is None
    encoded("a lamp")
    assert encoded("a sofa") is first
    encoded("a rug")
    encoded("a sofa")
    encoded("a lamp")
    assert texts == ["a sofa", "a lamp", "a rug", "a lamp"]


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_variations_of_a_picture_are_encoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch, strength: float) -> None:
    """The VAE's encoder runs once for a picture and its mask, however many seeds; each seed still draws its own numbers."""
    remembering = DiffusionEngine.load(tiny, card_for(tiny, "tiny"))
    encode, encoded = remembering._vae.encode, []

    def counted(image: torch.Tensor) -> Any:
        encoded.append(image)
        return encode(image)

    monkeypatch.setattr(remembering._vae, "encode", counted)
    requests = [replace(request_for(replace(SAMPLING, strength=strength)), seed=seed) for seed in (5, 6, 7)]
    slots = [*begin(remembering, requests[:2]), begun(remembering, requests[2])]
    assert [len(images) for images in encoded] == [1 if strength == 1.0 else 2]
    for slot, request in zip(slots, requests, strict=True):
        fresh = begun(DiffusionEngine.load(tiny, card_for(tiny, "tiny")), request)
        assert fresh.masked_image_latents is not None
        assert slot.masked_image_latents is not None
        assert torch.equal(slot.latents, fresh.latents)
        assert torch.equal(slot.masked_image_latents, fresh.masked_image_latents)
    assert slots[0].masked_image_latents is not None
    assert slots[1].masked_image_latents is not None
    assert not torch.equal(slots[0].masked_image_latents, slots[1].masked_image_latents)


def test_pictures_started_together_are_encoded_together(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts take one call of the encoder, and pictures one of the VAE for each of their sizes; every slot is as if it had been started alone."""
    together = DiffusionEngine.load(tiny, card_for(tiny, "tiny"))
    calls: list[tuple[str, int]] = []
    encode, (encoder,) = together._vae.encode, together._parts.text_encoders.values()
    read = encoder.forward

    def encoding(images: torch.Tensor) -> Any:
        calls.append(("pictures", len(images)))
        return encode(images)

    def reading(ids: torch.Tensor, **options: Any) -> Any:
        calls.append(("texts", len(ids)))
        return read(ids, **options)

    monkeypatch.setattr(together._vae, "encode", encoding)
    monkeypatch.setattr(encoder, "forward", reading)
    samplings = [
        replace(SAMPLING, prompt=prompt, strength=0.6) for prompt in ("a sofa", "a (red:1.3) (rug:0.5)", "a sofa", SAMPLING.negative_prompt)
    ]
    requests = [request_for(sampling, seed=seed, width=96 if seed == 2 else SIZE) for seed, sampling in enumerate(samplings)]
    slots = begin(together, requests)
    # The weighted prompt is read thrice: as it is, without what counts less, and as no text at all.
    assert sorted(calls) == [("pictures", 2), ("pictures", 6), ("texts", 1), ("texts", 4)]
    for slot, request in zip(cast("list[DiffusionSlot]", slots), requests, strict=True):
        alone = begun(DiffusionEngine.load(tiny, card_for(tiny, "tiny")), request)
        assert slot.negative_prompt is not None
        for ours, its in (
            (slot.state, alone.state),
            (slot.masked_image_latents, alone.masked_image_latents),
            (slot.prompt.embeds, alone.prompt.embeds),
            (slot.negative_prompt.embeds, alone.negative_prompt.embeds),
        ):
            assert ours is not None
            assert relative_error(ours, its) <= 1e-5


def test_variations_share_what_is_made_of_their_picture(engine: DiffusionEngine) -> None:
    """However many seeds wait, their picture is in memory once; with the last of them it is gone, and another mask makes another."""
    one, other = (engine.prepare(replace(request_for(), seed=seed)) for seed in (1, 2))
    assert one.masked_image is not None
    assert other.masked_image is not None
    assert one.masked_image.picture is other.masked_image.picture
    elsewhere = engine.prepare(replace(request_for(), mask=np.full((SIZE, SIZE), 255, np.uint8))).masked_image
    assert elsewhere is not None
    assert elsewhere.picture.key != one.masked_image.picture.key
    gone = weakref.ref(one.masked_image.picture)
    del one, other
    assert gone() is None


def test_few_posteriors_are_remembered(engine: DiffusionEngine) -> None:
    """The picture encoded longest ago is forgotten first, so that memory does not grow with the number of jobs."""
    encoder = ImageEncoder(engine._vae, dtype=torch.float32, capacity=2)
    made = Pictures()
    pictures = {shade: made.of(np.full((16, 16, 3), shade, np.uint8)) for shade in (0, 10, 20)}
    with torch.inference_mode():
        for shade in (0, 10, 0, 20):
            encoder.posteriors([pictures[shade]], rows=1)
        kept = list(encoder._posteriors)
        encoder.posteriors([pictures[0]], rows=1)
        assert list(encoder._posteriors) == kept[::-1]
        found = encoder.posteriors(pictures.values(), rows=2)  # more than are remembered
    assert list(found) == [pictures[shade].key for shade in (0, 20, 10)]
    assert len(encoder._posteriors) == 2


def test_a_slot_that_leaves_is_not_held(engine: DiffusionEngine) -> None:
    """What it had on the device is free at once, though its last step has not been looked at yet."""
    staying, leaving = begun(engine, request_for(seed=1)), begun(engine, request_for(seed=2))
    engine.step([staying, leaving])
    gone = weakref.ref(leaving)
    del leaving
    assert gone() is None
    engine.step([staying])


@pytest.mark.parametrize("kind", ["sd15-inpaint", "sd15"])
def test_a_slot_that_leaves_changes_nothing_for_the_others(tmp_path: Path, kind: str) -> None:
    """When a job is canceled between two steps, its neighbours end as if it had stayed, or had never been."""
    build(tmp_path / kind, kind=kind)
    engine = DiffusionEngine.load(tmp_path / kind, card_for(tmp_path / kind, kind))
    first, leaving, second = (begun(engine, request_for(replace(SAMPLING, scheduler=Scheduler.EULER_A), seed=seed)) for seed in (1, 2, 3))
    engine.step([first, leaving, second])
    while not first.done:
        engine.step([first, second])
    for slot in (first, second):
        assert slot.error is None
        assert relative_error(slot.latents, result_of(engine, slot.request)) <= 1e-5


def test_a_plain_model_keeps_what_is_not_painted(tmp_path: Path) -> None:
    """A model without inpainting channels ends with the picture's own latents wherever the mask keeps it."""
    build(tmp_path / "sd15", kind="sd15")
    engine = DiffusionEngine.load(tmp_path / "sd15", card_for(tmp_path / "sd15", "sd15"))
    slot = begun(engine, request_for())
    while not slot.done:
        engine.step([slot])
    assert slot.kept is not None
    kept = (slot.mask_latents == 0).expand_as(slot.latents)
    assert kept.any()
    assert torch.equal(slot.latents[kept], slot.kept.image_latents[kept])
    assert not torch.equal(slot.latents, slot.kept.image_latents)


def test_the_vae_of_sdxl_stays_in_float32(tmp_path: Path) -> None:
    """In half precision the UNet is halved and a VAE that would overflow is not; one that is mended, and any other family's, is."""
    build(tmp_path / "sdxl", kind="sdxl-inpaint")
    build(tmp_path / "sd15", kind="sd15-inpaint")
    gpu = DeviceFacts("cuda", "a GPU", total_bytes=24 * GIB, free_bytes=24 * GIB, capability=(8, 6))

    def dtypes(name: str) -> tuple[torch.dtype, torch.dtype]:
        tuning = choose(gpu, model_facts(tmp_path / name))
        parts = load_parts(tmp_path / name, dtype=tuning.dtype, vae_dtype=tuning.vae_dtype)
        return parts.unet.dtype, parts.vae.dtype

    assert dtypes("sdxl") == (torch.float16, torch.float32)
    assert dtypes("sd15") == (torch.float16, torch.float16)
    config = tmp_path / "sdxl" / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": False}))
    assert dtypes("sdxl") == (torch.float16, torch.float16)


def test_sdxl_paints_in_bfloat16(tmp_path: Path) -> None:
    """Precisions below float32 hold from the prompt to the pixels."""
    build(tmp_path / "sdxl", kind="sdxl-inpaint")
    engine = DiffusionEngine.load(
        tmp_path / "sdxl", card_for(tmp_path / "sdxl", "sdxl"), tuning=replace(PLAIN, dtype="bfloat16", vae_dtype="bfloat16")
    )
    slot = begun(engine, request_for(replace(SAMPLING, strength=0.6, scheduler=Scheduler.EULER)))
    while not slot.done:
        engine.step([slot])
    (pixels,) = engine.finish([slot])
    assert slot.error is None
    assert pixels.shape == (SIZE, SIZE, 3)


def test_latents_are_rescaled_where_the_vae_says_so(tmp_path: Path) -> None:
    """A VAE with a mean and deviation of its latents decodes them as the stock pipeline does: latents · std / scaling_factor + mean."""
    build(tmp_path / "sdxl", kind="sdxl-inpaint")
    vae = load_parts(tmp_path / "sdxl", dtype="float32", vae_dtype="float32").vae
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 2.0, 1.0]
    with torch.inference_mode():
        expected = decode_latents(vae, latents * torch.tensor(std).view(1, 4, 1, 1) + torch.tensor(mean).view(1, 4, 1, 1) * 0.13025)[0]
        vae.register_to_config(latents_mean=mean, latents_std=std)
        rescaled = decode_latents(vae, latents)[0]
    assert np.abs(rescaled.astype(int) - expected.astype(int)).max() <= 1


def test_karras_spacing_is_left_off_at_zero_terminal_snr() -> None:
    """At zero terminal SNR, DPM++ 2M takes the model's own timesteps, of which half would otherwise see nothing but noise."""
    zero_snr = {**SCHEDULE, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    spaced = build_sampler(Scheduler.DPMPP_2M_KARRAS, zero_snr)
    karras = build_sampler(Scheduler.DPMPP_2M_KARRAS, {**zero_snr, "rescale_betas_zero_snr": False})
    strength_timesteps(karras, 10, 1.0)
    assert strength_timesteps(spaced, 10, 1.0).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert karras.timesteps.tolist() != spaced.timesteps.tolist()


@pytest.mark.parametrize("scheduler", [name for name in Scheduler if name is not Scheduler.DPMPP_2M_KARRAS])
def test_the_model_spaces_its_timesteps(scheduler: Scheduler) -> None:
    """The spacing in the model's scheduler file decides where the steps lie, whatever the sampler."""
    firsts = {
        spacing: float(strength_timesteps(build_sampler(scheduler, {**SCHEDULE, "timestep_spacing": spacing}), 10, 1.0)[0])
        for spacing in ("trailing", "leading")
    }
    assert firsts["trailing"] == 999
    assert firsts["leading"] < 999


def test_a_broken_device_is_no_failure_of_a_job(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access no call succeeds any more: what is raised passes by all that fails single jobs."""

    def broken(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    slot = begun(engine, request_for())
    with monkeypatch.context() as patch:
        patch.setattr(engine._unet.module, "forward", broken)
        with pytest.raises(DeviceBroken, match="illegal memory access"):
            engine.step([slot])
    assert slot.error is None
    assert not issubclass(DeviceBroken, Exception)


@pytest.mark.parametrize("stage", ["start", "finish"])
def test_the_vae_out_of_memory_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Out of memory in encoding or decoding is raised too; with room again, the same call succeeds."""
    engine = DiffusionEngine.load(tiny, card_for(tiny, "tiny"))

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    call: Callable[[], object] = (
        partial(begun, engine, request_for()) if stage == "start" else partial(engine.finish, [begun(engine, request_for())])
    )
    with monkeypatch.context() as patch:
        patch.setattr(engine._vae, "encode" if stage == "start" else "decode", full)
        with pytest.raises(OutOfMemory):
            call()
    assert call()


def test_the_cost_of_a_slot_follows_its_size_and_guidance(engine: DiffusionEngine) -> None:
    """A guided slot of native size costs 2, one without guidance half as much, and a picture of twice the area twice as much."""
    unguided = replace(SAMPLING, guidance_scale=1.0)
    costs = [begun(engine, request).cost for request in (request_for(), request_for(unguided), request_for(width=128))]
    assert costs == [2.0, 1.0, 4.0]
    assert engine.budget == 2.0 * engine.max_rows


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (request_for(width=72), ValueError, "not a multiple of 16"),
        (replace(request_for(), image=np.zeros((64, 64, 4), np.uint8)), ValueError, "must be uint8"),
        (replace(request_for(), recipe=None), TypeError, "needs a Sampling recipe"),
        (request_for(replace(SAMPLING, steps=4, strength=0.2)), Invalid, "leaves none of 4 steps"),
    ],
)
def test_a_request_that_cannot_be_painted_is_refused(
    engine: DiffusionEngine, request_: PaintRequest, error: type[Exception], says: str
) -> None:
    """Wrong sizes, a missing recipe and a strength that leaves no step are told apart before anything is painted."""
    with pytest.raises(error, match=says):
        engine.prepare(request_)


def test_the_registry_builds_what_it_discovers(tiny: Path) -> None:
    """A directory becomes a card and a card an engine that paints."""
    (card,) = discover({"shop/tiny": tiny})
    engine = build_engine(card, path=tiny)
    slot = begun(engine, request_for())
    while not slot.done:
        engine.step([slot])
    (pixels,) = engine.finish([slot])
    assert card.id == "shop/tiny"
    assert pixels.shape == (64, 64, 3)


def test_models_are_judged_together_before_one_is_loaded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that has room for either of two models whole, but not for both, the first leaves room for the second."""
    facts = model_facts(tiny)
    alone = peak_bytes(facts, "float16", "float16", offload="none", tiling=False) + RESERVE_BYTES
    gpu = DeviceFacts("cuda", "a GPU", total_bytes=GIB, free_bytes=alone + 1, capability=(6, 1))
    monkeypatch.setattr(device, "read_device", lambda *_: gpu)
    loaded: list[str] = []
    monkeypatch.setattr(DiffusionEngine, "load", lambda *_, **options: loaded.append(options["tuning"].offload))
    build_engines([(card_for(tiny, "a"), tiny)], EngineOptions("cuda"))
    build_engines([(card_for(tiny, "a"), tiny), (card_for(tiny, "b"), tiny)], EngineOptions("cuda"))
    assert loaded == ["none", "group", "group"]


def test_memory_that_is_spoken_for_is_no_models(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has just room enough is offloaded where something else is to come onto its device."""
    alone = peak_bytes(model_facts(tiny), "float16", "float16", offload="none", tiling=False) + RESERVE_BYTES
    gpu = DeviceFacts("cuda", "a GPU", total_bytes=GIB, free_bytes=alone + 1, capability=(6, 1))
    monkeypatch.setattr(device, "read_device", lambda *_: gpu)
    loaded: list[str] = []
    monkeypatch.setattr(DiffusionEngine, "load", lambda *_, **options: loaded.append(options["tuning"].offload))
    for spoken_for in (0, 1000):
        build_engines([(card_for(tiny, "a"), tiny)], EngineOptions("cuda", spoken_for_bytes=spoken_for))
    assert loaded[0] == "none"
    assert loaded[1] != "none"


def test_room_is_kept_for_the_loras_of_all_models(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the models that share a device leaves room for the adapters of all, the eight largest files of each."""
    directories = [Path(shutil.copytree(tiny, tmp_path / name)) for name in ("a", "b")]
    for directory, sizes in zip(directories, ((100, *[10] * 8), (7,)), strict=True):
        (directory / "loras").mkdir(exist_ok=True)
        for number, size in enumerate(sizes):
            (directory / "loras" / f"{number}.safetensors").write_bytes(bytes(size))
    kept: list[int] = []
    monkeypatch.setattr(DiffusionEngine, "load", lambda *_, **options: kept.append(options["kept_bytes"]))
    build_engines([(card_for(tiny, directory.name), directory) for directory in directories])
    assert kept == [177, 177]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED")])
def test_weights_that_do_not_fit_are_refused_by_name(tiny: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    """A model for whose weights the device has no room ends the start with its name, as a setting that cannot be granted does."""

    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(DiffusionEngine, "load", load)
    with pytest.raises(TuningRefused, match="tiny: cpu has no room for its weights"):
        build_engine(card_for(tiny, "tiny"), path=tiny)


def test_a_broken_device_is_not_taken_for_a_full_one(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory seems to have run out, and giving the cache back shows that the device is broken, it is broken."""
    on_a_gpu = SimpleNamespace(device=torch.device("cuda"))
    slot = begun(engine, request_for())

    def breaks() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def full(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(engine, "_unet", on_a_gpu)
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(torch.cuda, "empty_cache", breaks)
    monkeypatch.setattr(engine, "_predict_noise", full)
    with pytest.raises(DeviceBroken, match="illegal memory access"):
        engine.step([slot])


def test_the_registry_refuses_what_has_no_engine(tiny: Path) -> None:
    """A cut-out model has no engine, and a diffusion model is not built without its directory."""
    with pytest.raises(ValueError, match="have no engine"):
        build_engine(U2NETP)
    with pytest.raises(ValueError, match="needs its directory"):
        build_engine(card_for(tiny, "tiny"))
