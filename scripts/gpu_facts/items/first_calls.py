"""Item 9: what a first call costs: of a thread whose process is warm, of a new number of rows, of a new shape."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from scripts.gpu_facts.device import seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, unet_inputs
from worker.engines.diffusion.kernels import attention_context


def run(stage: Stage, findings: Findings) -> None:
    """The first UNet call of each kind and the second, in ms: what lies between them is set up in the first."""
    for family in FAMILIES:
        with findings.part(family):
            _family(stage, findings, family)


def _family(stage: Stage, findings: Findings, family: str) -> None:
    kind = INPAINT[family]
    stage.take_attention_off(kind)
    stage.arrange(kind, channels_last=True)
    parts, side = stage.parts(kind), stage.size(kind) // 8

    def call_of(rows: int, shape: tuple[int, int]) -> Callable[[], object]:
        return _call(parts.unet, unet_inputs(parts, rows, shape))

    square = call_of(2, (side, side))
    cases = {
        "another_thread": square,
        "new_rows": call_of(6, (side, side)),
        "new_shape": call_of(2, (side * 3 // 4, side * 5 // 4)),
        "first_vae_decode": _decode(parts.vae, side),
    }
    seconds = {"process": _twice(stage, square)}
    thread = threading.Thread(target=lambda: seconds.update({name: _twice(stage, call) for name, call in cases.items()}))
    thread.start()
    thread.join()
    if len(seconds) <= len(cases):
        raise RuntimeError("the other thread broke; what it said is on the console")
    for name, (first, second) in seconds.items():
        findings.add(f"{family}_{name}_first_ms", first * 1e3)
        findings.add(f"{family}_{name}_second_ms", second * 1e3)


def _twice(stage: Stage, call: Callable[[], object]) -> tuple[float, float]:
    return seconds_of(stage.device, call), seconds_of(stage.device, call)


def _call(unet: Any, inputs: dict[str, Any]) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode(), attention_context("sdpa"):
            return unet(**inputs, return_dict=False)

    return call


def _decode(vae: Any, side: int) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return vae.decode(torch.zeros(1, 4, side, side, device=vae.device, dtype=vae.dtype), return_dict=False)

    return call
