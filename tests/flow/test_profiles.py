"""Jobs for a profile, through HTTP: what is delivered is what the place asks for, and the report tells it rule by rule."""

from __future__ import annotations

import io
from typing import Any

import pytest
from conftest import Api
from odd_files import saved
from PIL import Image, ImageDraw
from product_shots import Shot

from profiles.catalogue import profiles
from profiles.check import check
from profiles.picture import read

SIZE = 900
PHOTO = saved(Shot(SIZE, SIZE, 0.6, (120, 130, 110), at=(0.42, 0.55)).draw())


@pytest.fixture(scope="module")
def mask() -> bytes:
    """White where the photo's product is not."""
    picture = Image.new("L", (SIZE, SIZE), 255)
    left, top, size = SIZE * 0.42 - SIZE * 0.3, SIZE * 0.55 - SIZE * 0.3, SIZE * 0.6
    ImageDraw.Draw(picture).ellipse((left, top, left + size, top + size), fill=0)
    return saved(picture)


def replaced(api: Api, mask: bytes, profile: str, **fields: Any) -> dict[str, Any]:
    """An ended job of ``replace_background``."""
    request = {"operation": "replace_background", "image": "file:photo", "mask": "file:mask", "profile": profile, **fields}
    return api.run(request, photo=PHOTO, mask=mask)


def results(job: dict[str, Any]) -> dict[str, str]:
    """Rule to result."""
    return {each["rule"]: each["result"] for each in job["outputs"][0]["report"]["profile"]["rules"]}


@pytest.mark.parametrize("name", list(profiles()))
def test_a_profile_alone_makes_a_picture_that_passes_it(api: Api, mask: bytes, name: str) -> None:
    """Size and format are the profile's, no rule fails, and the file that is delivered passes when it is checked by itself."""
    job = replaced(api, mask, name)
    data, (output,) = api.output(job), job["outputs"]
    wanted = profiles()[name].request["replace_background"]["output"]  # type: ignore[index]  # of a StrEnum's own text
    assert (output["width"], output["height"], output["format"]) == (wanted["width"], wanted["height"], wanted["format"])
    assert output["report"]["profile"]["name"] == name
    assert "fail" not in results(job).values()
    assert list(results(job)) == [rule.id for rule in profiles()[name].rules]
    assert {each.rule: str(each.result) for each in check(profiles()[name], read(data)).rules} == results(job)
    assert job["recipe"]["profile"] == name


def test_what_is_asked_for_against_the_profile_is_done_and_told(api: Api, mask: bytes) -> None:
    """A grey background and a small product are painted as asked, and fail the rules that they break, with what was measured."""
    job = replaced(api, mask, "amazon_main", background={"color": "#f0f0f0"}, placement={"fill": 0.5}, output={"width": 800, "height": 800})
    with Image.open(io.BytesIO(api.output(job))) as picture:
        assert (picture.size, picture.format) == ((800, 800), "JPEG")
        assert picture.getpixel((5, 5)) == (240, 240, 240)
    failed = {each["rule"]: each for each in job["outputs"][0]["report"]["profile"]["rules"] if each["result"] == "fail"}
    assert set(failed) == {"white_background", "fills_frame", "zoom", "best_zoom"}
    assert abs(failed["fills_frame"]["value"] - 0.5) < 0.01
    assert failed["white_background"]["value"] == 0
    assert failed["zoom"] == {
        "rule": "zoom",
        "level": "should",
        "result": "fail",
        "value": 800,
        "limit": "at least 1000 px",
        "reason": None,
    }


def test_a_prompt_may_take_the_place_of_the_background(api: Api, mask: bytes) -> None:
    """The place is kept, the scene is painted, and the product's share is measured by what is known to be the product."""
    job = replaced(api, mask, "google_shopping", prompt="a red wall", model="tiny", steps=2, output={"width": 256, "height": 256})
    found = results(job)
    assert (found["frames_product"], found["white_background"], found["size"]) == ("pass", "fail", "fail")
    assert job["outputs"][0]["report"]["profile"]["name"] == "google_shopping"


def test_a_cut_out_for_a_profile_passes_it(api: Api) -> None:
    """Transparency is a background that Google takes; the product is placed as on white."""
    job = api.run({"operation": "remove_background", "image": "file:photo", "profile": "google_shopping"}, photo=PHOTO)
    with Image.open(io.BytesIO(api.output(job))) as picture:
        assert (picture.size, picture.mode) == ((1500, 1500), "RGBA")
    assert "fail" not in results(job).values()


def test_a_photo_is_extended_to_a_profiles_shape(api: Api) -> None:
    """A square photo becomes a portrait without a canvas being named."""
    job = api.run({"operation": "outpaint", "image": "file:photo", "profile": "instagram_portrait"}, photo=PHOTO)
    with Image.open(io.BytesIO(api.output(job))) as picture:
        assert picture.size == (1080, 1350)
    assert set(results(job).values()) == {"pass"}


def test_without_a_profile_there_is_no_report_of_one(api: Api, mask: bytes) -> None:
    """Null, not an empty list."""
    request = {"operation": "replace_background", "image": "file:photo", "mask": "file:mask", "background": {"color": "#fff"}}
    assert api.run(request, photo=PHOTO, mask=mask)["outputs"][0]["report"]["profile"] is None


def test_a_repetition_is_for_the_same_profile(api: Api, mask: bytes) -> None:
    """With what the caller gave against it: the profile is not laid over it anew."""
    job = replaced(api, mask, "ebay", output={"format": "png"})
    again = api.http.post(f"/v1/jobs/{job['id']}/repeat").raise_for_status().json()
    assert (again["recipe"]["output"], again["recipe"]["profile"]) == (job["recipe"]["output"], "ebay")
    assert job["recipe"]["output"]["format"] == "png"


def test_a_profile_that_is_not_for_the_operation_is_refused(api: Api) -> None:
    """Before anything is stored, with the field's name."""
    answer = api.post({"operation": "remove_background", "image": "file:photo", "profile": "amazon_main"}, photo=PHOTO)
    assert (answer.status_code, answer.json()["field"]) == (422, "profile")
