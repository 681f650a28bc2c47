"""Any picture, any mask and any options, through HTTP: a job that ends as documented, or the documented refusal; short here, long in `make fuzz`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from conftest import Api, png
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.local import LocalStack

LONG = settings.get_current_profile_name() == "long"
Array = np.ndarray[Any, Any]
MODES = ("L", "RGB", "RGBA")
sides = st.one_of(st.integers(1, 8), st.integers(1, 200))


def examples(short: int) -> settings:
    """As many as a test that runs with all others may take, or ten times that."""
    return settings(
        max_examples=10 * short if LONG else short, derandomize=not LONG, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


@pytest.fixture(scope="module")
def service(stack: LocalStack) -> Iterator[Api]:
    """A caller for all examples of a test."""
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=90) as http:
        yield Api(http)


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """A picture of any size and mode: a gradient, a box and noise."""
    width, height, seed = draw(sides), draw(sides), draw(st.integers(0, 2**16))
    random = np.random.default_rng(seed)
    pixels = np.add.outer(np.arange(height) * 2, np.arange(width) * 3)[..., None] + random.integers(0, 40, (height, width, 4))
    pixels[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] = random.integers(0, 256, 4)
    if draw(st.booleans()):
        pixels[..., 3] = 255
    return Image.fromarray((pixels % 256).astype(np.uint8), "RGBA").convert(draw(st.sampled_from(MODES)))


@dataclass(frozen=True)
class Marked:
    """A mask, and what it means."""

    file: bytes
    options: dict[str, Any]
    edited: Array
    """bool (H, W), before it is grown."""
    has_alpha: bool


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> Marked:
    """A mask of nothing, of all, of boxes, of strokes, of an ellipse or of dots, told in any polarity."""
    width, height = size
    x, y = st.integers(-2, width + 2), st.integers(-2, height + 2)
    canvas = np.zeros((height, width), np.uint8)
    kind = draw(st.sampled_from(("boxes", "strokes", "ellipse", "dots", "empty", "full")))
    if kind == "full":
        canvas[:] = 255
    for _ in range(draw(st.integers(1, 3))):
        start, end, thickness = (draw(x), draw(y)), (draw(x), draw(y)), draw(st.integers(1, 9))
        if kind == "boxes":
            cv2.rectangle(canvas, start, end, 255, -1)
        elif kind == "strokes":
            cv2.line(canvas, start, end, 255, thickness)
        elif kind == "ellipse":
            cv2.ellipse(canvas, start, (1 + abs(end[0]), 1 + abs(end[1])), 10.0 * thickness, 0, 360, 255, -1)
        elif kind == "dots":
            canvas[max(start[1], 0) :: 1 + abs(end[1]), max(start[0], 0) :: 1 + abs(end[0])] = 255
    event(f"a mask of {kind}")
    polarity, invert = draw(st.sampled_from(("white_edits", "black_edits", "alpha"))), draw(st.booleans())
    has_alpha = polarity == "alpha" and draw(st.integers(0, 9)) > 0
    marked = canvas > 0
    told = marked != invert
    if has_alpha:
        file = png(np.dstack([np.full((height, width, 3), 90, np.uint8), np.where(told, 0, 255).astype(np.uint8)]))
    else:
        file = png(np.where(told == (polarity != "black_edits"), 255, 0).astype(np.uint8))
    options = {"polarity": polarity, "invert": invert} | draw(
        st.fixed_dictionaries({}, optional={"grow_px": st.integers(0, 40), "feather_px": st.integers(0, 40)})
    )
    return Marked(file, options, marked, has_alpha or polarity != "alpha")


formats = st.one_of(
    st.just({"format": "png"}),
    st.fixed_dictionaries({"format": st.just("webp")}, optional={"quality": st.integers(1, 100)}),
    st.fixed_dictionaries({"format": st.just("jpeg")}, optional={"quality": st.integers(1, 100)}),
)
common = st.fixed_dictionaries(
    {"output": formats, "num": st.integers(1, 2)},
    optional={
        "priority": st.sampled_from(("interactive", "standard", "bulk")),
        "deadline_s": st.just(600),
        "metadata": st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.booleans(), st.text(max_size=9)), max_size=3),
        "checks": st.fixed_dictionaries({}, optional={"max_attempts": st.integers(1, 2), "min_verdict": st.just("warn")}),
    },
)
shadows = st.sampled_from(
    ({}, {"shadow": {}}, {"shadow": {"opacity": 1.0, "softness": 0.0}}, {"shadow": {"type": "cast", "angle_deg": 40}})
)
colours = st.integers(0, 2**24 - 1).map("#{:06x}".format)


def refusal_of(mask: Marked) -> str | None:
    """How a mask must be refused, at the door."""
    if not mask.has_alpha:
        return "mask_has_no_alpha"
    if not mask.edited.any():
        return "mask_empty"
    return "mask_full" if mask.edited.all() else None


def grown(mask: Marked, default_px: int) -> Array:
    """What is edited: all within ``grow_px`` of what is marked; by default, what is marked alone where growing leaves no square beyond it."""
    px = mask.options.get("grow_px")
    if px is None:
        squares = cv2.dilate(mask.edited.astype(np.uint8), np.ones((2 * default_px + 1, 2 * default_px + 1), np.uint8))
        px = 0 if squares.all() else default_px
    distance = cv2.distanceTransform((~mask.edited).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance <= px + 1e-3)


def pixels(data: bytes, mode: str = "RGBA") -> Array:
    """The pixels of a file in ``mode``."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert(mode))


