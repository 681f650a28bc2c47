"""What an error says of a field that there is not, and how colours and formats may be written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Api
from PIL import ImageColor
from pydantic import ValidationError

from api_schemas.colors import NAMES, parse_color
from api_schemas.requests import job_request
from service.idempotency import job_digest
from service.sources import Sent

REPLACE: dict[str, Any] = {"operation": "replace_background", "image": "upload:upl_01JD0000000000000000000000", "background": "white"}
ERASE: dict[str, Any] = {"operation": "erase", "image": "upload:upl_01JD0000000000000000000000", "mask": "x"}
CUT_OUT: dict[str, Any] = {"operation": "remove_background", "image": "upload:upl_01JD0000000000000000000000"}


@pytest.mark.parametrize(
    ("request_of", "more", "hint"),
    [
        (REPLACE, {"colour": "white"}, "did you mean background.color?"),
        (REPLACE, {"background_color": "white"}, "did you mean background.color?"),
        (REPLACE, {"background": {"colour": "white"}}, "did you mean background.color?"),
        (REPLACE, {"output": {"qualty": 3}}, "did you mean output.quality?"),
        (REPLACE, {"format": "jpeg"}, "did you mean output.format?"),
        (REPLACE, {"webhook_url": "x"}, "did you mean webhook.url?"),
        (REPLACE, {"background": {"image": "x", "colour": "white"}}, "did you mean background.color?"),
        (ERASE, {"feather": 3}, "did you mean mask_options.feather_px?"),
        (ERASE, {"numImages": 3}, "did you mean num_images?"),
        (ERASE, {"loras": [{"name": "x", "weigth": 1}]}, "did you mean loras.weight?"),
        (ERASE, {"expand": {"left": 3}}, "outpaint has it"),
        (CUT_OUT, {"mask": "x"}, "did you mean product_mask? (inpaint, erase, replace_background have it)"),
        (CUT_OUT, {"strength": 1}, "inpaint, erase, outpaint, replace_background have it"),
        (
            CUT_OUT,
            {"zzz": 1},
            "there are: image, model, output, priority, deadline_s, webhook, metadata, operation, checks, product_mask, placement, profile, subject_model",
        ),
    ],
)
def test_an_unknown_field_is_told_what_may_be_meant(api: Api, request_of: dict[str, Any], more: dict[str, Any], hint: str) -> None:
    """The nearest field, or the operations that have it, or all that there are."""
    answer = api.post({**request_of, **more})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_field")
    assert answer.json()["detail"] == f"there is no such field; {hint}"


@pytest.mark.parametrize("more", [{"gradient": {"start": "white", "end": "grey"}}, {"image": "https://example.com/x.png"}])
def test_a_field_that_does_not_go_with_the_others_is_told_as_such(api: Api, more: dict[str, Any]) -> None:
    """Two kinds of background at once: the hint is not the field itself, and names what there is."""
    answer = api.post({**REPLACE, "background": {"color": "white", **more}})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_field")
    assert answer.json()["detail"].startswith("there is no such field beside the others here; there are: ")


def test_other_bodies_are_told_of_their_own_fields(api: Api) -> None:
    """A repetition takes fields of its own alone, and those are named; a long name is no burden."""
    job = "job_01JD0000000000000000000000"
    answer = api.http.post(f"/v1/jobs/{job}/repeat", json={"sed": 3})
    assert answer.json()["detail"] == "there is no such field; did you mean seed?"
    assert api.http.post(f"/v1/jobs/{job}/repeat", json={"x" * 100_000: 3}).json()["code"] == "unknown_field"


def read(request: dict[str, Any]) -> Any:
    """A request as the API reads it."""
    return job_request.validate_json(json.dumps(request), strict=True)


def test_colours_have_their_css_names() -> None:
    """The names are those of CSS, in any case, each with CSS's colour."""
    # By the function: the table behind it takes up what was asked of it.
    assert {name: ImageColor.getrgb(name) for name in ImageColor.colormap} == {
        name: ImageColor.getrgb(colour) for name, colour in NAMES.items()
    }
    assert parse_color("RebeccaPurple") == "#663399"
    assert parse_color("#fA0") == "#ffAA00"
    for text in ("", "#ffff", "#12345g", "white ", "rgb(0,0,0)", "#fff\n"):
        with pytest.raises(ValueError, match="CSS colour name"):
            parse_color(text)
    with pytest.raises(ValueError, match="remove_background"):
        parse_color("Transparent")


@pytest.mark.parametrize("background", ["white", "#fff", {"color": "White"}, {"color": "#ffffff"}])
def test_a_colour_is_the_same_however_it_is_written(background: Any) -> None:
    """A name, its digits and the short form are one request to idempotency keys, and one recipe."""
    request = read({**REPLACE, "background": background})
    assert request.model_dump(mode="json")["background"] == {"color": "#ffffff"}
    assert job_digest(Sent(request, {}, {})) == job_digest(Sent(read(REPLACE), {}, {}))


def test_gradients_take_names_too() -> None:
    """Both ends of a gradient may be named."""
    gradient = read({**REPLACE, "background": {"gradient": {"start": "snow", "end": "grey"}}}).background.gradient
    assert (gradient.start, gradient.end) == ("#fffafa", "#808080")


def test_jpg_is_jpeg() -> None:
    """The ending that files have is taken, is the same request, and may have a quality."""
    request = read({**REPLACE, "output": {"format": "jpg", "quality": 80}})
    assert request.output.format == "jpeg"
    assert job_digest(Sent(request, {}, {})) == job_digest(Sent(read({**REPLACE, "output": {"format": "jpeg", "quality": 80}}), {}, {}))
    with pytest.raises(ValidationError, match="'png', 'jpeg' or 'webp'"):
        read({**REPLACE, "output": {"format": "JPG"}})
