"""What a step asks of a GPU, counted on a device that is none: no waits, and as many launches for eight pictures as for one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from painting import SAMPLING, begun, relative_error, request_for, result_of
from pretended_device import DEVICE, Elsewhere, Pretending, to_device

from api_schemas.requests import Scheduler
from scripts.tiny_pipeline import build
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.slot import DiffusionSlot

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
KINDS = ("sd15-inpaint", "sd15", "sdxl-inpaint")
STILL = [name for name in Scheduler if name is not Scheduler.EULER_A]
"""Samplers that draw no noise in a step."""


class Rig:
    """One model here, and the same on the device that is none."""

    def __init__(self, directory: Path, kind: str) -> None:
        build(directory, kind=kind)
        self.here, self.there = (DiffusionEngine.load(directory, card_for(directory, kind)) for _ in range(2))
        for module in (self.there._parts.unet.module, self.there._vae, *self.there._parts.text_encoders.values()):
            to_device(module)
        self.pretending = Pretending()
        self.there._unet.module.forward = self.pretending.apart(self.there._unet.module.forward)


@pytest.fixture(scope="module", params=KINDS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("elsewhere") / request.param, request.param)


def stepping(rig: Rig, schedulers: list[Scheduler]) -> list[DiffusionSlot]:
    """Guided slots with these samplers that have made two steps."""
    slots = [begun(rig.there, request_for(replace(SAMPLING, steps=6 + at, scheduler=name), seed=at)) for at, name in enumerate(schedulers)]
    for _ in range(2):
        rig.there.step(slots)
    return slots


def test_a_picture_of_the_device_is_that_of_the_cpu(rig: Rig) -> None:
    """The device that is none computes what the CPU does; else its counts would be those of something else."""
    request = request_for(replace(SAMPLING, steps=3))
    with rig.pretending.on():
        there = result_of(rig.there, request)
    assert isinstance(there, Elsewhere)
    assert there.device == DEVICE
    assert relative_error(there.here, result_of(rig.here, request)) <= 1e-5


@pytest.mark.parametrize(("names", "copies"), [([*STILL, *STILL], 1), ([Scheduler.EULER_A] * 8, 2)], ids=["still", "drawing"])
def test_a_step_asks_as_much_for_eight_as_for_one(rig: Rig, names: list[Scheduler], copies: int) -> None:
    """Beside the UNet, launches and copies do not grow with the slots, whatever their samplers; nothing waits, in the UNet neither."""
    counts = []
    for number in (1, 8):
        with rig.pretending.on():
            slots = stepping(rig, names[:number])
        with rig.pretending.on() as asked:
            rig.there.step(slots)
        assert asked.waits.total() == 0, asked.waits
        counts.append((asked.launches.total(), dict(asked.copies), asked.in_model))
    assert counts[0] == counts[1]
    assert counts[0][0] <= 30
    assert counts[0][1] == {"in": copies, "out": 1}


def test_preparing_asks_nothing_of_the_device(rig: Rig) -> None:
    """What is done before a picture is started needs no device; starting pictures copies in, launches, and waits for nothing."""
    requests = [request_for(replace(SAMPLING, prompt=f"a sofa, number {number}"), seed=number) for number in range(4)]
    with rig.pretending.on() as asked:
        prepared = [rig.there.prepare(request) for request in requests]
    assert (asked.launches.total(), asked.copies.total(), asked.waits.total()) == (0, 0, 0)
    with rig.pretending.on() as asked:
        rig.there.start(prepared)
    assert asked.launches.total() > 0
    assert asked.waits.total() == 0, asked.waits


def test_mixed_places_are_refused() -> None:
    """The device that is none computes with no tensor of the CPU, so that a forgotten copy fails here and not on a GPU."""
    with Pretending().on():
        there = torch.ones(3, device=DEVICE)
        with pytest.raises(RuntimeError, match="tensors of both places at once"):
            there + torch.ones(3)
        assert torch.equal((there + 1.0).to("cpu"), torch.full((3,), 2.0))


def test_waits_are_seen() -> None:
    """What waits on a GPU is counted as a wait here: reading a number, a copy that blocks; not one that does not."""
    with Pretending().on() as asked:
        there = torch.ones(3, device=DEVICE)
        there.to("cpu", non_blocking=True)
        assert asked.waits.total() == 0
        there.to("cpu")
        float(there.sum())
        assert asked.waits.total() == 2
