"""Extensions that a model paints from a prompt: joined to their photo, and given up where it cannot go on. Photos are drawn, the model is scripted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from conftest import pixels_of, png
from planning import SEGMENTER, plan_of, rounds_of

from api_schemas.errors import ChecksNotMet
from api_schemas.jobs import ModelError, Report, Verdict
from api_schemas.models import EXEMPLAR, SAMPLING_PARAMETERS, EngineKind, Licence, ModelCard, SamplingDefaults
from api_schemas.requests import JobRequest, Level, Operation
from core.settings import Quality
from worker.engines.base import PaintRequest
from worker.engines.exemplar import fill_all
from worker.images.codec import Frame
from worker.intake import Edit, Plan
from worker.outputs import Rendered
from worker.report import Examiner
from worker.rounds import Rounds

Array = npt.NDArray[np.uint8]
Model = Callable[[PaintRequest], Array]

CARD = ModelCard(
    id="scripted",
    engine=EngineKind.DIFFUSION,
    operations=(Operation.ERASE, Operation.OUTPAINT),
    description="",
    licence=Licence(id="unknown"),
    revision="1",
    parameters=SAMPLING_PARAMETERS,
    sampling=SamplingDefaults(),
)
"""Of any size: what it paints is pasted as it is."""
SAMPLING = {"steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "ddim", "seed": 1}
OUTPAINT = {"operation": "outpaint", "image": "image", "prompt": "x", "expand": {"left": 60, "right": 60, "top": 60, "bottom": 60}}


def ground(height: int, width: int, colour: tuple[int, int, int] = (140, 120, 90), seed: int = 0) -> Array:
    """A grainy ground of one colour that grows lighter downwards."""
    grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, (height, width, 3)), (0, 0), 1.2)
    slope = np.linspace(-10, 10, height)[:, None, None]
    return np.asarray(np.clip(np.array(colour) + slope + 40 * grain.mean(axis=2, keepdims=True), 0, 255), np.uint8)


def paints(picture: Array) -> Model:
    """A model that paints ``picture``, where it is asked to, and returns the rest as it is shown."""
    return lambda request: np.where(request.mask[..., None] > 0, cv2.resize(picture, request.mask.shape[::-1]), request.image)


def done(request: dict[str, Any], inputs: dict[str, Array], model: Model, card: ModelCard = CARD) -> tuple[Plan, Rounds]:
    spec, plan = plan_of({**request, **(SAMPLING if card is CARD else {})}, card, {name: png(each) for name, each in inputs.items()})
    rounds = rounds_of(spec, plan)
    while rounds.requests:
        rounds.take([model(each) for each in rounds.requests] if card is CARD else fill_all(rounds.requests))
    while rounds.gives_way:
        rounds.go_on_without_prompt()
    return plan, rounds


def output_of(rounds: Rounds) -> tuple[Array, Rendered]:
    (rendered,) = rounds.rendered
    return pixels_of(rendered.data), rendered


def steps(picture: Array, left: int, top: int, right: int, bottom: int) -> list[float]:
    """The largest channel's difference between the mean colours 12 pixels on both sides of each side of a box."""
    pairs = (
        (picture[top - 12 : top, left:right], picture[top : top + 12, left:right]),
        (picture[bottom - 12 : bottom, left:right], picture[bottom : bottom + 12, left:right]),
        (picture[top:bottom, left - 12 : left], picture[top:bottom, left : left + 12]),
        (picture[top:bottom, right - 12 : right], picture[top:bottom, right : right + 12]),
    )
    return [float(np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max()) for one, other in pairs]


