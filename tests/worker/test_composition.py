"""From inputs to outputs without a queue: what is kept is kept, whatever the mask, the size and the mode."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import pixels_of, png
from hypothesis import event, given, settings
from hypothesis import strategies as st
from odd_files import DISPLAY_P3, saved
from PIL import Image
from planning import plan_of, rounds_of

from api_schemas.errors import EngineFailed, MaskFull, OutfillError
from api_schemas.jobs import JobSpec
from api_schemas.models import BACKDROP, EXEMPLAR, U2NETP, ModelCard
from worker.engines.backdrop import BackdropEngine
from worker.engines.base import Backdrop, begin
from worker.images.blend import composite
from worker.images.codec import Frame, into_space
from worker.intake import Plan
from worker.outputs import Rendered
from worker.report import preserved

Array = np.ndarray[Any, Any]
MODES = {"L": 1, "RGB": 3, "RGBA": 4}
sides = st.integers(1, 70)


def painted_with_noise(spec: JobSpec, plan: Plan) -> Rendered:
    """Render with a model that repaints every pixel of what it was shown."""
    noise, rounds = np.random.default_rng(0), rounds_of(spec, plan)
    while rounds.requests:
        rounds.take([noise.integers(0, 256, request.image.shape, dtype=np.uint8) for request in rounds.requests])
    (rendered,) = rounds.rendered
    return rendered


def random_picture(seed: int, width: int, height: int, mode: str) -> Array:
    picture: Array = np.random.default_rng(seed).integers(0, 256, (height, width, MODES[mode]), dtype=np.uint8)
    return picture[..., 0] if mode == "L" else picture


def random_mask(seed: int, width: int, height: int) -> Array:
    """A few soft and hard boxes, at least one pixel kept and one edited."""
    source = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(source.integers(1, 4)):
        top, left = source.integers(0, height), source.integers(0, width)
        mask[top : top + source.integers(1, height + 1), left : left + source.integers(1, width + 1)] = source.choice([40, 128, 255])
    return mask


def as_rgb(data: bytes | Array, mode: str) -> Array:
    image = Image.open(io.BytesIO(data)) if isinstance(data, bytes) else Image.fromarray(data)
    return np.asarray(image.convert("RGBA" if mode == "RGBA" else "RGB"))


@settings(max_examples=150, deadline=None)
@given(
    width=sides,
    height=sides,
    mode=st.sampled_from(sorted(MODES)),
    seed=st.integers(0, 10**6),
    grow=st.integers(0, 9),
    feather=st.integers(0, 9),
    operation=st.sampled_from(["inpaint", "erase"]),
    multiple=st.sampled_from([1, 8]),
)
def test_for_every_mask_and_size_what_is_kept_equals_the_input(
    width: int, height: int, mode: str, seed: int, grow: int, feather: int, operation: str, multiple: int
) -> None:
    """For every PNG output, pixels outside the returned edit region equal the input's, and the size is the input's."""
    picture, mask = random_picture(seed, width, height, mode), random_mask(seed, width, height)
    if mode == "RGBA":
        picture[0, 0, 3] = 255  # a file that is translucent throughout is another promise
    options = {"grow_px": grow, "feather_px": feather}
    request = {"operation": operation, "image": "image", "mask": "mask", "mask_options": options, "output": {"layers": True}, "seed": 1}
    if operation == "inpaint":
        request["prompt"] = "x"
    card = EXEMPLAR.model_copy(update={"native_size": 48, "size_multiple": multiple, "max_upscale": 2.0})
    try:
        spec, plan = plan_of(request, card, {"image": png(picture), "mask": png(mask)})
    except MaskFull:
        assert grow > 0 or (mask > 16).all()
        event("the mask grew over everything")
        return
    rendered = painted_with_noise(spec, plan)
    before, after = as_rgb(picture, mode), as_rgb(rendered.data, mode)
    kept = pixels_of(rendered.layers["mask"]) == 0
    assert before.shape == after.shape
    np.testing.assert_array_equal(before[kept], after[kept])
    fill = as_rgb(rendered.layers["fill"], "RGBA")
    if mode == "RGBA" and operation == "erase":
        over = np.where(kept[..., None], before, fill)
    elif mode == "RGBA":
        over = np.asarray(Image.alpha_composite(*(Image.fromarray(np.ascontiguousarray(each)) for each in (before, fill))))
    else:
        over = composite(before, *(np.ascontiguousarray(each) for each in (fill[..., :3], fill[..., 3])))
    np.testing.assert_array_equal(over, after)
    assert kept[mask == 0].any() or grow > 0  # what is kept is not shrunk to nothing by itself
    if grow == 0:
        assert kept[mask <= 16].all()


@settings(max_examples=30, deadline=None)
@given(
    width=sides,
    height=sides,
    mode=st.sampled_from(sorted(MODES)),
    left=st.integers(0, 20),
    right=st.integers(0, 20),
    top=st.integers(0, 20),
    bottom=st.integers(1, 20),
)
def test_outpaint_keeps_every_input_in_its_place(width: int, height: int, mode: str, left: int, right: int, top: int, bottom: int) -> None:
    """For every size and extension the input stands unchanged where it was put."""
    picture = random_picture(1, width, height, mode)
    request = {"operation": "outpaint", "image": "image", "expand": {"left": left, "right": right, "top": top, "bottom": bottom}, "seed": 1}
    spec, plan = plan_of(request, EXEMPLAR, {"image": png(picture)})
    after = as_rgb(painted_with_noise(spec, plan).data, mode)
    assert after.shape[:2] == (height + top + bottom, width + left + right)
    np.testing.assert_array_equal(after[top : top + height, left : left + width], as_rgb(picture, mode))


def test_a_transparent_product_photo_brings_its_own_mask() -> None:
    """Where the photo has a real alpha channel, that is the product: opaque pixels are kept, transparent ones are background."""
    picture = random_picture(2, 40, 30, "RGBA")
    picture[..., 3] = 0
    picture[10:20, 10:30, 3] = 255
    request = {"operation": "replace_background", "image": "image", "background": {"color": "#00ff00"}}
    spec, plan = plan_of(request, BACKDROP, {"image": png(picture)})
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:] = (0, 255, 0)
    rounds = rounds_of(spec, plan)
    rounds.take([pixels])
    (rendered,) = rounds.rendered
    output = as_rgb(rendered.data, "RGB")
    np.testing.assert_array_equal(output[10:20, 10:30], picture[10:20, 10:30, :3])
    assert (output[0, 0] == (0, 255, 0)).all()


def soft_disc(side: int, grey: int, hidden: int) -> Array:
    """A grey disc in RGBA whose alpha falls over 20 pixels; clear pixels hide another grey."""
    rows, columns = np.mgrid[:side, :side] - side / 2
    alpha = np.clip((0.3 * side - np.hypot(rows, columns)) / 20 * 255, 0, 255).astype(np.uint8)
    rgb = np.where(alpha > 0, grey, hidden).astype(np.uint8)
    return np.dstack([rgb, rgb, rgb, alpha])


@pytest.mark.parametrize("hidden", [0, 255], ids=["black behind", "white behind"])
def test_a_cut_out_keeps_its_colours_on_another_background(hidden: int) -> None:
    """A soft-edged cut-out laid on white is what any compositor makes of it: no halo, whatever its clear pixels hide."""
    picture = soft_disc(200, 120, hidden)
    request = {"operation": "replace_background", "image": "image", "background": {"color": "#ffffff"}}
    spec, plan = plan_of(request, BACKDROP, {"image": png(picture)})
    rounds = rounds_of(spec, plan)
    rounds.take([np.full((200, 200, 3), 255, np.uint8)])
    weight = picture[..., 3:] / 255
    expected = 120 * weight + 255 * (1 - weight)
    assert np.abs(as_rgb(rounds.rendered[0].data, "RGB") - expected).max() <= 1


def cut_out(opacity: int, side: int = 160) -> Array:
    """A grey mug with a handle, ``opacity`` opaque at most, that stands on the lower border; clear pixels hide magenta."""
    alpha = np.zeros((side, side), np.uint8)
    alpha[40:, 30:100] = 255
    cv2.circle(alpha, (104, 90), 26, 255, 10)
    alpha = (cv2.GaussianBlur(alpha, (0, 0), 1) * (opacity / 255)).astype(np.uint8)
    return np.dstack(
        [np.where(alpha > 0, np.uint8(level), np.uint8(hidden)) for level, hidden in ((90, 255), (90, 0), (90, 255))] + [alpha]
    )


def painted(request: dict[str, Any], card: ModelCard, inputs: dict[str, bytes], grey: int) -> Array:
    """The output, RGBA, where the model paints one grey over all that it may."""
    spec, plan = plan_of({"image": "image", **request}, card, inputs)
    rounds = rounds_of(spec, plan)
    if not rounds.requests:
        rounds.take([])
    while rounds.requests:
        rounds.take([np.where(each.mask[..., None] > 0, np.uint8(grey), each.image) for each in rounds.requests])
    return as_rgb(rounds.rendered[0].data, "RGBA").astype(int)


@pytest.mark.parametrize("opacity", [255, 224])
def test_a_cut_out_is_never_more_opaque_than_its_file(opacity: int) -> None:
    """Removing a cut-out's background leaves it as it is, and another background shows through it as much as any did."""
    picture = cut_out(opacity)
    alone = painted({"operation": "remove_background"}, U2NETP, {"image": png(picture)}, 0)
    assert np.array_equal(alone[..., 3], picture[..., 3])
    assert (alone[picture[..., 3] > 0][:, :3] == 90).all()
    assert (np.ptp(alone[..., :3], axis=2) <= 1).all(), "nothing of the magenta that is hidden"
    request = {"operation": "replace_background", "background": {"color": "#ffffff"}}
    weight = picture[..., 3:] / 255
    for mask in ({}, {"mask": png(np.where(picture[..., 3] > 0, np.uint8(0), np.uint8(255)))}):
        behind = painted({**request, **dict.fromkeys(mask, "mask")}, BACKDROP, {"image": png(picture), **mask}, 255)
        assert np.abs(behind[..., :3] - (90 * weight + 255 * (1 - weight))).max() <= 2


