"""``outfill profiles``: the places that pictures can be made for, what each asks, and whether a file is as it asks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from api_schemas.errors import OutfillError
from api_schemas.profiles import Finding, Profile, ProfileReport, RuleLevel
from profiles import catalogue
from profiles.check import check as check_picture
from profiles.picture import read
from service.columns import print_columns

app = typer.Typer(no_args_is_help=True, help="Profiles of places where product pictures are published (docs/profiles.md).")
_NO_PICTURE = 2
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _profile(name: str) -> Profile:
    try:
        return catalogue.profile(name)
    except OutfillError as error:
        raise typer.BadParameter(str(error)) from error


@app.command("list")
def list_(as_json: AsJson = False) -> None:  # noqa: FBT002 - a flag of the command line
    """List the profiles, with when their rules were last looked up and how those are known."""
    found = catalogue.profiles().values()
    if as_json:
        keys = ("name", "title", "source", "read")
        typer.echo(
            json.dumps([{key: value for key, value in each.model_dump(mode="json").items() if key in keys} for each in found], indent=2)
        )
        return
    rows = [("name", "title", "operations", "read", "rules")]
    for each in found:
        known = Counter(rule.certainty for rule in each.rules)
        told = ", ".join(f"{count} {certainty}" for certainty, count in known.most_common())
        rows.append((each.name, each.title, " ".join(each.request), each.read.isoformat(), told))
    print_columns(rows)


@app.command()
def show(name: Annotated[str, typer.Argument(help="As `outfill profiles list` shows it.")], as_json: AsJson = False) -> None:  # noqa: FBT002
    """Show what a profile puts into a request, and its rules with their sources."""
    profile = _profile(name)
    if as_json:
        typer.echo(profile.model_dump_json(indent=2, exclude_none=True))
        return
    typer.echo(f"{profile.name}: {profile.title}\n{profile.source} (read {profile.read})\n")
    for operation, fields in profile.request.items():
        typer.echo(f"{operation}: {json.dumps(fields)}")
    typer.echo("")
    rows = [("rule", "level", "asks", "known", "date", "source")]
    rows += [(rule.id, rule.level, rule.text, rule.certainty, rule.date.isoformat(), rule.source) for rule in profile.rules]
    print_columns(rows)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A picture: PNG, JPEG, WebP, AVIF, TIFF, BMP, GIF, JPEG 2000, PPM or ICO.")],
    profile: Annotated[str | None, typer.Option(help="Default: all of them.")] = None,
    as_json: AsJson = False,  # noqa: FBT002
) -> None:
    """Check a picture against a profile, rule by rule. Ends with 1 where a rule of level `must` fails, with 2 where there is no picture to check."""
    chosen = list(catalogue.profiles().values()) if profile is None else [_profile(profile)]
    try:
        picture = read(file.read_bytes())
    except (OSError, OutfillError) as error:
        typer.echo(f"{file}: {error.strerror if isinstance(error, OSError) else error}", err=True)
        raise typer.Exit(_NO_PICTURE) from error
    reports = [check_picture(each, picture) for each in chosen]
    if as_json:
        typer.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=2))
    else:
        for each, report in zip(chosen, reports, strict=True):
            _print(each, report)
    raise typer.Exit(0 if all(report.passes for report in reports) else 1)


def _print(profile: Profile, report: ProfileReport) -> None:
    fails = Counter(each.level for each in report.rules if each.result == "fail")
    counts = [f"{fails[level]} failed with the level {level}" for level in RuleLevel if fails[level]]
    typer.echo(f"{profile.name}: {'passes' if report.passes else 'fails'}{': ' * bool(counts)}{', '.join(counts)}")
    print_columns([_row(finding) for finding in report.rules])
    typer.echo("")


def _row(finding: Finding) -> tuple[str, ...]:
    value = "" if finding.value is None else str(finding.value)
    wanted = f"({finding.limit})" if finding.limit else ""
    return f"  {finding.result}", finding.level, finding.rule, value, wanted, finding.reason or ""
