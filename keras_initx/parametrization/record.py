"""The record of what muP made of the weights of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import keras

from keras_initx.initialization.factors import factor_of
from keras_initx.optimizers.multipliers import Row, path_of
from keras_initx.optimizers.with_multipliers import with_rows
from keras_initx.parametrization.mup_weight import MupWeight
from keras_initx.parametrization.optimizer_rules import inner_of, rate_rule
from keras_initx.profile import display

FUNCTION = "mup"
_HEADS = (
    "weight",
    "role",
    "r_in",
    "r_out",
    "start",
    "Adam",
    "SGD",
    "skipped",
)


@dataclass(frozen=True, repr=False)
class Mup:
    """What `mup` did to a model, a row for each weight.

    Its `str` is an aligned table, which a notebook shows too.

    Args:
        rows: tuple of MupWeight. One for each weight, in the order of the
            layers of the model.
        model: keras.Model. The model.
        variables: tuple of keras.Variable. The weight of each row.

    Example:

    >>> import keras, keras_initx as kx
    >>> def build(width):
    ...     return keras.Sequential([
    ...         keras.Input((8,)),
    ...         keras.layers.Dense(width, "relu", name="first"),
    ...         keras.layers.Dense(2, name="last"),
    ...     ])
    >>> model = build(64)
    >>> done = kx.mup(model, build(16))
    >>> model.compile(done.optimizer(keras.optimizers.Adam(1e-2)), "mse")
    >>> [(row.name, row.adam) for row in done.rows if row.role == "kernel"]
    [('first/kernel', 1.0), ('last/kernel', 0.25)]

    Reference: derived here.
    """

    rows: tuple[MupWeight, ...]
    model: keras.Model = field(compare=False)
    variables: tuple[Any, ...] = field(compare=False)

    def optimizer(self, optimizer: Any) -> keras.optimizers.Optimizer:
        """Returns an optimizer that trains each weight at its learning rate.

        Make it after layers are frozen, since each trainable weight must have
        a row, and where the optimizer itself would be made: inside the scope
        of a strategy, if there is one. Weight decay is the same for all
        weights: learning_rate * weight_decay.

        The gradients of most weights of a wide network are small. Where the
        optimizer compares them with a constant, as `epsilon` of Adam or
        `initial_accumulator_value` of Adagrad, it is given a gradient as large
        as in the base model, so that the constant has the same effect.

        Args:
            optimizer: An optimizer of Keras, its name or config, with the
                learning rate of the base model, or a LossScaleOptimizer around
                one. Any of those that `optimizers.with_multipliers` takes but
                Ftrl, which drops the initial weights in its first step. With
                Lamb and Adafactor no kernel that becomes wider in its inputs
                may start at zero. The learning rate of Adafactor must stay
                below 1 / sqrt(step), to which Adafactor limits it. It is not
                changed.

        Returns:
            A `keras.optimizers.Optimizer`, as
            `optimizers.with_multipliers` returns it.

        Raises:
            ValueError: If the optimizer is none of these or has been built, if
                Lamb or Adafactor is given a weight that starts too small, Muon
                an embedding, or if weights were drawn anew after `mup`.

        Example:

        >>> import keras, keras_initx as kx
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        >>> done = kx.mup(model, model)
        >>> sgd = done.optimizer(keras.optimizers.SGD(0.5))
        >>> isinstance(sgd, keras.optimizers.SGD)
        True

        Reference: derived here.
        """
        optimizer = keras.optimizers.get(optimizer)
        trained = self.model.trainable_variables
        rule = rate_rule(optimizer, trained)
        is_sgd = isinstance(inner_of(optimizer), keras.optimizers.SGD)
        known = {}
        for row, variable in zip(self.rows, self.variables, strict=True):
            if not row.skipped and factor_of(variable, FUNCTION) is None:
                raise ValueError(
                    "The weights must be as `mup` left them: call it again "
                    "after `initialize`. Received: "
                    f"{row.name!r}, which was drawn anew"
                )
            known[id(variable)] = row
        rows = []
        for variable in trained:
            row = known[id(variable)]
            gradient = 1.0 if is_sgd else 1 / row.gradient
            rows.append(
                Row(
                    path_of(variable),
                    tuple(variable.shape),
                    rule(row, variable),
                    variable,
                    gradient,
                )
            )
        return with_rows(optimizer, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        scaled = sum(row.start != 1 for row in self.rows)
        return f"<Mup of {len(self)} weights: {scaled} multiplied>"

    def __str__(self) -> str:
        return display.text_table(_HEADS, self._cells())

    def _repr_html_(self) -> str:
        return display.html_table(_HEADS, self._cells())

    def _cells(self) -> list[list[str]]:
        return [
            [
                row.name,
                row.role,
                *(
                    "" if row.skipped else display.number(value)
                    for value in (
                        row.input_ratio,
                        row.output_ratio,
                        row.start,
                        row.adam,
                        row.sgd,
                    )
                ),
                row.skipped,
            ]
            for row in self.rows
        ]