def test_erasing_goes_on_as_opaque_as_what_is_around() -> None:
    """Where a cut-out is erased across its edge the clear side stays clear, and a translucent product as translucent, in its colour."""
    picture = cut_out(224)
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[100:130, 10:60] = 255
    request = {"operation": "erase", "mask": "mask", "mask_options": {"grow_px": 0, "feather_px": 3}}
    seen = round(90 * 224 / 255 + 255 * 31 / 255)  # on white, as a model is shown it
    output = painted(request, EXEMPLAR, {"image": png(picture), "mask": png(mask)}, seen)
    assert (output[105:125, 10:26, 3] == 0).all()
    assert (output[105:125, 36:58, 3] == 224).all()
    assert np.abs(output[105:125, 36:58, :3] - 90).max() <= 1


def test_an_erased_hole_is_closed() -> None:
    """A hole that is its own mask is opaque afterwards, as what is around it."""
    picture = np.full((60, 80, 4), 120, np.uint8)
    picture[..., 3] = 255
    picture[20:40, 30:50, 3] = 0
    request = {"operation": "erase", "mask": "mask", "mask_options": {"polarity": "alpha", "grow_px": 8, "feather_px": 4}}
    output = painted(request, EXEMPLAR, {"image": png(picture), "mask": png(picture)}, 120)
    assert (output == (120, 120, 120, 255)).all()


