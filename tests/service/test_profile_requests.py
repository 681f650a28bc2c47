"""Requests that name a profile: what it adds, and what gives way."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api_schemas.errors import Invalid
from api_schemas.models import EMBEDDED_MODELS, ModelInfo
from api_schemas.requests import JobRequest, job_request
from profiles.catalogue import profiles
from service.resolve import resolve, with_profile

MODELS = [ModelInfo(card=card, workers=("w",)) for card in EMBEDDED_MODELS]
WHITE = {"color": "#ffffff"}


def asked(operation: str = "replace_background", profile: str = "amazon_main", **fields: Any) -> JobRequest:
    """A request as a caller sends it."""
    return job_request.validate_python({"operation": operation, "image": "upload:any", "profile": profile, **fields})


def merged(operation: str = "replace_background", profile: str = "amazon_main", **fields: Any) -> dict[str, Any]:
    """What it becomes, without what nobody gave."""
    return with_profile(asked(operation, profile, **fields)).model_dump(mode="json", exclude_unset=True)


@pytest.mark.parametrize(
    ("profile", "operation"), [(each.name, operation) for each in profiles().values() for operation in each.request], ids=str
)
def test_a_profile_alone_makes_a_whole_request(profile: str, operation: str) -> None:
    """Its fields are those of the data file; such a request resolves, and once more to the same: a repetition takes nothing anew."""
    first = merged(operation, profile)
    assert {field: first[field] for field in first if field not in ("operation", "image", "profile")} == profiles()[profile].request[
        first["operation"]
    ]
    resolved, _ = resolve(asked(operation, profile), MODELS)
    assert resolve(resolved, MODELS, is_repeat=True)[0] == resolved


@pytest.mark.parametrize(
    ("fields", "becomes"),
    [
        ({"background": {"color": "#eee"}}, {"background": {"color": "#eeeeee"}}),
        (
            {"background": {"gradient": {"start": "#fff", "end": "#000"}}},
            {"background": {"gradient": {"start": "#ffffff", "end": "#000000"}}},
        ),
        ({"placement": {"align": "bottom"}}, {"placement": {"fill": 0.9, "align": "bottom"}}),
        ({"placement": {"fill": 0.5}}, {"placement": {"fill": 0.5}}),
        ({"placement": None}, {"placement": None}),
        ({"output": {"format": "jpeg", "quality": 80}}, {"output": {"quality": 80, "width": 1600, "max_bytes": 10_000_000}}),
        ({"output": {"format": "webp"}}, {"output": {"format": "webp", "quality": 95, "width": 1600}}),
        ({"output": {"max_bytes": None}}, {"output": {"max_bytes": None, "format": "jpeg", "quality": 95}}),
    ],
    ids=["color", "gradient", "align", "fill", "no_placement", "quality", "webp", "null"],
)
def test_what_is_given_is_kept_and_the_rest_is_the_profiles(fields: dict[str, Any], becomes: dict[str, Any]) -> None:
    """Parts of output and placement are merged one by one, a background is given as a whole, and a null is an answer."""
    found = merged(**fields)
    for field, value in becomes.items():
        if isinstance(value, dict) and field != "background":
            assert found[field].items() >= value.items()
        else:
            assert found[field] == value


def test_a_prompt_takes_the_place_of_the_background() -> None:
    """Of two fields that exclude each other the profile's gives way."""
    found = merged(prompt="dark wooden table")
    assert "background" not in found
    assert found["output"]["width"] == 1600


def test_an_extension_of_ones_own_takes_the_place_of_the_canvas() -> None:
    """The file is still of the profile's size."""
    found = merged("outpaint", "instagram_portrait", expand={"top": 100})
    assert "canvas" not in found
    assert (found["output"]["width"], found["output"]["height"], found["output"]["fit"]) == (1080, 1350, "cover")


def test_a_size_of_ones_own_takes_the_place_of_all_of_the_profiles_size() -> None:
    """One side alone keeps the ratio, as without a profile."""
    found = merged("outpaint", "instagram_portrait", output={"width": 800})["output"]
    assert found == {"format": "jpeg", "quality": 92, "width": 800, "max_bytes": 8_000_000}


def test_png_has_neither_quality_nor_a_limit_of_bytes() -> None:
    """What has no meaning for the format that was asked for is left out instead of refused."""
    assert merged(output={"format": "png"})["output"] == {"format": "png", "width": 1600, "height": 1600}


def test_a_picture_that_is_to_cover_is_not_placed() -> None:
    """The two exclude each other."""
    assert "placement" not in merged(output={"width": 900, "height": 900, "fit": "cover"})


@pytest.mark.parametrize(
    ("operation", "profile", "told"),
    [
        ("remove_background", "amazon_main", "amazon_main is not for remove_background; it is for replace_background"),
        ("outpaint", "ebay", "ebay is not for outpaint"),
        ("replace_background", "etsy", "no profile 'etsy'; there are amazon_main"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(operation: str, profile: str, told: str) -> None:
    """The error names the field, and what would do."""
    with pytest.raises(Invalid, match=told) as raised:
        with_profile(asked(operation, profile))
    assert raised.value.field == "profile"


@pytest.mark.parametrize(
    ("operation", "profile", "field"), [("replace_background", "ebay", "background"), ("outpaint", "instagram_portrait", "canvas")]
)
def test_a_null_in_place_of_what_must_be_given_is_silence(operation: str, profile: str, field: str) -> None:
    """There is no picture without a background, nor an extension without a size: the profile's is taken."""
    assert merged(operation, profile, **{field: None})[field] == profiles()[profile].request[asked(operation, profile).operation][field]


@pytest.mark.parametrize("operation", ["inpaint", "erase"])
def test_other_operations_have_no_profile(operation: str) -> None:
    """They keep the photo's shape: a profile is an unknown field there."""
    with pytest.raises(ValidationError, match="profile"):
        asked(operation, mask="upload:any", **({"prompt": "a ball"} if operation == "inpaint" else {}))


def test_two_backgrounds_are_refused_with_a_profile_too() -> None:
    """A profile gives what is missing, and settles nothing."""
    with pytest.raises(ValidationError, match="exactly one of prompt and background"):
        asked(prompt="table", background=WHITE)
