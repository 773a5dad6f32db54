"""Weights that are multiplied by a factor, and the mark that says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_initx.initializers.base import tensor_of

# The attribute of a weight that holds its factor, by the name of the function
# that multiplied it.
_MARK = "_keras_initx_factors"


def multiplied(
    weight: Any, factor: float | np.ndarray, name: str, what: str
) -> Any:
    """The value of a weight times a factor, in the dtype of the weight.

    Args:
        weight: keras.Variable. The weight.
        factor: float or array of the shape of the weight. The factor.
        name: str. The name of the weight, for the message.
        what: str. What the weight is, as in "The weights that end a branch".

    Raises:
        ValueError: If the constraint of the weight would change the value.
    """
    value = keras.ops.convert_to_numpy(weight).astype(np.float64)
    scaled = tensor_of(factor * value, weight.dtype)
    constraint = weight.constraint
    if constraint is not None and np.any(factor != 1):
        kept = keras.ops.convert_to_numpy(constraint(scaled))
        kept = kept.astype(np.float64)
        if not np.allclose(kept, factor * value, rtol=0.01, atol=1e-30):
            raise ValueError(
                f"{what} must have no constraint that undoes its factor. "
                f"Received: {name!r} with {type(constraint).__name__}"
            )
    return scaled


def mark(weight: Any, function: str, factor: float) -> None:
    """Notes that a function has multiplied a weight by a factor."""
    setattr(weight, _MARK, {**getattr(weight, _MARK, {}), function: factor})


def factor_of(weight: Any, function: str) -> float | None:
    """The factor by which a function has multiplied a weight, if it has."""
    return getattr(weight, _MARK, {}).get(function)


def forget_factors(weights: Iterable[Any]) -> None:
    """Notes that weights have been drawn anew, without a factor."""
    for weight in weights:
        if hasattr(weight, _MARK):
            delattr(weight, _MARK)
