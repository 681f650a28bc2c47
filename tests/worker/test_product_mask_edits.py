"""A mask of the product: what it means, and what comes back of it. Planned and composed as a worker does."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from conftest import pixels_of, png
from planning import plan_of, rounds_of

from api_schemas.errors import ChecksNotMet, MaskEmpty, SubjectNotFound
from api_schemas.jobs import WarningCode
from api_schemas.models import BACKDROP, U2NETP
from api_schemas.requests import Level
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import begin
from worker.outputs import Rendered

Array = npt.NDArray[np.uint8]
CUT_OUT: dict[str, Any] = {"operation": "remove_background", "image": "image", "product_mask": "product_mask"}
REPLACE: dict[str, Any] = {
    "operation": "replace_background",
    "image": "image",
    "product_mask": "product_mask",
    "background": {"color": "#102030"},
    "output": {"layers": True},
}
COFFEE = (files("skimage.data") / "coffee.png").read_bytes()


def cup(soft: float = 0.0) -> Array:
    """Where the cup and its saucer are, by hand."""
    mask = np.zeros((400, 600), np.uint8)
    cv2.ellipse(mask, (278, 230), (190, 145), 0, 0, 360, 255, -1)
    cv2.ellipse(mask, (290, 113), (115, 95), 0, 0, 360, 255, -1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), soft), np.uint8) if soft else mask


def cut_out(mask: Array) -> bytes:
    """The photo with ``mask`` as its alpha, and black where it is clear."""
    return png(np.dstack([np.where(mask[..., None] > 0, pixels_of(COFFEE), 0).astype(np.uint8), mask]))


def run(request: dict[str, Any], **inputs: bytes) -> Rendered:
    """The one output of a job."""
    spec, plan = plan_of(request, U2NETP if request["operation"] == "remove_background" else BACKDROP, inputs)
    rounds, engine = rounds_of(spec, plan), BackdropEngine()
    slots = begin(engine, rounds.requests)
    engine.step(slots)
    rounds.take(engine.finish(slots))
    (rendered,) = rounds.rendered
    return rendered


def test_the_mask_is_the_matte() -> None:
    """A grey mask's strengths are the cut-out's alpha, but for the traces near black and white that masks have; the segmenter is not asked."""
    mask = cup(soft=3)
    rendered = run(CUT_OUT, image=COFFEE, product_mask=png(mask))
    alpha = pixels_of(rendered.data)[..., 3]
    middle = (mask > 16) & (mask < 239)
    assert middle.any()
    assert np.array_equal(alpha[middle], mask[middle])
    assert (alpha[mask >= 239] == 255).all()
    assert (alpha[mask <= 16] == 0).all()
    assert rendered.report.subject is None


def test_a_product_that_no_segmenter_finds_is_cut_out_by_its_mask() -> None:
    """Where nothing stands out, a mask says what the product is, and nothing is said against it."""
    grass, mask = png(np.full((80, 100, 3), 120, np.uint8)), np.zeros((80, 100), np.uint8)
    mask[20:60, 30:70] = 255
    with pytest.raises(SubjectNotFound):
        run({**CUT_OUT, "product_mask": None}, image=grass)
    rendered = run(CUT_OUT, image=grass, product_mask=png(mask))
    assert np.array_equal(pixels_of(rendered.data)[..., 3], mask)
    assert rendered.report.verdict.level is Level.PASS


def test_a_cut_out_is_its_own_mask() -> None:
    """A file with an alpha is read by it, to the level, whatever its colours are; an alpha that is opaque throughout leaves the mask to the brightness."""
    mask = cup(soft=3)
    by_alpha = run(CUT_OUT, image=COFFEE, product_mask=cut_out(mask))
    assert np.array_equal(pixels_of(by_alpha.data)[..., 3], mask)
    opaque = png(np.dstack([cup(), cup(), cup(), np.full_like(mask, 255)]))
    assert np.array_equal(pixels_of(run(CUT_OUT, image=COFFEE, product_mask=opaque).data)[..., 3], cup())


def test_what_remove_background_returns_can_be_given_back() -> None:
    """The cut-out of one job is the mask of the next: the same alpha comes out, and behind it the product is kept to the bit."""
    found = run({**CUT_OUT, "product_mask": None}, image=COFFEE)
    again = run(CUT_OUT, image=COFFEE, product_mask=found.data)
    assert np.array_equal(pixels_of(again.data), pixels_of(found.data))
    replaced = run(REPLACE, image=COFFEE, product_mask=found.data)
    solid = pixels_of(found.data)[..., 3] == 255
    assert np.array_equal(pixels_of(replaced.data)[solid], pixels_of(COFFEE)[solid])
    assert replaced.report.preserved.kept_pixels == np.count_nonzero(solid)


@pytest.mark.parametrize("request_of", [CUT_OUT, {**CUT_OUT, "product_mask": None}, REPLACE], ids=["given", "found", "replaced"])
def test_the_mask_comes_back_white_on_the_product(request_of: dict[str, Any]) -> None:
    """Both operations return product_mask, white on the product; the mask of old is the same upside down."""
    inputs = {"product_mask": png(cup())} if request_of["product_mask"] else {}
    rendered = run(request_of, image=COFFEE, **inputs)
    mask = pixels_of(rendered.layers["product_mask"])
    assert mask[230, 278] == 255
    assert mask[10, 10] == 0
    assert np.array_equal(pixels_of(rendered.layers["mask"]), 255 - mask)
    if request_of["operation"] == "remove_background":
        assert np.array_equal(pixels_of(rendered.data)[..., 3], mask)


def test_the_product_is_nowhere_above_the_images_own_alpha() -> None:
    """What the file shows half is half kept, whatever the mask says; a mask of nothing that is seen is refused with its field."""
    alpha = cup()
    alpha[:, 300:] //= 2
    image = cut_out(alpha)
    rendered = run(CUT_OUT, image=image, product_mask=png(cup()))
    assert np.array_equal(pixels_of(rendered.data)[..., 3], alpha)
    corner = np.zeros_like(alpha)
    corner[:40, :40] = 255
    for request in (CUT_OUT, REPLACE):
        with pytest.raises(MaskEmpty) as caught:
            run(request, image=image, product_mask=png(corner))
        assert caught.value.field == "product_mask"


@pytest.mark.parametrize("request_of", [CUT_OUT, REPLACE], ids=["remove_background", "replace_background"])
def test_an_inverted_mask_is_a_warning_by_name(request_of: dict[str, Any]) -> None:
    """Upside down it is a warning with a code and the field, and a reason of a verdict of warn; the right way up there is neither."""
    inverted = run(request_of, image=COFFEE, product_mask=png(255 - cup())).report
    (warning,) = inverted.warnings
    assert (warning.code, warning.field) == (WarningCode.PRODUCT_MASK_INVERTED, "product_mask")
    assert inverted.verdict.level is Level.WARN
    assert any(reason.startswith("product_mask_inverted: ") for reason in inverted.verdict.reasons)
    right = run(request_of, image=COFFEE, product_mask=png(cup())).report
    assert (right.warnings, right.verdict.level) == ((), Level.PASS)


def test_who_wants_a_pass_is_not_given_an_inverted_one() -> None:
    """With min_verdict pass the job fails before anything is painted, and the reason names the mask."""
    with pytest.raises(ChecksNotMet, match="nothing was painted: product_mask_inverted"):
        run({**REPLACE, "checks": {"min_verdict": "pass"}}, image=COFFEE, product_mask=png(255 - cup()))
