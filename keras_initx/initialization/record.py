"""The records of what was done to the weights of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_initx.profile import display

_HEADS = (
    "weight",
    "role",
    "fan_in",
    "fan_out",
    "initializer",
    "seed",
    "skipped",
)
_BALANCE_HEADS = (
    *("layer", "units", "smallest gain", "largest gain"),
    *("squares before", "squares after", "skipped"),
)
_BRANCH_HEADS = ("branch", "weights", "factor", "skipped")


@dataclass(frozen=True, repr=False)
class _Record:
    """A record with rows, each of which says why it was skipped, or ""."""

    rows: tuple[Any, ...]

    @property
    def skipped(self) -> dict[str, str]:
        """The reason for each row that is as it was, by its name."""
        return {row.name: row.skipped for row in self.rows if row.skipped}

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        heads, cells, end = self._table()
        return f"{display.text_table(heads, cells)}\n{end}"

    def _repr_html_(self) -> str:
        heads, cells, end = self._table()
        return f"{display.html_table(heads, cells)}<p>{end}</p>"

    def _changed(self) -> tuple[Any, ...]:
        return tuple(row for row in self.rows if not row.skipped)

    def _table(self) -> tuple[Sequence[str], list[list[str]], str]:
        """The headings, the cells, and the line below the table."""
        raise NotImplementedError


@dataclass(frozen=True)
class InitializedWeight:
    """What `initialize` did to one weight.

    Args:
        name: str. The full name of its layer, as `measure` names layers, and
            its own name.
        role: str. Its role, as in `inspection.Geometry`.
        shape: tuple of ints. Its shape.
        fan_in: float. The fan-in of a linear map, None for other weights.
        fan_out: float. The fan-out of a linear map, None for other weights.
        initializer: str. The initializer that drew it, "" if it was skipped.
        seed: int. The seed that it was drawn with, None if there was none.
        skipped: str. Why it was skipped, "" if it was drawn.

    Example:

    >>> row = InitializedWeight("dense/bias", "bias", (8,), skipped="frozen")
    >>> row.skipped
    'frozen'

    Reference: derived here.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    fan_in: float | None = None
    fan_out: float | None = None
    initializer: str = ""
    seed: int | None = None
    skipped: str = ""


@dataclass(frozen=True, repr=False)
class Initialization(_Record):
    """What `initialize` did to a model, a row for each weight.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        rows: tuple of InitializedWeight. One for each weight, in the order of
            the layers of the model.
        seed: int. The seed of the whole model.

    Example:

    >>> import keras, keras_initx as kx
    >>> layer = keras.layers.Dense(8, name="first")
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> done = kx.initialize(model, "he_normal", seed=1)
    >>> [(row.name, row.fan_in) for row in done.initialized]
    [('first/kernel', 4), ('first/bias', None)]

    Reference: derived here.
    """

    rows: tuple[InitializedWeight, ...]
    seed: int

    @property
    def initialized(self) -> tuple[InitializedWeight, ...]:
        """The weights that have new values."""
        return self._changed()

    def __repr__(self) -> str:
        return (
            f"<Initialization of {len(self)} weights: "
            f"{len(self.initialized)} initialized, {len(self.skipped)} skipped>"
        )

    def _table(self) -> tuple[Sequence[str], list[list[str]], str]:
        cells = [
            [_text(getattr(row, {"weight": "name"}.get(h, h))) for h in _HEADS]
            for row in self.rows
        ]
        return _HEADS, cells, f"Seed: {self.seed}"


@dataclass(frozen=True)
class ScaledBranch:
    """What `scale_branches` did to one residual branch.

    Args:
        name: str. The full name of the sum that the branch goes into.
        layers: tuple of str. The layers that end the branch.
        weights: tuple of str. The weights of these that were multiplied.
        factor: float. The number they were multiplied by, 1 if skipped.
        skipped: str. Why the branch was skipped, "" if it was scaled.

    Example:

    >>> row = ScaledBranch("add", skipped="scaled by 'branch_scale'")
    >>> row.factor
    1.0

    Reference: derived here.
    """

    name: str
    layers: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    factor: float = 1.0
    skipped: str = ""


