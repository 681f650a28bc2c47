"""The figures that planted painters can state, with the limits that an edit must keep for its user's sake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from api_schemas.requests import Level, Operation
from scripts.figures import at_least, figure
from scripts.planted.fills import GROUPS
from scripts.planted.grades import Case

EXTENDS = Operation.OUTPAINT.value
BACKDROP = Operation.REPLACE_BACKGROUND.value
_WITHIN, _SHARE, _MEAN, _PASS = 2.0, 0.95, 0.5, 0.98
_TRUTH_MEAN, _TRUTH_LARGEST, _LEFT, _CAUGHT = 0.3, 12, 0.25, 0.95


def figures_of(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """``{value, limit, holds}`` by name."""
    return _perfect(cases) | _truth(cases) | _errors(cases)


def _perfect(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """What was asked for is what is delivered, by kind of fill; extensions for themselves, for more may be done to them at the old border."""
    found: dict[str, dict[str, Any]] = {}
    for painter in ("perfect", "grained"):
        for group in sorted(set(GROUPS.values())):
            own = [case for case in cases if case.painter == painter and GROUPS.get(case.fill) == group]
            extended, inside = (_those(own, lambda case, wanted=wanted: (case.operation == EXTENDS) is wanted) for wanted in (True, False))
            for name, some in ((group, inside), (f"{group}_outpaint", extended)):
                found[f"{painter}_{name}_within_2_levels"] = at_least(_share(case.p99 <= _WITHIN for case in some), _SHARE)
                found[f"{painter}_{name}_mean_off"] = figure(_mean(case.mean for case in some), _MEAN)
    judged = [case for case in cases if case.painter == "perfect" and _is_judged(case)]
    return found | {"perfect_pass": at_least(_passed(judged), _PASS)}


def _is_judged(case: Case) -> bool:
    """Whether the verdict on what a perfect painter painted has to be ``pass``.

    Not so where the report is right to doubt it: a plain strip beside a photo is a hard line along all of the old border, whatever was asked for;
    and a thing that stands out beside a product may have grown out of it, as far as a segmenter can tell.
    """
    group = GROUPS.get(case.fill)
    if case.operation == EXTENDS:
        return group == "object"
    return case.operation != BACKDROP or group != "object"


def _truth(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """The photo's own content is left alone, and passes; the worst operation counts."""
    own = [case for case in cases if case.painter == "truth"]
    operations = sorted({case.operation for case in own})
    means = [_mean(case.mean for case in own if case.operation == operation) for operation in operations]
    # Behind an ellipse cut out of a photo the same photo hides it again, and the report is right to miss the product.
    seen = [case for case in own if case.operation != BACKDROP]
    return {
        "truth_mean_off": figure(max(means, default=0.0), _TRUTH_MEAN),
        "truth_largest_off": figure(max((case.largest for case in own), default=0), _TRUTH_LARGEST),
        "truth_pass": at_least(_passed(seen), _PASS),
    }


def _errors(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Errors that were planted: taken back, or told of."""
    found = {}
    for name in sorted({case.painter for case in cases if case.painter.startswith("shifted")}):
        lefts = [case.left for case in cases if case.painter == name and case.left is not None]
        found[f"{name.replace(', ', '_')}_left"] = figure(float(np.median(lefts)), _LEFT)
    for name in ("rimmed", "stepped"):
        own = [case for case in cases if case.painter == name and case.there]
        found[f"{name}_caught"] = at_least(_share(case.level is not Level.PASS for case in own), _CAUGHT)
    return found | {"planted_kept_share": at_least(_share(case.kept for case in cases), 1.0)}


def _those(cases: Iterable[Case], wanted: Callable[[Case], bool]) -> list[Case]:
    return [case for case in cases if wanted(case)]


def _passed(cases: Iterable[Case]) -> float:
    return _share(case.level is Level.PASS for case in cases)


def _share(values: Iterable[bool]) -> float:
    """Of those that hold; 1 where there is none."""
    found = list(values)
    return sum(found) / len(found) if found else 1.0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0
