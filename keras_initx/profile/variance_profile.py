"""The record that theory and measurement share: variance, layer by layer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_initx.profile import display
from keras_initx.profile.columns import column_of, require
from keras_initx.profile.files import write_whole
from keras_initx.profile.row import Row, index_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("sample_variance", "squared_mean", "units")


@dataclass(frozen=True, eq=False, repr=False)
class VarianceProfile:
    """How much of the difference between samples survives to each layer.

    For one fixed network, let `y` be a pre-activation of a layer and `<.>` the
    average over input samples. A layer's row holds, averaged over its units,

        v^2 = <(y - <y>)^2>     sample_variance: what tells samples apart
        m^2 = <y>^2             squared_mean: what all samples share
        v^2 + m^2 = <y^2>       total

    and from them

        decay    = v^2 / (m^2 + v^2)     1 - mean correlation between samples
        relative = decay / decay[0]      against the first layer

    `profile["dense_3"]`, or `profile[3]`, is one layer's row.

    `keras_initx.measure` returns one for a model and data,
    `keras_initx.theory.sample_variance_decay` one for an infinitely wide
    network. Theory writes the mean *covariance* of two samples into
    `squared_mean`, which may be negative; a measured one never is.

    Args:
        layers: Names, one a layer, in the order in which the layers ran.
        sample_variance: Shape `(layers,)`, finite, not negative.
        squared_mean: Shape `(layers,)`, finite.
        units: Shape `(layers,)`. Output elements of each layer that were
            averaged over; `inf` in the infinite-width theory.

    Raises:
        ValueError: The arrays do not fit together, or hold values that no
            network has.

    Example:

    >>> profile = VarianceProfile(["a", "b"], [1.0, 0.5], [0.0, 0.5], [64, 64])
    >>> profile.decay
    array([1. , 0.5])
    >>> profile["b"].squared_mean
    0.5

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942 (m^2, v^2 and their sum). `decay` and `relative` are named
    here.
    """

    layers: Sequence[str]
    sample_variance: np.ndarray
    squared_mean: np.ndarray
    units: np.ndarray

    def __post_init__(self) -> None:
        layers = tuple(str(name) for name in self.layers)
        if isinstance(self.layers, (str, bytes)) or not layers:
            raise ValueError(
                "layers must be a list of names, of at least one layer. "
                f"Received: layers={self.layers!r}"
            )
        object.__setattr__(self, "layers", layers)
        for column in _COLUMNS:
            values = column_of(column, getattr(self, column), len(layers))
            values.setflags(write=False)
            object.__setattr__(self, column, values)
        # Theory subtracts two numbers near one, so zero may come out as -1e-17.
        require("total", self.total, self.total >= -1e-12, "not negative")

    @property
    def total(self) -> np.ndarray:
        """Mean square of the pre-activations, m^2 + v^2, shape `(layers,)`."""
        return self.sample_variance + self.squared_mean

    @property
    def decay(self) -> np.ndarray:
        """v^2 / (m^2 + v^2), shape `(layers,)`; NaN where a layer is all zero.

        Equal to one minus the mean correlation of two samples. One says that
        samples share nothing, zero that the layer no longer tells them apart.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.sample_variance / self.total

    @property
    def relative(self) -> np.ndarray:
        """`decay` over the first layer's `decay`, shape `(layers,)`."""
        decay = self.decay
        with np.errstate(divide="ignore", invalid="ignore"):
            return decay / decay[0]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, layer: str | int) -> Row:
        """The row of a layer, by its name or index.

        Raises:
            KeyError: No layer has that name, or several have.
            IndexError: There are not so many layers.
            TypeError: `layer` is neither name nor index.
        """
        i = index_of(layer, self.layers)
        columns = (getattr(self, name) for name in Row._fields[1:])
        return Row(self.layers[i], *(values[i].item() for values in columns))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VarianceProfile):
            return NotImplemented
        return self.layers == other.layers and all(
            np.array_equal(getattr(self, column), getattr(other, column))
            for column in _COLUMNS
        )

    def __repr__(self) -> str:
        first, last = self.decay[0], self.decay[-1]
        return (
            f"<{type(self).__name__} of {len(self)} layers: "
            f"decay {first:.4g} at {self.layers[0]!r}, "
            f"{last:.4g} at {self.layers[-1]!r}>"
        )

    def __str__(self) -> str:
        return self.table()

    def table(self, expected: VarianceProfile | None = None) -> str:
        """The profile as an aligned text table.

        Args:
            expected: A profile of as many layers, usually from theory; its
                `decay` is shown beside this one's.

        Returns:
            Lines of text, one a layer under a heading.

        Raises:
            ValueError: `expected` has another number of layers.
        """
        return display.text_table(*self._cells(expected))

    def check_expected(self, expected: VarianceProfile) -> None:
        """Refuse what cannot stand beside this profile, layer by layer.

        Raises:
            ValueError: `expected` is no profile, or of another length.
        """
        received = f"expected={expected!r}"
        if isinstance(expected, VarianceProfile):
            if len(expected) == len(self):
                return
            received = f"expected of {len(expected)} layers"
        raise ValueError(
            "expected must be a VarianceProfile of as many layers as this one, "
            f"{len(self)}. Received: {received}"
        )

    def _repr_html_(self) -> str:
        return display.html_table(*self._cells(None))

    def _cells(
        self, expected: VarianceProfile | None
    ) -> tuple[list[str], list[list[str]]]:
        columns = {
            "units": self.units,
            "sample variance": self.sample_variance,
            "squared mean": self.squared_mean,
            "decay": self.decay,
        }
        if expected is not None:
            self.check_expected(expected)
            columns["expected"] = expected.decay
        columns["relative"] = self.relative
        rows = [
            [name, *(display.number(values[i]) for values in columns.values())]
            for i, name in enumerate(self.layers)
        ]
        return ["layer", *columns], rows

    def plot(
        self,
        expected: VarianceProfile | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw `decay` against the layer's index, on a logarithmic scale.

        Args:
            expected: A profile to draw dashed beside it, usually from theory.
            ax: Matplotlib axes to draw on. Default: new ones.

        Returns:
            The axes.

        Raises:
            ImportError: Matplotlib is not installed.
            ValueError: `expected` has another number of layers.
        """
        curves = {"measured": (self.decay, "-")}
        if expected is not None:
            self.check_expected(expected)
            curves["expected"] = (expected.decay, "k--")
        return display.plot_by_layer(
            curves, "sample variance / total variance", ax
        )

    def to_dict(self) -> dict[str, list]:
        """The profile as plain lists, fit for JSON; infinite units are None."""
        return {
            "layers": list(self.layers),
            "sample_variance": self.sample_variance.tolist(),
            "squared_mean": self.squared_mean.tolist(),
            "units": [
                None if np.isinf(count) else count
                for count in self.units.tolist()
            ],
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VarianceProfile:
        """The profile that `to_dict` wrote.

        Raises:
            ValueError: `config` lacks a column, has one too many, or its
                values are not those of a profile.
        """
        wanted = {"layers", *_COLUMNS}
        if not isinstance(config, Mapping) or set(config) != wanted:
            raise ValueError(
                f"A VarianceProfile is read from a dict with the keys "
                f"{sorted(wanted)}. Received: config={config!r}"
            )
        try:
            units = [np.inf if n is None else n for n in config["units"]]
            return cls(**{**config, "units": units})
        except TypeError as error:
            raise ValueError(
                f"A VarianceProfile is read from lists of names and numbers. "
                f"Received: config={dict(config)!r}"
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Write the profile to `path` as JSON, all of it or nothing."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_whole(path, text.encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> VarianceProfile:
        """The profile that `save` wrote to `path`.

        Raises:
            OSError: The file cannot be read.
            ValueError: It does not hold a profile.
        """
        try:
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"Expected a VarianceProfile in JSON. Received: path={path}"
            ) from error
        return cls.from_dict(config)
