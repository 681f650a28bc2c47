"""The worst file of each kind is read or refused within the bounds of any file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz.examined import SLOW_MACHINE
from fuzz.file_trials import Runner
from fuzz.files import Role
from hostile_files import hostile_files, hostile_forms


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """A process that tries them."""
    with Runner() as process:
        yield process


@pytest.mark.parametrize("role", ["background", "mask"])
@pytest.mark.parametrize("name", hostile_files())
def test_a_hostile_file_is_read_or_refused_within_its_bounds(name: str, role: Role, runner: Runner) -> None:
    """The API's check and the worker's decoding are within the CPU of any file and 256 MiB beyond the pixels, and raise nothing but our errors."""
    tried = runner.hostile(name, role)
    assert tried.is_within(SLOW_MACHINE), f"{hostile_files()[name].cost}: {tried.why}"


@pytest.mark.parametrize("name", hostile_forms())
def test_a_hostile_form_is_read_or_refused_within_its_bounds(name: str, runner: Runner) -> None:
    """Reading a form is within the CPU of any file and 256 MiB, and raises nothing but our errors."""
    tried = runner.hostile(name, "form")
    assert tried.is_within(SLOW_MACHINE), tried.why
