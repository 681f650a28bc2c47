"""``outfill profiles`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from odd_files import saved
from product_shots import Shot
from typer.testing import CliRunner, Result

from profiles.catalogue import profiles
from service.cli import app as outfill

GOOD = saved(Shot(2000, 2000, 0.9).draw(), "JPEG", quality=95)


def run(*arguments: str | Path) -> Result:
    """What ``outfill profiles`` says to it."""
    return CliRunner().invoke(outfill, ["profiles", *map(str, arguments)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that Amazon's rules let pass."""
    path = tmp_path_factory.mktemp("shots") / "good.jpg"
    path.write_bytes(GOOD)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file that is too small for Amazon and grey around its product, with a name that does not tell its format."""
    path = tmp_path / "small.picture"
    path.write_bytes(saved(Shot(400, 400, 0.9, (230, 230, 230)).draw()))
    return path


def test_all_profiles_are_listed() -> None:
    """One line each, with the day on which its rules were read and how they are known; as JSON with the source."""
    lines = run("list").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(profiles())
    assert "2026-11-29" in lines[1]
    assert "16 reported, 1 remembered" in lines[1]
    assert [each["source"] for each in json.loads(run("list", "--json").output)] == [each.source for each in profiles().values()]


def test_a_profile_is_shown_with_every_source() -> None:
    """Its request by operation, and each rule with what it asks, how that is known, when and where."""
    shown = run("show", "google_shopping").output
    assert 'remove_background: {"placement": {"fill": 0.85}' in shown
    for rule in profiles()["google_shopping"].rules:
        line = next(line for line in shown.splitlines() if line.startswith(f"{rule.id} "))
        assert all(part in line for part in (rule.level, rule.text, rule.certainty, rule.date.isoformat(), rule.source))
    assert len(json.loads(run("show", "google_shopping", "--json").output)["rules"]) == len(profiles()["google_shopping"].rules)


def test_a_picture_that_passes_ends_with_0(good: Path) -> None:
    """Every rule has a line; what pixels cannot tell is unchecked, with the reason."""
    checked = run("check", good, "--profile", "amazon_main")
    assert checked.exit_code == 0
    assert checked.output.startswith("amazon_main: passes\n")
    assert "  unchecked  must    no_text" in checked.output
    assert len(checked.output.strip().splitlines()) == 1 + len(profiles()["amazon_main"].rules)


def test_a_rule_that_must_be_kept_and_is_not_ends_with_1(small: Path) -> None:
    """The line of the rule tells what was measured and what is wanted."""
    checked = run("check", small, "--profile", "amazon_main")
    assert checked.exit_code == 1
    assert "amazon_main: fails: 2 failed with the level must, 3 failed with the level should" in checked.output
    (line,) = [line for line in checked.output.splitlines() if " size " in line]
    assert line.split() == ["fail", "must", "size", "400", "(at", "least", "500", "px,", "at", "most", "10000", "px)"]


def test_advice_that_is_not_followed_ends_with_0(small: Path) -> None:
    """Only a rule of level must decides."""
    small.write_bytes(saved(Shot(600, 600).draw(), "JPEG"))
    checked = run("check", small, "--profile", "ebay")
    assert checked.exit_code == 0
    assert "  fail       should  best_size" in checked.output


def test_without_a_profile_all_are_checked(good: Path) -> None:
    """As JSON too; one that fails decides, here Instagram's portrait, which is not square."""
    checked = run("check", good, "--json")
    assert checked.exit_code == 1
    reports = {each["name"]: {rule["rule"]: rule for rule in each["rules"]} for each in json.loads(checked.output)}
    assert list(reports) == list(profiles())
    assert reports["instagram_portrait"]["portrait"] == {
        "rule": "portrait",
        "level": "must",
        "result": "fail",
        "value": 1.0,
        "limit": "0.8",
        "reason": None,
    }
    assert reports["amazon_main"]["white_background"]["result"] == "pass"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# not a picture", "the file is no picture of a kind that is read here: PNG, JPEG"),
        (b"", "the file is no picture"),
        (GOOD[:5000], "the picture cannot be decoded"),
        (None, "No such file or directory"),
    ],
    ids=["text", "empty", "cut_short", "missing"],
)
def test_what_is_no_picture_ends_with_2(tmp_path: Path, content: bytes | None, told: str) -> None:
    """One line that names the file and what is wrong, and no trace of ours."""
    path = tmp_path / "shot.jpg"
    if content is not None:
        path.write_bytes(content)
    checked = run("check", path, "--profile", "ebay")
    assert checked.exit_code == 2
    assert checked.output.startswith(f"{path}: ")
    assert told in checked.output
    assert len(checked.output.splitlines()) == 1


def test_a_directory_is_no_picture(tmp_path: Path) -> None:
    """Nor is it a crash."""
    checked = run("check", tmp_path)
    assert (checked.exit_code, checked.output) == (2, f"{tmp_path}: Is a directory\n")


def test_an_unknown_profile_is_answered_with_the_known(good: Path) -> None:
    """Whether it is to be shown or checked against."""
    for arguments in (("show", "etsy"), ("check", good, "--profile", "etsy")):
        asked = run(*arguments)
        assert asked.exit_code == 2
        assert "no profile 'etsy'" in asked.output
        assert "amazon_main" in asked.output
