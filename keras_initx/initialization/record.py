"""The record of what an initialisation did to each weight of a model."""

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
    """What was done to one weight.

    Args:
        name: Its path from the model.
        role: What it is, as `kernel_geometry` says.
        shape: Of the weight.
        fan_in: Of a linear map; else None.
        fan_out: Of a linear map; else None.
        initializer: What drew it, as text; "" if it was left alone.
        seed: What it was drawn with; None if no seed had a part in it.
        skipped: Why it was left alone; "" if it was not.

    Raises:
        Nothing.

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
    """What `keras_initx.initialize` did, a row for each weight of the model.

    `str` of it is an aligned table, and a notebook shows it as one.

    Args:
        rows: One for each weight, in the order of the model's layers.
        seed: int. The seed of the whole model.

    Raises:
        Nothing.

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
