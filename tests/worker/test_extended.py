"""Outpainting without a prompt, from a job's inputs to its output and verdict."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from conftest import png
from PIL import Image
from planning import plan_of, rounds_of

from api_schemas.jobs import Report
from api_schemas.models import EXEMPLAR
from api_schemas.requests import Level
from worker.engines.base import begin
from worker.engines.exemplar import ExemplarEngine
from worker.images.blend import composite

Array = npt.NDArray[np.uint8]


def packshot(height: int = 280, width: int = 300) -> Array:
    """A blue box of 60 % of the frame on paper that grows darker downwards."""
    shade = np.linspace(222, 190, height)[:, None, None] + np.zeros((1, width, 3))
    picture = np.rint(shade).astype(np.uint8)
    cv2.rectangle(picture, (40, 30), (width - 60, height - 35), (45, 110, 190), -1)
    cv2.rectangle(picture, (60, 60), (width - 120, 120), (30, 70, 140), -1)
    return picture


def blue(picture: Array) -> npt.NDArray[np.bool_]:
    """The box, by its colour."""
    return np.asarray(picture[..., 2].astype(int) - picture[..., 0] > 40)


def extended(picture: Array, *, repaint: bool = False, **fields: object) -> tuple[Array, Report]:
    """The output of a job of these ``fields``; with ``repaint`` by an engine that mirrors the picture."""
    spec, plan = plan_of({"operation": "outpaint", "image": "image", "seed": 1, **fields}, EXEMPLAR, {"image": png(picture)})
    rounds, engine = rounds_of(spec, plan), ExemplarEngine()
    while rounds.requests:
        slots = begin(engine, rounds.requests)
        engine.step(slots)
        assert not any(slot.error for slot in slots)
        painted = engine.finish(slots)
        if repaint:
            painted = [composite(each, each[:, ::-1], request.mask) for each, request in zip(painted, rounds.requests, strict=True)]
        rounds.take(painted)
    (rendered,) = rounds.rendered
    with Image.open(io.BytesIO(rendered.data)) as opened:
        return np.asarray(opened.convert("RGB")), rendered.report


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_packshot_has_one_product(side: str) -> None:
    """Paper beside a product that fills most of the frame goes on as paper, on every side, and passes."""
    picture = packshot()
    out, report = extended(picture, expand={side: 200})
    assert np.count_nonzero(blue(out)) == np.count_nonzero(blue(picture))
    assert report.verdict.level is Level.PASS


def test_a_second_product_fails() -> None:
    """An extension that shows the product again fails, and the reason says so."""
    _, report = extended(packshot(), repaint=True, expand={"left": 280})
    assert report.verdict.level is Level.FAIL
    assert "a part of the product is seen a second time" in report.verdict.reasons


def test_a_cut_product_is_warned_of() -> None:
    """Where the photo's border cuts the product, a far extension warns with the name of that border."""
    _, report = extended(packshot()[:, 80:], expand={"left": 120})
    assert report.verdict.level is not Level.PASS
    assert any("the product is cut by the photo's left border" in reason for reason in report.verdict.reasons)


def test_no_fold_is_seen_beyond_several_widths() -> None:
    """On a canvas of three times the photo's sides no column of the paper is more than a level off those beside it."""
    out, _ = extended(packshot(), canvas={"width": 900, "height": 840})
    paper = out[:100].mean(axis=(0, 2))
    beside = np.stack([np.roll(paper, by) for by in (-6, -5, -4, -3, 3, 4, 5, 6)])
    assert np.abs(paper - np.median(beside, axis=0))[8:-8].max() < 1
