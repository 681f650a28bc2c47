"""Item 12: what a LoRA costs that comes late: the step before it, with it and after it, the switch, and whether what was compiled stays so."""

from __future__ import annotations

import statistics
from contextlib import nullcontext
from functools import partial

from scripts.gpu_facts.compiled import compile_call, only_compiled
from scripts.gpu_facts.device import seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import INPAINT, Stage, Stepping
from worker.engines.base import PaintRequest, begin
from worker.engines.diffusion.engine import DiffusionEngine

STEPS, WARM, TIMED = 25, 2, 7
LORAS = ("early", "late")


def run(stage: Stage, findings: Findings) -> None:
    """XL uncompiled, as it has the most layers; 1.5 compiled, as that compiles sooner."""
    with findings.part("sdxl_eager"):
        _late(stage, findings, "sdxl", "eager", stage.engine(INPAINT["sdxl"]))
    with findings.part("sd15_compiled"):
        _late(stage, findings, "sd15", "compiled", _compiled(stage, INPAINT["sd15"]))
    for family in INPAINT:  # what the LoRAs left in the modules must not be in the next item's
        stage.drop(INPAINT[family])


def _compiled(stage: Stage, kind: str) -> DiffusionEngine:
    engine = stage.engine(kind, compile=True, must_compile=True)
    compile_call(engine)(2)
    return engine


def _late(stage: Stage, findings: Findings, family: str, mode: str, engine: DiffusionEngine) -> None:
    kind, name = INPAINT[family], f"{family}_lora_{mode}"
    for seed, lora in enumerate(LORAS):
        stage.write_lora(kind, lora, seed=seed)
    requests = {lora: stage.request(kind, steps=STEPS, loras=((lora, 0.8),)) for lora in LORAS}
    plain = stage.request(kind, steps=STEPS)
    with only_compiled(engine) if mode == "compiled" else nullcontext():
        before_ms = _step_ms(stage, engine, plain)
    findings.add(f"{name}_step_before_ms", before_ms)
    findings.add(f"{name}_first_use_s", seconds_of(stage.device, lambda: begin(engine, [requests[LORAS[0]]])))
    findings.add(f"{name}_step_with_ms", _step_ms(stage, engine, requests[LORAS[0]]))
    findings.add(f"{name}_switch_ms", _switch_ms(stage, engine, [requests[lora] for lora in LORAS]))
    compiled = engine.calls["compiled"]
    after_ms = _step_ms(stage, engine, plain)
    if mode == "compiled":
        findings.add(f"{name}_after_runs_compiled_bool", engine.calls["compiled"] > compiled)
    findings.add(f"{name}_step_after_ms", after_ms)
    findings.add(f"{name}_after_over_before_ratio", after_ms / before_ms)


def _step_ms(stage: Stage, engine: DiffusionEngine, request: PaintRequest) -> float:
    step = Stepping(engine, [request])
    for _ in range(WARM):
        step()
    return statistics.median(seconds_of(stage.device, step) for _ in range(TIMED)) * 1e3


def _switch_ms(stage: Stage, engine: DiffusionEngine, requests: list[PaintRequest]) -> float:
    """Two jobs of different LoRAs in turn: what a step takes more than two steps of one."""
    steps = [Stepping(engine, [request]) for request in requests]

    def turn(numbers: tuple[int, int]) -> None:
        for number in numbers:
            steps[number]()

    for numbers in ((0, 1), (0, 0)):
        turn(numbers)
    switching = statistics.median(seconds_of(stage.device, partial(turn, (0, 1))) for _ in range(3))
    staying = statistics.median(seconds_of(stage.device, partial(turn, (1, 1))) for _ in range(3))
    return max(switching - staying, 0.0) / 2 * 1e3
