"""The CPU's own kernels compute what torch's do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn import functional

from worker.engines.diffusion import cpu_kernels, winograd
from worker.engines.diffusion.cpu_kernels import ChunkedAttnProcessor, chunked_attention, use_cpu_kernels
from worker.engines.diffusion.kernels import attention_kernels

BLOCKS: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
}


def small_unet() -> Any:
    unet: Any = UNet2DConditionModel(**BLOCKS)
    return unet.eval()


@pytest.mark.parametrize("block_bytes", [4096, cpu_kernels._BLOCK_BYTES])
@pytest.mark.parametrize(
    ("rows", "heads", "tokens", "keys", "width"), [(1, 1, 300, 300, 40), (2, 8, 520, 77, 40), (3, 3, 257, 257, 16), (1, 3, 4, 4, 160)]
)
def test_chunked_attention_is_attention(
    rows: int, heads: int, tokens: int, keys: int, width: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For odd numbers of heads and of tokens too, in blocks of any size, it gives what torch's attention gives."""
    monkeypatch.setattr(cpu_kernels, "_BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(rows, heads, count, width, generator=generator) for count in (tokens, keys, keys))
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(chunked_attention(query, key, value), expected, rtol=1e-5, atol=1e-5)


def test_self_and_cross_attention_are_chunked_and_masked_is_not() -> None:
    """Our kernel runs whatever the length; what has a mask is torch's."""
    processor: Any = ChunkedAttnProcessor()
    attention = Attention(query_dim=16, heads=2, dim_head=8, processor=processor)
    states, context, mask = torch.randn(1, 70, 16), torch.randn(1, 16, 16), torch.zeros(2, 1, 70)
    with torch.inference_mode():
        assert attention_kernels(lambda: attention(states)) == ("chunked",)
        assert attention_kernels(lambda: attention(states, context)) == ("chunked",)
        assert "chunked" not in attention_kernels(lambda: attention(states, attention_mask=mask))
        torch.testing.assert_close(attention(states), attention(states, attention_mask=mask), rtol=1e-4, atol=1e-5)


def test_attention_with_more_than_projections_is_torchs() -> None:
    """What our kernel does not know of is not left out."""
    processor: Any = ChunkedAttnProcessor()
    normed = Attention(query_dim=16, heads=2, dim_head=8, qk_norm="layer_norm", processor=processor)
    residual = Attention(query_dim=16, heads=2, dim_head=8, residual_connection=True, processor=processor)
    with torch.inference_mode():
        for attention in (normed, residual):
            assert "chunked" not in attention_kernels(lambda a=attention: a(torch.randn(1, 70, 16)))  # type: ignore[misc]


def test_a_feed_forward_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few tokens are done at a time."""
    torch.manual_seed(0)
    unet, states = small_unet(), torch.randn(2, 64, 32)
    feed_forward = unet.down_blocks[0].attentions[0].transformer_blocks[0].ff
    with torch.inference_mode():
        expected = feed_forward(states)
        use_cpu_kernels(unet)
        for block_bytes in (1, 5000, 1 << 22):
            monkeypatch.setattr(cpu_kernels, "_BLOCK_BYTES", block_bytes)
            torch.testing.assert_close(feed_forward(states), expected, rtol=1e-5, atol=1e-5)


def test_a_unet_predicts_the_same_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole UNet gives the same noise with these kernels as without, within float32's tolerance."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 32)
    torch.manual_seed(0)
    unet = small_unet()
    inputs = (torch.randn(3, 9, 8, 8), torch.tensor([1.0, 500.0, 999.0]), torch.randn(3, 7, 32))
    with torch.inference_mode():
        expected = unet(*inputs)[0]
        use_cpu_kernels(unet)
        assert "chunked" in attention_kernels(lambda: unet(*inputs))
        torch.testing.assert_close(unet(*inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_adapters_on_the_feed_forward_still_count() -> None:
    """A LoRA on the activation's projection changes the result as it does without these kernels."""
    from peft import LoraConfig

    torch.manual_seed(0)
    unet = small_unet()
    inputs = (torch.randn(1, 9, 8, 8), torch.tensor([500.0]), torch.randn(1, 7, 32))
    with torch.inference_mode():
        plain = unet(*inputs)[0]
    unet.add_adapter(LoraConfig(r=2, target_modules=["ff.net.0.proj"], init_lora_weights=False))
    with torch.inference_mode():
        expected = unet(*inputs)[0]
        use_cpu_kernels(unet)
        torch.testing.assert_close(unet(*inputs)[0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)
