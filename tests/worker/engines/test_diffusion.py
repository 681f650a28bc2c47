"""The diffusion engine's promises beyond parity: failures, masks, the prompt cache, and what it refuses to load."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from api_schemas.errors import EngineFailed, Invalid
from api_schemas.models import U2NETP, EngineKind, SamplingDefaults
from api_schemas.requests import Operation, Scheduler
from scripts.tiny_pipeline import build
from worker.engines.base import Engine, PaintRequest, Sampling
from worker.engines.diffusion.card import UnsupportedPipelineError, card_for, weights_digest
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.pictures import mask_latents, mask_tensor
from worker.engines.diffusion.prompts import PromptEncoder
from worker.engines.registry import build_engine, discover

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

SAMPLING = Sampling("a red sofa", "people", steps=4, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DPMPP_2M_KARRAS)


def request_for(sampling: Sampling = SAMPLING, *, seed: int = 0, height: int = 64, width: int = 64) -> PaintRequest:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[16:48, 16:40] = 255
    return PaintRequest(image=image, mask=mask, seed=seed, recipe=sampling)


def result_of(engine: DiffusionEngine, request: PaintRequest) -> torch.Tensor:
    slot = engine.prepare(request)
    while not slot.done:
        engine.step([slot])
    return slot.latents


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    build(path)
    return path


@pytest.fixture(scope="module")
def engine(tiny: Path) -> DiffusionEngine:
    return DiffusionEngine.load(tiny, card_for(tiny, "tiny"))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline to spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_engine_has_the_shape_of_all_engines(engine: DiffusionEngine) -> None:
    """It can be used wherever an engine is asked for."""
    same: Engine = engine
    assert same.max_rows == 8
    assert same.card.engine is EngineKind.DIFFUSION


def test_a_row_that_turns_nan_fails_alone(engine: DiffusionEngine) -> None:
    """A row with NaN in its latents ends with an error after that step, and its neighbours end as if they had been alone."""
    good, bad, other = (engine.prepare(request_for(seed=seed)) for seed in (1, 2, 3))
    engine.step([good, bad, other])
    bad.latents = torch.full_like(bad.latents, float("nan"))
    engine.step([good, bad, other])
    assert bad.done
    assert isinstance(bad.error, EngineFailed)
    assert "step 2 of 4" in bad.error.detail
    while not good.done:
        engine.step([good, bad, other])
    for slot in (good, other):
        assert slot.error is None
        torch.testing.assert_close(slot.latents, result_of(engine, slot.request), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["step", "scale_model_input"])
def test_a_row_whose_sampler_raises_fails_alone(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """An exception in one row's sampler is that row's error; the others advance in the same call."""

    def broken(*_: object, **__: object) -> None:
        raise IndexError("index 5 is out of bounds")

    good, bad = engine.prepare(request_for(seed=1)), engine.prepare(request_for(seed=2))
    monkeypatch.setattr(bad.sampler, method, broken)
    while not good.done:
        engine.step([bad, good])
    assert isinstance(bad.error, EngineFailed)
    assert "index 5 is out of bounds" in bad.error.detail
    assert isinstance(bad.error.__cause__, IndexError)
    assert good.error is None
    torch.testing.assert_close(good.latents, result_of(engine, good.request), rtol=1e-4, atol=1e-4)


def test_out_of_memory_leaves_the_slots_as_they_were(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory is raised, blamed on no row, and the step can be tried again with fewer."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    slots = [engine.prepare(request_for(seed=seed)) for seed in (1, 2)]
    engine.step(slots)
    with monkeypatch.context() as patch:
        patch.setattr(engine._unet, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            engine.step(slots)
    assert [slot.position for slot in slots] == [1, 1]
    for slot in slots:
        while not slot.done:
            engine.step([slot])
        torch.testing.assert_close(slot.latents, result_of(engine, slot.request), rtol=1e-4, atol=1e-4)


def test_only_guided_rows_are_doubled(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is one UNet call, with two rows for a guided slot and one for a slot without guidance."""
    forward, rows = engine._unet.forward, []

    def counted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(engine._unet, "forward", counted)
    engine.step([engine.prepare(request_for(replace(SAMPLING, guidance_scale=scale))) for scale in (1.0, 5.0, 0.0, 2.0)])
    assert rows == [6]


