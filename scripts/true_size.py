"""Build a Stable Diffusion pipeline of true size with random weights: it costs what the real one costs, and paints noise.

    python -m scripts.true_size DIRECTORY [--kind sd15-inpaint | sdxl-inpaint]

UNet, VAE and text encoders have the configurations of stable-diffusion-inpainting (1.5) and stable-diffusion-xl-1.0-inpainting-0.1; the
tokenizer is the tiny pipeline's. Weights are in float16: 2.1 GB and 6.9 GB on disk. ``parts`` draws the same in memory, on any device.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from api_schemas.models import ModelCard
from scripts import tiny_pipeline
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.families import PIPELINES
from worker.engines.diffusion.parts import Parts
from worker.engines.diffusion.samplers import sampler_config
from worker.engines.notes import read_json

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


@dataclass(frozen=True)
class Architecture:
    """The configurations of one family."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: Mapping[str, tuple[Any, Mapping[str, Any]]]
    """Class and configuration by folder."""
    native_size: int


SD15 = Architecture(
    unet=SD15_UNET,
    vae={**VAE, "sample_size": 512, "scaling_factor": 0.18215},
    text_encoders={"text_encoder": (CLIPTextModel, CLIP_L)},
    native_size=NATIVE_SIZES["sd15-inpaint"],
)
"""Its inpainting UNet has 859,535,364 parameters."""
SDXL = Architecture(
    unet=SDXL_UNET,
    vae={**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    text_encoders={"text_encoder": (CLIPTextModel, CLIP_L), "text_encoder_2": (CLIPTextModelWithProjection, OPENCLIP_G)},
    native_size=NATIVE_SIZES["sdxl-inpaint"],
)
"""Its inpainting UNet has 2,567,478,084 parameters."""
ARCHITECTURES: Mapping[str, Architecture] = {"sd15-inpaint": SD15, "sdxl-inpaint": SDXL, "sd15": SD15, "sdxl": SDXL}
"""By the tiny pipeline's names of kinds, which give the UNet's input channels, the schedule and the tokenizers."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A pipeline in memory."""

    parts: Parts
    card: ModelCard


def draw(kind: str, device: str, *, dtype: torch.dtype = torch.float16, seed: int = 0) -> Drawn:
    """Draw the weights of a pipeline of ``kind`` on ``device``: no file of gigabytes is written or read.

    What is small, the tokenizer, the schedule and the card, is the tiny pipeline's. ``meta`` draws nothing, and only has the shapes.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        tiny_pipeline.build(directory, kind=kind)
        return Drawn(_parts(directory, kind, device, dtype, seed), _card(directory, kind))


def _card(directory: Path, kind: str) -> ModelCard:
    return card_for(directory, kind).model_copy(update={"native_size": ARCHITECTURES[kind].native_size})


def _parts(directory: Path, kind: str, device: str, dtype: torch.dtype, seed: int) -> Parts:
    index = read_json(directory / "model_index.json")
    family = PIPELINES[index["_class_name"]]
    generator = torch.Generator(device).manual_seed(seed) if device != "meta" else None
    models = {folder: _random(construct, generator, device=device, dtype=dtype) for folder, construct in _models(directory, kind).items()}
    return Parts(
        family=family,
        unet=models.pop("unet"),
        vae=models.pop("vae"),
        text_encoders=models,
        tokenizers=tuple(CLIPTokenizer.from_pretrained(directory / folder, local_files_only=True) for folder in family.tokenizers),
        zeros_for_empty_prompt=family.penultimate_layer and index.get("force_zeros_for_empty_prompt", True),
        sampler_config=sampler_config(directory, family.sampler_corrections),
    )


def _models(directory: Path, kind: str) -> dict[str, Callable[[], Any]]:
    """Constructors of the models, by folder; of the text encoders in the family's order."""
    architecture, tokens = ARCHITECTURES[kind], _tokens(directory)
    unet = {**architecture.unet, "in_channels": tiny_pipeline.KINDS[kind].in_channels}
    texts = {
        folder: lambda model_class=model_class, config=config: model_class(CLIPTextConfig(**config, **tokens))
        for folder, (model_class, config) in architecture.text_encoders.items()
    }
    return {"unet": lambda: UNet2DConditionModel(**unet), "vae": lambda: AutoencoderKL(**architecture.vae), **texts}


def _build(directory: Path, kind: str, seed: int) -> None:
    """Over a tiny pipeline, whose tokenizer, schedule and index stay."""
    tiny_pipeline.build(directory, kind=kind)
    generator = torch.Generator().manual_seed(seed)
    for folder, construct in _models(directory, kind).items():
        for stale in (directory / folder).glob("*.safetensors"):
            stale.unlink()
        model = _random(construct, generator, device="cpu", dtype=torch.float32)
        model.half().save_pretrained(directory / folder, safe_serialization=True)
    notes = directory / "outfill.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "native_size": NATIVE_SIZES[kind]}, indent=2) + "\n", encoding="utf-8")


def build_sd15(directory: Path, *, seed: int = 0) -> None:
    """Write Stable Diffusion 1.5 inpainting into ``directory``."""
    _build(directory, "sd15-inpaint", seed)


def build_sdxl(directory: Path, *, seed: int = 0) -> None:
    """Write Stable Diffusion XL inpainting into ``directory``."""
    _build(directory, "sdxl-inpaint", seed)


BUILDERS: Mapping[str, Callable[[Path], None]] = {"sd15-inpaint": build_sd15, "sdxl-inpaint": build_sdxl}


def _tokens(directory: Path) -> dict[str, Any]:
    tokenizer: Any = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**special, "vocab_size": CLIP_VOCABULARY, "max_position_embeddings": tiny_pipeline.TOKENS}


def _random(construct: Callable[[], Any], generator: torch.Generator | None, *, device: str, dtype: torch.dtype) -> Any:
    """Without the libraries' own initialisation, which would take longer than all the rest."""
    with torch.device("meta"):
        model = construct()
    torch.nn.Module.to(model, dtype)  # not the library's own, which warns of it
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, STD, generator=generator)
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, buffer in model.named_buffers():
        if not name.endswith("position_ids"):
            raise ValueError(f"{name}: a buffer that is not known here")
        buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=BUILDERS, default="sd15-inpaint")
    arguments = parser.parse_args()
    BUILDERS[arguments.kind](arguments.directory)
    print(f"A {arguments.kind} pipeline of true size, with random weights, is in {arguments.directory}")
