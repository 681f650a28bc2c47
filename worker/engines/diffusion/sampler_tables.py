"""Samplers as numbers, so that one call advances all rows, whatever their samplers.

Every supported sampler is linear in the initial latents and in all outputs of the model so far. So before step ``k`` all that it will ever need of
them is a ``state`` of a few latents, and a step is

    state[k+1] = keep[k] · state[k] + take[k] · output[k] + draw[k] · noise[k]

The numbers come from diffusers' own schedulers, run once in float64 on unit vectors in place of pictures: no formula is copied. The states are the
minimal realization of that linear system: with ``H[k]`` the matrix by which what came before step ``k`` (columns: initial latents, outputs, noise)
leads to all that is shown from there on (rows), and ``H[k] = U S Vᵀ``, ``state[k]`` is ``Vᵀ`` times what came before (Ho and Kalman 1966; for
systems that change with time, Dewilde and van der Veen 1998, "Time-Varying Systems and Computations", chapter 3). Its maps have norms of at most 1,
so that rounding does not grow from step to step.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from api_schemas.requests import Scheduler
from worker.engines.diffusion.samplers import Sampler, build_sampler, generator_kwargs, strength_timesteps

WIDTH = 4
"""Latents in a state: PNDM needs four, UniPC three, DPM++ 2M two, the others one."""
_NEGLIGIBLE = 1e-7
"""Of the largest singular value. DPM++ rounds to float32 inside, which looks like many states of a hundredth of this."""


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """One sampler's way through its steps; all numbers are ``float32`` on the CPU."""

    rows: torch.Tensor
    """``(steps, 3 + WIDTH + WIDTH · (WIDTH + 2))``: the timestep; what a picture that is known and its noise have in the UNet's input at this noise
    level; the UNet's input, of the state before the step; the state after it, of the one before, the model's output and fresh noise."""
    draws: bool
    """Whether each step draws noise of its own."""
    begin: torch.Tensor
    """``(2,)``; the initial latents, of the picture and of noise."""
    start: torch.Tensor
    """``(WIDTH,)``; the first state, of the initial latents."""
    ends: torch.Tensor
    """``(steps + 1, WIDTH)``; the latents, unscaled, of the state before each step and after the last."""


class SamplerTables:
    """The tables of one model's noise schedule; the last that were asked for are remembered. Thread-safe."""

    def __init__(self, config: Mapping[str, Any], *, capacity: int = 64) -> None:
        """``config`` as ``build_sampler`` takes it. A table of 50 steps takes 20 kB."""
        self._config, self._capacity = config, capacity
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[Scheduler, int, float], SamplerTable] = OrderedDict()

    def table(self, name: Scheduler, steps: int, strength: float) -> SamplerTable:
        """The last ``int(steps × strength)`` of ``steps``. Raises ``Invalid`` where no step is left; ``ValueError`` for a sampler that is not linear."""
        key = (name, steps, strength)
        with self._lock:
            if key not in self._tables:
                self._tables[key] = build_table(build_sampler(name, self._config), steps, strength)
                if len(self._tables) > self._capacity:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            return self._tables[key]


def build_table(sampler: Sampler, steps: int, strength: float) -> SamplerTable:
    """Run ``sampler`` on unit vectors. Raises as ``SamplerTables.table`` does."""
    timesteps = strength_timesteps(sampler, steps, strength)
    begin = _begin(sampler, timesteps, strength)
    run = _run(sampler, timesteps)
    bases = [_basis(torch.cat([run.ends[at:], run.shown[at:]])[:, : run.inputs_before(at)]) for at in range(len(timesteps) + 1)]
    rows = [
        torch.cat([timestep.float().view(1), known, _padded(seen[: before.shape[1]] @ before.T), _map(before, after).flatten()])
        for timestep, before, after, seen, known in zip(timesteps, bases[:-1], bases[1:], run.shown, run.known, strict=True)
    ]
    ends = torch.stack([_padded(end[: basis.shape[1]] @ basis.T) for end, basis in zip(run.ends, bases, strict=True)])
    return SamplerTable(torch.stack(rows), run.draws, begin.float(), _padded(bases[0][:, 0]), ends)


