"""Item 10: compiling block by block, for all rows at once: its time, the step with it, and the same under a graph.

Then whole pictures compiled, ours as it ships and the stock pipeline's, in alternation.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from scripts.gpu_facts.compiled import compile_call, only_compiled
from scripts.gpu_facts.device import median_ms, seconds_of
from scripts.gpu_facts.findings import DeadlineOver, Findings
from scripts.gpu_facts.items.graphs import Recording
from scripts.gpu_facts.items.pictures import alternate, ours, theirs
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, relative_error, unet_inputs
from worker.engines.base import PaintRequest
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.kernels import attention_context
from worker.engines.diffusion.unet_call import GRAPHS

WHOLE_S = {"sd15": 60, "sdxl": 110}
"""Expected for compiling a whole UNet and for the pictures after it; with less time left it is not begun."""
BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
ROWS = {"sd15": (2, 6, 16), "sdxl": (2, 16)}


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
    inputs = {rows: unet_inputs(parts, rows, side) for rows in ROWS[family]}
    first = ROWS[family][0]
    with torch.inference_mode():
        plain = _call(parts.unet, inputs[first])()
        with CompiledBlocks(parts.unet, BLOCKS, backend=stage.backend):
            for rows in ROWS[family]:
                call = _call(parts.unet, inputs[rows])
                findings.add(f"{name}_rows_{rows}_first_call_s", seconds_of(stage.device, call))
                findings.add(f"{name}_rows_{rows}_ms", median_ms(stage.device, call))
                if rows == first:
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
    """Ours compiled as the worker compiles, for one guided picture; the stock pipeline's transformer blocks, as diffusers documents.

    Raises ``DeadlineOver`` where too little time is left: then the item has not answered all that it asks.
    """
    kind, left_s = INPAINT[family], findings.deadline.left_s
    if left_s < WHOLE_S[family] and not stage.rehearsal:
        raise DeadlineOver(f"{left_s:.0f} s were left, and compiling the whole UNet of {family} takes {WHOLE_S[family]}")
    engine, stock = stage.engine(kind, compile=True, must_compile=True), stage.stock(kind)
    _whole(stage, findings, family, engine)
    blocks = CompiledBlocks(stock.unet, BLOCKS[:1], backend=stage.backend, dynamic=False)

    def compiled_ours(request: PaintRequest) -> None:
        with only_compiled(engine):
            ours(engine, request)

    def compiled_stock(request: PaintRequest) -> None:
        with blocks:
            theirs(stock, request)

    alternate(stage, findings, family, "compiled", compiled_ours, compiled_stock, same_order=True)


def _whole(stage: Stage, findings: Findings, family: str, engine: DiffusionEngine) -> None:
    """Compile for one guided picture, and time what was compiled. No figure is noted before it has run compiled."""
    compiling = compile_call(engine)
    first_s = seconds_of(stage.device, partial(compiling, 2))
    kind = INPAINT[family]
    inputs = {"added_cond_kwargs": None, **unet_inputs(stage.parts(kind), 2, stage.size(kind) // 8)}
    with only_compiled(engine):
        times = [seconds_of(stage.device, partial(stage.unet_call(engine), **inputs)) for _ in range(5)]
    findings.add(f"{family}_compiled_whole_first_call_s", first_s)
    findings.add(f"{family}_compiled_whole_rows_2_ms", statistics.median(times) * 1e3)
