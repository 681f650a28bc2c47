"""3×3 convolutions with 2.25 times fewer multiplications: F(2×2, 3×3) of Lavin and Gray 2015 (arXiv 1509.09308), for CPUs.

torch's direct convolution is at the limit of what two cores multiply; this computes each 2×2 block of the output from a 4×4 block of the
input by 16 products instead of 36. In bfloat16 the sums before and after round more often: on unit normal data the error is 7e-3 against
2e-3. The transformed weights take 16/9 of the memory of the plain ones, whose place they take.

Before a convolution that follows an enlargement to twice the sides, pixels come in equal pairs: 7 of the 16 products are zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any, NamedTuple, TypeGuard

import torch
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional

LEAST_CHANNELS = 256
"""With fewer, the transforms cost more than the products that they save."""
_BLOCK_BYTES = 16 << 20
"""Of transformed input or output at a time: what is larger leaves the cache between one operation and the next."""
_G = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_G_OF_PAIRS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
"""``G`` without the row whose product is with zero, and with the sum of two equal pixels drawn into the weights."""


def use_winograd(module: torch.nn.Module) -> None:
    """Let the convolutions in ``module`` that gain by it run this way. Adapters around them, now or later, still count."""
    upsamples: list[Any] = [each for each in module.modules() if isinstance(each, Upsample2D) and _doubles(each)]
    for upsample in upsamples:
        weight = transformed_weight(upsample.conv.weight.detach(), _G_OF_PAIRS)
        upsample.forward = MethodType(partial(_upsample, weight), upsample)
    doubled = {each.conv for each in upsamples}
    for each in module.modules():
        if each not in doubled and _gains(each):
            # Not a class of its own: adapters build their layers by the class, and the dimensions, of the one that they are beside.
            each.weight = torch.nn.Parameter(transformed_weight(each.weight.detach()), requires_grad=False)
            each.forward = MethodType(_conv, each)  # type: ignore[method-assign]


def transformed_weight(weight: torch.Tensor, transform: torch.Tensor = _G) -> torch.Tensor:
    """``G g Gᵀ`` for each filter: ``(O, C, 3, 3)`` to ``(4, 4, C, O)``; with the three rows of another ``transform`` to ``(3, 3, C, O)``."""
    outputs, channels = weight.shape[:2]
    transformed = weight.new_empty(len(transform), len(transform), channels, outputs)
    for start in range(0, outputs, 128):  # in float32, and not all at once
        some = slice(start, start + 128)
        transformed[..., some] = torch.einsum("ai,ocij,bj->abco", transform, weight[some].float(), transform)
    return transformed


def winograd_conv(sample: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 3×3 convolution with stride 1 and a border of one zero.

    ``sample (N, C, H, W)``, ``weight`` from ``transformed_weight``, to ``(N, O, H, W)`` in channels-last order.
    """
    height, width = sample.shape[2:]
    padded = functional.pad(sample.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    result = _tiled_conv(padded, weight, bias, -(-height // 2), -(-width // 2), _PIXELS)
    return result[..., :height, :width].contiguous(memory_format=torch.channels_last)


def winograd_upsample(sample: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A 3×3 convolution with a border of one zero of ``sample (N, C, H, W)`` with each pixel repeated to 2×2.

    ``weight`` is ``(3, 3, C, O)`` from ``transformed_weight`` of pairs; to ``(N, O, 2 H, 2 W)`` in channels-last order.
    """
    padded = functional.pad(sample.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return _tiled_conv(padded, weight, bias, sample.shape[2], sample.shape[3], _PAIRS)


class _Transforms(NamedTuple):
    """How tiles become products and products tiles, along one side."""

    stride: int
    """From one tile of the input to the next."""
    before: Callable[[Sequence[torch.Tensor], torch.Tensor | None], torch.Tensor]
    after: Callable[..., tuple[torch.Tensor, torch.Tensor]]


def _tiled_conv(
    padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, high: int, wide: int, transforms: _Transforms
) -> torch.Tensor:
    """``padded (N, H, W, C)``, of which ``high × wide`` tiles are taken, to ``(N, O, 2 high, 2 wide)``."""
    taps, stride = len(weight), transforms.stride
    result = padded.new_empty(padded.shape[0], high, 2, wide, 2, weight.shape[3])
    for rows, lines in _blocks(result, weight):
        out, span = result[rows, lines], stride * (lines.stop - lines.start)
        block = padded[rows, stride * lines.start :]
        inputs = block.new_empty(taps, taps, *out.shape[:2], wide, block.shape[3])
        down = transforms.before([block[:, start : start + span : stride] for start in range(taps)], None)
        for target, line in zip(inputs, down, strict=True):
            transforms.before([line[:, :, start : start + stride * wide : stride] for start in range(taps)], target)
        for row, products in enumerate(transforms.after(*_products(inputs, weight))):
            for column, value in enumerate(transforms.after(*products)):
                out[:, :, row, :, column] = value if bias is None else value.add_(bias)
    return result.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _blocks(result: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and lines of tiles of ``result (N, h, 2, w, 2, O)`` that are done at a time."""
    rows, tiles_high, _, tiles_wide, _, _ = result.shape
    line_bytes = len(weight) ** 2 * tiles_wide * max(weight.shape[2:]) * weight.element_size()
    lines = max(_BLOCK_BYTES // line_bytes, 1)
    pictures = max(lines // tiles_high, 1)
    for first in range(0, rows, pictures):
        for line in range(0, tiles_high, lines):
            yield slice(first, min(first + pictures, rows)), slice(line, min(line + lines, tiles_high))


def _products(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``inputs (k, k, N, h, w, C)`` times ``weight (k, k, C, O)``."""
    return torch.bmm(inputs.flatten(2, 4).flatten(0, 1), weight.flatten(0, 1)).view(*inputs.shape[:-1], weight.shape[3])


def _input_transform(lines: Sequence[torch.Tensor], out: torch.Tensor | None) -> torch.Tensor:
    """``Bᵀ d`` for the four ``lines`` of ``d``, stacked along a new first dimension; into ``out`` where it is given."""
    first, second, third, fourth = lines
    out = first.new_empty(4, *first.shape) if out is None else out
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])
    return out


def _output_transform(
    first: torch.Tensor, second: torch.Tensor, third: torch.Tensor, fourth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``Aᵀ m``."""
    return (second + third).add_(first), (second - third).sub_(fourth)


def _input_transform_of_pairs(lines: Sequence[torch.Tensor], out: torch.Tensor | None) -> torch.Tensor:
    """``Bᵀ d`` for the four lines of ``d`` of which the two in the middle are equal, without the zero; see ``_G_OF_PAIRS``."""
    above, here, below = lines
    out = here.new_empty(3, *here.shape) if out is None else out
    torch.sub(above, here, out=out[0])
    out[1].copy_(here)
    torch.sub(here, below, out=out[2])
    return out


def _output_transform_of_pairs(first: torch.Tensor, second: torch.Tensor, fourth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``Aᵀ m`` without the product that is zero."""
    return first + second, second - fourth


_PIXELS = _Transforms(2, _input_transform, _output_transform)
_PAIRS = _Transforms(1, _input_transform_of_pairs, _output_transform_of_pairs)


def _gains(module: Any) -> TypeGuard[torch.nn.Conv2d]:
    """Whether it is a 3×3 convolution with stride 1 and a border of one zero, and large enough."""
    return (
        type(module) is torch.nn.Conv2d  # what an adapter has wrapped is found inside it
        and "forward" not in vars(module)
        and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
        and min(module.in_channels, module.out_channels) >= LEAST_CHANNELS
    )


def _doubles(module: Upsample2D) -> bool:
    """Whether it repeats pixels and then runs a convolution that gains."""
    return bool(module.interpolate and module.name == "conv" and module.norm is None and _gains(module.conv))


def _conv(self: torch.nn.Conv2d, sample: torch.Tensor) -> torch.Tensor:
    return winograd_conv(sample, self.weight, self.bias)


def _upsample(weight: torch.Tensor, self: Any, sample: torch.Tensor, output_size: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    if output_size is not None or type(self.conv) is not torch.nn.Conv2d:  # an odd size, or an adapter has wrapped it
        plain: torch.Tensor = Upsample2D.forward(self, sample, output_size)
        return plain
    return winograd_upsample(sample, weight, self.conv.bias)
