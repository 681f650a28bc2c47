"""Item 7: the order of weights (channels last or not) and cuDNN's own search for convolutions, uncompiled."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import torch

from scripts.gpu_facts.device import median_ms
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage, unet_inputs

ROWS = {"sd15": (2, 8), "sdxl": (2,)}
ORDERS = {"channels_last": True, "contiguous": False}


def run(stage: Stage, findings: Findings) -> None:
    """One UNet call in each of the four ways."""
    for family in FAMILIES:
        stage.take_attention_off(INPAINT[family])
        for searching in (False, True):
            for order in ORDERS:
                with findings.part(f"{family}_{order}_{'searched' if searching else 'unsearched'}"):
                    _time(stage, findings, family, order, searching=searching)
        stage.arrange(INPAINT[family], channels_last=True)


def _time(stage: Stage, findings: Findings, family: str, order: str, *, searching: bool) -> None:
    if searching:
        stage.device.needs_cuda("cuDNN's benchmark mode")
    kind = INPAINT[family]
    stage.arrange(kind, channels_last=ORDERS[order])
    unet = stage.parts(kind).unet
    for rows in ROWS[family]:
        inputs = unet_inputs(stage.parts(kind), rows, stage.size(kind) // 8)
        with _searching(on=searching):
            ms = median_ms(stage.device, partial(unet, **inputs, return_dict=False))
        findings.add(f"{family}_rows_{rows}_{order}{'_searched' if searching else ''}_ms", ms)


def _searching(*, on: bool) -> AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=True, benchmark=on)
