"""What both rows of a guided picture have in common is computed once, and nothing changes by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from worker.engines.diffusion.common_start import common_start, computed_once

COMMON: dict[str, Any] = {
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
}
CROSS_FIRST = {
    **COMMON,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
CROSS_LATER = {
    **COMMON,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def _unet(**config: Any) -> Any:
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(**config)
    return unet.eval()


@pytest.mark.parametrize("config", [CROSS_FIRST, CROSS_LATER], ids=["attention first", "attention later"])
@pytest.mark.parametrize(("distinct", "repeated"), [(1, 1), (3, 2), (2, 0)])
def test_the_prediction_is_the_same(config: dict[str, Any], distinct: int, repeated: int) -> None:
    """With some, all or none of the pictures guided, each at a timestep of its own, the noise is what it was."""
    unet = _unet(**config)
    samples, timesteps = torch.randn(distinct, 9, 8, 8), torch.linspace(10, 900, distinct)
    samples, timesteps = torch.cat([samples, samples[:repeated]]), torch.cat([timesteps, timesteps[:repeated]])
    inputs = (samples, timesteps, torch.randn(distinct + repeated, 7, 32))
    with torch.inference_mode():
        expected = unet(*inputs)[0]
        with computed_once(common_start(unet), repeated):
            torch.testing.assert_close(unet(*inputs)[0], expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(unet(*inputs)[0], expected)  # no hook is left


@pytest.mark.parametrize("config", [CROSS_FIRST, CROSS_LATER], ids=["attention first", "attention later"])
def test_the_modules_see_each_sample_once(config: dict[str, Any]) -> None:
    """From the first convolution to the first self-attention rows are not repeated; what follows gets all."""
    unet = _unet(**config)
    rows: dict[str, int] = {}
    blocks = [block for block in unet.down_blocks if getattr(block, "has_cross_attention", False)]
    attention = blocks[0].attentions[0].transformer_blocks[0]
    for name, module in {"conv_in": unet.conv_in, "attn1": attention.attn1, "attn2": attention.attn2}.items():
        inner = module.to_q if hasattr(module, "to_q") else module
        inner.register_forward_hook(lambda _m, _i, result, name=name: rows.__setitem__(name, result.shape[0]))
    start = common_start(unet)
    with torch.inference_mode(), computed_once(start, 2):
        unet(torch.randn(2, 9, 8, 8).repeat(2, 1, 1, 1), torch.tensor([500.0]).expand(4), torch.randn(4, 7, 32))
    assert rows == {"conv_in": 2, "attn1": 2, "attn2": 4}
    assert (unet.conv_in, attention.attn1) == (start[0], start[-1])


def test_nothing_is_common_where_the_text_is_in_the_time_embedding() -> None:
    """SDXL's pooled text, and the text that a UNet pools itself, reach the first layer."""
    text_time = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
    text = {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
    assert all(common_start(_unet(**CROSS_FIRST, **added)) == () for added in (text_time, text))


def test_attention_to_the_text_alone_is_not_common() -> None:
    """A UNet whose first attention already looks at the text shares what is before it."""
    unet = _unet(**CROSS_FIRST, only_cross_attention=True)
    assert common_start(unet) == (unet.conv_in, unet.down_blocks[0].resnets[0])