@dataclass(frozen=True, repr=False)
class BranchScaling(_Record):
    """What `scale_branches` did to a model, a row for each residual branch.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        rows: tuple of ScaledBranch. One for each branch, in the order in which
            the model adds them.
        depth: int. The number of branches that the factor belongs to.
        exponent: float. The exponent of the depth in the factor.

    Example:

    >>> import keras, keras_initx as kx
    >>> inputs = keras.Input((4,))
    >>> outputs = inputs + keras.layers.Dense(4, name="last")(inputs)
    >>> done = kx.scale_branches(keras.Model(inputs, outputs))
    >>> done.scaled[0].weights
    ('last/kernel', 'last/bias')

    Reference: derived here.
    """

    rows: tuple[ScaledBranch, ...]
    depth: int
    exponent: float

    @property
    def factor(self) -> float:
        """The factor of the branches, depth^(-exponent)."""
        return float(self.depth) ** -self.exponent

    @property
    def scaled(self) -> tuple[ScaledBranch, ...]:
        """The branches that were scaled."""
        return self._changed()

    def __repr__(self) -> str:
        return (
            f"<BranchScaling of {len(self)} branches by "
            f"{display.number(self.factor)}: {len(self.scaled)} scaled, "
            f"{len(self.skipped)} skipped>"
        )

    def _table(self) -> tuple[Sequence[str], list[list[str]], str]:
        factor = display.number(self.factor)
        cells = [
            [
                row.name,
                ", ".join(row.weights),
                "" if row.skipped else factor,
                row.skipped,
            ]
            for row in self.rows
        ]
        power = f"{self.depth}^(-{display.number(self.exponent)})"
        return _BRANCH_HEADS, cells, f"Factor: {power} = {factor}"


@dataclass(frozen=True)
class BalancedLayer:
    """What `balance` did to one layer.

    Args:
        name: str. The full name of the layer, as `measure` names layers.
        units: int. The number of outputs that each have a gain.
        smallest: float. The smallest gain of an output.
        largest: float. The largest gain of an output.
        before: float. The sum of squares of its weights before.
        after: float. The same after.
        skipped: str. Why the layer keeps its weights, "" if it was balanced.

    Example:

    >>> row = BalancedLayer("dense", 8, 0.5, 2.0, before=40.0, after=16.0)
    >>> row.before - row.after
    24.0

    Reference: derived here.
    """

    name: str
    units: int = 0
    smallest: float = 1.0
    largest: float = 1.0
    before: float = 0.0
    after: float = 0.0
    skipped: str = ""


@dataclass(frozen=True, repr=False)
class Balance(_Record):
    """What `balance` did to a model, a row for each layer with a kernel.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        rows: tuple of BalancedLayer. One for each layer, in the order in which
            the model calls them.

    Example:

    >>> import keras, keras_initx as kx
    >>> layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(1)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> done = kx.balance(model)
    >>> done.after <= done.before, len(done.balanced)
    (True, 2)

    Reference: derived here.
    """

    rows: tuple[BalancedLayer, ...]

    @property
    def balanced(self) -> tuple[BalancedLayer, ...]:
        """The layers that were balanced."""
        return self._changed()

    @property
    def before(self) -> float:
        """The sum of squares of the weights of these layers before."""
        return sum(row.before for row in self.balanced)

    @property
    def after(self) -> float:
        """The same after."""
        return sum(row.after for row in self.balanced)

    def __repr__(self) -> str:
        return (
            f"<Balance of {len(self)} layers: {len(self.balanced)} balanced, "
            f"{len(self.skipped)} skipped>"
        )

    def _table(self) -> tuple[Sequence[str], list[list[str]], str]:
        cells = [
            [_text(value) for value in vars(row).values()]
            if not row.skipped
            else [row.name, *[""] * 5, row.skipped]
            for row in self.rows
        ]
        end = (
            f"Sum of squares: {display.number(self.before)} before, "
            f"{display.number(self.after)} after"
        )
        return _BALANCE_HEADS, cells, end


def _text(value: object) -> str:
    if isinstance(value, float):
        return display.number(value)
    return "" if value is None else str(value)
