"""Small edge models with random weights, as they would lie in the model store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import VitDetConfig, VitMatteConfig, VitMatteForImageMatting


def edge_model(directory: Path, **notes: Any) -> Path:
    """A directory with a tiny ViTMatte, and an ``outfill.json`` where there are ``notes``."""
    torch.manual_seed(0)
    backbone = VitDetConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_channels=4,
        image_size=64,
        pretrain_image_size=64,
        mlp_ratio=2,
        use_relative_position_embeddings=True,
        out_features=["stage2"],
    )
    config = VitMatteConfig(
        backbone_config=backbone, hidden_size=32, fusion_hidden_sizes=[32, 16, 8, 4], convstream_hidden_sizes=[8, 12, 16]
    )
    VitMatteForImageMatting(config).save_pretrained(directory)
    if notes:
        (directory / "outfill.json").write_text(json.dumps(notes))
    return directory


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    """The weights of such a directory by name."""
    return load_file(directory / "model.safetensors")


def put_weights(directory: Path, weights: dict[str, torch.Tensor]) -> None:
    """Put ``weights`` in the place of those of such a directory."""
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def reconfigure(directory: Path, **changes: Any) -> None:
    """Change fields of its ``config.json``."""
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
