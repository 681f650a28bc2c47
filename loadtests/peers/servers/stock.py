"""From photo to photo by the stock pipeline of diffusers: the work of every peer. Imports nothing of Outfill, as each peer has an environment of its own."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

SIDE = 256
"""Pixels that the model paints, each way."""
GUIDANCE = 7.5
_ROOM = 1.5
"""Sides of the window, over those of the mask's box."""


@dataclass(frozen=True)
class Job:
    """One picture that is asked for."""

    image: bytes
    mask: bytes
    """White where something new is to be."""
    prompt: str
    steps: int
    seed: int


def load(directory: str, dtype: str) -> Any:
    """Load the pipeline as its documentation says."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(
        directory, torch_dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def paint(pipeline: Any, jobs: Sequence[Job]) -> list[bytes]:
    """Paint jobs of equal steps in one batch; each answer is a PNG whose kept pixels are the photo's."""
    opened = [(Image.open(io.BytesIO(job.image)).convert("RGB"), Image.open(io.BytesIO(job.mask)).convert("L")) for job in jobs]
    windows = [_window(mask) for _, mask in opened]
    shown = [image.crop(window).resize((SIDE, SIDE)) for (image, _), window in zip(opened, windows, strict=True)]
    masks = [mask.crop(window).resize((SIDE, SIDE)) for (_, mask), window in zip(opened, windows, strict=True)]
    (steps,) = {job.steps for job in jobs}
    painted = pipeline(
        [job.prompt for job in jobs],
        image=shown,
        mask_image=masks,
        height=SIDE,
        width=SIDE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
    ).images
    return [_pasted(image, mask, window, fill) for (image, mask), window, fill in zip(opened, windows, painted, strict=True)]


def bare_row_s(pipeline: Any, rows: int, calls: int = 8) -> float:
    """Seconds of a UNet call for each of its rows."""
    unet = pipeline.unet
    side, dtype = SIDE // pipeline.vae_scale_factor, unet.dtype
    latents = torch.randn(rows, unet.config.in_channels, side, side).to(dtype)
    text = torch.randn(rows, 77, unet.config.cross_attention_dim).to(dtype)
    with torch.inference_mode():
        unet(latents, 500, text)
        began = time.perf_counter()
        for _ in range(calls):
            unet(latents, 500, text)
    return (time.perf_counter() - began) / calls / rows


def _window(mask: Image.Image) -> tuple[int, int, int, int]:
    """A square around the mask, in the picture where it can be."""
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    side = min(max(SIDE, int(_ROOM * max(right - left, bottom - top))), *mask.size)
    x = min(max((left + right - side) // 2, 0), mask.width - side)
    y = min(max((top + bottom - side) // 2, 0), mask.height - side)
    return x, y, x + side, y + side


def _pasted(image: Image.Image, mask: Image.Image, window: tuple[int, int, int, int], fill: Image.Image) -> bytes:
    sides = (window[2] - window[0], window[3] - window[1])
    image.paste(fill.resize(sides), window, mask.crop(window))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