def test_no_band_stands_at_the_old_border() -> None:
    """A ground painted in another colour begins in the photo's on all sides, and is the model's own at the far border; the photo is exact."""
    photo, other = ground(240, 320), ground(360, 440, (190, 120, 90), seed=1)
    _, rounds = done(OUTPAINT, {"image": photo}, paints(other))
    output, rendered = output_of(rounds)
    pasted = other.copy()
    pasted[60:300, 60:380] = photo
    assert min(steps(pasted, 60, 60, 380, 300)) > 35
    assert max(steps(output, 60, 60, 380, 300)) < 8
    assert np.array_equal(output[60:300, 60:380], photo)
    for far in (np.s_[:6, 60:380], np.s_[-6:, 60:380], np.s_[60:300, :6], np.s_[60:300, -6:]):
        drawn, asked = output[far].mean(axis=(0, 1)), other[far].mean(axis=(0, 1))
        assert np.abs(drawn - asked).max() < 16  # 60 pixels are less than colours need to turn by 50 levels unseen
        assert drawn[0] > photo.mean(axis=(0, 1))[0] + 30
    assert rendered.report.painted_by is None


def test_texture_goes_on_without_a_gap() -> None:
    """Where the photo fades into what was painted, there is as much grain as in either, and no line along the old border."""
    photo, other = ground(240, 320), ground(360, 440, (165, 120, 90), seed=1)
    _, rounds = done(OUTPAINT, {"image": photo}, paints(other))
    grey = cv2.cvtColor(output_of(rounds)[0], cv2.COLOR_RGB2GRAY).astype(float)
    grain = np.abs(np.diff(grey[:, 100:340], axis=1)).mean(axis=1)
    rows = grain.reshape(-1, 6).mean(axis=1)
    assert rows.min() > 0.75 * np.median(rows)
    lines = np.abs(np.diff(grey[:, 100:340], axis=0)).mean(axis=1)
    assert max(lines[59], lines[299]) < 1.3 * np.median(lines)


def test_a_thing_near_the_border_is_not_shown_again() -> None:
    """A red disc a few pixels from the border is not reflected in what fades in from there."""
    photo = ground(240, 320)
    cv2.circle(photo, (160, 11), 6, (220, 20, 20), -1)
    _, rounds = done(OUTPAINT, {"image": photo}, paints(ground(360, 440, (165, 120, 90), seed=1)))
    output, rendered = output_of(rounds)
    red = output[..., 0].astype(int) - output[..., 1] > 90
    assert red[60:300, 60:380].sum() > 80
    assert red.sum() == red[60:300, 60:380].sum()
    assert rendered.report.painted_by is None


def test_what_goes_on_by_itself_is_left_alone() -> None:
    """A model that paints what was really there gets every pixel of it delivered, and passes."""
    truth = ground(360, 440)
    _, rounds = done(OUTPAINT, {"image": truth[60:300, 60:380]}, paints(truth))
    output, rendered = output_of(rounds)
    assert np.array_equal(output, truth)
    assert (rendered.report.verdict.level, rendered.report.painted_by) == (Level.PASS, None)


@pytest.mark.parametrize("colour", [(110, 110, 110), (110, 112, 90)], ids=["grey", "coloured"])
def test_a_photo_without_colours_gets_none(colour: tuple[int, int, int]) -> None:
    """Around a black and white photo a green lawn is grey, as light as it was painted; around a coloured one it is green."""
    photo, lawn, grey = ground(240, 320, colour), ground(360, 440, (90, 130, 70), seed=1), len(set(colour)) == 1
    _, rounds = done(OUTPAINT, {"image": photo}, paints(lawn))
    output, rendered = output_of(rounds)
    far = output[:6].reshape(-1, 3).mean(axis=0)
    assert rendered.report.painted_by is None
    assert (np.ptp(output.astype(int), axis=2).max() == 0) == grey
    assert (far[1] - far[2] > 30) == (not grey)
    assert abs(far @ (0.299, 0.587, 0.114) - lawn[:6].reshape(-1, 3).mean(axis=0) @ (0.299, 0.587, 0.114)) < 8


def far_off(request: PaintRequest) -> Array:
    """A flat blue that has nothing to do with the photo, lighter from seed to seed."""
    return np.where(request.mask[..., None] > 0, np.array([20, 30, 200 + request.seed]), request.image).astype(np.uint8)


