"""Activations that are bent less, the wider or deeper the network is."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx import theory
from keras_initx.validation import check_int, is_real


class _Shaped(keras.layers.Layer):
    """What both share: a size, width or depth, whose root shapes them."""

    def __init__(self, width: int | None, depth: int | None, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        if (width is None) == (depth is None):
            raise ValueError(
                f"{type(self).__name__} takes width or depth, one of them. "
                f"Received: width={width!r}, depth={depth!r}"
            )
        name = "width" if depth is None else "depth"
        check_int(name, width if depth is None else depth, 1)
        self.width = None if width is None else int(width)
        self.depth = None if depth is None else int(depth)
        self.root = math.sqrt(width if depth is None else depth)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {"width": self.width, "depth": self.depth}


@keras.saving.register_keras_serializable(package="keras_initx")
class ShapedReLU(_Shaped):
    """A relu that comes near the identity as the network grows wide.

        s_+ max(x, 0) + s_- min(x, 0),    s_+- = 1 + c_+- / sqrt(width)

    At this rate, and no other, networks as deep as wide have a limit that
    neither forgets their inputs nor is linear, `theory.neural_covariance_sde`.

    Args:
        width: Of the hidden layers, an int >= 1.
        c_plus: Finite.
        c_minus: Finite.
        depth: An int >= 1, in place of the width.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor, one of the same shape and dtype. The
        attribute `critical_scale` is that of the weights which keep the
        variance, 2 / (s_+^2 + s_-^2).

    Raises:
        ValueError: An argument is outside its range.

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
        for name, value in {"c_plus": c_plus, "c_minus": c_minus}.items():
            if not is_real(value):
                raise ValueError(
                    f"{name} must be a finite number. "
                    f"Received: {name}={value!r}"
                )
        self.c_plus = float(c_plus)
        self.c_minus = float(c_minus)
        self.slopes = (
            1 + self.c_plus / self.root,
            1 + self.c_minus / self.root,
        )
        if self.slopes == (0, 0):
            raise ValueError(
                "The slopes must not both be 0. "
                f"Received: c_plus={c_plus!r}, c_minus={c_minus!r}"
            )
        self.critical_scale = 2 / (self.slopes[0] ** 2 + self.slopes[1] ** 2)

    def call(self, inputs: Any) -> Any:
        x = keras.ops.cast(inputs, self.compute_dtype)
        positive, negative = self.slopes
        # Not a sum of two halves: at 0 that has the sum of the two slopes.
        return keras.ops.where(x > 0, positive * x, negative * x)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {
            "c_plus": self.c_plus,
            "c_minus": self.c_minus,
        }


@keras.saving.register_keras_serializable(package="keras_initx")
class ShapedActivation(_Shaped):
    """A smooth activation that is stretched as the network grows wide.

        s phi(x / s),    s = a sqrt(width)

    Args:
        activation: phi, a name of `keras.activations` or a callable, with
            phi(0) = 0 and phi'(0) = 1, such as "tanh".
        width: Of the hidden layers, an int >= 1.
        a: Finite and > 0.
        depth: An int >= 1, in place of the width.
        **kwargs: As in `keras.layers.Layer`.

    Returns:
        When called with a tensor, one of the same shape and dtype. The
        attribute `critical_scale` is that of the weights which keep a
        variance of 1, 1 / E[(s phi(z / s))^2].

    Raises:
        ValueError: An argument is outside its range.

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
        if not (is_real(a) and a > 0):
            raise ValueError(f"a must be finite and > 0. Received: a={a!r}")
        self.activation = keras.activations.get(activation)
        self.a = float(a)
        self.critical_scale = _stretched_scale(
            self.activation, self.a * self.root
        )

    def call(self, inputs: Any) -> Any:
        x = keras.ops.cast(inputs, self.compute_dtype)
        stretch = self.a * self.root
        return stretch * self.activation(x / stretch)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return super().get_config() | {
            "activation": keras.activations.serialize(self.activation),
            "a": self.a,
        }


# Deep networks have many layers of one kind.
@functools.lru_cache(maxsize=32)
def _stretched_scale(activation: Callable[[Any], Any], stretch: float) -> float:
    """1 / E[(s phi(z / s))^2], having checked phi at 0."""

    def phi(z: np.ndarray) -> np.ndarray:
        # Eager, also where a model is built inside a graph.
        with tf.init_scope():
            return activation(tf.constant(z, tf.float64)).numpy()

    step = 1e-4
    below, at, above = phi(np.array([-step, 0.0, step]))
    slope = (above - below) / (2 * step)
    if not (abs(at) <= 1e-6 * step and abs(slope - 1) <= 1e-3):
        raise ValueError(
            "activation must pass through 0 with slope 1. Received: "
            f"activation={activation!r}, of value {at:g} and slope {slope:g} "
            "at 0"
        )
    return theory.critical_scale(
        lambda z: stretch * phi(z / stretch), breakpoints=()
    )
