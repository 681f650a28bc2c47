"""Item 4: what one step of the engine is made of, by slots and sampler: kernels, the device's busy share, waits and copies."""

from __future__ import annotations

import statistics
from functools import partial

import torch

from api_schemas.requests import Scheduler
from scripts.gpu_facts.device import seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, Stepping, unet_inputs
from worker.engines.diffusion.engine import DiffusionEngine

SLOTS = (1, 4, 8)
SAMPLERS = (Scheduler.DPMPP_2M_KARRAS, Scheduler.UNIPC)
WARM, TIMED, UNET_TIMED = 2, 5, 3


def run(stage: Stage, findings: Findings) -> None:
    """Times are without the profiler, which slows the launches; counts and the kernels' own time are with it."""
    for family in FAMILIES:
        engine = stage.shipped(INPAINT[family])
        for slots in SLOTS:
            with findings.part(f"{family}_{slots}_slots_unet"):
                findings.add(f"{family}_{slots}_slots_unet_ms", _unet_ms(stage, engine, family, slots))
            for sampler in SAMPLERS:
                with findings.part(f"{family}_{slots}_slots_{sampler}"):
                    _step(stage, findings, engine, family, slots, sampler)


def _unet_ms(stage: Stage, engine: DiffusionEngine, family: str, count: int) -> float:
    """The UNet's call of such a step alone: its rows without the prompt repeat the samples of the first ones."""
    kind = INPAINT[family]
    inputs = unet_inputs(stage.parts(kind), 2 * count, stage.size(kind) // 8)
    inputs["sample"][count:] = inputs["sample"][:count]
    call = partial(stage.unet_call(engine), **inputs, repeated=count)
    with torch.inference_mode():
        call()
        return statistics.median(seconds_of(stage.device, call) for _ in range(UNET_TIMED)) * 1e3


def _step(stage: Stage, findings: Findings, engine: DiffusionEngine, family: str, count: int, sampler: Scheduler) -> None:
    name = f"{family}_{count}_slots_{sampler}"
    requests = [stage.request(INPAINT[family], seed=seed, steps=WARM + TIMED + 1, scheduler=sampler) for seed in range(count)]
    step = Stepping(engine, requests)
    for _ in range(WARM):
        step()
    step_ms = statistics.median(seconds_of(stage.device, step) for _ in range(TIMED)) * 1e3
    findings.add(f"{name}_step_ms", step_ms)
    seen = stage.device.profiled(step)
    findings.add(f"{name}_device_busy_ms", seen.busy_ms)
    findings.add(f"{name}_device_busy_share", seen.busy_ms / step_ms)
    findings.add(f"{name}_device_idle_ms", step_ms - seen.busy_ms)
    findings.add(f"{name}_kernels_count", seen.kernels)
    findings.add(f"{name}_copies_count", seen.copies)
    findings.add(f"{name}_waits_count", seen.waits)
