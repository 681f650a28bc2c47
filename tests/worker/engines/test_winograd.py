"""Winograd's convolution is the convolution."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from worker.engines.diffusion import winograd
from worker.engines.diffusion.winograd import transformed_weight, use_winograd, winograd_conv


@pytest.mark.parametrize(("rows", "channels", "outputs", "height", "width"), [(1, 3, 5, 2, 2), (2, 16, 8, 6, 10), (3, 8, 8, 16, 4)])
@pytest.mark.parametrize("biased", [True, False])
def test_it_equals_the_direct_convolution(rows: int, channels: int, outputs: int, height: int, width: int, biased: bool) -> None:  # noqa: FBT001
    """For any even size it gives what torch gives, in float32 to rounding."""
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(rows, channels, height, width, generator=generator)
    weight, bias = torch.randn(outputs, channels, 3, 3, generator=generator), torch.randn(outputs, generator=generator)
    given = bias if biased else None
    result = winograd_conv(sample, transformed_weight(weight), given)
    torch.testing.assert_close(result, functional.conv2d(sample, weight, given, padding=1), rtol=1e-4, atol=1e-4)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_only_convolutions_that_gain_are_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strides, other kernels, groups and few channels stay direct; so do odd sizes, at every call anew."""
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 8)
    calls: list[tuple[int, ...]] = []

    def counted(sample: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        calls.append(tuple(sample.shape))
        return winograd_conv(sample, weight, bias)

    monkeypatch.setattr(winograd, "winograd_conv", counted)
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
    plain = {conv: copy.deepcopy(conv) for conv in convolutions}
    use_winograd(convolutions)
    with torch.inference_mode():
        for conv in convolutions:
            for size in (8, 7):
                sample = torch.randn(1, 8, size, size)
                torch.testing.assert_close(conv(sample), plain[conv](sample), rtol=1e-4, atol=1e-4)
    assert calls == [(1, 8, 8, 8)]


def test_in_bfloat16_the_error_is_what_the_docstring_says() -> None:
    """On unit normal data the root mean square error is below 1e-2 of the result's."""
    generator = torch.Generator().manual_seed(3)
    sample, weight = torch.randn(1, 256, 16, 16, generator=generator), torch.randn(256, 256, 3, 3, generator=generator) / 48
    exact = functional.conv2d(sample, weight, padding=1)
    rounded = winograd_conv(sample.bfloat16(), transformed_weight(weight.bfloat16()), None).float()
    assert float((rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt()) < 1e-2