def test_new_content_is_as_opaque_as_the_file() -> None:
    """What a prompt asks for is as opaque as the file at its most opaque, on its clear pixels too, and looks on white as it was painted."""
    picture = cut_out(224)
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[60:100, 10:70] = 255
    request = {"operation": "inpaint", "prompt": "x", "mask": "mask", "mask_options": {"grow_px": 0, "feather_px": 0}}
    output = painted(request, EXEMPLAR, {"image": png(picture), "mask": png(mask)}, 150)
    assert (output[mask > 0][:, 3] == 224).all()
    on_white = output[mask > 0][:, :3] * (224 / 255) + 255 * (31 / 255)
    assert np.abs(on_white - 150).max() <= 2


def test_a_clear_border_goes_on_clear() -> None:
    """An extension is at each pixel as opaque as the border that it continues: clear, soft or opaque."""
    picture = cut_out(255)
    request = {"operation": "outpaint", "expand": {"left": 30, "bottom": 40}, "seed": 1}
    output = painted(request, EXEMPLAR, {"image": png(picture)}, 90)
    assert (output[:160, :30, 3] == 0).all()
    assert (output[160:, 30:, 3] == picture[-1, :, 3]).all()
    assert {0, 255} < set(np.unique(output[160:, 30:, 3]))
    opaque = output[160:, 30:][output[160:, 30:, 3] == 255]
    assert np.abs(opaque[:, :3] - 90).max() <= 2


