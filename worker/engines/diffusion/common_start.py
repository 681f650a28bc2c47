"""What a UNet computes before it looks at the text, once for both rows of a guided picture.

Classifier-free guidance calls the UNet twice with one sample at one timestep, and with two texts. Up to the first cross-attention both rows
are the same: in Stable Diffusion 1.5 the first of its five longest self-attentions, in a model without attention at its first levels these
levels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


def common_start(unet: Any) -> tuple[torch.nn.Module, ...]:
    """The modules of ``unet`` whose result does not depend on the text: none where the text takes part in the time embedding."""
    if unet.config.addition_embed_type is not None:
        return ()
    modules = [unet.conv_in]
    for block in unet.down_blocks:
        if getattr(block, "has_cross_attention", False):
            first = next(iter(getattr(block.attentions[0], "transformer_blocks", ())), None)
            self_attention = () if first is None or first.only_cross_attention else (first.attn1,)
            return (*modules, block.resnets[0], *self_attention)
        modules += [*block.resnets, *(block.downsamplers or ())]
    return tuple(modules)


_thread = threading.local()


@contextmanager
def repeating(repeated: int) -> Iterator[None]:
    """Within it, and within ``computed_once``, this thread's calls repeat so many rows."""
    _thread.repeated = repeated
    try:
        yield
    finally:
        del _thread.repeated


@contextmanager
def computed_once(modules: tuple[torch.nn.Module, ...], repeated: int) -> Iterator[None]:
    """Within it, ``modules`` leave out the last ``repeated`` rows of their input, which are equal to the first ones, and repeat the result.

    In a thread that is ``repeating`` others, those.
    """

    def without_repeated(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        here = getattr(_thread, "repeated", repeated)
        return tuple(each[: len(each) - here] if isinstance(each, torch.Tensor) else each for each in inputs)

    def with_repeated(_module: torch.nn.Module, _inputs: tuple[Any, ...], result: torch.Tensor) -> torch.Tensor:
        here = getattr(_thread, "repeated", repeated)
        return torch.cat([result, result[:here]]) if here else result

    with ExitStack() as hooks:
        for module in modules if repeated else ():
            hooks.enter_context(module.register_forward_pre_hook(without_repeated))
            hooks.enter_context(module.register_forward_hook(with_repeated))
        yield
