"""Item 6: a plain CUDA graph of the eager UNet: does it compute the same, what does a step take, and what do recordings cost."""

from __future__ import annotations

from typing import Any

import torch

from scripts.gpu_facts.device import median_ms, seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, relative_error, unet_inputs
from worker.engines.diffusion.kernels import attention_context

ROWS = {"sd15": (2, 6, 10, 16), "sdxl": (2, 6, 10, 16)}
WARM_CALLS = 3


class Recording:
    """A UNet call recorded over static inputs and one static output."""

    def __init__(self, stage: Stage, unet: Any, inputs: dict[str, Any], pool: Any) -> None:
        """Calls a few times first: what libraries set up in a first call cannot be recorded."""
        self.inputs = inputs
        self.output = torch.empty_like(inputs["sample"][:, :4])

        def call() -> None:
            with attention_context("sdpa"):
                self.output.copy_(unet(**inputs, return_dict=False)[0])

        self.call = call
        for _ in range(WARM_CALLS):
            call()
        stage.device.empty()
        before_gib = stage.device.held_gib()
        recorded: list[Any] = []
        self.seconds = seconds_of(stage.device, lambda: recorded.append(stage.device.record(call, pool)))
        self.gib = stage.device.held_gib() - before_gib
        self._replay = recorded[0]

    def replay(self) -> torch.Tensor:
        """Compute from what the inputs hold now."""
        self._replay.replay()
        return self.output

    def feed(self, inputs: dict[str, Any]) -> None:
        """Put other values into the static inputs."""
        for name, value in inputs.items():
            if isinstance(value, dict):
                for inner, tensor in value.items():
                    self.inputs[name][inner].copy_(tensor)
            else:
                self.inputs[name].copy_(value)


def run(stage: Stage, findings: Findings) -> None:
    """The recordings of one family share a pool, the largest first, as they would in the engine."""
    for family in FAMILIES:
        stage.take_attention_off(INPAINT[family])
        stage.arrange(INPAINT[family], channels_last=True)
        pool = stage.device.pool()
        kept = []
        for rows in sorted(ROWS[family], reverse=True):
            with findings.part(f"{family}_rows_{rows}"), torch.inference_mode():
                kept.append(_measure(stage, findings, family, rows, pool))


def _measure(stage: Stage, findings: Findings, family: str, rows: int, pool: Any) -> Recording:
    kind, name = INPAINT[family], f"{family}_rows_{rows}"
    parts, side = stage.parts(kind), stage.size(kind) // 8
    eager = unet_inputs(parts, rows, side, seed=1)
    recording = Recording(stage, parts.unet, unet_inputs(parts, rows, side), pool)
    findings.add(f"{name}_record_s", recording.seconds)
    findings.add(f"{name}_record_gib", recording.gib)
    recording.feed(eager)
    replayed = recording.replay().clone()
    with attention_context("sdpa"):
        expected = parts.unet(**eager, return_dict=False)[0]
    findings.add(f"{name}_replay_error", relative_error(replayed, expected))
    findings.add(f"{name}_eager_ms", median_ms(stage.device, recording.call))
    findings.add(f"{name}_replay_ms", median_ms(stage.device, recording.replay))
    return recording
