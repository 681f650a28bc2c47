"""Item 2: on this device the engine's latents are the stock pipeline's: in company, by every sampler, with and without inpainting channels."""

from __future__ import annotations

from typing import cast

from api_schemas.requests import Scheduler
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, relative_error, step_all
from scripts.stock import run_stock
from worker.engines.base import PaintRequest, begin
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.slot import DiffusionSlot

PLAIN_SAMPLERS = (Scheduler.DDIM, Scheduler.DPMPP_2M_KARRAS, Scheduler.EULER_A)
"""That a model without inpainting channels is tried with: one that keeps nothing, one that keeps outputs, one that draws."""
IN_COMPANY_STEPS, SAMPLER_STEPS = 3, 4


def run(stage: Stage, findings: Findings) -> None:
    """Largest difference of latents over the largest latent. In float16 up to 0.05 is what kernels for other batches make."""
    for family in FAMILIES:
        with findings.part(f"{family}_in_company"):
            _in_company(stage, findings, family)
    with findings.part("sd15_samplers"):
        _samplers(stage, findings, "sd15-inpaint", tuple(Scheduler), "sd15", strength=1.0)
    with findings.part("sd15_plain_samplers"):
        _samplers(stage, findings, "sd15", PLAIN_SAMPLERS, "sd15_of_4_channels", strength=0.8)
        stage.drop("sd15")


def _in_company(stage: Stage, findings: Findings, family: str) -> None:
    """Beside neighbours with other steps, no guidance and less strength."""
    kind = INPAINT[family]
    subject = stage.request(kind, seed=7, steps=IN_COMPANY_STEPS, guidance_scale=5.0, scheduler=Scheduler.DDIM)
    neighbours = [
        stage.request(kind, seed=8, steps=IN_COMPANY_STEPS + 1),
        stage.request(kind, seed=9, steps=IN_COMPANY_STEPS, guidance_scale=1.0),
        stage.request(kind, seed=10, steps=2 * IN_COMPANY_STEPS, strength=0.7),
    ]
    engine = stage.engine(kind)
    ours = _latents(engine, [subject, *neighbours])
    findings.add(f"{family}_latents_in_company_error", _against_stock(stage, kind, subject, ours))


def _samplers(stage: Stage, findings: Findings, kind: str, samplers: tuple[Scheduler, ...], name: str, *, strength: float) -> None:
    engine = stage.engine(kind)
    for sampler in samplers:
        request = stage.request(kind, seed=7, steps=SAMPLER_STEPS, scheduler=sampler, strength=strength)
        ours = _latents(engine, [request])
        findings.add(f"{name}_{sampler}_latents_error", _against_stock(stage, kind, request, ours))


def _latents(engine: DiffusionEngine, requests: list[PaintRequest]) -> DiffusionSlot:
    slots = begin(engine, requests)
    step_all(engine, slots)
    return cast("DiffusionSlot", slots[0])


def _against_stock(stage: Stage, kind: str, request: PaintRequest, ours: DiffusionSlot) -> float:
    """The stock pipeline in the same order of weights, so that convolutions are the same too."""
    return relative_error(ours.latents, run_stock(stage.stock(kind), request, output_type="latent"))
