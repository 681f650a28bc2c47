"""What becomes of pictures whose painter is known: what was asked for is delivered, known errors are taken back, and faults are told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from api_schemas.requests import Level
from scripts.planted.fills import GROUPS
from scripts.planted.grades import Case, graded
from scripts.planted.painters import painters
from scripts.planted.scenes import BACKGROUND, KINDS, Kind, scenes

PHOTOS = {4: "gravel.png", 5: "coffee.png"}
"""By their numbers, which say whose turn it is: a texture without colour (with a step of 20 levels: fewer nobody sees in it), and things."""


@cache
def photo(number: int) -> npt.NDArray[np.uint8]:
    with Image.open(str(files("skimage.data") / PHOTOS[number])) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (256, 192)), np.uint8)


def is_seen(kind: Kind) -> bool:
    """Whether the report looks at the border. Behind a product it looks for the product, and that takes its time."""
    return kind is not BACKGROUND


@cache
def all_cases() -> tuple[Case, ...]:
    """Every painter on every photo and operation, each once. None is done anew without its prompt: what was painted is judged here."""
    return tuple(
        case
        for number, name in PHOTOS.items()
        for planned in scenes(name, photo(number), number, is_seen)
        for scene in (replace(planned, plan=replace(planned.plan, without_prompt=None)),)
        for painter in painters(scene.kind, number)
        if (painter.flaw is None or painter.flaw.applies(scene)) and (case := graded(scene, painter)) is not None
    )


def those(wanted: Callable[[Case], bool]) -> list[Case]:
    found = [case for case in all_cases() if wanted(case)]
    assert len(found) >= len(PHOTOS)
    return found


@pytest.mark.parametrize("group", ["plain", "textured", "object"])
def test_what_was_asked_for_is_delivered(group: str) -> None:
    """New content of a painter that keeps the kept pixels is delivered as it was painted, to two levels at the 99th percentile."""
    found = those(lambda case: case.painter == "perfect" and GROUPS[case.fill] == group)
    assert {case.operation for case in found} == ({"inpaint", "outpaint"} if group == "object" else {"inpaint"})
    assert [case for case in found if case.p99 > 2] == []
    assert np.mean([case.mean for case in found]) < 0.5


def test_the_photos_own_content_is_left_alone() -> None:
    """A fill that is the photo's own content is delivered as such by every operation, continuing ones too."""
    found = those(lambda case: case.painter == "truth")
    for operation in {case.operation for case in found}:
        assert np.mean([case.mean for case in found if case.operation == operation]) <= 0.3
    assert max(case.largest for case in found) <= 12


def test_what_a_decoder_does_to_every_picture_is_no_error_to_correct() -> None:
    """A painter that renders kept pixels a little softer and with grain, none of them shifted on the mean, is left alone as a perfect one is."""
    found = those(lambda case: case.painter == "grained")
    assert np.mean([case.p99 <= 2 for case in found]) >= 0.8
    assert np.mean([case.mean for case in found]) < 0.5


@pytest.mark.parametrize("name", ["offset", "gain", "gamma"])
def test_a_shift_that_kept_pixels_show_is_taken_back(name: str) -> None:
    """Of one change of colour over all that was painted at most a quarter is left in the median, in new content as in the photo's own."""
    found = those(lambda case: case.painter == f"shifted, {name}")
    for fills in ({"truth"}, set(GROUPS)):
        assert np.median([case.left for case in found if case.fill in fills and case.left is not None]) <= 0.25


def test_new_content_passes() -> None:
    """What a perfect painter painted has the verdict pass: a step along the border is no fault where new content was asked for."""
    found = those(lambda case: case.painter == "perfect" and (case.operation == "inpaint" or GROUPS[case.fill] == "object"))
    assert [(case.photo, case.fill, case.reasons) for case in found if case.level is not Level.PASS] == []


def test_the_photos_own_content_passes() -> None:
    """No edit that is the photo itself is doubted for what was painted."""
    found = those(lambda case: case.painter == "truth")
    assert [(case.photo, case.operation, case.reasons) for case in found if case.level not in (Level.PASS, None)] == []


def test_a_rim_does_not_pass() -> None:
    """A line along the border that is off both sides, and is in the output, is told of by the report of every operation."""
    found = [case for case in those(lambda case: case.painter == "rimmed") if case.there]
    assert {case.operation for case in found} == {kind.name for kind in KINDS if is_seen(kind)}
    assert [(case.photo, case.operation, case.fill) for case in found if case.level is Level.PASS] == []


def test_a_step_does_not_pass_where_going_on_was_the_wish() -> None:
    """A step along the border of a continuing edit that is left in the output is told of, and so is a painter that renders kept pixels wrongly."""
    found = [case for case in those(lambda case: case.painter == "stepped") if case.there]
    assert [(case.photo, case.operation, case.fill) for case in found if case.level is Level.PASS] == []


def test_an_error_that_tells_nothing_of_the_inside_is_not_carried_there() -> None:
    """Kept pixels that were rendered wrongly in stripes, without mean, gain or slow field, change the fill by less than two levels on the mean."""
    found = [case for case in those(lambda case: case.painter == "stepped") if case.operation in ("inpaint", "outpaint")]
    assert [(case.photo, case.operation, case.mean) for case in found if case.mean >= 2] == []


def test_kept_pixels_are_exact_whatever_was_painted() -> None:
    """No painter changes a kept pixel."""
    assert all(case.kept for case in all_cases())
