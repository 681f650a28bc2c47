"""Planted painters paint what they are said to paint: else no figure of theirs would tell anything."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from api_schemas.requests import Operation
from scripts.planted import fills
from scripts.planted.borders import Rim, Step
from scripts.planted.flaws import Grain, Shift, Shown, Stripes
from scripts.planted.grades import pasted, planted
from scripts.planted.painters import Painter, painters
from scripts.planted.scenes import BACKGROUND, CONTINUATION, ERASE, EXTENSION, INPAINT, KINDS, Kind, Scene, scene

Array = npt.NDArray[np.uint8]


@cache
def drawn(size: int = 1) -> Array:
    """A photo's stand-in, 240×180 or a multiple: slopes of light, grain and a few things."""
    rows, columns = np.mgrid[0 : 180 * size, 0 : 240 * size] / size
    base = np.stack([90 + columns / 5, 110 + rows / 6, 130 - columns / 10], axis=-1)
    base += np.random.default_rng(0).normal(0, 4, base.shape)
    picture = np.asarray(np.clip(base, 0, 255), np.uint8)
    for x, y in ((40, 30), (200, 140), (110, 90)):
        cv2.circle(picture, (x * size, y * size), 16 * size, (160, 70, 50), -1)
    return picture


def begun(kind: Kind = INPAINT, number: int = 0, size: int = 1) -> Scene:
    return scene("drawn", drawn(size), number, kind, kind.cards[number % len(kind.cards)])


def shown(given: Scene) -> Shown:
    (region,) = given.plan.passes[0]
    return Shown(given, region, given.plan.request(region, given.plan.edit.frame, 0, 1))


def off(given: Scene, painted: Array) -> npt.NDArray[np.int16]:
    """By what ``painted`` differs from the photo, where the fill is all that is seen."""
    whole = given.plan.edit.alpha == 255
    return np.asarray(painted[whole].astype(np.int16) - given.truth[whole], np.int16)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_perfect_painter_keeps_what_it_is_shown_and_paints_what_it_means(kind: Kind) -> None:
    """At the model's size kept pixels are the request's to the bit; and a plain colour comes out as that colour wherever it alone is pasted."""
    given = begun(kind)
    painter = Painter("perfect", "pink", fills.pink)
    seen = shown(given)
    answer = painter.paint(seen)
    assert answer.shape == seen.request.image.shape
    assert np.array_equal(answer[~seen.inside], seen.request.image[~seen.inside])
    assert (answer[seen.inside] == fills.PINK).all()
    picture = pasted(given, painter.paint)
    assert picture.shape == given.truth.shape
    assert (picture[given.plan.edit.alpha == 255] == fills.PINK).all()
    assert (picture[given.plan.edit.alpha == 0] == given.truth[given.plan.edit.alpha == 0]).all()


@pytest.mark.parametrize(("kind", "number", "passes"), [(CONTINUATION, 0, 1), (EXTENSION, 3, 2)], ids=["one pass", "two passes"])
def test_the_truth_of_an_extension_is_the_photo_that_it_was_cut_from(kind: Kind, number: int, passes: int) -> None:
    """A truthful painter gives a cut photo its own margins back, in one pass or in two."""
    given = begun(kind, number, 2)
    assert len(given.plan.passes) == passes
    found = off(given, pasted(given, Painter("truth", "truth", fills.truth).paint))
    assert np.abs(found).mean() < 4  # what scaling takes of the grain
    assert np.abs(found.mean(axis=0)).max() < 0.3


def test_things_are_where_nothing_else_is() -> None:
    """A disc touches no border of the edit; a cup crosses it on a part; and all else is the photo."""
    given = begun()
    edited = given.plan.edit.alpha > 0
    border = edited & (cv2.erode(edited.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)
    disc, cup = ((draw(given) != given.truth).any(axis=2) for draw in (fills.disc, fills.cup))
    assert (disc & edited).sum() > 200
    assert not (disc & border).any()
    assert 0.02 < (cup & border).sum() / border.sum() < 0.5


@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        (Shift(gain=(0.9, 1.0, 1.1)), (90, 150, 220)),
        (Shift(gamma=0.9), (109.8, 158.2, 204.9)),
        (Shift(offset=(10, 0, 0)), None),
    ],
    ids=["gain", "gamma", "offset"],
)
def test_a_shift_changes_all_that_is_painted(flaw: Shift, expected: tuple[float, ...] | None) -> None:
    """A gain multiplies, a gamma is an exponent, an offset is added to L: on kept pixels and inside alike."""
    clean = np.full((8, 8, 3), (100, 150, 200), np.uint8)
    answer = flaw.spoil(shown(begun()), clean)
    assert (answer == answer[0, 0]).all()
    if expected is None:
        lab = cv2.cvtColor(np.stack([clean, answer]).reshape(1, -1, 3).astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)[0]
        expected_lab = lab[0] + np.array([10, 0, 0])
        assert np.abs(lab[-1] - expected_lab).max() < 0.5
    else:
        assert np.abs(answer[0, 0] - np.array(expected)).max() <= 0.5


