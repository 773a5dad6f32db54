"""Tables and figures of one number for each layer."""

from __future__ import annotations

import html
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

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


class Panel(NamedTuple):
    """One quantity of a profile in a figure.

    Args:
        column: str. The attribute of the profile.
        label: str. The label of the vertical axis, short enough for it.
        good: tuple of float. The range of a network that trains well, or None.
        good_label: str. The name of that range in the legend.
        missing_label: str. The name in the legend of a row that has no
            positive value.
    """

    column: str
    label: str
    good: tuple[float, float] | None
    good_label: str
    missing_label: str


def new_axes(count: int = 2) -> np.ndarray:
    """Returns the axes of a new figure, one above the other.

    Args:
        count: int. The number of axes. Defaults to 2.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Plotting needs matplotlib: pip install "keras-initx[plot]"'
        ) from error
    size = (6.4, 2.4 * count)
    return plt.subplots(
        count, 1, sharex=True, figsize=size, layout="constrained"
    )[1]


def plot_by_layer(
    panel: Panel,
    curves: Mapping[str, tuple[np.ndarray, str]],
    ax: Axes,
    with_names: bool = True,
) -> None:
    """Plots curves by layer, on a logarithmic scale.

    Args:
        panel: Panel. The quantity.
        curves: dict. The values and the Matplotlib format of each curve, by
            its name in the legend.
        ax: Matplotlib axes. The axes to plot on.
        with_names: bool. Whether the legend names the curves. Defaults to True.
    """
    # Several profiles on the same axes share these names.
    shared = {artist.get_label() for artist in (*ax.lines, *ax.patches)}
    if panel.good is not None and panel.good_label not in shared:
        ax.axhspan(*panel.good, color="tab:green", alpha=0.1, linewidth=0)
        ax.patches[-1].set_label(panel.good_label)
    for name, (values, style) in curves.items():
        positive = np.where(values > 0, values, np.nan)
        label = _wrapped(name, ax) if with_names else "_"
        line = ax.plot(positive, style, label=label)[0]
        (missing,) = np.nonzero(np.isnan(positive))
        if len(missing):
            label = panel.missing_label
            # At the lower edge, since zero has no place on the scale.
            ax.plot(
                missing,
                np.full(len(missing), 0.04),
                "x",
                color=line.get_color(),
                label="_" if label in shared else label,
                transform=ax.get_xaxis_transform(),
            )
            shared.add(label)
    ax.set_yscale("log")
    ax.locator_params(axis="x", integer=True)
    # Small, so that 10^-38 leaves room for the label in a default figure.
    ax.tick_params(axis="y", labelsize="small", pad=2)
    ax.set_ylabel(panel.label, labelpad=0, fontsize="small")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small")


def plot_share(values: np.ndarray, name: str, ax: Axes) -> None:
    """Adds a share of each layer as a dotted line, if any is positive.

    Args:
        values: Array of shape `(layers,)`, NaN where not known.
        name: str. What the share is of, for the legend.
        ax: Matplotlib axes. The axes to plot on.
    """
    if not (values > 0).any():
        return
    positive = np.where(values > 0, values, np.nan)
    shared = {line.get_label() for line in ax.lines}
    ax.plot(
        positive, ":.", color="tab:red", label="_" if name in shared else name
    )
    ax.legend(fontsize="small")


def _wrapped(text: str, ax: Axes) -> str:
    """Returns the text in lines that fit into a legend within the axes."""
    size = 8.33
    width = ax.get_window_extent().width * 72 / ax.figure.dpi
    # The line beside the text and the margins are 4 letters wide, and a letter
    # is about 0.6 of its size.
    return textwrap.fill(text, max(8, int(0.85 * width / (0.6 * size)) - 6))


def png(
    draw: Callable[[np.ndarray], object], title: str, panels: int = 2
) -> bytes:
    """Returns a figure of several panels as the content of a PNG file.

    Args:
        draw: Callable. It receives new Matplotlib axes, one above the other,
            and draws on them.
        title: str. The title of the figure.
        panels: int. The number of axes. Defaults to 2.

    Returns:
        bytes. The content of the file.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    # pyplot would keep the figure and choose a graphical backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3 * panels), layout="constrained")
    draw(figure.subplots(panels, 1, sharex=True))
    # Matplotlib's font may lack other characters, and parse_math=False keeps
    # "$" in a name from starting a formula.
    figure.suptitle(
        "\n".join(
            textwrap.fill(line.encode("ascii", "replace").decode(), 85)
            for line in title.splitlines()
        ),
        fontsize="medium",
        parse_math=False,
    )
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image)
    return image.getvalue()