def ended(service: Api, request: dict[str, Any], **parts: bytes) -> dict[str, Any]:
    """The job, once it has ended; or the problem. Whatever else it is, it is no 5xx and not stuck."""
    answer = service.post(request, wait_s=60, **parts)  # type: ignore[arg-type]  # no part is named wait_s
    assert answer.status_code in (200, 422), answer.text
    found: dict[str, Any] = answer.json()
    event(found.get("code") or f"{found['status']} {(found['error'] or {}).get('code', '')}")
    return found


def asked(options: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request with ``options``, that also returns its layers."""
    request = {"image": "file:photo", **{name: value for name, value in options.items() if name != "num"}, **fields}
    return {**request, "output": {**options["output"], "layers": True}}


def assert_outputs(service: Api, job: dict[str, Any], size: tuple[int, int], count: int, before: Array, kept: Array) -> None:
    """``count`` outputs of ``size``; where the format is lossless, the kept pixels are those of ``before``."""
    assert job["status"] == "succeeded", job["error"]
    assert len(job["outputs"]) == count
    for number, output in enumerate(job["outputs"]):
        assert (output["width"], output["height"]) == size
        assert (output["report"]["preserved"]["changed_pixels"], output["report"]["preserved"]["kept_pixels"]) == (0, kept.sum())
        region = pixels(httpx.get(output["layers"]["mask"]).raise_for_status().content, "L")
        np.testing.assert_array_equal(region == 0, kept)
        data = service.output(job, number)
        after = pixels(data)
        assert after.shape[1::-1] == size
        if output["format"] == "png" or (output["format"] == "webp" and "quality" not in job["recipe"]["output"]):
            np.testing.assert_array_equal(after[kept], before[kept])


def failed_as_asked(job: dict[str, Any]) -> bool:
    """Whether a job failed because its request wanted a better result than there was."""
    return bool(job["status"] == "failed" and job["error"]["code"] == "checks_not_met")


@examples(24)
@given(data=st.data(), picture=pictures(), options=common)
def test_erase_edits_what_is_marked_and_keeps_the_rest(
    service: Api, data: st.DataObject, picture: Image.Image, options: dict[str, Any]
) -> None:
    """For every picture, mask and option, erase edits the mask grown by `grow_px` and nothing else, or the mask is refused by its code."""
    mask = data.draw(masks(picture.size))
    request = asked(options, operation="erase", mask="file:mask", mask_options=mask.options, num_images=options["num"])
    job = ended(service, request, photo=png(picture), mask=mask.file)
    if (code := refusal_of(mask)) is not None:
        assert (job.get("code"), job.get("field")) == (code, "mask")
    elif (edited := grown(mask, 8)).all():
        assert (job["status"], job["error"]["code"], job["error"]["field"]) == ("failed", "mask_full", "mask")
    elif not failed_as_asked(job):
        assert_outputs(service, job, picture.size, options["num"], pixels(png(picture)), ~edited)


ANCHORS = {
    f"{row}_{column}".strip("_") or "center": (across, down)
    for down, row in ((0, "top"), (1, ""), (2, "bottom"))
    for across, column in ((0, "left"), (1, ""), (2, "right"))
}


@examples(15)
@given(data=st.data(), picture=pictures(), options=common)
def test_outpaint_keeps_the_picture_where_it_was_put(
    service: Api, data: st.DataObject, picture: Image.Image, options: dict[str, Any]
) -> None:
    """For every picture and extension the result has the size that was asked for, with the picture in its place, or names what is too small."""
    width, height = picture.size
    if data.draw(st.booleans()):
        left, right, top, bottom = (data.draw(st.sampled_from((0, 1, 2, 17, 90))) for _ in range(4))
        fields: dict[str, Any] = {"expand": {"left": left, "right": right, "top": top, "bottom": bottom}}
        wide, high = width + left + right, height + top + bottom
        refused = "expand" if (wide, high) == picture.size else None
    else:
        wide, high = data.draw(st.integers(max(width - 1, 1), width + 120)), data.draw(st.integers(max(height - 1, 1), height + 120))
        anchor = data.draw(st.sampled_from(sorted(ANCHORS)))
        fields = {"canvas": {"width": wide, "height": high, "anchor": anchor}}
        left, top = ((wide - width) * ANCHORS[anchor][0] // 2, (high - height) * ANCHORS[anchor][1] // 2)
        refused = "canvas" if wide < width or high < height or (wide, high) == picture.size else None
    job = ended(service, asked(options, operation="outpaint", num_images=options["num"], **fields), photo=png(picture))
    if refused:
        assert (job.get("code"), job.get("field")) == ("invalid_request", refused)
    elif not failed_as_asked(job):
        before, kept = np.zeros((high, wide, 4), np.uint8), np.zeros((high, wide), bool)
        before[top : top + height, left : left + width] = pixels(png(picture))
        kept[top : top + height, left : left + width] = True
        assert_outputs(service, job, (wide, high), options["num"], before, kept)


@examples(24)
@given(data=st.data(), picture=pictures(), options=common, colour=colours, shadow=shadows)
def test_replace_background_keeps_what_the_mask_leaves(
    service: Api, data: st.DataObject, picture: Image.Image, options: dict[str, Any], colour: str, shadow: dict[str, Any]
) -> None:
    """For every picture and mask, what the mask leaves is kept exactly and all else is edited, or the mask is refused by its code."""
    mask = data.draw(masks(picture.size))
    checks = {"min_verdict": "warn"} if "checks" in options else {}
    options = {**options, "checks": checks}
    request = asked(
        options, operation="replace_background", mask="file:mask", mask_options=mask.options, background={"color": colour}, **shadow
    )
    job = ended(service, request, photo=png(picture), mask=mask.file)
    if (code := refusal_of(mask)) is not None:
        assert (job.get("code"), job.get("field")) == (code, "mask")
    elif (edited := grown(mask, 0)).all():
        assert (job["status"], job["error"]["code"], job["error"]["field"]) == ("failed", "mask_full", "mask")
    elif not failed_as_asked(job):
        before = pixels(png(picture))
        assert_outputs(service, job, picture.size, 1, before, ~edited & (before[..., 3] == 255))
