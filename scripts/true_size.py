"""Build a Stable Diffusion pipeline of true size with random weights: it costs what the real one costs, and paints noise.

    python -m scripts.true_size DIRECTORY [--kind sd15-inpaint | sdxl-inpaint]

UNet, VAE and text encoders have the configurations of stable-diffusion-inpainting (1.5) and stable-diffusion-xl-1.0-inpainting-0.1; the
tokenizer is the tiny pipeline's. Weights are in float16: 2.1 GB and 6.9 GB on disk.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from scripts import tiny_pipeline

SD15_UNET = {
    "sample_size": 64,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # by an old mistake of diffusers' the number of heads
}
SDXL_UNET = {
    "sample_size": 128,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
OPENCLIP_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
CLIP_VOCABULARY = 49408
NATIVE_SIZES: Mapping[str, int] = {"sd15-inpaint": 512, "sdxl-inpaint": 1024}
STD = 0.02
"""Of the random weights. Norms stay as they begin, so that all outputs are finite in half precision too."""


def build_sd15(directory: Path, *, seed: int = 0) -> None:
    """Write Stable Diffusion 1.5 inpainting into ``directory``: a UNet of 859,535,364 parameters."""
    _build(directory, "sd15-inpaint", seed, unet=SD15_UNET, vae={**VAE, "sample_size": 512, "scaling_factor": 0.18215})


def build_sdxl(directory: Path, *, seed: int = 0) -> None:
    """Write Stable Diffusion XL inpainting into ``directory``: a UNet of 2,567,478,084 parameters."""
    _build(directory, "sdxl-inpaint", seed, unet=SDXL_UNET, vae={**VAE, "sample_size": 1024, "scaling_factor": 0.13025})


BUILDERS: Mapping[str, Callable[[Path], None]] = {"sd15-inpaint": build_sd15, "sdxl-inpaint": build_sdxl}


def _build(directory: Path, kind: str, seed: int, *, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    """Over a tiny pipeline, whose tokenizer, schedule and index stay."""
    tiny_pipeline.build(directory, kind=kind)
    generator = torch.Generator().manual_seed(seed)
    _write(directory / "unet", lambda: UNet2DConditionModel(**unet), generator)  # type: ignore[no-untyped-call]
    _write(directory / "vae", lambda: AutoencoderKL(**vae), generator)  # type: ignore[no-untyped-call]
    tokens = _tokens(directory)
    _write(directory / "text_encoder", lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L, **tokens)), generator)
    if kind == "sdxl-inpaint":
        _write(directory / "text_encoder_2", lambda: CLIPTextModelWithProjection(CLIPTextConfig(**OPENCLIP_G, **tokens)), generator)
    notes = directory / "outfill.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "native_size": NATIVE_SIZES[kind]}, indent=2) + "\n", encoding="utf-8")


def _tokens(directory: Path) -> dict[str, Any]:
    tokenizer: Any = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**special, "vocab_size": CLIP_VOCABULARY, "max_position_embeddings": tiny_pipeline.TOKENS}


def _write(folder: Path, construct: Callable[[], Any], generator: torch.Generator) -> None:
    """Without the libraries' own initialisation, which would take longer than all the rest."""
    model = _random(construct, generator)
    for stale in folder.glob("*.safetensors"):
        stale.unlink()
    model.half().save_pretrained(folder, safe_serialization=True)


def _random(construct: Callable[[], Any], generator: torch.Generator) -> Any:
    with torch.device("meta"):
        model = construct()
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, STD, generator=generator)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, buffer in model.named_buffers():
        if not name.endswith("position_ids"):
            raise ValueError(f"{name}: a buffer that is not known here")
        buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=BUILDERS, default="sd15-inpaint")
    arguments = parser.parse_args()
    BUILDERS[arguments.kind](arguments.directory)
    print(f"A {arguments.kind} pipeline of true size, with random weights, is in {arguments.directory}")
