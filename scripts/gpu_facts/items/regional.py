"""Item 10: compiling block by block, for all rows at once: its time, the step with it, and the same under a graph.

Then whole pictures compiled, ours as it ships and the stock pipeline's, in alternation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from scripts.gpu_facts.device import median_ms, seconds_of
from scripts.gpu_facts.findings import Findings, Refused
from scripts.gpu_facts.items.graphs import Recording
from scripts.gpu_facts.items.pictures import alternate, ours, theirs
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, relative_error, unet_inputs
from worker.engines.base import PaintRequest
from worker.engines.diffusion.kernels import attention_context
from worker.engines.diffusion.unet_call import GRAPHS, blank_call

WHOLE_S = {"sd15": 60, "sdxl": 110}
"""Without so much time left, compiling a whole UNet is not begun: it would not come back in time."""
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
ROWS = (2, 6, 16)


def run(stage: Stage, findings: Findings) -> None:
    """The parts that decide most come first, as the item may end before it is through."""
    for family in FAMILIES:
        with findings.part(f"{family}_regional"):
            _regional(stage, findings, family)
    for family in FAMILIES:
        with findings.part(f"{family}_compiled_pictures"):
            _pictures(stage, findings, family)
        stage.release()


def _regional(stage: Stage, findings: Findings, family: str) -> None:
    kind, name = INPAINT[family], f"{family}_regional"
    stage.take_attention_off(kind)
    stage.arrange(kind, channels_last=True)
    parts, side = stage.parts(kind), stage.size(kind) // 8
    inputs = {rows: unet_inputs(parts, rows, side) for rows in ROWS}
    with torch.inference_mode():
        plain = _call(parts.unet, inputs[ROWS[0]])()
        with CompiledBlocks(parts.unet, BLOCKS, backend=stage.backend):
            for rows in ROWS:
                call = _call(parts.unet, inputs[rows])
                findings.add(f"{name}_rows_{rows}_first_call_s", seconds_of(stage.device, call))
                findings.add(f"{name}_rows_{rows}_ms", median_ms(stage.device, call))
                if rows == ROWS[0]:
                    findings.add(f"{name}_error", relative_error(call(), plain))
                recording = Recording(stage, parts.unet, inputs[rows], None)
                findings.add(f"{name}_rows_{rows}_replay_ms", median_ms(stage.device, recording.replay))


def _call(unet: Any, inputs: dict[str, Any]) -> Callable[[], torch.Tensor]:
    def call() -> torch.Tensor:
        with attention_context("sdpa"):
            predicted: torch.Tensor = unet(**inputs, return_dict=False)[0]
        return predicted

    return call


class CompiledBlocks:
    """``with blocks:`` the blocks of these classes run compiled: one graph for all that are alike, and for all rows, if ``dynamic``."""

    def __init__(self, unet: Any, names: tuple[str, ...], *, backend: str | Callable[..., Any], dynamic: bool = True) -> None:
        self._compiled: list[tuple[Any, Callable[..., Any]]] = []
        for block in (module for module in unet.modules() if type(module).__name__ in names):
            compiled = torch.compile(block.forward, backend=backend, fullgraph=True, dynamic=False)
            self._compiled.append((block, _with_dynamic_rows(compiled) if dynamic else compiled))
        self._limit = torch._dynamo.config.patch(recompile_limit=GRAPHS)  # noqa: SLF001 - has no public name

    def __enter__(self) -> None:
        """Put the compiled ones in place."""
        self._limit.__enter__()
        for block, compiled in self._compiled:
            block.forward = compiled

    def __exit__(self, *error: object) -> None:
        """The class's own are there again."""
        for block, _ in self._compiled:
            del block.forward
        self._limit.__exit__(*error)


def _with_dynamic_rows(compiled: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        for value in (*arguments, *options.values()):
            if isinstance(value, torch.Tensor) and value.dim():
                torch._dynamo.maybe_mark_dynamic(value, 0)  # noqa: SLF001 - has no public name
        return compiled(*arguments, **options)

    return call


def _pictures(stage: Stage, findings: Findings, family: str) -> None:
    """Ours compiled as the worker compiles, for one guided picture; the stock pipeline's transformer blocks, as diffusers documents."""
    kind, left_s = INPAINT[family], findings.deadline.left_s
    if left_s < WHOLE_S[family] and not stage.rehearsal:
        raise Refused(f"only {left_s:.0f} s are left, and compiling the whole UNet takes {WHOLE_S[family]}")
    engine, stock = stage.engine(kind, compile=True), stage.stock(kind)
    side, tokens = stage.size(kind) // 8, stage.parts(kind).tokenizers[0].model_max_length
    with torch.inference_mode():
        warm = partial(blank_call(stage.unet_call(engine), side, side, tokens=tokens), 2)
        findings.add(f"{family}_compiled_whole_first_call_s", seconds_of(stage.device, warm))
        times = [seconds_of(stage.device, warm) for _ in range(5)]
        findings.add(f"{family}_compiled_whole_rows_2_ms", statistics.median(times) * 1e3)

    blocks = CompiledBlocks(stock.unet, BLOCKS[:1], backend=stage.backend, dynamic=False)

    def compiled_stock(request: PaintRequest) -> None:
        with blocks:
            theirs(stock, request)

    alternate(stage, findings, family, "compiled", partial(ours, engine), compiled_stock, same_order=True)
