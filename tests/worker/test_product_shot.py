"""A product on its way into an output of another size: proven first, resampled once, and all around it made at the size of the output."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import pixels_of, png
from PIL import Image
from planning import plan_of, rounds_of

from api_schemas.errors import ChecksNotMet, EngineFailed, SubjectNotFound
from api_schemas.jobs import JobSpec
from api_schemas.models import BACKDROP, EMBEDDED_MODELS, EXEMPLAR, U2NETP, ModelCard, ModelInfo
from api_schemas.requests import GradientBackground, job_request
from service.resolve import resolve
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import begin
from worker.images.backdrop import render
from worker.images.blend import composite
from worker.images.codec import Frame
from worker.images.placement import product_box
from worker.images.resample import resample
from worker.intake import Plan
from worker.outputs import Rendered

Array = np.ndarray[Any, Any]
MODELS = [ModelInfo(card=card, workers=("w",)) for card in EMBEDDED_MODELS]
WHITE: dict[str, Any] = {"operation": "replace_background", "image": "image", "background": {"color": "#ffffff"}}
SQUARE = {"width": 200, "height": 200}


def photo(box: tuple[int, int, int, int] = (60, 40, 160, 90), width: int = 240, height: int = 160) -> tuple[bytes, bytes]:
    """A striped product on a plain ground, and its mask, white on the background."""
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), (140, 160, 120), np.uint8)
    left, top, right, bottom = box
    product = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    pixels[product] = np.stack([(x * 9) % 200, (y * 7) % 180, (x + y) % 160], axis=-1).astype(np.uint8)[product]
    return png(pixels), png(np.where(product, 0, 255).astype(np.uint8))


def planned(request: dict[str, Any], card: ModelCard, data: bytes, **inputs: bytes) -> tuple[JobSpec, Plan]:
    """The plan of a request as the service resolves it."""
    given = {**request, **dict.fromkeys(inputs, "mask")}
    resolved, _ = resolve(job_request.validate_python(given), MODELS)
    stored = {"operation": request["operation"], **resolved.model_dump(mode="json", exclude_defaults=True)}
    return plan_of(stored, card, {"image": data, **inputs})


def run(request: dict[str, Any], data: bytes, card: ModelCard = BACKDROP, **inputs: bytes) -> Rendered:
    """The output of a request for which nothing is drawn by a model."""
    rounds, engine = rounds_of(*planned(request, card, data, **inputs)), BackdropEngine()
    if not rounds.requests:
        rounds.take([])
    while rounds.requests:
        slots = begin(engine, rounds.requests)
        engine.step(slots)
        rounds.take(engine.finish(slots))
    return rounds.rendered[0]


def test_kept_pixels_are_proven_before_they_are_placed() -> None:
    """The proof of a placed product is, hash and all, that of the same product in its photo; the report tells the scale and the product's box."""
    data, mask = photo()
    kept = run(WHITE, data, mask=mask).report
    shot = run({**WHITE, "placement": {}, "output": SQUARE}, data, mask=mask).report
    assert shot.preserved == kept.preserved
    assert (kept.preserved.kept_pixels, kept.preserved.max_delta) == (100 * 50, 0)
    assert (kept.resampled, kept.scale, shot.resampled, shot.scale) == (False, 1.0, True, 1.7)
    assert kept.product is not None
    assert shot.product is not None
    assert kept.product.model_dump() == {"left": 60, "top": 40, "right": 160, "bottom": 90}
    assert shot.product.right - shot.product.left == 170
    assert shot.product.bottom - shot.product.top == pytest.approx(85, abs=1)


def test_a_product_is_resampled_once() -> None:
    """The output is, bit for bit, the photo's colours and matte resampled straight to their place, over the background as it is drawn at that size."""
    data, mask = photo()
    gradient = {"gradient": {"start": "#ffffff", "end": "#406080", "angle_deg": 30}}
    request = {**WHITE, "background": gradient, "placement": {"fill": 0.7, "align": "bottom"}, "output": SQUARE}
    _, plan = planned(request, BACKDROP, data, mask=mask)
    assert plan.edit.landing is not None
    matte = 255 - pixels_of(mask)
    product = resample(Frame(pixels_of(data), matte), plan.edit.landing)
    assert product.alpha is not None
    behind = render((200, 200), GradientBackground.model_validate(gradient))
    output = pixels_of(run(request, data, mask=mask).data)
    solid = product.alpha == 255
    assert solid.sum() > 100 * 50
    np.testing.assert_array_equal(output[solid], product.pixels[solid])
    np.testing.assert_array_equal(output[product.alpha == 0], behind[product.alpha == 0])
    np.testing.assert_array_equal(output, composite(behind, plan.edit.frame.pixels, product.alpha))


