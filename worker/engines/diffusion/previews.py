"""Small pictures of latents without a decode: a linear map from latents to RGB."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.base import Pixels
from worker.engines.diffusion.pictures import ImageEncoder

SIDE = 32
"""Of the picture that the map is fitted on, in latents: 1,024 samples for a handful of unknowns."""
BLOCK = 4
"""Of its blocks of one colour, in latents."""


@dataclass(frozen=True, eq=False)
class Projection:
    """RGB in [0, 1] ≈ latents · ``weights`` + ``bias``; in float32, on the CPU."""

    weights: torch.Tensor
    """``(C, 3)``."""
    bias: torch.Tensor
    """``(3,)``."""

    @classmethod
    def fit(cls, encoder: ImageEncoder) -> Projection:
        """The least-squares fit on what the model's own VAE makes of one picture of random colours; the same for the same VAE."""
        colors = color_blocks(SIDE, seed=0)
        picture = colors.repeat_interleave(encoder.factor, dim=2).repeat_interleave(encoder.factor, dim=3)
        with torch.inference_mode():
            latents = encoder.mean(2 * picture - 1).float().cpu()
        samples = latents[0].flatten(1).T
        design = torch.cat([samples, torch.ones(len(samples), 1)], dim=1)
        # Of the solutions the smallest, also where channels say the same ("gelsd"): some VAEs waste one.
        solution = torch.linalg.lstsq(design, colors[0].flatten(1).T, driver="gelsd").solution
        return cls(solution[:-1], solution[-1])

    def picture(self, latents: torch.Tensor) -> Pixels:
        """Latents ``(1, C, h, w)`` to ``uint8 (h, w, 3)``."""
        colors = latents[0].float().cpu().permute(1, 2, 0) @ self.weights + self.bias
        return colors.nan_to_num().clamp(0, 1).mul(255).round().to(torch.uint8).numpy()


def color_blocks(side: int, *, seed: int) -> torch.Tensor:
    """Blocks of random colours that run softly into each other, ``float32 (1, 3, side, side)`` in [0, 1]."""
    generator = torch.Generator("cpu").manual_seed(seed)
    coarse = torch.rand(1, 3, side // BLOCK, side // BLOCK, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
