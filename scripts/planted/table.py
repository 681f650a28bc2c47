"""What the cases say, a line for each painter and operation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from api_schemas.requests import Level
from scripts.planted.fills import GROUPS
from scripts.planted.grades import Case


def table(cases: Sequence[Case]) -> Table:
    """Of all ``cases``; the figures of perfect painters by kind of fill."""
    out = Table(
        "painter", "operation", "cases", "within 2", "p99 off", "mean off", "largest", "left", "pass/warn/fail", "caught", "kept", "s"
    )
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        painter = case.painter if case.fill == "truth" else f"{case.painter}, {GROUPS[case.fill]}"
        if case.painter.startswith("shifted"):
            painter = f"{case.painter}, {'truth' if case.fill == 'truth' else 'new'}"
        groups.setdefault((painter, case.operation), []).append(case)
    for (painter, operation), found in sorted(groups.items()):
        out.add_row(painter, operation, *_cells(found))
    return out


def _cells(cases: Sequence[Case]) -> list[str]:
    levels = Counter(case.level for case in cases)
    there = [case for case in cases if case.there]
    lefts = [case.left for case in cases if case.left is not None]
    faulty = cases[0].painter in ("rimmed", "stepped")
    caught = sum(case.level is not Level.PASS for case in there)
    return [
        str(len(cases)),
        f"{np.mean([case.p99 <= 2 for case in cases]):.0%}",
        f"{np.median([case.p99 for case in cases]):.1f}",
        f"{np.mean([case.mean for case in cases]):.2f}",
        str(max(case.largest for case in cases)),
        f"{np.median(lefts):.0%}" if lefts and cases[0].painter.startswith("shifted") else "",
        "/".join(str(levels[level]) for level in (Level.PASS, Level.WARN, Level.FAIL)) if set(levels) != {None} else "",
        f"{caught} of {len(there)}" if faulty else "",
        f"{np.mean([case.kept for case in cases]):.0%}",
        f"{np.median([case.seconds for case in cases]):.3f}",
    ]