def test_what_is_painted_over_a_placed_product_is_withheld() -> None:
    """A pixel of the product that is another once it was placed fails the job."""
    data, mask = photo()
    spec, plan = planned({**WHITE, "placement": {}, "output": SQUARE}, BACKDROP, data, mask=mask)
    rounds = rounds_of(spec, plan)
    with pytest.raises(EngineFailed, match="1 pixels outside"):
        rounds._grader.report(spec.request, plan.edit, changed_inside(plan), None)
    assert rounds._grader.report(spec.request, plan.edit, plan.edit.frame, None).preserved.changed_pixels == 0


def changed_inside(plan: Plan) -> Frame:
    """The frame with one kept pixel changed."""
    pixels = plan.edit.frame.pixels.copy()
    row, column = np.argwhere(plan.edit.alpha == 0)[7]
    pixels[row, column, 0] ^= 1
    return replace(plan.edit.frame, pixels=pixels)


def test_a_cut_out_is_placed_on_nothing() -> None:
    """A cut-out comes on a canvas of the size that was asked for, clear all around, in its own colours, with its mask of that size."""
    alpha = np.zeros((120, 100), np.uint8)
    alpha[30:90, 10:30] = alpha[70:90, 10:70] = 255  # an L: a rectangle would be taken for a photo's frame
    picture = np.dstack([np.full((120, 100, 3), (200, 30, 60), np.uint8), alpha])
    request = {"operation": "remove_background", "image": "image", "placement": {"fill": 0.5}, "output": {"width": 300, "height": 150}}
    rendered = run(request, png(picture), U2NETP)
    output = pixels_of(rendered.data)
    assert output.shape == (150, 300, 4)
    box = product_box(np.ascontiguousarray(output[..., 3]))
    assert box is not None
    assert (box.height, box.width) == pytest.approx((75, 75), abs=1)
    assert abs(box.left + box.right - 300) <= 2
    assert (output[output[..., 3] > 0][:, :3] == (200, 30, 60)).all()
    np.testing.assert_array_equal(pixels_of(rendered.layers["mask"]), 255 - output[..., 3])


def test_a_trimmed_cut_out_is_not_called_cut() -> None:
    """A file that is its product to the border is whole, and is placed as asked for without a reason."""
    picture = np.full((50, 40, 4), 255, np.uint8)
    picture[..., :3] = 90
    cut_corner = np.add.outer(np.arange(50), np.arange(40)) < 20
    picture[cut_corner, 3] = 0
    shot = run({**WHITE, "placement": {"fill": 0.5}, "output": {"width": 100, "height": 100}}, png(picture))
    assert not any("cuts the product off" in reason for reason in shot.report.verdict.reasons)
    assert shot.report.product is not None
    assert (shot.report.product.top, shot.report.product.bottom) == (25, 75)


def test_what_is_clear_cannot_be_placed() -> None:
    """A mask that keeps nothing but clear pixels of its file fails the job as one without a product."""
    picture = np.full((60, 80, 4), 90, np.uint8)
    picture[..., 3] = 0
    picture[40:, :, 3] = 255
    mask = np.full((60, 80), 255, np.uint8)
    mask[:20] = 0
    with pytest.raises(SubjectNotFound, match="nothing to place"):
        planned({**WHITE, "placement": {}, "output": SQUARE}, BACKDROP, png(picture), mask=png(mask))


def test_a_product_that_the_photo_cuts_stays_at_that_border() -> None:
    """It stands on the lower border of the output as it did in the photo, whatever was asked for, and the verdict warns of it."""
    data, mask = photo((60, 60, 160, 160))
    shot = run({**WHITE, "placement": {"align": "top"}, "output": SQUARE}, data, mask=mask)
    assert shot.report.product is not None
    assert shot.report.product.bottom == 200
    assert shot.report.verdict.level == "warn"
    assert shot.report.verdict.reasons == ("the photo cuts the product off at its bottom border: it stands at that of the output",)
    output = pixels_of(shot.data)
    assert (output[-1, shot.report.product.left + 3 : shot.report.product.right - 3] != 255).any(axis=1).all()


def test_the_background_fills_an_output_of_another_ratio() -> None:
    """Without a placement the photo lands whole in the output, and a background is drawn over all of it; a picture that the photo cuts warns."""
    data, mask = photo((60, 60, 160, 160))
    request = {**WHITE, "background": {"gradient": {"start": "#000000", "end": "#ffffff"}}, "output": {"width": 120, "height": 200}}
    shot = run(request, data, mask=mask)
    output = pixels_of(shot.data)
    assert output.shape == (200, 120, 3)
    assert output[0].max() <= 2
    assert output[-1].min() >= 252
    assert shot.report.scale == 0.5
    assert shot.report.product is not None
    assert shot.report.product.model_dump() == {"left": 30, "top": 90, "right": 80, "bottom": 140}
    assert "straight edge is seen" in shot.report.verdict.reasons[0]


