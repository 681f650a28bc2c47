"""The data files of the profiles, and what is no profile."""

from __future__ import annotations

from importlib.resources import files

import pytest

from api_schemas.errors import Invalid
from profiles.catalogue import profile, profiles, read

EBAY = files("profiles").joinpath("data/ebay.toml").read_text(encoding="utf-8")


def test_every_data_file_is_a_profile() -> None:
    """All five are there, each in the file of its name."""
    assert set(profiles()) == {"amazon_main", "ebay", "google_shopping", "instagram_portrait", "shopify_square"}
    assert len(profiles()) == len([entry for entry in files("profiles").joinpath("data").iterdir() if entry.name.endswith(".toml")])


def test_what_is_published_was_read_at_the_place_itself() -> None:
    """A rule that counts as published has a source on a host of the place; a blog is a report."""
    hosts = {
        "amazon_main": "amazon.com",
        "ebay": "ebay.",
        "google_shopping": "google.com",
        "instagram_portrait": "facebook.com",
        "shopify_square": "shopify.com",
    }
    for each in profiles().values():
        assert hosts[each.name] in each.source
        for rule in each.rules:
            host = rule.source.split("/")[2]
            assert (hosts[each.name] in host) == (rule.certainty != "reported"), (each.name, rule.id)
            assert rule.date <= each.read


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("min = 500", 'min = "500"', "valid integer"),
        ("min = 500", "min = 500\nmaximum = 900", "Extra inputs"),
        ("min = 500", "", "min, max or both"),
        ("min = 500", "min = 500\nmax = 400", "min is larger than max"),
        ('side = "longest"\nmin = 500', 'side = "diagonal"\nmin = 500', "'longest', 'shortest', 'width' or 'height'"),
        ('id = "best_size"', 'id = "size"', "two rules have the id size"),
        ('kind = "bytes"', 'kind = "weight"', "does not match any of the expected tags"),
        ('certainty = "reported"', 'certainty = "likely"', "'published', 'reported' or 'remembered'"),
        ("date = 2026-02-13", 'date = "last year"', "valid date"),
        ('source = "https://www.ebay.com', 'source = "http://www.ebay.com', "should match pattern"),
        ('name = "ebay"', 'name = "etsy"', "holds the profile etsy"),
        ("[[rules]]", "[[rules]", "is no profile"),
        ("[request.replace_background]", "[request.embellish]", "request.embellish"),
        ('background = { color = "#ffffff" }', "", "exactly one of prompt and background"),
        ("width = 1600", "breadth = 1600", "output.breadth"),
        ("quality = 92, width = 1600", 'quality = 92, pad_color = "#fff", width = 1600', "pad_color has no meaning here"),
    ],
)
def test_a_file_that_is_no_profile_says_why(before: str, after: str, told: str) -> None:
    """Nothing is guessed: a number in quotes, an unknown field, an empty range, a second rule of one name, and what else is wrong."""
    assert before in EBAY
    with pytest.raises(ValueError, match=r"ebay\.toml") as raised:
        read("ebay.toml", EBAY.replace(before, after))
    assert told in str(raised.value)


def test_an_unknown_profile_is_answered_with_the_known() -> None:
    """The error names the field and the profiles that there are."""
    with pytest.raises(Invalid, match="amazon_main, ebay") as raised:
        profile("etsy")
    assert raised.value.field == "profile"