def test_where_the_model_cannot_go_on_the_photo_does_and_the_report_says_so() -> None:
    """Where all attempts fail, the output is to the bit what the job gives without a prompt, of verdict ``warn``, with both reasons named."""
    photo = ground(240, 320)
    _, rounds = done({**OUTPAINT, "checks": {"max_attempts": 2}}, {"image": photo}, far_off)
    output, rendered = output_of(rounds)
    plain, _ = output_of(done({**OUTPAINT, "prompt": None, "seed": 1}, {"image": photo}, far_off, EXEMPLAR)[1])
    assert np.array_equal(output, plain)
    report = rendered.report
    assert (report.painted_by, report.attempts, report.verdict.level) == ("exemplar", 2, Level.WARN)
    assert "ΔE off the picture at the old border" in report.verdict.reasons[0]
    assert "exemplar did it instead" in report.verdict.reasons[0]


@pytest.mark.parametrize("best", [1, 2, 3])
def test_of_several_seeds_the_one_that_goes_on_best_is_kept(best: int) -> None:
    """Of attempts that are all of one verdict, the one is delivered that was least off the photo before it was joined to it."""

    def lawns(request: PaintRequest) -> Array:
        return paints(ground(360, 440, (180 if request.seed == best else 200, 120, 90), seed=request.seed))(request)

    _, rounds = done({**OUTPAINT, "checks": {"max_attempts": 3}}, {"image": ground(240, 320)}, lawns)
    _, rendered = output_of(rounds)
    assert (rendered.seed, rendered.report.attempts, rendered.report.verdict.level) == (best, 3, Level.WARN)


def test_a_verdict_that_was_asked_for_is_not_got_round() -> None:
    """With ``min_verdict`` such a job fails as checks_not_met: nobody gets an extension without the prompt who asked for a good one with it."""
    _, rounds = done({**OUTPAINT, "checks": {"min_verdict": "warn"}}, {"image": ground(240, 320)}, far_off)
    with pytest.raises(ChecksNotMet, match="off the picture at the old border"):
        _ = rounds.rendered


def test_a_model_that_erases_badly_gives_way() -> None:
    """Where a model paints a block where it should erase, the output is to the bit what ``exemplar`` makes of the same mask, with a warning."""
    photo, mask = ground(240, 320), np.zeros((240, 320), np.uint8)
    mask[80:160, 110:210] = 255
    request = {"operation": "erase", "image": "image", "mask": "mask", "mask_options": {"grow_px": 0, "feather_px": 0}}

    output, rendered = output_of(done(request, {"image": photo, "mask": mask}, far_off)[1])
    plain, _ = output_of(done({**request, "seed": 1}, {"image": photo, "mask": mask}, far_off, EXEMPLAR)[1])
    assert np.array_equal(output, plain)
    assert (rendered.report.painted_by, rendered.report.verdict.level) == ("exemplar", Level.WARN)


def test_what_was_painted_stays_where_nothing_does_better() -> None:
    """Where the extension without the prompt fails too, the model's own is delivered as the failure that it is."""

    class Failing(Examiner):
        def report(self, request: JobRequest, edit: Edit, output: Frame, error: ModelError | None) -> Report:
            report = super().report(request, edit, output, error)
            return report.model_copy(update={"seam": 1.0, "verdict": Verdict(level=Level.FAIL, reasons=("planted",))})

    photo = ground(240, 320)
    spec, plan = plan_of({**OUTPAINT, **SAMPLING}, CARD, {"image": png(photo)})
    rounds = Rounds(spec, plan, Failing(SEGMENTER, Quality()))
    rounds.take([paints(ground(360, 440, (165, 120, 90)))(each) for each in rounds.requests])
    rounds.go_on_without_prompt()
    (rendered,) = rounds.rendered
    assert (rendered.report.painted_by, rendered.report.verdict.level) == (None, Level.FAIL)
    assert "planted" in rendered.report.verdict.reasons


