"""What is painted when: regions apart, passes, attempts. The model is scripted; the pictures, the segmenter and the measures are real."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import pixels_of, png
from PIL import Image, ImageOps
from planning import plan_of, rounds_of

from api_schemas.errors import ChecksNotMet, EngineFailed
from api_schemas.models import BACKDROP, EXEMPLAR, SAMPLING_PARAMETERS, EngineKind, Licence, ModelCard, SamplingDefaults
from api_schemas.requests import Level, Operation
from worker.engines.base import PaintRequest
from worker.images.blend import composite, paste
from worker.intake import Plan
from worker.rounds import Rounds

Array = npt.NDArray[np.uint8]
Model = Callable[[PaintRequest], Array]

CARD = ModelCard(
    id="scripted",
    engine=EngineKind.DIFFUSION,
    operations=(Operation.INPAINT, Operation.ERASE, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND),
    description="",
    licence=Licence(id="unknown"),
    revision="1",
    native_size=512,
    size_multiple=8,
    parameters=SAMPLING_PARAMETERS,
    sampling=SamplingDefaults(),
)
SAMPLING = {"prompt": "x", "steps": 4, "guidance_scale": 5.0, "strength": 1.0, "scheduler": "ddim"}


def photo(name: str, size: tuple[int, int] | None = None) -> Array:
    with Image.open(str(files("skimage.data") / name)) as image:
        picture = image.convert("RGB")
        return np.asarray(ImageOps.fit(picture, size) if size else picture, np.uint8)


def begin(request: dict[str, Any], inputs: dict[str, bytes], card: ModelCard = CARD) -> tuple[Plan, Rounds]:
    fields = {"image": "image", "seed": 1, **(SAMPLING if card is CARD else {}), **request}
    if request["operation"] == "erase":
        fields.pop("prompt", None)
    spec, plan = plan_of(fields, card, inputs)
    return plan, rounds_of(spec, plan)


def paint(rounds: Rounds, model: Model) -> list[int]:
    """Paint to the end; how many pictures each round had."""
    sizes = []
    while rounds.requests:
        sizes.append(len(rounds.requests))
        rounds.take([model(request) for request in rounds.requests])
    while rounds.gives_way:
        rounds.go_on_without_prompt()
    return sizes


def truthful(request: PaintRequest) -> Array:
    """A model that returns what it was shown."""
    return request.image


# Attempts


def second_cup(request: PaintRequest) -> Array:
    """With seed 1 the product goes on beside itself; with any other seed the backdrop is plain."""
    kept = (request.mask == 0)[..., None]
    backdrop = np.where(kept, request.image, np.array((190, 200, 210), np.uint8))
    if request.seed == 1:
        width = request.image.shape[1] // 2
        for shift in (-width // 2, width // 2):
            backdrop = np.where(np.roll(kept, shift, axis=1), np.roll(request.image, shift, axis=1), backdrop)
    return backdrop


REPLACE = {"operation": "replace_background", "checks": {"max_attempts": 3}}


def test_a_product_that_grows_is_caught_and_painted_again() -> None:
    """Where the model lets the product grow, another seed is tried, the better one is kept, and the report says so."""
    coffee = {"image": png(photo("coffee.png"))}
    _, once = begin({**REPLACE, "checks": {}}, coffee)
    assert paint(once, second_cup) == [1]
    (grown,) = once.rendered
    assert grown.report.subject is not None
    assert grown.report.subject.growth is not None
    assert grown.report.subject.growth >= 0.05
    assert grown.report.verdict.level is not Level.PASS
    assert any("growth" in reason for reason in grown.report.verdict.reasons)

    _, checked = begin(REPLACE, coffee)
    assert paint(checked, second_cup) == [1, 1]
    (kept,) = checked.rendered
    assert kept.report.subject is not None
    assert kept.report.subject.growth is not None
    assert kept.report.subject.growth < 0.05
    assert (kept.report.verdict.level, kept.report.attempts, kept.seed) == (Level.PASS, 2, 2)


def test_only_what_is_not_good_enough_is_painted_again() -> None:
    """Of two images the good one is not painted again; the other's new seed is none that the job has used."""
    _, rounds = begin({**REPLACE, "num_images": 2}, {"image": png(photo("coffee.png"))})
    seeds: list[list[int]] = []
    while rounds.requests:
        seeds.append([request.seed for request in rounds.requests])
        rounds.take([second_cup(request) for request in rounds.requests])
    assert seeds == [[1, 2], [3]]
    assert [output.seed for output in rounds.rendered] == [3, 2]


