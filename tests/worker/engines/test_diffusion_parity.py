"""The engine against the stock diffusers pipelines, seed for seed, on tiny pipelines with random weights of every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from painting import SIZE, begun, relative_error, request_for

from api_schemas.requests import Scheduler
from scripts.stock import load_stock, run_stock
from scripts.tiny_pipeline import KINDS, build
from worker.engines.base import PaintRequest, Pixels, Sampling
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.slot import DiffusionSlot

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

TOLERANCE, WIDE_TOLERANCE = 1e-5, 1e-4
"""The second for Euler, with its own noise or without, at zero terminal SNR: there diffusers' float32 latents begin at 4,096 times their last size."""
SUBJECT = Sampling(prompt="a red sofa", negative_prompt="people", steps=5, guidance_scale=5.0, strength=1.0, scheduler=Scheduler.DDIM)
STRANGERS = [
    request_for(replace(SUBJECT, prompt="a lamp", steps=3, scheduler=Scheduler.EULER_A), seed=101),
    request_for(replace(SUBJECT, prompt="", negative_prompt="", steps=7, guidance_scale=1.0, scheduler=Scheduler.UNIPC), seed=102),
    request_for(replace(SUBJECT, negative_prompt="blur", steps=9, guidance_scale=9.0, strength=0.7), seed=103),
]
Slots = dict[Sampling, DiffusionSlot]


def alone(engine: DiffusionEngine, subjects: Slots) -> None:
    """No neighbours."""
    for slot in subjects.values():
        while not slot.done:
            engine.step([slot])


def among_strangers(engine: DiffusionEngine, subjects: Slots) -> None:
    """All from the start, with others, leaving at different steps."""
    slots = [begun(engine, stranger) for stranger in STRANGERS]
    slots[1:1] = subjects.values()
    while not all(slot.done for slot in subjects.values()):
        engine.step([slot for slot in slots if not slot.done])


def joining_late(engine: DiffusionEngine, subjects: Slots) -> None:
    """Two others are two steps ahead; half of the subjects join them, then the other half, in front."""
    slots = [begun(engine, stranger) for stranger in STRANGERS[:2]]
    for _ in range(2):
        engine.step(slots)
    waiting = list(subjects.values())
    slots += waiting[::2]
    engine.step([slot for slot in slots if not slot.done])
    slots = [*waiting[1::2], *slots, begun(engine, STRANGERS[2])]
    while not all(slot.done for slot in waiting):
        engine.step([slot for slot in slots if not slot.done])


class Comparison:
    """One model, loaded by the engine and by the stock pipeline."""

    def __init__(self, directory: Path, kind: str) -> None:
        build(directory, kind=kind)
        card = card_for(directory, kind)
        self.kind, self.xl = kind, "sdxl" in kind
        self.engine = DiffusionEngine.load(directory, card)
        self._pipeline = load_stock(directory)
        self.subjects = [
            replace(SUBJECT, scheduler=scheduler, strength=strength, guidance_scale=guidance_scale)
            for scheduler, strength, guidance_scale in product(card.schedulers, (1.0, 0.6), (1.0, 5.0))
        ]
        self.reference = cache(self._reference)
        self.results = cache(self._results)

    def stock(self, request: PaintRequest, output_type: str, **changed: Any) -> Any:
        """The stock pipeline's answer."""
        return run_stock(self._pipeline, request, output_type=output_type, **changed)

    def _reference(self, sampling: Sampling, seed: int = 7) -> torch.Tensor:
        latents: torch.Tensor = self.stock(request_for(sampling, seed=seed), "latent")
        return latents

    def _results(self, run: Callable[[DiffusionEngine, Slots], None]) -> dict[Sampling, torch.Tensor]:
        slots = {sampling: begun(self.engine, request_for(sampling, seed=7)) for sampling in self.subjects}
        run(self.engine, slots)
        assert [slot.error for slot in slots.values() if slot.error is not None] == []
        return {sampling: slot.latents for sampling, slot in slots.items()}


@pytest.fixture(scope="module", params=list(KINDS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Comparison:
    return Comparison(tmp_path_factory.mktemp("parity") / request.param, request.param)


@pytest.mark.parametrize("run", [alone, among_strangers, joining_late])
def test_final_latents_equal_the_stock_pipeline(model: Comparison, run: Callable[[DiffusionEngine, Slots], None]) -> None:
    """With every sampler, strength and guidance, in any company, the latents are those of the stock pipeline called alone."""
    errors = {sampling: relative_error(latents, model.reference(sampling)) for sampling, latents in model.results(run).items()}
    assert len(errors) == 4 * len(model.engine.card.schedulers) >= 20
    grown = {sampling for sampling in errors if model.kind == "zero-snr" and sampling.scheduler in (Scheduler.EULER, Scheduler.EULER_A)}
    limits = {sampling: WIDE_TOLERANCE if sampling in grown else TOLERANCE for sampling in errors}
    assert {sampling: error for sampling, error in errors.items() if not error <= limits[sampling]} == {}


@pytest.mark.parametrize("run", [among_strangers, joining_late])
def test_a_result_does_not_depend_on_its_neighbours(model: Comparison, run: Callable[[DiffusionEngine, Slots], None]) -> None:
    """A slot ends with the same latents in any company as alone."""
    by_itself = model.results(alone)
    for sampling, latents in model.results(run).items():
        assert relative_error(latents, by_itself[sampling]) <= TOLERANCE, sampling


def test_pixels_equal_the_stock_pipeline(model: Comparison) -> None:
    """Slots decoded together give the stock pipeline's pixels, to one level of rounding."""
    requests = [request_for(SUBJECT, seed=seed) for seed in (1, 2)]
    slots = [begun(model.engine, request) for request in requests]
    while not slots[0].done:
        model.engine.step(slots)
    for request, pixels in zip(requests, model.engine.finish(slots), strict=True):
        theirs: Pixels = np.asarray(model.stock(request, "pil")[0])
        assert pixels.shape == theirs.shape == (SIZE, SIZE, 3)
        assert pixels.dtype == np.uint8
        assert np.abs(pixels.astype(int) - theirs.astype(int)).max() <= 1


def test_an_empty_negative_prompt_is_the_stock_pipelines_default(model: Comparison) -> None:
    """No negative prompt means what it means to the stock pipeline: zeros for SDXL, the empty text for the others."""
    request = request_for(replace(SUBJECT, negative_prompt=""), seed=3)
    slot = begun(model.engine, request)
    while not slot.done:
        model.engine.step([slot])
    assert relative_error(slot.latents, model.stock(request, "latent", negative_prompt=None)) <= TOLERANCE
    differs = relative_error(slot.latents, model.stock(request, "latent", negative_prompt="")) > TOLERANCE
    assert differs == model.xl


def test_settings_that_should_matter_do(model: Comparison) -> None:
    """The comparison is not blind: another seed, prompt, guidance, strength or sampler moves the stock result beyond the tolerance."""
    base = model.reference(SUBJECT)
    assert relative_error(model.reference(SUBJECT, 8), base) > 100 * TOLERANCE
    for changed in (
        replace(SUBJECT, prompt="a blue lamp"),
        replace(SUBJECT, guidance_scale=1.0),
        replace(SUBJECT, strength=0.6),
        replace(SUBJECT, scheduler=Scheduler.EULER_A),
    ):
        assert relative_error(model.reference(changed), base) > 10 * TOLERANCE
