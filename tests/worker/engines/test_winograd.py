"""Winograd's convolution is the convolution."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig, inject_adapter_in_model
from torch.nn import functional

from worker.engines.diffusion import winograd
from worker.engines.diffusion.winograd import transformed_weight, use_winograd, winograd_conv

SIZES = [(1, 3, 5, 2, 2), (2, 16, 8, 6, 10), (3, 8, 8, 16, 4), (2, 8, 4, 7, 9), (1, 4, 4, 1, 1)]


@pytest.fixture(params=[1, 4096, winograd._BLOCK_BYTES], ids=["by line", "by few", "whole"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done line by line, a few lines or pictures at a time, or at once."""
    monkeypatch.setattr(winograd, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("rows", "channels", "outputs", "height", "width"), SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_it_equals_the_direct_convolution(rows: int, channels: int, outputs: int, height: int, width: int, biased: bool) -> None:  # noqa: FBT001
    """For any size, and however it is cut into blocks, it gives what torch gives, in float32 to rounding."""
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(rows, channels, height, width, generator=generator)
    weight, bias = torch.randn(outputs, channels, 3, 3, generator=generator), torch.randn(outputs, generator=generator)
    given = bias if biased else None
    result = winograd_conv(sample, transformed_weight(weight), given)
    torch.testing.assert_close(result, functional.conv2d(sample, weight, given, padding=1), rtol=1e-4, atol=1e-4)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("rows", "height", "width"), [(1, 1, 1), (2, 4, 6), (3, 5, 3)])
def test_a_convolution_after_an_enlargement_is_the_same_with_fewer_products(
    rows: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Upsample2D`` gives what it gave, to twice the sides and to the odd ones that a UNet may ask for."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)
    torch.manual_seed(3)
    upsample: Any = Upsample2D(8, use_conv=True, out_channels=12)
    sample = torch.randn(rows, 8, height, width)
    with torch.inference_mode():
        expected, odd = upsample(sample), upsample(sample, output_size=(2 * height - 1, 2 * width - 1))
        use_winograd(torch.nn.ModuleList([upsample]))
        result = upsample(sample)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(upsample(sample, output_size=(2 * height - 1, 2 * width - 1)), odd, rtol=1e-4, atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert "forward" in vars(upsample)


def test_only_convolutions_that_gain_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strides, other kernels, groups, no border and few channels stay direct, and all give what they gave."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)
    convolutions = torch.nn.ModuleList(
        [
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.Conv2d(8, 8, 3, padding=1, stride=2),
            torch.nn.Conv2d(8, 8, 1),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=2),
            torch.nn.Conv2d(8, 4, 3, padding=1),
            torch.nn.Conv2d(8, 8, 3),
        ]
    )
    plain = copy.deepcopy(convolutions)
    use_winograd(convolutions)
    assert ["forward" in vars(conv) for conv in convolutions] == [True] + [False] * 5
    with torch.inference_mode():
        for conv, before in zip(convolutions, plain, strict=True):
            sample = torch.randn(1, 8, 8, 7)
            torch.testing.assert_close(conv(sample), before(sample), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrapped_first", [True, False])
def test_adapters_on_convolutions_still_count(wrapped_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """A LoRA on the convolutions changes the result as it does without Winograd's, whether it was there before or came later."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.up: Any = Upsample2D(8, use_conv=True)

        def forward(self, sample: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.up(self.conv(sample))
            return result

    def build(arrange: Callable[[torch.nn.Module], None]) -> torch.Tensor:
        torch.manual_seed(3)
        model, sample = Model(), torch.randn(1, 8, 4, 6)
        if not wrapped_first:
            arrange(model)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["conv"], init_lora_weights=False), model)
        if wrapped_first:
            arrange(model)
        with torch.inference_mode():
            result: torch.Tensor = model(sample)
            return result

    torch.testing.assert_close(build(use_winograd), build(lambda _: None), rtol=1e-4, atol=1e-4)


def test_in_bfloat16_the_error_is_what_the_docstring_says() -> None:
    """On unit normal data the root mean square error is below 1e-2 of the result's."""
    generator = torch.Generator().manual_seed(3)
    sample, weight = torch.randn(1, 256, 16, 16, generator=generator), torch.randn(256, 256, 3, 3, generator=generator) / 48
    exact = functional.conv2d(sample, weight, padding=1)
    rounded = winograd_conv(sample.bfloat16(), transformed_weight(weight.bfloat16()), None).float()
    assert float((rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()) < 1e-2
