"""The figures that planted painters can state, with the limits that an edit must keep for its user's sake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from api_schemas.requests import Level
from scripts.figures import at_least, figure
from scripts.planted.fills import GROUPS
from scripts.planted.grades import Case

_WITHIN, _SHARE, _MEAN, _PASS = 2.0, 0.95, 0.5, 0.98
_TRUTH_MEAN, _TRUTH_LARGEST, _LEFT, _CAUGHT = 0.3, 12, 0.25, 0.95


def figures_of(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """``{value, limit, holds}`` by name; none of what no case tells."""
    return _perfect(cases) | _truth(cases) | _errors(cases)


def _perfect(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """What was asked for is what is delivered, by kind of fill."""
    found: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if case.painter in ("perfect", "grained") and case.fill in GROUPS:
            groups.setdefault(f"{case.painter}_{GROUPS[case.fill]}", []).append(case)
    for name, own in sorted(groups.items()):
        found[f"{name}_within_2_levels"] = at_least(
            min(_share(case.p99 <= _WITHIN for case in some) for some in _by_operation(own)), _SHARE
        )
        found[f"{name}_mean_off"] = figure(max(_mean(case.mean for case in some) for some in _by_operation(own)), _MEAN)
    judged = [case for case in cases if case.painter == "perfect" and case.level is not None]
    return found | ({"perfect_pass": at_least(_passed(judged), _PASS)} if judged else {})


def _by_operation(cases: Sequence[Case]) -> list[list[Case]]:
    """The worst operation counts: one that never touches a fill must not make up for another."""
    return [[case for case in cases if case.operation == operation] for operation in sorted({case.operation for case in cases})]


def _truth(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """The photo's own content is left alone, and passes."""
    own = [case for case in cases if case.painter == "truth"]
    if not own:
        return {}
    means = [_mean(case.mean for case in some) for some in _by_operation(own)]
    seen = [case for case in own if case.level is not None]
    return {
        "truth_mean_off": figure(max(means), _TRUTH_MEAN),
        "truth_largest_off": figure(max(case.largest for case in own), _TRUTH_LARGEST),
        **({"truth_pass": at_least(_passed(seen), _PASS)} if seen else {}),
    }


def _errors(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Errors that were planted: taken back, or told of. And of all cases, what was kept."""
    found = {}
    for name in sorted({case.painter for case in cases if case.painter.startswith("shifted")}):
        own = [case for case in cases if case.painter == name and case.left is not None]
        medians = [float(np.median([case.left or 0 for case in some])) for some in _by_operation(own)]
        found[f"{name.replace(', ', '_')}_left"] = figure(max(medians), _LEFT)
    for name in ("rimmed", "stepped"):
        own = [case for case in cases if case.painter == name and case.there]
        if own:
            found[f"{name}_caught"] = at_least(_share(case.level is not Level.PASS for case in own), _CAUGHT)
    return found | {"planted_kept_share": at_least(_share(case.kept for case in cases), 1.0)}


def _passed(cases: Iterable[Case]) -> float:
    return _share(case.level is Level.PASS for case in cases)


def _share(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
