"""The stock diffusers inpainting pipelines, as benchmarks and tests call them to compare with."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from PIL import Image

from api_schemas.requests import Scheduler
from worker.engines.base import PaintRequest, Sampling
from worker.engines.diffusion.parts import Parts
from worker.engines.diffusion.samplers import CLASSES


def load_stock(directory: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline in ``directory`` as its documentation says to load it: the inpainting pipeline of its family."""
    class_name = json.loads((directory / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    pipeline_class: Any = StableDiffusionXLInpaintPipeline if "XL" in class_name else StableDiffusionInpaintPipeline
    pipeline = pipeline_class.from_pretrained(directory, dtype=dtype, use_safetensors=True, local_files_only=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    # The model's own schedule: that of the pipeline's scheduler takes on the options of each sampler that it was given.
    pipeline.model_schedule = dict(pipeline.scheduler.config)
    return pipeline


def stock_of(parts: Parts) -> Any:
    """The stock pipeline of the same modules.

    The VAE is a copy in the UNet's precision, as the pipelines cast theirs to and fro, and neither sliced nor tiled, as an engine has the
    original.
    """
    pipeline_class: Any = StableDiffusionXLInpaintPipeline if "text_encoder_2" in parts.text_encoders else StableDiffusionInpaintPipeline
    suffixes = ("", "_2")
    modules = {f"tokenizer{suffix}": tokenizer for suffix, tokenizer in zip(suffixes, parts.tokenizers, strict=False)}
    vae = copy.deepcopy(parts.vae).to(dtype=parts.unet.dtype)
    vae.disable_slicing()
    vae.disable_tiling()
    modules |= {**parts.text_encoders, "unet": parts.unet, "vae": vae}
    modules["scheduler"] = CLASSES[Scheduler.DDIM][0].from_config(parts.sampler_config)
    if "text_encoder_2" in parts.text_encoders:
        modules["force_zeros_for_empty_prompt"] = parts.zeros_for_empty_prompt
    else:
        modules |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = pipeline_class(**modules)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.model_schedule = dict(parts.sampler_config)
    return pipeline


def run_stock(pipeline: Any, request: PaintRequest, **options: Any) -> Any:
    """One picture by the stock pipeline: what it answers as ``images``. ``options`` go before what the request says."""
    sampling = request.recipe
    if not isinstance(sampling, Sampling):
        raise TypeError("the stock pipeline needs a Sampling recipe")
    sampler_class, sampler_options = CLASSES[sampling.scheduler]
    if pipeline.model_schedule.get("rescale_betas_zero_snr"):
        sampler_options = {}  # Karras spacing is the one that there is, and it is off at zero SNR
    pipeline.scheduler = sampler_class.from_config(pipeline.model_schedule, **sampler_options)
    height, width = request.mask.shape
    arguments: dict[str, Any] = {
        "prompt": sampling.prompt,
        "negative_prompt": sampling.negative_prompt,
        "image": Image.fromarray(request.image),
        "mask_image": Image.fromarray(request.mask),
        "height": height,
        "width": width,
        "strength": sampling.strength,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
    return pipeline(**arguments | options).images