def test_slots_of_another_size_have_another_batch_key(engine: DiffusionEngine) -> None:
    """Only pictures of one size may share a step, whatever else differs."""
    square = engine.prepare(request_for())
    other = engine.prepare(request_for(replace(SAMPLING, steps=9, scheduler=Scheduler.EULER), seed=5))
    wide = engine.prepare(request_for(width=96))
    assert square.batch_key == other.batch_key != wide.batch_key


def test_pictures_of_several_sizes_are_decoded_in_order(engine: DiffusionEngine) -> None:
    """Finished slots come back in the order given, each at the size of its request."""
    requests = [request_for(), request_for(width=96), request_for(height=80), request_for(seed=1)]
    slots = [engine.prepare(request) for request in requests]
    for slot in slots:
        engine.step([slot])
    pixels = engine.finish(slots)
    assert [picture.shape for picture in pixels] == [request.image.shape for request in requests]
    assert {picture.dtype for picture in pixels} == {np.dtype(np.uint8)}


def test_a_picture_that_decodes_to_nan_fails_alone(engine: DiffusionEngine) -> None:
    """A row that the VAE cannot decode gets an error, and its neighbour's pixels are unchanged."""
    good, bad = engine.prepare(request_for(seed=1)), engine.prepare(request_for(seed=2))
    alone = engine.finish([good])[0]
    bad.latents = torch.full_like(bad.latents, float("nan"))
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
    assert mask_latents(mask_tensor(mask), 8)[0, 0].numpy().tolist() == touched.tolist()


def test_half_painted_pixels_count_from_the_middle_up() -> None:
    """A soft mask is cut at one half, as the stock pipeline does."""
    assert mask_tensor(np.array([[0, 127, 128, 255]], np.uint8)).flatten().tolist() == [0, 0, 1, 1]


def test_a_prompt_is_encoded_once(engine: DiffusionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder runs once for a text while it is remembered, and the text used longest ago is forgotten first."""
    prompts = PromptEncoder(engine._prompts._tokenizer, engine._prompts._text_encoder, capacity=2)
    texts: list[str] = []
    encode: Callable[[str], torch.Tensor] = prompts._encode

    def counted(text: str) -> torch.Tensor:
        texts.append(text)
        return encode(text)

    monkeypatch.setattr(prompts, "_encode", counted)
    first = prompts.encode("a sofa")
    assert first.shape == (1, 77, 32)
    prompts.encode("a lamp")
    assert prompts.encode("a sofa") is first
    prompts.encode("a rug")
    prompts.encode("a sofa")
    prompts.encode("a lamp")
    assert texts == ["a sofa", "a lamp", "a rug", "a lamp"]


def test_a_prompt_beyond_77_tokens_is_cut(engine: DiffusionEngine) -> None:
    """A prompt longer than the text model reads is cut, as the stock pipeline does, rather than refused."""
    assert engine._prompts.encode("sofa " * 500).shape == (1, 77, 32)


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


def test_the_card_says_what_the_directory_says(tiny: Path) -> None:
    """Sizes come from the model's configuration, licence and defaults from outfill.json, and the revision from the weights."""
    card = card_for(tiny, "tiny")
    assert (card.id, card.engine, card.licence.id, card.native_size, card.size_multiple) == (
        "tiny",
        EngineKind.DIFFUSION,
        "CC0-1.0",
        64,
        16,
    )
    assert card.operations == (Operation.INPAINT, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND)
    assert card.sampling == SamplingDefaults(steps=4, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DPMPP_2M_KARRAS)
    assert card.revision == weights_digest(tiny)


def test_a_directory_without_outfill_json_claims_no_licence(copy: Path) -> None:
    """Where nobody wrote down the licence, the card says that it is not known."""
    (copy / "outfill.json").unlink()
    card = card_for(copy, "tiny")
    assert card.licence.id == "unknown"
    assert card.licence.commercial_use is None
    assert card.native_size == 64


def test_outfill_json_pins_the_revision_and_offers_erase(copy: Path) -> None:
    """A pinned revision is taken as it is, and erase is offered only where it is named."""
    edit(copy / "outfill.json", revision="8a4288a", operations=["inpaint", "erase"])
    card = card_for(copy, "tiny")
    assert card.revision == "8a4288a"
    assert card.operations == (Operation.INPAINT, Operation.ERASE)


def test_the_digest_is_that_of_sha256sum(tiny: Path, copy: Path) -> None:
    """The revision can be checked with standard tools, is the same for a copy, and changes with any weight file."""
    files = sorted(file.relative_to(tiny).as_posix() for file in tiny.rglob("*.safetensors"))
    lines = "".join(f"{hashlib.sha256((tiny / file).read_bytes()).hexdigest()}  {file}\n" for file in files)
    assert weights_digest(tiny) == weights_digest(copy) == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    with (copy / files[-1]).open("ab") as weights:
        weights.write(b"\0")
    assert weights_digest(copy) != weights_digest(tiny)


def four_channels(path: Path) -> None:
    edit(path / "unet" / "config.json", in_channels=4)


def consistency_model(path: Path) -> None:
    edit(path / "unet" / "config.json", time_cond_proj_dim=256)


def other_pipeline(path: Path) -> None:
    edit(path / "model_index.json", _class_name="StableDiffusionXLInpaintPipeline")


def own_code(path: Path) -> None:
    edit(path / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])


