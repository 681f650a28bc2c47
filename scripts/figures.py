"""What every benchmark does with its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table


def timed(work: Callable[[], object]) -> float:
    """Seconds that ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def figure(value: float, limit: float) -> dict[str, Any]:
    """``{value, limit, holds}`` of what must be at most ``limit``."""
    return {"value": round(value, 3), "limit": limit, "holds": value <= limit}


def at_least(value: float, limit: float) -> dict[str, Any]:
    """The same of what must be at least ``limit``."""
    return {"value": round(value, 3), "limit": limit, "holds": value >= limit}


def figure_table(figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line for each figure."""
    table = Table("figure", "value", "limit", "holds")
    for name, entry in figures.items():
        table.add_row(name, str(entry["value"]), f"{entry['limit']:.4g}", "yes" if entry["holds"] else "NO")
    return table


def write_figures(name: str, figures: Mapping[str, Any]) -> None:
    """Write build/bench/NAME.json."""
    target = Path("build/bench") / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(figures, indent=1) + "\n")


def exit_status(figures: Mapping[str, Mapping[str, Any]]) -> int:
    """1 if a limit does not hold."""
    return 0 if all(entry["holds"] for entry in figures.values()) else 1