def test_the_best_of_bad_attempts_is_kept_or_fails_the_job() -> None:
    """Where no attempt is good, the best is delivered with its verdict; with ``min_verdict`` the job fails as checks_not_met instead."""
    grey, mask = np.full((200, 200, 3), 90, np.uint8), np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140] = 255
    inputs = {"image": png(grey), "mask": png(mask)}
    request = {"operation": "inpaint", "mask": "mask", "mask_options": {"feather_px": 0}}

    def off(request: PaintRequest) -> Array:
        """A frame of 4 pixels along the border, which neither side has, more or less light."""
        inner = np.pad(request.mask[4:-4, 4:-4], 4) & np.roll(request.mask, 4, 0) & np.roll(request.mask, -4, 0)
        inner &= np.roll(request.mask, 4, 1) & np.roll(request.mask, -4, 1)
        frame = (request.mask > 0) & (inner == 0)
        return np.where(frame[..., None], {1: 250, 2: 110, 3: 200}[request.seed], request.image).astype(np.uint8)

    _, rounds = begin({**request, "checks": {"max_attempts": 3}}, inputs)
    assert paint(rounds, off) == [1, 1, 1]
    (best,) = rounds.rendered
    assert (best.seed, best.report.attempts) == (2, 3)
    assert best.report.verdict.level is not Level.PASS
    _, strict = begin({**request, "checks": {"max_attempts": 3, "min_verdict": "pass"}}, inputs)
    paint(strict, off)
    with pytest.raises(ChecksNotMet) as caught:
        _ = strict.rendered
    assert (caught.value.code, caught.value.field) == ("checks_not_met", "checks.min_verdict")


@pytest.mark.parametrize(
    ("fill", "feather", "reason"),
    [
        (lambda image: np.where(np.indices(image.shape)[0] % 2, 255, 0), 0, "seam"),
        (lambda image: np.clip(image + np.array([80, 0, -80]), 0, 255), 8, "colour_shift"),
    ],
    ids=["seam", "colour shift"],
)
def test_a_planted_fault_turns_the_verdict(fill: Callable[[Array], Array], feather: int, reason: str) -> None:
    """A good fill passes; a planted seam, and a planted colour shift, each turn the verdict and are named in it."""
    sky = photo("rocket.jpg")[:200, :200]
    mask = np.zeros((200, 200), np.uint8)
    mask[60:140, 60:140] = 255
    inputs = {"image": png(sky), "mask": png(mask)}
    request = {"operation": "erase", "mask": "mask", "mask_options": {"feather_px": feather}}
    _, good = begin(request, inputs)
    paint(good, truthful)
    assert good.rendered[0].report.verdict.level is Level.PASS

    def faulty(request: PaintRequest) -> Array:
        return np.where(request.mask[..., None] > 0, fill(request.image), request.image).astype(np.uint8)

    _, bad = begin(request, inputs)
    paint(bad, faulty)
    verdict = bad.rendered[0].report.verdict
    assert verdict.level is not Level.PASS
    assert any(reason in each for each in verdict.reasons)