def test_grain_shifts_nothing() -> None:
    """A grained painter is off its kept pixels everywhere, and on the mean nowhere."""
    given = begun()
    seen = shown(given)
    clean = Painter("truth", "truth", fills.truth).paint(seen)
    difference = Grain().spoil(seen, clean).astype(np.float32) - clean
    assert 1.5 < np.abs(difference[~seen.inside]).mean() < 5
    assert np.abs(difference[~seen.inside].mean(axis=0)).max() < 0.2


@pytest.mark.parametrize(
    ("kind", "style"),
    [*zip(KINDS, ("light", "dark", "tint0", "light", "dark"), strict=True)],
    ids=lambda given: getattr(given, "name", given),
)
def test_a_rim_lies_beyond_both_sides(kind: Kind, style: str) -> None:
    """Between a flat photo and the same inside a line is pasted that is at least 12 levels off both; a few pixels further in there is none."""
    flat = np.full((180, 240, 3), (110, 120, 130), np.uint8)
    given = scene("flat", flat, 1, kind, kind.cards[0])
    found = planted(given, Painter("rimmed", "truth", fills.truth, Rim(style, 3)))
    assert found is not None
    _, picture = found
    difference = (picture.astype(np.int16) - flat)[..., 0] * (-1 if style == "dark" else 1)
    deep = cv2.distanceTransform((given.plan.edit.alpha > 0).astype(np.uint8), cv2.DIST_L2, 5)
    rows = np.array([np.median(difference[np.rint(deep) == step]) for step in range(1, 25)])
    wide = np.flatnonzero(rows >= 12)
    assert 2 <= wide.size <= 6
    assert (np.diff(wide) == 1).all()
    assert np.abs(rows[wide[-1] + 4 :]).max() <= 2


def test_a_soft_transition_is_no_rim() -> None:
    """A line between the colours of both sides does not count, however far it is off them; nor do the sides without a line."""
    flat = np.full((180, 240, 3), 180, np.uint8)
    given = scene("flat", flat, 0, INPAINT, INPAINT.cards[0])
    deep = cv2.distanceTransform((given.plan.edit.alpha > 0).astype(np.uint8), cv2.DIST_L2, 5)
    for between in (130, 180):
        output = np.where(deep > 0, np.where(deep <= 7, between, 80), 180).astype(np.uint8)[..., None].repeat(3, axis=2)
        assert not any(Rim(style, 3).present(given, output) for style in ("light", "dark", "tint0"))


@pytest.mark.parametrize("kind", [ERASE, CONTINUATION], ids=lambda kind: kind.name)
def test_a_step_is_off_the_truth_inside_alone(kind: Kind) -> None:
    """A stepped painter is off by its levels inside, not at all outside; a step of 8 counts, one of 7 does not."""
    given, step = begun(kind), Step((9, 9, 9))
    painted = pasted(given, Painter("stepped", "truth", fills.truth, step).paint)
    assert np.median(off(given, painted)) == 9
    assert step.present(given, painted)
    assert step.present(given, given.truth + np.uint8(8))
    assert not step.present(given, given.truth + np.uint8(7))
    assert not step.present(given, given.truth - np.uint8(9))


def test_stripes_leave_the_inside_and_have_no_mean() -> None:
    """Kept pixels are 8 levels off everywhere, on the mean nowhere; inside is what was meant."""
    given = begun()
    painter = Painter("stepped", "pink", fills.pink, Stripes(8))
    seen = shown(given)
    difference = painter.paint(seen).astype(np.int16) - painter.meant(seen)
    assert not difference[seen.inside].any()
    assert (np.abs(difference[~seen.inside]) == 8).all()
    assert np.abs(difference[~seen.inside].mean(axis=0)).max() < 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_painter_paints_every_kind_of_edit(kind: Kind) -> None:
    """Each photo is painted truly, with every shift, with a rim and with a step; and where new content is asked for, with all that may be asked for."""
    found = list(painters(kind, 4))
    steps = set() if kind is BACKGROUND else {"stepped"}  # how a product is rendered is not judged
    assert {painter.name.split(",")[0] for painter in found} >= {"truth", "grained", "shifted", "rimmed"} | steps
    perfect = {painter.fill for painter in found if painter.name == "perfect"}
    wanted = {"disc"} if kind.operation is Operation.OUTPAINT else set(fills.WANTED)
    assert perfect == (set() if kind.continues else wanted)