def test_a_prompt_beside_a_clear_border_is_refused() -> None:
    """Where all that a prompt would paint is clear, the job fails instead of ignoring it."""
    request = {"operation": "outpaint", "image": "image", "expand": {"left": 30}, "prompt": "a table", "seed": 1}
    with pytest.raises(OutfillError, match="clear goes on as clear") as caught:
        plan_of(request, EXEMPLAR, {"image": png(cut_out(255))})
    assert caught.value.field == "image"


def test_a_background_picture_shows_nothing_that_it_hides() -> None:
    """A background picture with transparency is seen on white."""
    behind = np.full((160, 160, 4), 60, np.uint8)
    behind[:80, :, 3] = 0
    behind[80:, :, 3] = 255
    request = {"operation": "replace_background", "image": "image", "background": {"image": "background.image"}}
    _, plan = plan_of(request, BACKDROP, {"image": png(cut_out(255)), "background.image": png(behind)})
    assert isinstance(plan.recipe, Backdrop)
    assert plan.recipe.picture is not None
    assert (plan.recipe.picture[:80] == 255).all()
    assert (plan.recipe.picture[80:] == 60).all()


def test_clear_pixels_that_a_mask_keeps_show_the_new_background() -> None:
    """With a mask that keeps more than the cut-out, what is clear is background all the same: hidden colours do not come to light."""
    picture, mask = soft_disc(200, 120, 0), np.zeros((200, 200), np.uint8)
    mask[:20] = 255
    request = {"operation": "replace_background", "image": "image", "mask": "mask", "background": {"color": "#ffffff"}}
    spec, plan = plan_of(request, BACKDROP, {"image": png(picture), "mask": png(mask)})
    rounds = rounds_of(spec, plan)
    rounds.take([np.full((200, 200, 3), 255, np.uint8)])
    output = as_rgb(rounds.rendered[0].data, "RGB")
    assert (output[picture[..., 3] == 0] == 255).all()
    assert (output[picture[..., 3] == 255] == 120).all()


@pytest.mark.parametrize("feather", [0, 8, 32])
def test_hidden_colours_do_not_pull_at_a_fill(feather: int) -> None:
    """A fill over clear pixels has the colours that the model painted, whatever the clear pixels hide, and no border there is called a seam."""
    picture, mask = soft_disc(300, 220, 0), np.zeros((300, 300), np.uint8)
    mask[20:200, 20:120] = 255
    options = {"grow_px": 0, "feather_px": feather}
    request = {"operation": "inpaint", "prompt": "x", "image": "image", "mask": "mask", "mask_options": options, "seed": 1}
    spec, plan = plan_of(request, EXEMPLAR, {"image": png(picture), "mask": png(mask)})
    rounds = rounds_of(spec, plan)
    rounds.take([np.where(each.mask[..., None] > 0, np.uint8(220), each.image) for each in rounds.requests])
    output = as_rgb(rounds.rendered[0].data, "RGBA")
    painted = (mask > 0) & (picture[..., 3] == 0) & (output[..., 3] > 0)
    assert np.abs(output[painted][:, :3].astype(int) - 220).max() <= 2
    assert not rounds.rendered[0].report.verdict.reasons


