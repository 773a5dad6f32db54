"""How the benchmarks show what they found: tables, and figures in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


def show(title: str, heads: Sequence[str], rows: list[Sequence[object]]):
    table = Table(*heads, title=title, box=box.MARKDOWN, title_justify="left")
    for row in rows:
        table.add_row(
            *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row)
        )
    Console(width=160, color_system=None).print(table)


def axes():
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 4.5), layout="constrained").subplots()


def save(ax, path: Path, legend: bool = True) -> None:
    if legend:
        ax.legend()
    ax.figure.savefig(path)
    print(f"wrote {path}")
