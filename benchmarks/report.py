"""Prints the benchmarks' tables and saves their figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Prints a table in Markdown, floats with four significant digits."""
    table = Table(*columns, title=title, box=box.MARKDOWN, title_justify="left")
    for row in rows:
        table.add_row(
            *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row)
        )
    Console(width=160, color_system=None).print(table)


def new_axes() -> Any:
    """Returns the axes of a new Matplotlib figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4.5), layout="constrained").subplots()


def save_figure(ax: Any, path: Path, legend: bool = True) -> None:
    """Writes the figure of some axes to a file."""
    if legend:
        ax.legend()
    ax.figure.savefig(path)
    print(f"wrote {path}")
