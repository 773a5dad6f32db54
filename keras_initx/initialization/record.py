"""The record of what an initialization did to each weight of a model."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class InitializedWeight:
    """What `initialize` did to one weight.

    Args:
        name: str. The path of the weight from the model.
        role: str. Its role, as in `inspection.Geometry`.
        shape: tuple of ints. Its shape.
        fan_in: float. The fan-in of a linear map, None for other weights.
        fan_out: float. The fan-out of a linear map, None for other weights.
        initializer: str. The initializer that drew it, "" if it was skipped.
        seed: int. The seed that it was drawn with, None if there was none.
        skipped: str. Why it was skipped, "" if it was drawn.

    Example:

    >>> row = InitializedWeight("dense:0/bias", "bias", (8,), skipped="frozen")
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
class Initialization:
    """What `initialize` did to a model, a row for each weight.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        rows: tuple of InitializedWeight. One for each weight, in the order of
            the layers of the model.
        seed: int. The seed of the whole model.

    Example:

    >>> import keras, keras_initx as kx
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> done = kx.initialize(model, "he_normal", seed=1)
    >>> [(row.name, row.fan_in) for row in done.initialized]
    [('dense:0/kernel', 4), ('dense:0/bias', None)]

    Reference: derived here.
    """

    rows: tuple[InitializedWeight, ...]
    seed: int

    @property
    def initialized(self) -> tuple[InitializedWeight, ...]:
        """The weights that have new values."""
        return tuple(row for row in self.rows if not row.skipped)

    @property
    def skipped(self) -> tuple[InitializedWeight, ...]:
        """The weights that are as they were; `skipped` of each says why."""
        return tuple(row for row in self.rows if row.skipped)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"<Initialization of {len(self)} weights: "
            f"{len(self.initialized)} initialized, {len(self.skipped)} skipped>"
        )

    def __str__(self) -> str:
        table = display.text_table(_HEADS, self._cells())
        return f"{table}\nSeed: {self.seed}"

    def _repr_html_(self) -> str:
        table = display.html_table(_HEADS, self._cells())
        return f"{table}<p>Seed: {self.seed}</p>"

    def _cells(self) -> list[list[str]]:
        def text(value: object) -> str:
            if isinstance(value, float):
                return display.number(value)
            return "" if value is None else str(value)

        return [
            [text(getattr(row, {"weight": "name"}.get(h, h))) for h in _HEADS]
            for row in self.rows
        ]
