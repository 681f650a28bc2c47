"""Build a tiny Stable Diffusion inpainting pipeline with random weights: structurally true, quick on a CPU, and of no artistic use.

    python scripts/tiny_pipeline.py DIRECTORY

Everything is made here, offline: a UNet of two blocks with nine input channels, a VAE that shrinks by 8, a two-layer CLIP text model with
a byte-level vocabulary, and the noise schedule of Stable Diffusion 1.5.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENS = 77
NATIVE_SIZE = 64
SCHEDULER = {
    "_class_name": "PNDMScheduler",
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
NOTES = {
    "description": "Random weights for tests and demonstrations: shows that the machinery works, and paints nothing of use.",
    "licence": {"id": "CC0-1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/", "commercial_use": True},
    "native_size": NATIVE_SIZE,
    "sampling": {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "dpmpp_2m_karras"},
}


def build(directory: Path, *, seed: int = 0) -> None:
    """Write the pipeline into ``directory``. The same ``seed`` gives the same weights."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(directory / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _unet().save_pretrained(directory / "unet", safe_serialization=True)
        _vae().save_pretrained(directory / "vae", safe_serialization=True)
        _text_encoder(tokenizer).save_pretrained(directory / "text_encoder")
    _write_json(directory / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(directory / "outfill.json", NOTES)
    _write_json(
        directory / "model_index.json",
        {
            "_class_name": "StableDiffusionInpaintPipeline",
            "_diffusers_version": "0.42.1",
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def _unet() -> Any:
    return UNet2DConditionModel(  # type: ignore[no-untyped-call]
        sample_size=NATIVE_SIZE // 8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    )


def _vae() -> Any:
    return AutoencoderKL(  # type: ignore[no-untyped-call]
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=NATIVE_SIZE,
    )


def _text_encoder(tokenizer: Any) -> Any:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_attention_heads=4,
            num_hidden_layers=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


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
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build(arguments.directory, seed=arguments.seed)
    print(f"A tiny inpainting pipeline is in {arguments.directory}")
