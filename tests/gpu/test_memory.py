"""The engine stays within the memory that it was tuned for. On the CPU, where nothing is counted, the same is only run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from painting import begun

from gpu.rig import GIB, Rig
from worker.engines.base import Pixels
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.residency import warm_up
from worker.engines.diffusion.unet_call import blank_call
from worker.tuning import RESERVE_BYTES, peak_bytes

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

CONTEXT_BYTES = 7 * GIB // 10
"""What CUDA's context takes of a card beside what torch allocates: 0.67 GiB on an H200."""


def paint(rig: Rig, engine: DiffusionEngine, family: str) -> Pixels:
    """One guided picture of the native size, from request to pixels."""
    slot = begun(engine, rig.request(family))
    while not slot.done:
        engine.step([slot])
    assert slot.error is None
    (pixels,) = engine.finish([slot])
    assert slot.error is None
    return pixels


def test_stable_diffusion_15_leaves_most_of_8_gib_free(rig: Rig, cap: Callable[[int], None]) -> None:
    """On a card of 8 GiB it is resident whole, and one 512×512 picture takes less than half of the card."""
    cap(8 * GIB - CONTEXT_BYTES)
    tuning = rig.tuning("sd15", replace(rig.wishes, compile="off"))
    assert (tuning.offload, tuning.vae_tiling) == ("none", False)
    pixels = paint(rig, rig.engine("sd15", tuning), "sd15")
    assert pixels.shape == (*rig.request("sd15").mask.shape, 3)
    if rig.on_gpu:
        assert torch.cuda.max_memory_reserved() - rig.held_bytes < 4 * GIB


def test_stable_diffusion_xl_paints_within_8_gib(rig: Rig, cap: Callable[[int], None]) -> None:
    """On a card of 8 GiB its text encoders wait in main memory, the VAE decodes in tiles, and a 1024×1024 picture is painted."""
    cap(8 * GIB - CONTEXT_BYTES)
    tuning = rig.tuning("sdxl", replace(rig.wishes, compile="off"))
    if rig.on_gpu:
        assert (tuning.offload, tuning.vae_tiling) == ("text_encoders", True)
    else:
        tuning = replace(tuning, offload="text_encoders", vae_tiling=True)
    pixels = paint(rig, rig.engine("sdxl", tuning), "sdxl")
    assert pixels.shape == (*rig.request("sdxl").mask.shape, 3)
    assert len(np.unique(pixels)) > 1
    if rig.on_gpu:
        assert torch.cuda.max_memory_reserved() - rig.held_bytes <= 8 * GIB


def test_stable_diffusion_xl_paints_within_6_gib(rig: Rig, cap: Callable[[int], None]) -> None:
    """On a smaller card the UNet's blocks wait in main memory too."""
    cap(6 * GIB - CONTEXT_BYTES)
    tuning = rig.tuning("sdxl", replace(rig.wishes, compile="off"))
    if rig.on_gpu:
        assert tuning.offload == "group"
    else:
        tuning = replace(tuning, offload="group", vae_tiling=True)
    paint(rig, rig.engine("sdxl", tuning), "sdxl")
    if rig.on_gpu:
        assert torch.cuda.max_memory_reserved() - rig.held_bytes <= 6 * GIB


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_estimate_is_not_too_low(rig: Rig, family: str) -> None:
    """What a picture really takes is no more than what the choice of an offload counted with."""
    tuning = rig.tuning(family, replace(rig.wishes, compile="off"))
    paint(rig, rig.engine(family, tuning), family)
    facts = rig.facts(family)
    estimate = peak_bytes(facts, tuning.dtype, tuning.vae_dtype, offload=tuning.offload, tiling=tuning.vae_tiling)
    assert estimate > 0
    if rig.on_gpu:
        assert torch.cuda.max_memory_allocated() - rig.held_bytes <= estimate + RESERVE_BYTES


def test_the_measured_rows_fit(rig: Rig, cap: Callable[[int], None]) -> None:
    """Under a cap the warm-up answers with rows that a UNet call then really has room for; their peaks grow with them."""
    cap(6 * GIB)
    engine = rig.engine("sd15", rig.tuning("sd15", replace(rig.wishes, compile="off")))
    side = rig.request("sd15").mask.shape[0] // 8
    call = blank_call(engine._unet, side, side, tokens=77)
    measured = warm_up(call, rig.device)
    with torch.inference_mode():
        call(measured.rows)
    peaks = [entry.peak_bytes for entry in measured.table]
    assert peaks == sorted(peaks)
    assert engine.warm_up().kernels
    assert engine.budget >= 2