def pickled_weights(path: Path) -> None:
    (path / "vae" / "diffusion_pytorch_model.safetensors").rename(path / "vae" / "diffusion_pytorch_model.bin")


def no_index(path: Path) -> None:
    (path / "model_index.json").unlink()


def no_json(path: Path) -> None:
    (path / "model_index.json").write_text("[")


def unknown_note(path: Path) -> None:
    edit(path / "outfill.json", license="MIT")


def cutout(path: Path) -> None:
    edit(path / "outfill.json", operations=["remove_background"])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (four_channels, "4 input channels"),
        (consistency_model, "time_cond_proj_dim is not supported"),
        (other_pipeline, "StableDiffusionXLInpaintPipeline"),
        (own_code, "unet is UNet2DConditionModel of my_unet"),
        (pickled_weights, "no safetensors weights in vae/"),
        (no_index, "model_index.json cannot be read"),
        (no_json, "is not JSON"),
        (unknown_note, "license"),
        (cutout, "does not do remove_background"),
    ],
)
def test_an_unsupported_directory_says_why(copy: Path, spoil: Callable[[Path], None], says: str) -> None:
    """A directory that this engine cannot run is refused with what is wrong and where."""
    spoil(copy)
    with pytest.raises(UnsupportedPipelineError, match=says) as caught:
        card_for(copy, "tiny")
    assert str(copy) in str(caught.value)


def test_pickled_weights_are_never_loaded(copy: Path) -> None:
    """Weights in pickle's format are not read even by one who skips the check of the directory."""
    card = card_for(copy, "tiny")
    pickled_weights(copy)
    with pytest.raises(OSError, match="safetensors"):
        DiffusionEngine.load(copy, card)


def test_reading_a_card_imports_no_torch(tiny: Path) -> None:
    """The API can list the models of a store without the weight of torch."""
    code = (
        "import sys; from pathlib import Path; from worker.engines.registry import discover; "
        f"discover({{'tiny': Path({str(tiny)!r})}}); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_registry_builds_what_it_discovers(tiny: Path) -> None:
    """A directory becomes a card and a card an engine that paints."""
    (card,) = discover({"shop/tiny": tiny})
    engine = build_engine(card, path=tiny)
    slot = engine.prepare(request_for())
    while not slot.done:
        engine.step([slot])
    (pixels,) = engine.finish([slot])
    assert card.id == "shop/tiny"
    assert pixels.shape == (64, 64, 3)


def test_the_registry_refuses_what_has_no_engine(tiny: Path) -> None:
    """A cut-out model has no engine, and a diffusion model is not built without its directory."""
    with pytest.raises(ValueError, match="have no engine"):
        build_engine(U2NETP)
    with pytest.raises(ValueError, match="needs its directory"):
        build_engine(card_for(tiny, "tiny"))