def test_an_output_that_shows_nothing_but_the_product_is_made() -> None:
    """Where a photo that covers the output leaves no background to be seen, nothing is painted and the output is the product."""
    data, mask = photo((10, 0, 230, 160))
    request = {**WHITE, "output": {"width": 100, "height": 160, "fit": "cover"}}
    shot = run(request, data, mask=mask)
    np.testing.assert_array_equal(pixels_of(shot.data), pixels_of(data)[:, 70:170])
    assert not shot.report.resampled


@pytest.mark.parametrize("scale_word", ["warn", "fail"])
def test_a_product_that_is_enlarged_much_is_no_pass(scale_word: str) -> None:
    """From twice its size on the verdict warns, from four times on it fails, and a request that asks for better fails before it is painted."""
    data, mask = photo((60, 40, 110, 65))
    side = {"warn": 150, "fail": 400}[scale_word]
    request = {**WHITE, "placement": {}, "output": {"width": side, "height": side}}
    verdict = run(request, data, mask=mask).report.verdict
    assert verdict.level == scale_word
    assert verdict.reasons[0].startswith("scale ")
    assert len(verdict.reasons) == {"warn": 1, "fail": 2}[scale_word]
    with pytest.raises(ChecksNotMet, match="nothing was painted: scale"):
        run({**request, "checks": {"min_verdict": "pass"}}, data, mask=mask)


def test_a_shadow_is_drawn_at_its_final_place() -> None:
    """A placed product has its shadow under it on the output, within the margins, and the corners are white."""
    data, mask = photo()
    plain = pixels_of(run({**WHITE, "placement": {}, "output": SQUARE}, data, mask=mask).data).astype(int)
    shot = pixels_of(run({**WHITE, "placement": {}, "shadow": {}, "output": SQUARE}, data, mask=mask).data).astype(int)
    rows, columns = np.nonzero((plain - shot).max(axis=2) > 20)
    assert rows.min() >= 130  # the product ends at 142
    assert rows.max() < 165
    assert abs(columns.min() + columns.max() - 199) <= 4
    assert (shot[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_a_model_paints_at_the_output_s_size() -> None:
    """From a prompt, too, the background is painted around the product where it will stand; layers are of that size and make up the output."""
    data, mask = photo()
    request = {"operation": "replace_background", "image": "image", "prompt": "sand", "placement": {}, "output": {**SQUARE, "layers": True}}
    card = EXEMPLAR.model_copy(update={"native_size": 64, "size_multiple": 8})
    rounds = rounds_of(*planned(request, card, data, mask=mask))
    (asked,) = rounds.requests
    rounds.take([np.where(asked.mask[..., None] > 0, np.uint8(90), asked.image)])
    (rendered,) = rounds.rendered
    output = pixels_of(rendered.data)
    assert output.shape == (200, 200, 3)
    cut_out, fill = (Image.open(io.BytesIO(rendered.layers[name])) for name in ("cutout", "fill"))
    assert cut_out.size == fill.size == (200, 200)
    assert np.abs(output[:20].astype(int) - 90).max() <= 2
    np.testing.assert_array_equal(np.asarray(Image.alpha_composite(cut_out, fill).convert("RGB")), output)


def test_an_edit_is_scaled_after_it_was_proven() -> None:
    """Erasing is proven on the photo at its own size, whose layers come so; then the whole picture is scaled, padded and written."""
    data, _ = photo()
    mask = np.zeros((160, 240), np.uint8)
    mask[20:60, 30:80] = 255
    output = {"width": 120, "height": 120, "pad_color": "#102030", "layers": True}
    spec, plan = planned({"operation": "erase", "image": "image", "seed": 3, "output": output}, EXEMPLAR, data, mask=png(mask))
    rounds = rounds_of(spec, plan)
    rounds.take([np.where(each.mask[..., None] > 0, np.uint8(7), each.image) for each in rounds.requests])
    (rendered,) = rounds.rendered
    report = rendered.report
    assert report.preserved.max_delta == 0
    assert report.preserved.kept_pixels > 240 * 160 / 2
    assert (report.resampled, report.scale, report.product) == (True, 0.5, None)
    pixels = pixels_of(rendered.data)
    assert (rendered.width, rendered.height, pixels.shape) == (120, 120, (120, 120, 3))
    assert (pixels[:20] == (0x10, 0x20, 0x30)).all()
    assert (pixels[-20:] == (0x10, 0x20, 0x30)).all()
    assert (pixels[32:48, 17:38] == 7).all()
    assert pixels_of(rendered.layers["fill"]).shape == (160, 240, 4)
