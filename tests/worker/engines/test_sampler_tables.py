"""Samplers as numbers, against diffusers' schedulers, which they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from api_schemas.errors import Invalid
from api_schemas.requests import Scheduler
from scripts.tiny_pipeline import SCHEDULE
from worker.engines.diffusion.sampler_tables import WIDTH, SamplerTable, SamplerTables, build_table
from worker.engines.diffusion.samplers import Sampler, build_sampler, generator_kwargs, strength_timesteps

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

SHAPE = (1, 4, 8, 8)
KINDS = (("epsilon", False), ("v_prediction", False), ("v_prediction", True))
"""What the model predicts, and whether its noise ends at zero SNR, where no noise can be predicted."""
SPACINGS = ("leading", "trailing", "linspace")


def model(shown: torch.Tensor, at: int) -> torch.Tensor:
    """An output that depends on the input as a model's does, neither linear nor the same in any two steps."""
    return 0.8 * torch.tanh(shown) + 0.3 * torch.sin(torch.arange(shown.numel(), dtype=shown.dtype).view(shown.shape) + at)


def by_diffusers(sampler: Sampler, steps: int, strength: float) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the UNet is shown in each step, and the latents at the end, in float64."""
    timesteps = strength_timesteps(sampler, steps, strength)
    picture, noise, generator = given_latents()
    latents = noise * sampler.init_noise_sigma if strength == 1.0 else sampler.add_noise(picture, noise, timesteps[:1])
    seen = []
    for at, timestep in enumerate(timesteps):
        seen.append(sampler.scale_model_input(latents, timestep))
        output = model(seen[-1], at)
        latents = sampler.step(output, timestep, latents, return_dict=False, **generator_kwargs(sampler, generator))[0]
    return seen, latents


def by_table(table: SamplerTable) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same, by the numbers of ``table``."""
    picture, noise, generator = given_latents()
    latents = table.begin[0] * picture + table.begin[1] * noise
    state = table.start.double().view(-1, 1, 1, 1) * latents
    seen = []
    for at, row in enumerate(table.rows.double()):
        seen.append(torch.einsum("s,schw->chw", row[3 : 3 + WIDTH], state)[None])
        fresh = torch.randn(SHAPE, generator=generator, dtype=torch.float64) if table.draws else torch.zeros(SHAPE, dtype=torch.float64)
        step = row[3 + WIDTH :].view(WIDTH, WIDTH + 2)
        state = torch.einsum("ns,schw->nchw", step, torch.cat([state, model(seen[-1], at), fresh]))
    return seen, torch.einsum("s,schw->chw", table.ends[-1].double(), state)[None]


def given_latents() -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    generator = torch.Generator("cpu").manual_seed(7)
    picture, noise = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    return picture, noise, generator


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@settings(deadline=None)
@given(
    name=st.sampled_from(list(Scheduler)),
    kind=st.sampled_from(KINDS),
    spacing=st.sampled_from(SPACINGS),
    steps=st.integers(1, 60),
    strength=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)
def test_a_table_goes_as_the_sampler_does(name: Scheduler, kind: tuple[str, bool], spacing: str, steps: int, strength: float) -> None:
    """What the UNet is shown in each step, and the end, are those of diffusers' scheduler in float64, to the rounding of float32 numbers."""
    config: dict[str, Any] = {
        **SCHEDULE,
        "prediction_type": kind[0],
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": kind[1],
        "clip_sample": False,
    }
    sampler = build_sampler(name, config)
    if int(steps * strength) < 1:
        with pytest.raises(Invalid):
            build_table(sampler, steps, strength)
        return
    theirs, end = by_diffusers(build_sampler(name, config), steps, strength)
    ours, our_end = by_table(build_table(sampler, steps, strength))
    assert len(ours) == len(theirs)
    assert max(relative(one, other) for one, other in zip(ours, theirs, strict=True)) <= 1e-5
    assert relative(our_end, end) <= 1e-5


def test_only_ancestral_samplers_draw() -> None:
    """Noise is drawn for no other, so that a seed goes on giving the picture that it gave."""
    tables = SamplerTables(SCHEDULE)
    assert {name for name in Scheduler if tables.table(name, 5, 1.0).draws} == {Scheduler.EULER_A}


def test_the_last_tables_are_remembered() -> None:
    """A table is built once while it is remembered; the one used longest ago goes first."""
    tables = SamplerTables(SCHEDULE, capacity=2)
    first = tables.table(Scheduler.DDIM, 5, 1.0)
    second = tables.table(Scheduler.DDIM, 6, 1.0)
    assert tables.table(Scheduler.DDIM, 5, 1.0) is first
    tables.table(Scheduler.DDIM, 7, 1.0)
    assert tables.table(Scheduler.DDIM, 5, 1.0) is first
    assert tables.table(Scheduler.DDIM, 6, 1.0) is not second


class LongMemory:
    """A sampler that looks back at its last outputs, each with a weight of its own."""

    order: int = 1
    init_noise_sigma: float | torch.Tensor = 1.0

    def __init__(self, outputs: int) -> None:
        self._outputs, self._last = outputs, [torch.zeros(())]
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, num_inference_steps: int, device: str) -> None:
        self.timesteps = torch.arange(num_inference_steps, device=device)

    def set_begin_index(self, begin_index: int) -> None: ...

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return original_samples + noise * timesteps.view(-1, 1, 1, 1)

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the names are diffusers'
        return sample

    def step(self, model_output: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
        self._last = [*self._last, model_output][-self._outputs :]
        return (sum((output / (2 + at) for at, output in enumerate(self._last)), torch.zeros(())),)


def test_a_sampler_that_remembers_too_much_is_refused() -> None:
    """One whose state takes more latents than a slot has room for is named, and not cut short."""
    assert len(build_table(LongMemory(WIDTH), 20, 1.0).rows) == 20
    with pytest.raises(ValueError, match=f"a sampler whose state takes {WIDTH + 1} latents, of {WIDTH}"):
        build_table(LongMemory(WIDTH + 1), 20, 1.0)
