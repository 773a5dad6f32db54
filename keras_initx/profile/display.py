"""Text, HTML and figures of numbers that belong to layers."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A rule that every terminal and every file's encoding has, under the heads.
_RULE = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def number(value: float) -> str:
    """Four digits are what a table of variances has use for."""
    if isinstance(value, np.integer) or np.isinf(value):
        return str(value)
    return f"{value:.4g}"


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned lines: the first column to the left, the others to the right."""
    table = Table(box=_RULE, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        # Text, for a layer called "[red]" is a name here, not a colour.
        table.add_row(*map(Text, row))
    # Wide enough that a long name is never cut, nor one of wide letters.
    width = sum(
        max(map(cell_len, column)) + 3
        for column in zip(heads, *rows, strict=True)
    )
    text = io.StringIO()
    Console(
        file=text,
        width=width,
        color_system=None,
        # In a notebook rich would show the table and write nothing here.
        force_jupyter=False,
    ).print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "\n".join(line for line in lines if line)


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table, which a notebook dresses in its own style."""

    def line(cells: Sequence[str], tag: str) -> str:
        inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
        return f"<tr>{inner}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f"<table><thead>{line(heads, 'th')}</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def plot_by_layer(
    curves: Mapping[str, tuple[np.ndarray, str]],
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw curves against the layer's index, on a logarithmic scale.

    Args:
        curves: For each curve's name its values and its matplotlib format.
        label: What the values are.
        ax: Matplotlib axes to draw on. Default: new ones.

    Returns:
        The axes.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                'Plotting needs matplotlib: pip install "keras-initx[plot]"'
            ) from error
        ax = plt.subplots()[1]
    for name, (values, style) in curves.items():
        ax.plot(range(len(values)), values, style, label=name)
    if len(curves) > 1:
        ax.legend()
    ax.set_yscale("log")
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("layer")
    ax.set_ylabel(label)
    return ax


def png(draw: Callable[[Axes], object]) -> bytes:
    """What `draw` draws on new axes, as a file's content.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    # Not through pyplot, which keeps figures and chooses a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw(figure.subplots())
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
