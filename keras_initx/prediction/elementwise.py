"""Functions that act on each entry of their arguments alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initx.theory.mean_field.activations import Activation, resolve
from keras_initx.theory.mean_field.gaussian_products import Function


class Elementwise:
    """A function of one or more arrays that acts on each entry alone.

    Args:
        call: callable. The function, from tensors to a tensor.
        kinks: tuple of floats. The points where a function of one array is not
            smooth. Defaults to 0.
        values: callable. The same function on float64 arrays. Defaults to
            `call`.
        slopes: tuple of two floats or None. As in
            `gaussian_products.Function`. Defaults to None.
        steps: tuple of two floats or None. As in
            `gaussian_products.Function`. Defaults to None.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        kinks: tuple[float, ...] = (0.0,),
        values: Callable[..., np.ndarray] | None = None,
        slopes: tuple[float, float] | None = None,
        steps: tuple[float, float] | None = None,
    ):
        self.call = call
        self.kinks = kinks
        self.slopes = slopes
        self.steps = steps
        self._values = values
        self._derivatives: dict[int, Elementwise] = {}

    def values(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns the function at float64 arrays."""
        if self._values is not None:
            return self._values(*arrays)
        tensors = [tf.constant(array, tf.float64) for array in arrays]
        return np.asarray(self.call(*tensors), dtype=np.float64)

    def derivative(self, index: int = 0) -> Elementwise:
        """Returns the partial derivative with respect to one argument."""
        if index not in self._derivatives:

            def call(*tensors: tf.Tensor) -> tf.Tensor:
                with tf.GradientTape() as tape:
                    tape.watch(tensors[index])
                    total = tf.cast(self.call(*tensors), tf.float64)
                gradient = tape.gradient(total, tensors[index])
                return (
                    tf.zeros_like(tensors[index])
                    if gradient is None
                    else tf.convert_to_tensor(gradient)
                )

            values = None
            if self.slopes is not None:
                above, below = self.slopes
                values = functools.partial(_step, above, below)
            self._derivatives[index] = Elementwise(
                call, self.kinks, values, steps=self.slopes
            )
        return self._derivatives[index]

    @functools.cached_property
    def function(self) -> Function:
        """The function of one variable, for the theory."""
        return Function(self.values, self.kinks, self.slopes, self.steps)


def _step(above: float, below: float, z: np.ndarray) -> np.ndarray:
    return np.where(z > 0, above, below)


def from_activation(activation: Callable[[Any], Any]) -> Elementwise | None:
    """Returns the function of an activation of Keras or of a callable.

    Args:
        activation: callable. It acts on each entry alone.

    Returns:
        Elementwise; None for a callable that mixes the entries, such as
        softmax.
    """
    try:
        record = Activation(activation)
    except ValueError:
        # A layer of activation that theory does not know, or softmax.
        record = None
    if record is None or not isinstance(record.function, str):
        if not acts_on_each_entry(activation):
            return None
        points = None if record is None else record.breakpoints
        return Elementwise(activation, (0.0,) if points is None else points)
    phi = resolve(record, {})
    slope = phi.negative_slope
    return Elementwise(
        activation,
        phi.breakpoints,
        phi.function,
        slopes=None if slope is None else (1.0, slope),
    )


def acts_on_each_entry(function: Callable[[Any], Any]) -> bool:
    """Whether a function of one tensor acts on each entry alone."""
    x = np.random.default_rng(0).normal(size=(4, 6, 5))
    order = np.random.default_rng(1).permutation(x.size)
    shuffled = x.ravel()[order].reshape(x.shape)
    try:
        results = [
            np.asarray(function(tf.constant(each, tf.float64)))
            for each in (x, shuffled)
        ]
    except Exception:
        return False
    if any(result.shape != x.shape for result in results):
        return False
    first, second = (result.astype(float) for result in results)
    expected = first.ravel()[order].reshape(x.shape)
    return bool(
        np.allclose(expected, second, rtol=1e-9, atol=1e-12, equal_nan=True)
    )


# The identity, which needs no quadrature.
IDENTITY = Elementwise(lambda z: z, (), values=lambda z: z, slopes=(1.0, 1.0))