def test_a_changed_kept_pixel_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that changes a kept pixel ends the job: the result is not delivered, whatever the checks."""
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    _, rounds = begin({"operation": "inpaint", "mask": "mask"}, {"image": png(photo("coffee.png")[:64, :64]), "mask": png(mask)})

    def spoilt(frame: Any, *rest: Any) -> Any:
        frame = paste(frame, *rest)
        frame.pixels[0, 0, 0] ^= 1
        return frame

    monkeypatch.setattr("worker.rounds.paste", spoilt)
    with pytest.raises(EngineFailed, match="1 pixels outside"):
        paint(rounds, truthful)


# Regions


def two_spots(gap: int) -> Array:
    mask = np.zeros((1200, 1800), np.uint8)
    mask[100:160, 100:160] = 255
    mask[100 + gap : 160 + gap, 100 + gap : 160 + gap] = 255
    return mask


def light(request: PaintRequest) -> Array:
    return np.where(request.mask[..., None] > 0, 250, request.image).astype(np.uint8)


def test_spots_far_apart_are_painted_apart_for_less() -> None:
    """Two far spots are two small pictures of one round, with fewer pixels than one window for both; both are filled, all else is kept."""
    picture, mask = photo("astronaut.png", (1800, 1200)), two_spots(900)
    inputs = {"image": png(picture), "mask": png(mask)}
    request = {"operation": "erase", "mask": "mask", "mask_options": {"grow_px": 0, "feather_px": 0}}
    plan, rounds = begin(request, inputs, EXEMPLAR)
    assert len(plan.passes[0]) == 2
    assert sum(region.crop.pixels for region in plan.passes[0]) < 512 * 512
    assert all(region.crop.box.width == region.crop.size[0] for region in plan.passes[0])  # at the photo's own scale
    assert paint(rounds, light) == [2]
    output = pixels_of(rounds.rendered[0].data)
    assert output[mask > 0].min() >= 240  # what is that far off all around is hardly moved towards its surroundings
    assert picture[mask > 0].mean() < 128
    assert np.array_equal(output[mask == 0], picture[mask == 0])


def test_spots_close_together_are_one_picture() -> None:
    """Two spots whose windows overlap are painted in one."""
    inputs = {"image": png(photo("astronaut.png", (1800, 1200))), "mask": png(two_spots(80))}
    plan, _ = begin({"operation": "erase", "mask": "mask"}, inputs, EXEMPLAR)
    assert len(plan.passes[0]) == 1


def test_hundreds_of_specks_are_one_picture() -> None:
    """Dust over all of the frame is painted in one window, and planned without comparing each speck with each."""
    mask = np.zeros((1200, 1800), np.uint8)
    mask[10::60, 10::60] = 255
    plan, _ = begin(
        {"operation": "erase", "mask": "mask"}, {"image": png(photo("astronaut.png", (1800, 1200))), "mask": png(mask)}, EXEMPLAR
    )
    assert len(plan.passes[0]) == 1


# Passes


def test_a_far_outpainting_grows_in_passes_that_see_enough() -> None:
    """An extension to four times the size takes passes; each leaves at least a third known, and sees what the last one painted."""
    drawn = np.random.default_rng(0)
    picture = drawn.integers(120, 136, (200, 300, 3), dtype=np.uint8)
    request = {"operation": "outpaint", "expand": {"left": 300, "right": 300, "top": 200, "bottom": 200}, "output": {"layers": True}}
    plan, rounds = begin(request, {"image": png(picture)})
    assert len(plan.passes) == 3
    assert rounds.later == 2
    areas = [box.width * box.height for box in plan.known]
    assert all(after / 3 <= before for before, after in itertools.pairwise(areas))
    shown: list[tuple[float, bool]] = []

    def coarse(request: PaintRequest) -> Array:
        """Paints strong grain; notes how much it was shown as known, and whether such grain was among it."""
        known = request.mask == 0
        shown.append((float(known.mean()), float((np.abs(request.image[known].astype(int) - 128) > 16).mean()) > 0.1))
        grain = drawn.integers(68, 189, request.image.shape, dtype=np.uint8)
        return np.where(known[..., None], request.image, grain)

    assert paint(rounds, coarse) == [1, 1, 1]
    assert all(share > 1 / 3 for share, _ in shown)
    assert [seen for _, seen in shown] == [False, True, True]
    output = pixels_of(rounds.rendered[0].data)
    assert output.shape == (600, 900, 3)
    assert np.array_equal(output[200:400, 300:600], picture)
    assert output[:100, :100].std() > 15  # the far corner is the last pass's


def test_a_near_outpainting_takes_one_pass() -> None:
    """An extension by a third is painted at once."""
    plan, _ = begin({"operation": "outpaint", "expand": {"left": 100}}, {"image": png(photo("coffee.png", (300, 200)))})
    assert len(plan.passes) == 1


# Layers


@pytest.mark.parametrize(
    "request_of",
    [
        {"operation": "inpaint", "mask": "mask", "mask_options": {"feather_px": 6}},
        {"operation": "outpaint", "expand": {"left": 40, "bottom": 30}},
        {"operation": "replace_background", "shadow": {}},
    ],
    ids=lambda request: request["operation"],
)
def test_the_fill_over_the_input_is_the_output(request_of: dict[str, Any]) -> None:
    """Compositing the ``fill`` layer over the input gives the output exactly, at soft edges too; the mask layer is the edit region."""
    picture = photo("coffee.png")
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[100:260, 200:420] = 255
    plan, rounds = begin({**request_of, "output": {"layers": True}}, {"image": png(picture), "mask": png(mask)})
    noise = np.random.default_rng(0)
    paint(rounds, lambda request: noise.integers(0, 256, request.image.shape, dtype=np.uint8))
    (output,) = rounds.rendered
    fill, after = np.asarray(Image.open(io.BytesIO(output.layers["fill"]))), pixels_of(output.data)
    base = np.zeros_like(after)
    left, top = plan.edit.origin
    base[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    assert np.array_equal(composite(base, np.ascontiguousarray(fill[..., :3]), np.ascontiguousarray(fill[..., 3])), after)
    assert np.array_equal(pixels_of(output.layers["mask"]) > 0, plan.edit.alpha > 0)
    if request_of["operation"] == "replace_background":
        cut = np.asarray(Image.open(io.BytesIO(output.layers["cutout"])))
        assert np.array_equal(cut[..., 3], 255 - plan.edit.alpha)


def test_a_shadow_grounds_the_product_on_a_painted_background() -> None:
    """``shadow`` with a prompt darkens the painted ground under the product, and nothing above it."""
    inputs = {"image": png(photo("coffee.png"))}

    def white(request: PaintRequest) -> Array:
        return np.full_like(request.image, 240)

    _, plain = begin({"operation": "replace_background"}, inputs)
    _, shaded = begin({"operation": "replace_background", "shadow": {"opacity": 0.6}}, inputs)
    paint(plain, white)
    paint(shaded, white)
    darker = pixels_of(plain.rendered[0].data).astype(int).sum(axis=2) - pixels_of(shaded.rendered[0].data).astype(int).sum(axis=2)
    assert darker.min() >= 0
    assert darker[300:].max() > 100
    assert darker[:60].max() < 10


def test_a_torn_cut_out_warns_and_no_seed_is_tried_against_it() -> None:
    """A product that the segmenter was not sure of warns and is not painted again for that; under a stricter ``min_verdict`` nothing is painted at all."""
    inputs = {"image": png(photo("rocket.jpg"))}
    request = {"operation": "replace_background", "background": {"color": "#ffffff"}}

    def white(each: PaintRequest) -> Array:
        return np.full_like(each.image, 255)

    _, rounds = begin({**request, "checks": {"max_attempts": 4}}, inputs, BACKDROP)
    assert paint(rounds, white) == [1]
    report = rounds.rendered[0].report
    assert report.subject is not None
    assert report.subject.confidence is not None
    assert report.verdict.level is Level.WARN
    assert f"subject.confidence {report.subject.confidence:.2f} is below 0.5" in report.verdict.reasons
    with pytest.raises(ChecksNotMet, match=r"nothing was painted: subject\.confidence") as caught:
        begin({**request, "checks": {"min_verdict": "pass"}}, inputs, BACKDROP)
    assert caught.value.field == "checks.min_verdict"


def test_a_product_that_is_found_with_less_confidence_than_asked_for_fails() -> None:
    """Under ``checks.min_confidence`` a doubtful product fails before anything is painted, by that name, and a sure one is done."""
    request = {"operation": "replace_background", "background": {"color": "#ffffff"}, "checks": {"min_confidence": 0.5}}
    with pytest.raises(ChecksNotMet, match=r"confidence of 0\.") as caught:
        begin(request, {"image": png(photo("rocket.jpg"))}, BACKDROP)
    assert caught.value.field == "checks.min_confidence"
    _, rounds = begin(request, {"image": png(photo("coffee.png"))}, BACKDROP)
    assert rounds is not None


def test_a_shadow_that_is_cut_is_said() -> None:
    """Where the product meets the lower border the verdict says what that means for its shadow, and without a shadow it does not."""
    inputs = {"image": png(photo("coffee.png")[:300])}
    request = {"operation": "replace_background", "background": {"color": "#ffffff"}}
    verdicts = []
    for asked in (request, {**request, "shadow": {}}):
        _, rounds = begin(asked, inputs, BACKDROP)
        paint(rounds, lambda each: np.full_like(each.image, 255))
        verdicts.append(rounds.rendered[0].report.verdict)
    without, with_shadow = ([reason for reason in verdict.reasons if "lower border" in reason] for verdict in verdicts)
    assert without == []
    assert len(with_shadow) == 1
    assert verdicts[1].level is Level.WARN
