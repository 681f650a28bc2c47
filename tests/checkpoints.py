"""Writes the tiny pipeline as a single file in the original layout: the inverse of diffusers' ``convert_ldm_*_checkpoint``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ldm_checkpoint(pipeline: Path) -> dict[str, torch.Tensor]:
    """All tensors of a diffusers directory (SD 1.5 shape) under their original names."""
    unet = load_file(pipeline / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(pipeline / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(pipeline / "text_encoder" / "model.safetensors")
    config = json.loads((pipeline / "unet" / "config.json").read_text())
    width, attends = config["layers_per_block"] + 1, ["CrossAttn" in kind for kind in config["up_block_types"]]
    blocks = len(json.loads((pipeline / "vae" / "config.json").read_text())["block_out_channels"])
    found = {f"model.diffusion_model.{unet_key(key, width, attends)}": value for key, value in unet.items()}
    for key, value in vae.items():
        renamed = vae_key(key, blocks)
        # The original's attention is made of 1×1 convolutions.
        is_conv = ".attn_1." in renamed and value.ndim == 2
        found[f"first_stage_model.{renamed}"] = value[:, :, None, None] if is_conv else value
    return found | {f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}


def unet_key(key: str, width: int, attends: list[bool]) -> str:
    """The original name of a UNet tensor; ``width`` is the number of input blocks that make a down block."""
    for ours, original in UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, original, 1)
    part, *rest = key.split(".")
    if part == "mid_block":
        kind, number, *tail = rest
        return ".".join(["middle_block", "1" if kind == "attentions" else str(2 * int(number)), *renamed_resnet(kind, tail)])
    block, kind, number, *tail = rest
    first = int(block) * width
    if part == "down_blocks":
        if kind == "downsamplers":
            return ".".join(["input_blocks", str(first + width), "0", "op", *tail[1:]])
        return ".".join(
            ["input_blocks", str(1 + first + int(number)), "01"[kind == "attentions"], *renamed_resnet(kind, tail)],
        )
    if kind == "upsamplers":
        return ".".join(["output_blocks", str(first + width - 1), "12"[attends[int(block)]], *tail])
    return ".".join(["output_blocks", str(first + int(number)), "01"[kind == "attentions"], *renamed_resnet(kind, tail)])


def renamed_resnet(kind: str, tail: list[str]) -> list[str]:
    """The inside of a block: attention layers have the same names in both layouts."""
    return [UNET_RESNET[tail[0]], *tail[1:]] if kind == "resnets" else tail


def vae_key(key: str, blocks: int) -> str:
    """The original name of a VAE tensor. Its decoder counts its blocks from the other end."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, original in VAE_ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{original}.")
    for block in range(blocks):
        key = key.replace(f"down_blocks.{block}.resnets", f"down.{block}.block").replace(
            f"down_blocks.{block}.downsamplers.0", f"down.{block}.downsample"
        )
        other = blocks - 1 - block
        key = key.replace(f"up_blocks.{block}.resnets", f"up.{other}.block").replace(
            f"up_blocks.{block}.upsamplers.0", f"up.{other}.upsample"
        )
    return key


def write_checkpoint(pipeline: Path, file: Path) -> Path:
    """Write the single file."""
    save_file({name: tensor.contiguous() for name, tensor in ldm_checkpoint(pipeline).items()}, file)
    return file
