"""Small pictures of what is being painted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from painting import SIZE, begun, request_for

from scripts.tiny_pipeline import KINDS, build
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.pictures import ImageEncoder
from worker.engines.diffusion.previews import Projection, color_blocks

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


def hand_set_vae() -> Any:
    """An autoencoder that takes one pixel of each block and answers with mixtures of its colours: what a trained one does, and exactly."""
    vae: Any = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4
    )
    mixture = torch.tensor([[1.0, 1.0, 1.0], [2.0, -1.0, -1.0], [0.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    convolutions: list[Any] = [module for module in vae.encoder.layers if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()  # so that the residual blocks pass on what they are given
        for convolution in convolutions[:-1]:
            for channel in range(3):
                convolution.weight[channel, channel, 1, 1] = 1.0
        convolutions[-1].weight[:, :3, 1, 1] = mixture
        convolutions[-1].bias.copy_(torch.tensor([0.5, 0.0, -0.5, 1.0]))
    return vae.eval()


def test_the_projection_recovers_colors() -> None:
    """Of latents that depend on the colours, the projection shows the colours, of pictures too that it was not fitted on."""
    encoder = ImageEncoder(hand_set_vae(), dtype=torch.float32)
    assert encoder.factor == 8
    colors = color_blocks(24, seed=9)
    with torch.inference_mode():
        latents = encoder.mean(2 * colors.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) - 1)
        shown = Projection.fit(encoder).picture(latents)
    expected = colors[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
    assert shown.dtype == np.uint8
    assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["sd15-inpaint", "zero-snr"])
def test_the_fit_beats_the_mean_color(tmp_path: Path, kind: str) -> None:
    """On the picture that it is fitted on, the projection is nearer to the colours than their mean is, even for random weights."""
    build(tmp_path / kind, kind=kind)
    encoder = DiffusionEngine.load(tmp_path / kind, card_for(tmp_path / kind, kind))._encoder
    colors = color_blocks(32, seed=0)
    with torch.inference_mode():
        latents = encoder.mean(2 * colors.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3) - 1)
    shown = torch.from_numpy(Projection.fit(encoder).picture(latents)).permute(2, 0, 1) / 255
    error = (shown - colors[0]).pow(2).mean()
    assert error < (colors - colors.mean(dim=(2, 3), keepdim=True)).pow(2).mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_preview_is_there_at_every_step(tmp_path: Path, kind: str) -> None:
    """At any step, and when it is done, a slot can be looked at, which changes nothing of what it becomes."""
    build(tmp_path / kind, kind=kind)
    engine = DiffusionEngine.load(tmp_path / kind, card_for(tmp_path / kind, kind))
    watched, other = begun(engine, request_for()), begun(engine, request_for())
    previews = [engine.preview(watched)]
    while not watched.done:
        engine.step([watched])
        previews.append(engine.preview(watched))
        engine.step([other])
    assert {(preview.shape, preview.dtype.name) for preview in previews} == {((SIZE // 8, SIZE // 8, 3), "uint8")}
    assert not np.array_equal(previews[0], previews[-1])
    assert torch.equal(watched.latents, other.latents)
