"""Columns of text, for commands."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print columns that stay whole however narrow the terminal is: they are for grep too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