@dataclass(frozen=True)
class _Run:
    """All that a sampler made of its inputs: the initial latents, then an output and a noise for each step."""

    ends: torch.Tensor
    """``(steps + 1, inputs)``; the latents before each step and after the last."""
    shown: torch.Tensor
    """``(steps, inputs)``; the same as the UNet is shown them."""
    known: tuple[torch.Tensor, ...]
    """``float32 (2,)`` for each step: of a picture and its noise, as the UNet is shown them at that noise level."""
    draws: bool

    @staticmethod
    def inputs_before(step: int) -> int:
        return 1 + 2 * step


def _run(sampler: Sampler, timesteps: torch.Tensor) -> _Run:
    count = _Run.inputs_before(len(timesteps))
    unit = torch.eye(count + 1, dtype=torch.float64)[..., None, None]  # as many channels; nothing but noise reaches the last one
    generator, draws = torch.Generator("cpu"), False
    latents = unit[:1]
    ends, shown, known = [latents], [], []
    for at, timestep in enumerate(timesteps):
        shown.append(sampler.scale_model_input(latents, timestep))
        largest = latents.abs().argmax()
        scale = shown[-1].flatten()[largest] / latents.flatten()[largest]
        # Here, and not before the steps: some samplers go by their own place and not by the timestep.
        known.append((scale * _noised(sampler, timesteps[at : at + 1])).float())
        generator.manual_seed(0)
        fresh = generator.get_state()
        output = unit[_Run.inputs_before(at)][None]
        latents = sampler.step(output, timestep, latents, return_dict=False, **generator_kwargs(sampler, generator))[0]
        if not torch.equal(generator.get_state(), fresh):  # it drew: its noise is told apart, and becomes an input
            draws = True
            noise = torch.randn(latents.shape, generator=generator.manual_seed(0), dtype=latents.dtype)
            share = latents[0, -1] / noise[0, -1]
            latents = latents - share * noise + share * unit[_Run.inputs_before(at) + 1][None]
        ends.append(latents)
    run = _Run(_rows(ends, count), _rows(shown, count), tuple(known), draws)
    if not (torch.isfinite(run.ends).all() and torch.isfinite(run.shown).all()):
        raise ValueError(f"{type(sampler).__name__} makes numbers that are not finite")
    return run


def _rows(vectors: list[torch.Tensor], count: int) -> torch.Tensor:
    return torch.cat(vectors).flatten(1)[:, :count]


def _basis(hankel: torch.Tensor) -> torch.Tensor:
    """The orthonormal rows, ``(WIDTH at most, inputs so far)``, that say all of the past that matters later."""
    rows: torch.Tensor
    _, sizes, rows = torch.linalg.svd(hankel, full_matrices=False)
    rank = int((sizes > _NEGLIGIBLE * sizes[0]).sum())
    if rank > WIDTH:
        raise ValueError(f"a sampler whose state takes {rank} latents, of {WIDTH}")
    return rows[:rank]


def _map(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """``(WIDTH, WIDTH + 2)``: the state by the basis ``after``, of that by ``before``, the step's output and its noise."""
    past = before.shape[1]
    step = torch.zeros(WIDTH, WIDTH + 2)
    step[: len(after), : len(before)] = after[:, :past] @ before.T
    step[: len(after), WIDTH:] = after[:, past:]
    return step


def _padded(numbers: torch.Tensor) -> torch.Tensor:
    """``(WIDTH,)``, with zeros at the end, in float32."""
    padded = torch.zeros(WIDTH)
    padded[: len(numbers)] = numbers
    return padded


def _begin(sampler: Sampler, timesteps: torch.Tensor, strength: float) -> torch.Tensor:
    """What the initial latents have of the picture and of noise; ``StableDiffusionInpaintPipeline.prepare_latents``."""
    if strength == 1.0:
        return torch.tensor([0.0, float(sampler.init_noise_sigma)], dtype=torch.float64)
    return _noised(sampler, timesteps[:1])


def _noised(sampler: Sampler, timestep: torch.Tensor) -> torch.Tensor:
    """What a picture at the noise level of ``timestep`` has of the picture and of noise."""
    one = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1, 1)
    noised: torch.Tensor = sampler.add_noise(one, one.flip(0), timestep.expand(2)).flatten()
    return noised
