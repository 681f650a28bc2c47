"""Build a tiny Stable Diffusion pipeline with random weights: structurally true, quick on a CPU, and of no artistic use.

    python scripts/tiny_pipeline.py DIRECTORY [--kind KIND] [--lora NAME ...]

Everything is made here, offline: a UNet of two blocks, a VAE that shrinks by 8, CLIP text models of a few layers with a byte-level
vocabulary, and the noise schedule of the family. ``--lora`` adds random adapters for it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKENS = 77
NATIVE_SIZE = 64
WIDTH = 32
"""Channels of a text encoder."""
SCHEDULE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 2 * WIDTH,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
}
NOTES = {
    "description": "Random weights for tests and demonstrations: shows that the machinery works, and paints nothing of use.",
    "licence": {"id": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/", "commercial_use": True},
    "native_size": NATIVE_SIZE,
    "sampling": {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "dpmpp_2m_karras"},
}


@dataclass(frozen=True)
class Kind:
    """What one kind of pipeline has that others have not."""

    pipeline: str = "StableDiffusionInpaintPipeline"
    in_channels: int = 9
    unet: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str = "PNDMScheduler"
    schedule: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    tiny_vae: bool = False

    @property
    def xl(self) -> bool:
        """Whether it has the two text encoders of SDXL."""
        return "XL" in self.pipeline


KINDS: Mapping[str, Kind] = {
    "sd15-inpaint": Kind(),
    "sd2-inpaint": Kind(
        unet={"attention_head_dim": (2, 4), "use_linear_projection": True},
        scheduler="DDIMScheduler",
        schedule={"prediction_type": "v_prediction"},
        text={"hidden_act": "gelu"},
    ),
    "sdxl-inpaint": Kind(
        pipeline="StableDiffusionXLInpaintPipeline",
        unet=SDXL_UNET,
        scheduler="EulerDiscreteScheduler",
        schedule={"timestep_spacing": "leading"},
    ),
    "sd15": Kind(pipeline="StableDiffusionPipeline", in_channels=4),
    "sdxl": Kind(
        pipeline="StableDiffusionXLPipeline",
        in_channels=4,
        unet=SDXL_UNET,
        scheduler="EulerDiscreteScheduler",
        schedule={"timestep_spacing": "leading"},
    ),
    # As Studio is: it pools the text itself, and has an AutoencoderTiny.
    "zero-snr": Kind(
        unet={"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
        scheduler="DDIMScheduler",
        schedule={
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "set_alpha_to_one": True,
            "timestep_spacing": "trailing",
        },
        tiny_vae=True,
    ),
}


def build(directory: Path, *, kind: str = "sd15-inpaint", seed: int = 0) -> None:
    """Write a pipeline of ``kind`` (see ``KINDS``) into ``directory``. The same ``seed`` gives the same weights."""
    made = KINDS[kind]
    directory.mkdir(parents=True, exist_ok=True)
    suffixes = ("", "_2") if made.xl else ("",)
    tokenizers = [_tokenizer(directory / f"tokenizer{suffix}") for suffix in suffixes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet(made).save_pretrained(directory / "unet", safe_serialization=True)
        _vae(made).save_pretrained(directory / "vae", safe_serialization=True)
        for suffix, tokenizer in zip(suffixes, tokenizers, strict=True):
            _text_encoder(tokenizer, made, projected=bool(suffix)).save_pretrained(directory / f"text_encoder{suffix}")
    _write_json(directory / "scheduler" / "scheduler_config.json", {"_class_name": made.scheduler, **SCHEDULE, **made.schedule})
    _write_json(directory / "outfill.json", NOTES)
    _write_json(directory / "model_index.json", _index(made))


def write_lora(directory: Path, name: str, *, seed: int = 0, rank: int = 4) -> Path:
    """Write a random LoRA for the attention of the pipeline in ``directory``, UNet and text encoders, where its models look for it."""
    classes: dict[str, Any] = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    models = {folder: classes[folder].from_pretrained(directory / folder) for folder in classes if (directory / folder).exists()}
    return save_lora(models, directory / "loras" / f"{name}.safetensors", seed=seed, rank=rank)


def save_lora(models: Mapping[str, Any], file: Path, *, seed: int = 0, rank: int = 4) -> Path:
    """Write a random LoRA into ``file`` for the attention of ``models``, which are by the prefix of their weights."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for component, model in models.items():
        for module_name, module in model.named_modules():
            if module_name.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")):
                columns, rows = module.in_features, module.out_features
                weights[f"{component}.{module_name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) / columns**0.5
                weights[f"{component}.{module_name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) / (2 * rank)
    file.parent.mkdir(exist_ok=True)
    save_file(weights, file)
    return file


def _index(kind: Kind) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": kind.pipeline,
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", kind.scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderTiny" if kind.tiny_vae else "AutoencoderKL"],
    }
    if not kind.xl:
        return index | {"requires_safety_checker": False, "safety_checker": [None, None]}
    return index | {
        "force_zeros_for_empty_prompt": True,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def _unet(kind: Kind) -> Any:
    options: dict[str, Any] = {"cross_attention_dim": WIDTH, **kind.unet}
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // 8,
        in_channels=kind.in_channels,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def _vae(kind: Kind) -> Any:
    if kind.tiny_vae:
        channels, blocks = (16,) * 4, (1,) * 4
        return AutoencoderTiny(
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
            scaling_factor=1.5,
        )
    return AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=NATIVE_SIZE,
        scaling_factor=0.13025 if kind.xl else 0.18215,
    )


def _text_encoder(tokenizer: Any, kind: Kind, *, projected: bool) -> Any:
    options: dict[str, Any] = {"hidden_act": "gelu", "projection_dim": WIDTH} if projected else dict(kind.text)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _tokenizer(directory: Path) -> Any:
    """A CLIP tokenizer without merges: one token for each byte, and for each byte that ends a word."""
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    _write_json(directory / "vocab.json", {word: index for index, word in enumerate(words)})
    (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _write_json(directory / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS})
    return CLIPTokenizer.from_pretrained(directory, local_files_only=True)


def _byte_letters() -> list[str]:
    """A printable letter for each of the 256 bytes, in the order of CLIP's vocabulary (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(256 + index) for index in range(256 - len(printable)))]


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="sd15-inpaint")
    parser.add_argument("--lora", action="append", default=[], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build(arguments.directory, kind=arguments.kind, seed=arguments.seed)
    for number, lora in enumerate(arguments.lora, start=1):
        write_lora(arguments.directory, lora, seed=arguments.seed + number)
    print(f"A tiny {arguments.kind} pipeline is in {arguments.directory}")
