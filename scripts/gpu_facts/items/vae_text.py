"""Item 8: what a picture costs beside its steps: the VAE by precision, the text encoders, and ``prepare`` and ``start``, by host and device."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from scripts.gpu_facts.device import median_ms, seconds_of
from scripts.gpu_facts.findings import Findings
from scripts.gpu_facts.stage import FAMILIES, INPAINT, Stage
from worker.engines.base import begin

STRENGTH = 0.99
"""Of the pictures that are prepared: below 1 the picture is encoded as well as what is left of it."""
PREPARED = 4


@dataclass(frozen=True)
class Precision:
    """A precision of the VAE."""

    dtype: torch.dtype
    convolutions_tf32: bool = False
    products_tf32: bool = False


PRECISIONS: Mapping[str, Precision] = {
    "float32": Precision(torch.float32),
    "float32_as_torch_begins": Precision(torch.float32, convolutions_tf32=True),
    "tf32": Precision(torch.float32, convolutions_tf32=True, products_tf32=True),
    "bfloat16": Precision(torch.bfloat16),
    "float16": Precision(torch.float16),
}
"""torch lets convolutions use TF32 unless told otherwise, and products only when told."""


def run(stage: Stage, findings: Findings) -> None:
    """XL first: there the VAE runs in float32."""
    findings.say("vae", "its weights are random: how far a precision is off, and finite or not, decides nothing about a real one's range")
    for family in reversed(FAMILIES):
        _vae(stage, findings, family)
        with findings.part(f"{family}_text"):
            _text(stage, findings, family)
        with findings.part(f"{family}_prepare"):
            _prepare(stage, findings, family)


def _vae(stage: Stage, findings: Findings, family: str) -> None:
    """Times by precision, and how far decoded pixels are from float32's, in levels of 255."""
    kind = INPAINT[family]
    size, generator = stage.size(kind), torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    latents = torch.randn(4, 4, size // 8, size // 8, generator=generator)
    exact: list[np.ndarray] = []
    for name, precision in PRECISIONS.items():
        with findings.part(f"{family}_vae_{name}"), _tf32(stage, precision):
            vae = copy.deepcopy(stage.parts(kind).vae).to(dtype=precision.dtype, memory_format=torch.channels_last)
            given, coded = (each.to(vae.device, vae.dtype) for each in (images, latents))
            for rows in (1, 2):
                call = partial(vae.encode, given[:rows], return_dict=False)
                findings.add(f"{family}_vae_{name}_encode_{rows}_ms", median_ms(stage.device, call, repeats=3, warm=1))
            for rows in (1, 4):
                call = partial(vae.decode, coded[:rows], return_dict=False)
                findings.add(f"{family}_vae_{name}_decode_{rows}_ms", median_ms(stage.device, call, repeats=3, warm=1))
            with torch.inference_mode():
                pixels = vae.decode(coded[:1], return_dict=False)[0].float().cpu().numpy()
            exact = exact or [pixels]
            _off(findings, f"{family}_vae_{name}", pixels, exact[0])


def _off(findings: Findings, name: str, pixels: np.ndarray, exact: np.ndarray) -> None:
    off = np.abs(pixels.clip(-1, 1) - exact.clip(-1, 1)) * 127.5
    findings.add(f"{name}_off_mean_levels", float(off.mean()))
    findings.add(f"{name}_off_p999_levels", float(np.quantile(off, 0.999)))
    findings.add(f"{name}_finite_bool", bool(np.isfinite(pixels).all()))


@contextmanager
def _tf32(stage: Stage, precision: Precision) -> Iterator[None]:
    """Let torch use TF32, or not."""
    if precision.convolutions_tf32 or precision.products_tf32:
        stage.device.needs_cuda("TF32")
    if stage.device.kind == "cpu":
        yield
        return
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision.convolutions_tf32, precision.products_tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _text(stage: Stage, findings: Findings, family: str) -> None:
    """All text encoders of the family, one text and two."""
    parts = stage.parts(INPAINT[family])
    for rows in (1, 2):
        tokens = [
            (encoder, torch.randint(3, encoder.config.vocab_size, (rows, tokenizer.model_max_length)).to(encoder.device))
            for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders.values(), strict=True)
        ]
        ms = median_ms(stage.device, partial(_encode, tokens))
        findings.add(f"{family}_text_{rows}_rows_ms", ms)


def _encode(tokens: Sequence[tuple[Any, torch.Tensor]]) -> None:
    for encoder, ids in tokens:
        encoder(ids, output_hidden_states=True)


def _prepare(stage: Stage, findings: Findings, family: str) -> None:
    """One job into the engine, of pictures and prompts that it has not seen; and what of that is the host's work alone."""
    kind = INPAINT[family]
    engine = stage.engine(kind)
    requests = [stage.request(kind, seed=seed, strength=STRENGTH) for seed in range(PREPARED)]
    engine.finish(begin(engine, requests[:1]))
    host_s = min(seconds_of(stage.device, partial(engine.prepare, request)) for request in requests[1:])
    device_s = min(seconds_of(stage.device, partial(engine.start, [engine.prepare(request)])) for request in requests[1:])
    findings.add(f"{family}_prepare_ms", (host_s + device_s) * 1e3)
    findings.add(f"{family}_prepare_host_ms", host_s * 1e3)
    findings.add(f"{family}_prepare_device_ms", device_s * 1e3)
    (slot,) = begin(engine, requests[1:2])
    findings.add(f"{family}_finish_ms", seconds_of(stage.device, lambda: engine.finish([slot])) * 1e3)
