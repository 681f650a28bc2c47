"""The engine against the stock diffusers pipeline, seed for seed, on a tiny pipeline with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from api_schemas.requests import Scheduler
from scripts.tiny_pipeline import build
from worker.engines.base import PaintRequest, Pixels, Sampling
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.samplers import CLASSES
from worker.engines.diffusion.slot import DiffusionSlot

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

SIZE = 64
STEPS = 5
TOLERANCE = 1e-4


def request_for(sampling: Sampling, *, seed: int) -> PaintRequest:
    """A random picture, and a mask of whole 8-pixel blocks, on which stock and ours agree."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    blocks = (random.random((SIZE // 8, SIZE // 8)) < 0.4).astype(np.uint8) * 255
    return PaintRequest(image=coarse.repeat(8, 0).repeat(8, 1), mask=blocks.repeat(8, 0).repeat(8, 1), seed=seed, recipe=sampling)


SUBJECT = Sampling(prompt="a red sofa", negative_prompt="people", steps=STEPS, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)
STRANGERS = [
    request_for(replace(SUBJECT, prompt="a lamp", steps=3, scheduler=Scheduler.EULER_A), seed=101),
    request_for(replace(SUBJECT, prompt="", negative_prompt="", steps=7, guidance_scale=1.0, scheduler=Scheduler.UNIPC), seed=102),
    request_for(replace(SUBJECT, negative_prompt="blur", steps=9, guidance_scale=9.0, strength=0.7, scheduler=Scheduler.PNDM), seed=103),
]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "tiny"
    build(path)
    return path


@pytest.fixture(scope="session")
def engine(directory: Path) -> DiffusionEngine:
    return DiffusionEngine.load(directory, card_for(directory, "tiny"))


@pytest.fixture(scope="session")
def pipeline(directory: Path) -> Any:
    pipeline_class: Any = StableDiffusionInpaintPipeline
    loaded = pipeline_class.from_pretrained(directory, use_safetensors=True, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="session")
def stock(pipeline: Any) -> Callable[[PaintRequest, str], Any]:
    model_config = dict(pipeline.scheduler.config)

    def paint(request: PaintRequest, output_type: str) -> Any:
        assert isinstance(request.recipe, Sampling)
        sampler_class, options = CLASSES[request.recipe.scheduler]
        pipeline.scheduler = sampler_class.from_config(model_config, **options)
        return pipeline(
            prompt=request.recipe.prompt,
            negative_prompt=request.recipe.negative_prompt,
            image=Image.fromarray(request.image),
            mask_image=Image.fromarray(request.mask),
            height=SIZE,
            width=SIZE,
            strength=request.recipe.strength,
            num_inference_steps=request.recipe.steps,
            guidance_scale=request.recipe.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type=output_type,
        ).images

    return paint


@pytest.fixture(scope="session")
def reference(stock: Callable[[PaintRequest, str], Any]) -> Callable[[Sampling, int], torch.Tensor]:
    @cache
    def latents(sampling: Sampling, seed: int) -> torch.Tensor:
        painted: torch.Tensor = stock(request_for(sampling, seed=seed), "latent")
        return painted

    return latents


def run_alone(engine: DiffusionEngine, subject: DiffusionSlot) -> None:
    """No neighbours."""
    while not subject.done:
        engine.step([subject])


def run_among_strangers(engine: DiffusionEngine, subject: DiffusionSlot) -> None:
    """Three others from the start, which leave at different steps."""
    slots = [engine.prepare(stranger) for stranger in STRANGERS]
    slots.insert(1, subject)
    while not subject.done:
        engine.step([slot for slot in slots if not slot.done])


def run_joining_late(engine: DiffusionEngine, subject: DiffusionSlot) -> None:
    """Two others are two steps ahead, and a third joins one step after."""
    slots = [engine.prepare(stranger) for stranger in STRANGERS[:2]]
    for _ in range(2):
        engine.step(slots)
    engine.step([*slots, subject])
    slots = [*slots, subject, engine.prepare(STRANGERS[2])]
    while not subject.done:
        engine.step([slot for slot in slots if not slot.done])


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("run", [run_alone, run_among_strangers, run_joining_late])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_final_latents_equal_the_stock_pipeline(
    engine: DiffusionEngine,
    reference: Callable[[Sampling, int], torch.Tensor],
    scheduler: Scheduler,
    strength: float,
    guidance_scale: float,
    run: Callable[[DiffusionEngine, DiffusionSlot], None],
) -> None:
    """In any company, the latents are those that the stock pipeline ends with when called alone with the same seed."""
    sampling = replace(SUBJECT, scheduler=scheduler, strength=strength, guidance_scale=guidance_scale)
    subject = engine.prepare(request_for(sampling, seed=7))
    run(engine, subject)
    assert subject.error is None
    error = relative_error(subject.latents, reference(sampling, 7))
    assert error <= TOLERANCE


def test_pixels_equal_the_stock_pipeline(engine: DiffusionEngine, stock: Callable[[PaintRequest, str], Any]) -> None:
    """Slots decoded together give the stock pipeline's pixels, to one level of rounding."""
    requests = [request_for(SUBJECT, seed=seed) for seed in (1, 2)]
    slots = [engine.prepare(request) for request in requests]
    while not slots[0].done:
        engine.step(slots)
    for request, pixels in zip(requests, engine.finish(slots), strict=True):
        theirs: Pixels = np.asarray(stock(request, "pil")[0])
        assert pixels.shape == theirs.shape == (SIZE, SIZE, 3)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - theirs.astype(int)).max() <= 1


def test_settings_that_should_matter_do(reference: Callable[[Sampling, int], torch.Tensor]) -> None:
    """The comparison is not blind: another seed, prompt, guidance or sampler moves the stock result far beyond the tolerance."""
    base = reference(SUBJECT, 7)
    assert relative_error(reference(SUBJECT, 8), base) > 100 * TOLERANCE
    for changed in (
        replace(SUBJECT, prompt="a blue lamp"),
        replace(SUBJECT, guidance_scale=1.0),
        replace(SUBJECT, scheduler=Scheduler.EULER),
    ):
        assert relative_error(reference(changed, 7), base) > 10 * TOLERANCE