def test_what_gives_way_is_done_picture_by_picture_and_a_fault_costs_none() -> None:
    """Nothing is delivered before each failed picture was done without its prompt; where that breaks, what was painted is delivered."""
    photo = ground(240, 320)
    spec, plan = plan_of({**OUTPAINT, **SAMPLING, "num_images": 2}, CARD, {"image": png(photo)})
    ways = iter([plan.without_prompt])

    def without_prompt() -> Plan:
        way = next(ways)  # the second picture finds none
        assert way is not None
        return way()

    rounds = rounds_of(spec, replace(plan, without_prompt=without_prompt))
    rounds.take([far_off(each) for each in rounds.requests])
    assert (rounds.requests, rounds.gives_way) == ((), True)
    rounds.go_on_without_prompt()
    with pytest.raises(ValueError, match="still being painted"):
        _ = rounds.rendered
    rounds.go_on_without_prompt()
    assert not rounds.gives_way
    assert [(each.report.painted_by, each.report.verdict.level) for each in rounds.rendered] == [
        ("exemplar", Level.WARN),
        (None, Level.FAIL),
    ]


def test_a_bad_last_pass_is_no_pass() -> None:
    """Of an extension in several passes each is judged: a scene that goes on at first and is magenta in the last is not passed."""
    photo, wide = ground(200, 260), ground(200, 1660)
    spec, plan = plan_of({**OUTPAINT, **SAMPLING, "expand": {"left": 700, "right": 700}}, CARD, {"image": png(photo)})
    assert len(plan.passes) > 1
    rounds = rounds_of(spec, replace(plan, without_prompt=None))
    for number in range(len(plan.passes)):
        last = number + 1 == len(plan.passes)
        rounds.take([paints(np.full_like(wide, (255, 0, 255)) if last else wide)(each) for each in rounds.requests])
    assert rounds.rendered[0].report.verdict.level is Level.FAIL


def test_hidden_colours_neither_come_out_nor_decide() -> None:
    """Beside a picture with a narrow opaque border around a clear middle, extension and verdict are the same whatever the middle hides."""
    found = []
    for hidden in ((255, 0, 255), (200, 200, 200)):
        photo = np.zeros((300, 400, 4), np.uint8)
        photo[..., :3], photo[..., 3] = hidden, 0
        photo[:3], photo[-3:], photo[:, :3], photo[:, -3:] = ((200, 200, 200, 255),) * 4
        spec, plan = plan_of({**OUTPAINT, **SAMPLING, "expand": {"left": 120}}, CARD, {"image": png(photo)})
        rounds = rounds_of(spec, replace(plan, without_prompt=None))
        rounds.take([np.full_like(each.image, 190) for each in rounds.requests])
        (rendered,) = rounds.rendered
        found.append((pixels_of(rendered.data)[:, :120], rendered.report.verdict))
    (first, verdict), (second, other) = found
    assert np.array_equal(first, second)
    assert verdict == other


def test_a_model_that_shows_the_product_twice_does_not_pass() -> None:
    """A second mug that a model painted beside the first is a failure, and says so."""
    photo = np.full((300, 400, 3), (205, 198, 188), np.uint8)
    cv2.rectangle(photo, (60, 70), (220, 250), (40, 90, 170), -1)
    cv2.ellipse(photo, (230, 150), (45, 55), 0, 0, 360, (40, 90, 170), 16)
    cv2.rectangle(photo, (90, 110), (190, 160), (235, 210, 60), -1)
    twice = np.concatenate([photo[:, ::-1], photo], axis=1)
    spec, plan = plan_of({**OUTPAINT, **SAMPLING, "expand": {"left": 400}}, CARD, {"image": png(photo)})
    assert [each.crop.box.width for passed in plan.passes for each in passed] == [800]
    rounds = rounds_of(spec, replace(plan, without_prompt=None))
    while rounds.requests:
        rounds.take([paints(twice)(each) for each in rounds.requests])
    verdict = rounds.rendered[0].report.verdict
    assert verdict.level is Level.FAIL
    assert "a part of the product is seen a second time" in verdict.reasons
