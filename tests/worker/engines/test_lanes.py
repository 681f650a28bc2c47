"""Lanes: rows of a UNet call on a CPU, divided among threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import SAMPLING, request_for, result_of
from structlog.testing import capture_logs

from scripts.tiny_pipeline import build
from worker.engines.base import begin
from worker.engines.diffusion import residency
from worker.engines.diffusion.card import card_for
from worker.engines.diffusion.engine import DiffusionEngine
from worker.engines.diffusion.lanes import Lanes, Share, shares
from worker.engines.diffusion.parts import load_parts
from worker.engines.diffusion.residency import Measured, Measurement, apply, lanes_for
from worker.engines.diffusion.slot import DiffusionSlot
from worker.engines.diffusion.unet_call import UnetCall, blank_inputs
from worker.tuning import PLAIN

# The noise schedules of diffusers 0.42 turn a tensor into an array in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture
def four_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lanes(four_threads: None) -> Iterator[Lanes]:
    lanes = Lanes(2)
    yield lanes
    lanes.close()


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.integers(1, 8))
def test_each_row_is_in_one_share(slots: int, share_guided: float, lanes: int) -> None:
    """Shares take all rows apart and put them together again, a guided slot with its repetition, and differ by three rows at most."""
    guided = round(slots * share_guided)
    whole = torch.cat([torch.arange(slots), torch.arange(guided)])
    found = torch.full_like(whole, -1)
    each = shares(slots + guided, guided, lanes)
    rows = []
    for share in each:
        own = share.of(whole)
        assert own[len(own) - share.repeated :].tolist() == own[: share.repeated].tolist()
        share.put(own, found)
        rows.append(len(own))
    assert found.tolist() == whole.tolist()
    assert len(each) <= lanes
    if slots >= 2 * lanes:
        assert len(each) == lanes
        assert max(rows) - min(rows) <= 3


@pytest.mark.parametrize(("rows", "guided"), [(8, 4), (7, 2), (4, 0), (5, 1), (2, 1)])
@pytest.mark.parametrize("kind", ["sd15-inpaint", "sdxl-inpaint"])
def test_a_divided_call_predicts_the_same(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rows: int, guided: int, lanes: Lanes
) -> None:
    """With guidance, without it and mixed, with SDXL's added conditions: each row is as in one call, and lanes compute what the text does not change once."""
    unet = _unet(tmp_path_factory.getbasetemp() / f"lanes-{kind}", kind)
    generator = torch.Generator().manual_seed(rows)
    blank = blank_inputs(unet, rows, 16, 16, tokens=77)
    inputs = {name: _drawn(value, generator) for name, value in blank.items()}
    inputs["timestep"] = torch.arange(rows, dtype=torch.float32) * 100
    for name in ("sample", "timestep"):
        inputs[name][rows - guided :] = inputs[name][:guided]
    with torch.inference_mode():
        alone = unet(**inputs, repeated=guided)[0]
        unet.divide(lanes)
        divided = unet(**inputs, repeated=guided)[0]
    assert not alone.isnan().any()
    assert alone.abs().max() > 1e-3
    torch.testing.assert_close(divided, alone, rtol=0, atol=1e-5)


def test_lanes_divide_the_threads(lanes: Lanes) -> None:
    """Of four threads each of two lanes has two, and all other threads keep four."""
    each = shares(4, 0, 2)
    assert [int(found) for found in lanes.map(lambda _: torch.tensor(torch.get_num_threads()), each)] == [2, 2]
    assert torch.get_num_threads() == 4
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]


def test_a_lane_that_fails_is_told_when_all_have_ended(lanes: Lanes) -> None:
    """The error of one lane is raised, and none still computes then."""
    failed, ended = threading.Event(), []

    def call(share: Share) -> torch.Tensor:
        if share.first == 0:
            failed.set()
            raise RuntimeError("no memory")
        assert failed.wait(10)
        ended.append(share)
        return torch.zeros(1)

    with pytest.raises(RuntimeError, match="no memory"):
        lanes.map(call, shares(4, 0, 2))
    assert len(ended) == 1


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 0.99}, 1),  # a hundredth is too little
        ({1: 1.0, 2: 0.9, 4: 0.89}, 2),
        ({1: 1.0, 2: 0.9, 4: 0.8}, 4),  # more than four threads there are not
        ({1: 1.0, 2: 1.2, 4: 0.1}, 1),  # it looks no further
    ],
)
def test_as_many_lanes_as_save_time(seconds: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up keeps more lanes only where a row takes less; calls are divided among those that it names."""
    divided: list[Lanes | None] = [None]

    def warm_up(_call: object, _device: str, *, first_rows: int, patience_s: float) -> Measured:
        now = divided[-1]
        count = now.count if now else 1
        assert first_rows >= 2 * count  # a guided picture for each
        assert patience_s < residency.CPU_PATIENCE_S
        return Measured(first_rows, (Measurement(first_rows, seconds[count] * first_rows, 0),))

    monkeypatch.setattr(residency, "warm_up", warm_up)
    before = Measured(2, (Measurement(2, seconds[1] * 2, 0),))
    lanes, measured = lanes_for(lambda _: None, divided.append, before, most=4)
    assert (lanes.count if lanes else 1) == chosen
    assert divided[-1] is lanes
    assert measured.row_s == pytest.approx(seconds[chosen])
    if lanes:
        lanes.close()


def test_an_engine_in_lanes_paints_the_same(tmp_path: Path, four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its warm-up finds lanes, pictures with and without guidance that are stepped together end as each does alone in an engine without them."""
    build(tmp_path, kind="sd15-inpaint")
    requests = [request_for(replace(SAMPLING, guidance_scale=scale), seed=seed) for seed, scale in enumerate((7.5, 1.0, 5.0))]
    card = card_for(tmp_path, "tiny")
    undivided = DiffusionEngine.load(tmp_path, card, tuning=PLAIN)
    alone = [result_of(undivided, request) for request in requests]
    monkeypatch.setattr(residency, "LEAST_GAIN_OF_LANES", -99)
    engine = DiffusionEngine.load(tmp_path, card, tuning=PLAIN)
    with capture_logs() as logs:
        engine.warm_up()
    assert [log["lanes"] for log in logs if log["event"] == "model_warm"] == [4]
    slots = begin(engine, requests)
    while not all(slot.done for slot in slots):
        engine.step(slots)
    for slot, latents in zip(cast("list[DiffusionSlot]", slots), alone, strict=True):
        torch.testing.assert_close(slot.latents, latents, rtol=1e-4, atol=1e-4)


def _unet(directory: Path, kind: str) -> UnetCall:
    if not directory.exists():
        build(directory, kind=kind)
    unet: UnetCall = apply(load_parts(directory, dtype="float32", vae_dtype="float32"), PLAIN, "cpu").unet
    return unet


def _drawn(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, dict):
        return {name: _drawn(each, generator) for name, each in value.items()}
    return torch.randn(value.shape, generator=generator) if isinstance(value, torch.Tensor) else value
