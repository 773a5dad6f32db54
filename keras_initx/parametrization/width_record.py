"""The record of how layers of several widths move in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_initx.profile import display

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Layers that the verdict names. The table has all of them.
_NAMED = 3


@dataclass(frozen=True, eq=False, repr=False)
class CoordinateCheck:
    """How far the layers of a network move in training, by width.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        widths: tuple of int. The widths.
        layers: tuple of str. The layers, named as in the narrowest model.
        size: array of shape `(widths, steps + 1, layers)`. The root mean
            square of the pre-activation before training and after each step.
        change: array of the same shape. The root mean square of the difference
            from the pre-activation before training.
        tolerance: float. The largest slope that passes.

    Example:

    >>> import numpy as np, keras_initx as kx
    >>> change = np.array([[[0.0], [0.5]], [[0.0], [2.0]]])
    >>> check = kx.CoordinateCheck((16, 64), ("last",), change, change, 0.2)
    >>> float(check.change_slope[-1, 0].round(9))
    1.0
    >>> check.passes
    False

    Reference: derived here.
    """

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    size: np.ndarray
    change: np.ndarray
    tolerance: float = 0.2

    @property
    def size_slope(self) -> np.ndarray:
        """The slope of log(size) on log(width), of shape (steps + 1, layers).

        NaN where a size is zero, and inf where one is not finite.
        """
        return _slope(self.widths, self.size)

    @property
    def change_slope(self) -> np.ndarray:
        """The slope of log(change) on log(width), as `size_slope`."""
        return _slope(self.widths, self.change)

    @property
    def passes(self) -> bool:
        """Whether no layer depends on the width after the last step.

        The slope of the change must lie within the tolerance, and that of the
        size must not be above it.
        """
        return not self._failing()

    @property
    def verdict(self) -> str:
        """What the check shows, in a sentence or two."""
        span = f"from width {self.widths[0]} to {self.widths[-1]}"
        slopes = self.change_slope[-1]
        failing = self._failing()
        if not failing:
            known = np.where(np.isnan(slopes), 0.0, slopes)
            worst = int(np.argmax(np.abs(known)))
            text = (
                f"Passes: {span} each layer moves about as far in a step; the "
                f"largest slope is {known[worst]:.2f}, of {self.layers[worst]}."
            )
            still = [
                name
                for name, change in zip(
                    self.layers, self.change[:, -1].T, strict=True
                )
                if (change == 0).any()
            ]
            if still:
                text += f" Not moved at all: {_few(still)}."
            return text
        parts = []
        for name, kind, slope in failing:
            if np.isinf(slope):
                parts.append(f"the {kind} of {name} is not finite")
            else:
                verb = "grows" if slope > 0 else "falls"
                parts.append(
                    f"the {kind} of {name} {verb} as width^{slope:.2f}"
                )
        return f"Fails: {span} {_few(parts)}."

    def plot(self, axes: np.ndarray | None = None) -> np.ndarray:
        """Plots size and change after the last step by width, one line a layer.

        Args:
            axes: array of two Matplotlib axes. Defaults to those of a new
                figure.

        Returns:
            Array of the two Matplotlib axes.

        Raises:
            ImportError: If Matplotlib is not installed.
        """
        axes = display.new_axes() if axes is None else axes
        for ax, values, label in (
            (axes[0], self.size, "size"),
            (axes[1], self.change, "change since the start"),
        ):
            last: list[Axes] = []
            for i, name in enumerate(self.layers):
                line = np.where(values[:, -1, i] > 0, values[:, -1, i], np.nan)
                last += ax.plot(self.widths, line, "o-", label=name)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_ylabel(label, fontsize="small")
            # Many layers would fill the axes.
            if len(last) <= 12:
                ax.legend(fontsize="small")
        axes[1].set_xlabel("width")
        return axes

    def __repr__(self) -> str:
        return (
            f"<CoordinateCheck of {len(self.layers)} layers at "
            f"{len(self.widths)} widths: "
            f"{'passes' if self.passes else 'fails'}>"
        )

    def __str__(self) -> str:
        return (
            f"{display.text_table(self._heads, self._cells())}\n{self.verdict}"
        )

    def _repr_html_(self) -> str:
        table = display.html_table(self._heads, self._cells())
        return f"{table}<p>{self.verdict}</p>"

    @property
    def _heads(self) -> tuple[str, ...]:
        return (
            "layer",
            "size slope",
            "change slope",
            *(f"change at {width}" for width in self.widths),
        )

    def _cells(self) -> list[list[str]]:
        columns = np.stack(
            [self.size_slope[-1], self.change_slope[-1], *self.change[:, -1]]
        )
        return [
            [name, *(f"{slope:.2f}" for slope in row[:2])]
            + [display.number(value) for value in row[2:]]
            for name, row in zip(self.layers, columns.T, strict=True)
        ]

    def _failing(self) -> list[tuple[str, str, float]]:
        """The layers that fail, with what fails, the worst ones first."""
        found = []
        for name, change, size in zip(
            self.layers,
            self.change_slope[-1],
            self.size_slope[-1],
            strict=True,
        ):
            if abs(change) > self.tolerance:
                found.append((name, "change", float(change)))
            elif size > self.tolerance:
                found.append((name, "size", float(size)))
        return sorted(found, key=lambda each: -abs(each[2]))


def _slope(widths: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """The least-squares slope of the logarithms along the first axis."""
    x = np.log(widths)
    x = x - x.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(values)
        slope = np.tensordot(x, y, axes=1) / (x @ x)
    slope[(values == 0).any(axis=0)] = np.nan
    slope[~np.isfinite(values).all(axis=0)] = np.inf
    return slope


def _few(texts: list[str]) -> str:
    more = len(texts) - _NAMED
    shown = ", ".join(texts[:_NAMED])
    return f"{shown}, and {more} more" if more > 0 else shown
