"""Keras's activation functions and layers as names and parameters.

Theory imports no Keras: a function or layer of Keras is known by its name and
by that of its module.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_initx.validation import refuse

# An activation, by name or as a callable, and its parameters.
Named = tuple[str | Callable[[np.ndarray], np.ndarray], dict[str, Any]]


@dataclass(frozen=True)
class ReLU:
    """The function of `keras.layers.ReLU`, in NumPy.

        max_value                         for z >= max_value
        z                                 for threshold <= z < max_value
        negative_slope (z - threshold)    otherwise

    Args:
        negative_slope: float. As in `keras.layers.ReLU`.
        max_value: float or None. As in `keras.layers.ReLU`.
        threshold: float. As in `keras.layers.ReLU`.
    """

    negative_slope: float
    max_value: float | None
    threshold: float

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Returns the function at an array."""
        above = z if self.max_value is None else np.clip(z, 0, self.max_value)
        below = self.negative_slope * (z - self.threshold)
        return np.where(z >= self.threshold, above, below)


@dataclass(frozen=True)
class Clip:
    """The function of `layers.HardTanh`, in NumPy.

    Args:
        bound: float. As in `layers.HardTanh`.
    """

    bound: float

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Returns the function at an array."""
        return np.clip(z, -self.bound, self.bound)


@dataclass(frozen=True)
class Sine:
    """The function of `layers.Sine`, in NumPy.

    Args:
        frequency: float. As in `layers.Sine`.
    """

    frequency: float

    def __call__(self, z: np.ndarray) -> np.ndarray:
        """Returns the function at an array."""
        return np.sin(self.frequency * z)


def _relu(
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> Named:
    if threshold == 0 and max_value is None:
        if negative_slope == 0:
            return "relu", {}
        return "leaky_relu", {"negative_slope": negative_slope}
    if (negative_slope, max_value, threshold) == (0, 6, 0):
        return "relu6", {}
    kinks = [threshold, *([] if max_value is None else [max_value])]
    function = ReLU(negative_slope, max_value, threshold)
    return function, {"breakpoints": kinks}


_LAYERS: dict[str, Callable[[Any], Named]] = {
    "ELU": lambda layer: ("elu", {"alpha": layer.alpha}),
    "LeakyReLU": lambda layer: (
        "leaky_relu",
        {"negative_slope": layer.negative_slope},
    ),
    "ReLU": lambda layer: _relu(
        layer.negative_slope, layer.max_value, layer.threshold
    ),
    "Softmax": lambda layer: ("softmax", {}),
}


# Those of this package.
_OWN_LAYERS: dict[str, Callable[[Any], Named]] = {
    "HardTanh": lambda layer: (
        ("hard_tanh", {})
        if layer.bound == 1
        else (
            Clip(layer.bound),
            {"breakpoints": [-layer.bound, layer.bound]},
        )
    ),
    "Sine": lambda layer: (
        ("sine", {})
        if layer.frequency == 1
        else (Sine(layer.frequency), {"breakpoints": []})
    ),
}


def from_keras(activation: Any, names: Collection[str]) -> Named:
    """Returns an activation of Keras by its name and its parameters.

    Args:
        activation: callable. An activation function of Keras, as
            `keras.activations` or `keras.ops` has it, alone or in a
            `functools.partial` with keyword arguments; a layer `Activation`,
            `ELU`, `LeakyReLU` or `ReLU` of Keras, `HardTanh` or `Sine` of this
            package; or a callable of another origin.
        names: Collection of str. The names of activations that theory knows.

    Returns:
        Tuple of the name, or a callable for one without a name in `names`, and
        a dict of the parameters that the function or layer has.

    Raises:
        ValueError: If it is another layer of Keras.
    """
    if inspect.isfunction(activation) or isinstance(
        activation, functools.partial
    ):
        return _from_function(activation, names)
    layer = type(activation)
    if layer.__module__.startswith("keras_initx.layers."):
        named = _OWN_LAYERS.get(layer.__name__)
        return named(activation) if named else (activation, {})
    if not _is_of_keras(layer):
        return activation, {}
    if layer.__name__ == "Activation":
        return from_keras(activation.activation, names)
    if layer.__name__ not in _LAYERS:
        refuse(
            "activation must be a name, a callable, or one of Keras's layers "
            "Activation, ELU, LeakyReLU and ReLU.",
            activation=activation,
        )
    return _LAYERS[layer.__name__](activation)


def _from_function(activation: Any, names: Collection[str]) -> Named:
    given = getattr(activation, "keywords", {})
    function = getattr(activation, "func", activation)
    name = getattr(function, "__name__", "")
    if name not in names or not _is_of_keras(function):
        return activation, {}
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not parameter.empty
    }
    if name == "relu":
        return _relu(**defaults | given)
    return name, defaults | given


def _is_of_keras(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return module.partition(".")[0] == "keras"
