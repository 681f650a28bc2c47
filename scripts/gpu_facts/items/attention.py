"""Item 3: which attention kernel makes the fastest step, for both families, by rows; and what really ran."""

from __future__ import annotations

import re
from functools import partial

import torch

from scripts.gpu_facts.device import longest, median_ms
from scripts.gpu_facts.findings import Findings, Refused, said
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, unet_inputs
from worker.engines.diffusion.kernels import attention_context
from worker.tuning import Attention

KERNELS: tuple[Attention, ...] = ("flash", "cudnn", "efficient")
ROWS = (2, 8)
ATTENTION = re.compile("attn|attention|fmha|flash|sdpa", re.IGNORECASE)
"""Part of the names of attention kernels."""
NO_KERNEL = ("No available kernel", "No viable backend")


def run(stage: Stage, findings: Findings) -> None:
    """Time one UNet call with each kernel alone, and in torch's own order."""
    for family in FAMILIES:
        stage.take_attention_off(INPAINT[family])
        stage.arrange(INPAINT[family], channels_last=True)
        for rows in ROWS:
            for kernel in ("default", *KERNELS):
                with findings.part(f"{family}_rows_{rows}_{kernel}"):
                    _time(stage, findings, family, rows, kernel)
        with findings.part(f"{family}_xformers"):
            _xformers(stage, findings, family)


def _time(stage: Stage, findings: Findings, family: str, rows: int, kernel: str) -> None:
    kind = INPAINT[family]
    unet, inputs = stage.parts(kind).unet, unet_inputs(stage.parts(kind), rows, stage.size(kind) // 8)
    if kernel in ("cudnn", "efficient"):
        stage.device.needs_cuda(f"{kernel} attention is a CUDA kernel")

    def call() -> object:
        with attention_context(kernel):  # type: ignore[arg-type]  # "default" is none of ours, and so changes nothing
            return unet(**inputs, return_dict=False)

    try:
        findings.add(f"{family}_rows_{rows}_{kernel}_ms", median_ms(stage.device, call))
    except RuntimeError as error:
        if any(words in str(error) for words in NO_KERNEL):
            raise Refused(f"the kernel does not take these shapes: {said(error)}") from None
        raise
    if rows == ROWS[0]:
        _name(stage, findings, f"{family}_{kernel}", call)


def _name(stage: Stage, findings: Findings, name: str, call: object) -> None:
    """The attention kernels that ran longest, as CUPTI names them."""
    with findings.part(f"{name}_kernel_names"), torch.inference_mode():
        times = stage.device.profiled(call).times  # type: ignore[arg-type]
        attention = {kernel: ms for kernel, ms in times.items() if ATTENTION.search(kernel)}
        told = "; ".join(f"{kernel[:100]} {ms:.2f} ms" for kernel, ms in longest(attention).items())
        findings.say(f"{name}_attention_kernels", told or "no kernel is named so that it can be told from others")


def _xformers(stage: Stage, findings: Findings, family: str) -> None:
    """A processor of its own, which is taken off again."""
    import xformers  # noqa: F401, PLC0415 - a ModuleNotFoundError names what is missing

    stage.device.needs_cuda("xformers' kernels")
    kind = INPAINT[family]
    unet = stage.parts(kind).unet
    before = dict(unet.attn_processors)
    unet.enable_xformers_memory_efficient_attention()
    try:
        for rows in ROWS:
            inputs = unet_inputs(stage.parts(kind), rows, stage.size(kind) // 8)
            findings.add(f"{family}_rows_{rows}_xformers_ms", median_ms(stage.device, partial(unet, **inputs, return_dict=False)))
    finally:
        unet.set_attn_processor(before)