@pytest.mark.parametrize("kind", ["color", "gradient", "picture"])
def test_a_background_has_its_colours_in_the_space_of_the_photo(kind: str) -> None:
    """On a photo in Display P3 a colour, a gradient and a picture look as asked for: taken back to sRGB they are the same, to two levels."""
    photo = random_picture(2, 40, 30, "RGBA")
    photo[..., 3] = 0
    photo[10:20, 10:30, 3] = 255
    wide = saved(photo, icc_profile=DISPLAY_P3)
    asked = (32, 96, 192)
    plain = np.full((30, 40, 3), asked, np.uint8)
    background = {
        "color": {"color": "#2060c0"},
        "gradient": {"gradient": {"start": "#2060c0", "end": "#2060c0"}},
        "picture": {"image": "background.image"},
    }[kind]
    request = {"operation": "replace_background", "image": "image", "background": background}
    spec, plan = plan_of(request, BACKDROP, {"image": wide, **({"background.image": png(plain)} if kind == "picture" else {})})
    engine, rounds = BackdropEngine(), rounds_of(spec, plan)
    slots = begin(engine, rounds.requests)
    engine.step(slots)
    rounds.take(engine.finish(slots))
    output = Image.open(io.BytesIO(rounds.rendered[0].data))
    assert output.info["icc_profile"] == DISPLAY_P3
    pixels = np.asarray(output.convert("RGB"))
    assert not np.array_equal(pixels[0, 0], asked)
    back = into_space(np.ascontiguousarray(pixels[:1, :1]), DISPLAY_P3, None)
    assert np.abs(back[0, 0].astype(int) - asked).max() <= 2


def test_a_photo_without_a_subject_fails_with_a_code() -> None:
    """Where nothing stands out, the job fails as subject_not_found."""
    flat = np.full((64, 64, 3), 90, np.uint8)
    with pytest.raises(OutfillError) as caught:
        plan_of({"operation": "remove_background", "image": "image"}, U2NETP, {"image": png(flat)})
    assert caught.value.code == "subject_not_found"


def test_a_mask_that_grows_over_everything_is_refused() -> None:
    """A mask that leaves nothing once it is grown fails the job as a full mask."""
    mask = np.zeros((10, 10), np.uint8)
    mask[5, 5] = 255
    request = {"operation": "erase", "image": "image", "mask": "mask", "mask_options": {"grow_px": 20, "feather_px": 0}}
    with pytest.raises(MaskFull) as caught:
        plan_of(request, EXEMPLAR, {"image": png(random_picture(0, 10, 10, "RGB")), "mask": png(mask)})
    assert caught.value.field == "mask"


def test_a_changed_kept_pixel_is_withheld() -> None:
    """A result in which one kept pixel differs by one never leaves the worker."""
    picture = random_picture(3, 20, 20, "RGB")
    mask = np.zeros((20, 20), np.uint8)
    mask[5:9, 5:9] = 255
    request = {"operation": "erase", "image": "image", "mask": "mask", "mask_options": {"grow_px": 0, "feather_px": 0}}
    _, plan = plan_of(request, EXEMPLAR, {"image": png(picture), "mask": png(mask)})
    assert preserved(plan.edit, plan.edit.source).max_delta == 0
    changed = picture.copy()
    changed[0, 0, 0] ^= 1
    with pytest.raises(EngineFailed, match="1 pixels outside"):
        preserved(plan.edit, Frame(changed))
