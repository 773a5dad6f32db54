"""Which of the factors of muP belongs to an optimizer.

The optimizers of Keras differ in what decides the size of a step: the gradient
(SGD), the learning rate alone (Adam and its like), the size of the weight
(Lamb, Adafactor), or a matrix of spectral norm 1 (Muon).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_initx.optimizers.with_multipliers import check_known
from keras_initx.parametrization.mup_weight import MupWeight

_COLUMNS = {
    "SGD": "sgd",
    "Adadelta": "adam",
    "Adagrad": "adam",
    "Adam": "adam",
    "AdamW": "adam",
    "Adamax": "adam",
    "Lion": "adam",
    "Nadam": "adam",
    "RMSprop": "adam",
    "ScheduleFreeAdamW": "adam",
}

# The factor of the learning rate of a weight.
Rule = Callable[[MupWeight, Any], float]


def inner_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """The optimizer inside of a LossScaleOptimizer, or the optimizer itself."""
    if type(optimizer) is keras.optimizers.LossScaleOptimizer:
        return optimizer.inner_optimizer
    return optimizer


def rate_rule(
    optimizer: keras.optimizers.Optimizer, variables: list[Any]
) -> Rule:
    """Returns the function that gives the factor of each weight.

    Args:
        optimizer: A Keras optimizer.
        variables: list of keras.Variable. The weights that it will train.

    Raises:
        ValueError: If muP has no rule for the optimizer.
    """
    optimizer = inner_of(optimizer)
    name = check_known(optimizer).__name__
    if name in _COLUMNS:
        return lambda row, _: getattr(row, _COLUMNS[name])
    if name == "Lamb":
        return lambda row, variable: _relative(row, variable, name, 0.0)
    if name == "Adafactor":
        floor = float(optimizer.epsilon_2)
        return lambda row, variable: _relative(row, variable, name, floor)
    if name == "Muon":
        return _muon(optimizer, variables)
    raise ValueError(
        "muP has no learning rates for Ftrl, which computes a weight from the "
        "sum of its gradients alone, so that its start is lost in the first "
        f"step. Received: optimizer of type {name}"
    )


def _relative(row: MupWeight, variable: Any, name: str, floor: float) -> float:
    """The factor where a step is as large as the weight.

    Raises:
        ValueError: If the weight is too small, so that the step is not.
    """
    if row.relative == row.adam:
        return row.relative
    value = keras.ops.convert_to_numpy(variable).astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(value))))
    if size > floor:
        return row.relative
    reason = f"above epsilon_2={floor}" if floor else "above zero"
    raise ValueError(
        f"A step of {name} is as large as the weight, whose size at the start "
        f"must be {reason} then: give the layer another initializer. "
        f"Received: {row.name!r} with the root mean square {size:.3g}"
    )


def _muon(optimizer: Any, variables: list[Any]) -> Rule:
    """The factors of Muon, which trains only some weights by its own rule."""
    # A twin that is built knows which ones, and its attribute says so.
    twin = type(optimizer).from_config(
        {**optimizer.get_config(), "learning_rate": 0.0}
    )
    twin.build(variables)
    own = {
        id(variable)
        for variable, velocity in zip(
            variables, twin.adam_velocities, strict=True
        )
        if velocity is None
    }

    def rule(row: MupWeight, variable: Any) -> float:
        if id(variable) not in own:
            return row.adam
        if row.role == "embedding":
            raise ValueError(
                "muP has no learning rate for an embedding that Muon makes "
                "orthogonal: name it in `exclude_layers`. Received: "
                f"{row.name!r}"
            )
        if optimizer.rms_rate is None:
            return row.orthogonal
        # Then Muon multiplies a step by the root of the longer side.
        return row.orthogonal / math.sqrt(row.longer_side)

    return rule
