"""Tables and figures of one number for each layer."""

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

# The line under the headings, in ASCII, which every terminal can show.
_RULE = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


def number(value: float) -> str:
    """Returns a number as text of four significant digits."""
    if isinstance(value, np.integer) or np.isinf(value):
        return str(value)
    return f"{value:.4g}"


def text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns an aligned table, with all but the first column right-aligned.

    Args:
        heads: Sequence of str. The headings.
        rows: Sequence of sequences of str. The cells.

    Returns:
        str. Lines of text.
    """
    table = Table(box=_RULE, pad_edge=False)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        # Text, because rich reads "[red]" in a plain string as markup.
        table.add_row(*map(Text, row))
    # cell_len counts the columns of wide letters, so that no name is cut.
    width = sum(
        max(map(cell_len, column)) + 3
        for column in zip(heads, *rows, strict=True)
    )
    text = io.StringIO()
    Console(
        file=text,
        width=width,
        color_system=None,
        # In a notebook rich would display the table, not write it to `file`.
        force_jupyter=False,
    ).print(table)
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "\n".join(line for line in lines if line)


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns an HTML table without styles, for a notebook to style."""

    def line(cells: Sequence[str], tag: str) -> str:
        cells = [f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells]
        return f"<tr>{''.join(cells)}</tr>"

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
    """Plots curves by layer, on a logarithmic scale.

    Args:
        curves: dict. The values and the Matplotlib format of each curve, by
            its name in the legend.
        label: str. The label of the vertical axis.
        ax: Matplotlib axes or None. The axes to plot on. Defaults to new ones.

    Returns:
        The Matplotlib axes.

    Raises:
        ImportError: If Matplotlib is not installed.
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
    ax.set_xlabel("index of the layer")
    ax.set_ylabel(label)
    return ax


def png(draw: Callable[[Axes], object]) -> bytes:
    """Returns a figure as the content of a PNG file.

    Args:
        draw: Callable. It receives new Matplotlib axes and draws on them.

    Returns:
        bytes. The content of the file.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    # pyplot would keep the figure and choose a graphical backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw(figure.subplots())
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
