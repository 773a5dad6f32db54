"""Activations that come nearer to the identity in wide or deep networks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_initx import backend
from keras_initx.inspection.layer_rule import LayerRule, register_layer
from keras_initx.theory.mean_field.activations import resolve
from keras_initx.theory.mean_field.quadrature import second_moment
from keras_initx.validation import check_int, check_real, refuse


class _Shaped(keras.layers.Layer):
    """Base class: the root of the width or depth sets the shape."""

    def __init__(self, width: int | None, depth: int | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        if (width is None) == (depth is None):
            refuse(
                f"{type(self).__name__} takes either width or depth.",
                width=width,
                depth=depth,
            )
        self.width = check_int("width", width, 1, optional=True)
        self.depth = check_int("depth", depth, 1, optional=True)
        self.root = math.sqrt(self.depth if width is None else self.width)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Returns the input shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {"width": self.width, "depth": self.depth}


@register_layer(_Shaped)
def _rule(layer: _Shaped) -> LayerRule:
    return LayerRule(activates=True)


@keras.saving.register_keras_serializable(package="keras_initx")
class ShapedReLU(_Shaped):
    """A leaky relu that comes nearer to the identity in wide networks.

        s_+ max(x, 0) + s_- min(x, 0),    s_+- = 1 + c_+- / sqrt(width)

    Only at this rate do networks that are as deep as wide have a limit that
    depends on their inputs and is not linear, `theory.neural_covariance_sde`.

    The attribute `critical_scale` is the variance of weights, times the fan-in,
    that preserves the variance of the signal: 2 / (s_+^2 + s_-^2).

    Args:
        width: int. The width of the hidden layers, at least 1.
        c_plus: float. The constant c_+ of the slope above 0. Defaults to 0.
        c_minus: float. The constant c_- of the slope below 0. Defaults to -1.
        depth: int. The depth of the network, at least 1, in place of the
            width.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> shaped = ShapedReLU(width=100)
    >>> dense = keras.layers.Dense(
    ...     100,
    ...     kernel_initializer=keras.initializers.VarianceScaling(
    ...         shaped.critical_scale, "fan_in", "untruncated_normal"
    ...     ),
    ... )
    >>> round(shaped.critical_scale, 4)
    1.105

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768.
    """

    def __init__(
        self,
        width: int | None = None,
        c_plus: float = 0.0,
        c_minus: float = -1.0,
        depth: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(width, depth, **kwargs)
        self.c_plus = check_real("c_plus", c_plus)
        self.c_minus = check_real("c_minus", c_minus)
        self.slopes = (
            1 + self.c_plus / self.root,
            1 + self.c_minus / self.root,
        )
        if self.slopes == (0, 0):
            refuse(
                "The slopes must not both be 0.", c_plus=c_plus, c_minus=c_minus
            )
        self.critical_scale = 2 / (self.slopes[0] ** 2 + self.slopes[1] ** 2)

    def call(self, inputs: Any) -> Any:
        """Returns the activation of the inputs."""
        x = keras.ops.cast(inputs, self.compute_dtype)
        positive, negative = self.slopes
        # The gradient of a sum of two halves would be the sum of both slopes
        # at 0.
        return keras.ops.where(x > 0, positive * x, negative * x)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {
            "c_plus": self.c_plus,
            "c_minus": self.c_minus,
        }


@keras.saving.register_keras_serializable(package="keras_initx")
class ShapedActivation(_Shaped):
    """A smooth activation that comes nearer to the identity in wide networks.

        s phi(x / s),    s = a sqrt(width)

    The attribute `critical_scale` is the variance of weights, times the fan-in,
    that preserves a variance of 1: 1 / E[(s phi(z / s))^2] for normal z.

    Args:
        activation: str or function. The activation phi, a name of
            `keras.activations` or a function with phi(0) = 0 and
            phi'(0) = 1, such as "tanh".
        width: int. The width of the hidden layers, at least 1.
        a: float. The factor a of the stretch s, above 0. Defaults to 1.
        depth: int. The depth of the network, at least 1, in place of the
            width.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        When called with a tensor: a tensor of the same shape, in the layer's
        compute dtype.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> round(ShapedActivation("tanh", width=100).critical_scale, 4)
    1.0198

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768.
    """

    def __init__(
        self,
        activation: str | Callable[[Any], Any],
        width: int | None = None,
        a: float = 1.0,
        depth: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(width, depth, **kwargs)
        self.a = check_real("a", a, "(0, inf)")
        self.activation = keras.activations.get(activation)
        self.critical_scale = _critical_scale(
            self.activation, self.a * self.root
        )

    def call(self, inputs: Any) -> Any:
        """Returns the activation of the inputs."""
        x = keras.ops.cast(inputs, self.compute_dtype)
        stretch = self.a * self.root
        return stretch * self.activation(x / stretch)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return super().get_config() | {
            "activation": keras.activations.serialize(self.activation),
            "a": self.a,
        }


def _critical_scale(activation: Callable[[Any], Any], stretch: float) -> float:
    """Returns 1 / E[(s phi(z / s))^2], after a check of phi at 0."""
    # Deep networks have many layers with the same activation and stretch. A
    # function of Keras stays as it is; a callable of the user may change.
    if getattr(activation, "__module__", "").startswith("keras."):
        return _cached_critical_scale(activation, stretch)
    return _computed_critical_scale(activation, stretch)


def _computed_critical_scale(
    activation: Callable[[Any], Any], stretch: float
) -> float:

    def phi(z: np.ndarray) -> np.ndarray:
        # Runs eagerly, also where a model is built inside a graph.
        with backend.with_values():
            x = keras.ops.convert_to_tensor(z, backend.widest_float())
            return keras.ops.convert_to_numpy(activation(x)).astype(np.float64)

    step = 1e-4
    below, at, above = phi(np.array([-step, 0.0, step]))
    slope = (above - below) / (2 * step)
    if not (abs(at) <= 1e-6 * step and abs(slope - 1) <= 1e-3):
        raise ValueError(
            "activation must pass through 0 with slope 1. Received: "
            f"activation={activation!r}, of value {at:g} and slope {slope:g} "
            "at 0"
        )
    # As theory.critical_scale, without its warning: a shaped activation has a
    # slope near 1 by design, on either side.
    shaped = resolve(lambda z: stretch * phi(z / stretch), {"breakpoints": ()})
    return 1 / second_moment(shaped)


_cached_critical_scale = functools.lru_cache(maxsize=32)(
    _computed_critical_scale
)
