"""Which layers are activations, and between which bounds functions lie."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import keras

from keras_initx import backend
from keras_initx.inspection.layer_rule import layer_rule

# Functions of Keras that are flat at both ends, by name, with their bounds.
_BOUNDS = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "sparse_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}


def activation_of(layer: keras.layers.Layer) -> Any:
    """Returns the function that a layer applies, if it is an activation.

    A `TimeDistributed` activation is one.

    Args:
        layer: keras.layers.Layer. Any layer.

    Returns:
        The function of an `Activation` layer, or the layer itself; None for a
        layer that is no activation, or the identity.
    """
    if isinstance(layer, keras.layers.TimeDistributed):
        return activation_of(layer.layer)
    if not layer_rule(layer).activates:
        return None
    function = getattr(layer, "activation", layer)
    return function if is_nonlinear(function) else None


def function_of(operation: Any) -> Any:
    """Returns the activation that an operation of `keras.ops` applies.

    Args:
        operation: keras.Operation. A step of a graph that is no layer.

    Returns:
        The function of `keras.activations` of the same name; None if there is
        none, or if its parameters differ from their defaults.
    """
    kind = type(operation)
    if isinstance(operation, keras.layers.Layer) or not (
        kind.__module__.startswith("keras.")
    ):
        return None
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
    function = getattr(keras.activations, name, None)
    # These mix units.
    if function is None or name in ("softmax", "log_softmax", "sparsemax"):
        return None
    _, *parameters = inspect.signature(function).parameters.values()
    has_defaults = all(
        getattr(operation, each.name, each.default) == each.default
        for each in parameters
    )
    return function if has_defaults and is_nonlinear(function) else None


def is_nonlinear(activation: Any) -> bool:
    """Whether an attribute `activation` holds a function but the identity."""
    return callable(activation) and activation is not keras.activations.linear


def is_keras_function(activation: Any) -> bool:
    """Whether a function is one of Keras's activations."""
    name = getattr(activation, "__name__", None)
    return isinstance(name, str) and activation is getattr(
        keras.activations, name, None
    )


def saturation_bounds(activation: Any) -> tuple[float, float] | None:
    """Returns the bounds of an activation that is flat near both of them.

    Args:
        activation: Callable. A function of `keras.activations`, `keras.ops`
            or `tf.nn`.

    Returns:
        Lower and upper bound; None for other functions.
    """
    name = getattr(activation, "__name__", None)
    known: list[Callable] = [
        getattr(module, name)
        for module in (
            keras.activations,
            keras.ops,
            *backend.function_modules(),
        )
        if isinstance(name, str) and hasattr(module, name)
    ]
    if any(activation is function for function in known):
        return _BOUNDS.get(str(name))
    return None
