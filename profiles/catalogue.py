"""The profiles that there are: one TOML file each in ``profiles/data``, read once and validated as a whole."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from api_schemas.errors import Invalid
from api_schemas.profiles import Profile


@cache
def profiles() -> Mapping[str, Profile]:
    """All profiles by name, in the order of their names. A file that is no valid profile raises ``ValueError`` with its name."""
    found = {}
    for entry in sorted(files("profiles").joinpath("data").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            profile = read(entry.name, entry.read_text(encoding="utf-8"))
            found[profile.name] = profile
    return MappingProxyType(found)


def read(file: str, text: str) -> Profile:
    """The profile of a data file's ``text``. Raises ``ValueError`` where it is not valid, or has another name than its ``file``."""
    try:
        # By way of JSON, which pydantic reads strictly: "500" is no number there, and a date is one.
        profile = Profile.model_validate_json(json.dumps(tomllib.loads(text), default=str), strict=True)
    except ValueError as error:
        raise ValueError(f"{file} is no profile: {error}") from error
    if file != f"{profile.name}.toml":
        raise ValueError(f"{file} holds the profile {profile.name}; a file has its profile's name")
    return profile


def profile(name: str) -> Profile:
    """The profile of that name. Raises ``Invalid`` that names those that there are."""
    found = profiles().get(name)
    if found is None:
        raise Invalid(f"no profile {name!r}; there are {', '.join(profiles())}", field="profile")
    return found
