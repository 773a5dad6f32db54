"""Functions that act on each entry of their arguments alone.

An `Elementwise` is a function of tensors with what quadrature needs of it: its
derivatives, and the points where it is not smooth (its kinks). Kinks of the
activations that `theory` knows are exact, and others are searched for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_initx.backend import float64
from keras_initx.theory.mean_field.activations import Activation, resolve
from keras_initx.theory.mean_field.gaussian_products import Function


class Elementwise:
    """A function of one or more arrays that acts on each entry alone.

    Args:
        call: callable. The function, from tensors to a tensor.
        kinks: tuple of floats or None. The points where a function of one array
            is not smooth. Defaults to None, which looks for them.
        values: callable. The same function on float64 arrays. Defaults to
            `call`.
        slopes: tuple of two floats or None. As in
            `gaussian_products.Function`. Defaults to None.
        steps: tuple of two floats or None. As in
            `gaussian_products.Function`. Defaults to None.
        arity: int. The number of arrays. Defaults to 1.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        kinks: tuple[float, ...] | None = None,
        values: Callable[..., np.ndarray] | None = None,
        slopes: tuple[float, float] | None = None,
        steps: tuple[float, float] | None = None,
        arity: int = 1,
    ):
        self.call = call
        self._kinks = kinks
        self.slopes = slopes
        self.steps = steps
        self.arity = arity
        self._values = values
        self._derivatives: dict[int, Elementwise] = {}

    @functools.cached_property
    def kinks(self) -> tuple[float, ...]:
        """The points where a function of one array is not smooth."""
        return found_kinks(self.values) if self._kinks is None else self._kinks

    def values(self, *arrays: np.ndarray) -> np.ndarray:
        """Returns the function at float64 arrays."""
        if self._values is not None:
            return self._values(*arrays)
        return np.asarray(
            float64.entries_at_float64(self.call, *arrays), np.float64
        )

    def derivative(self, index: int = 0) -> Elementwise:
        """Returns the partial derivative with respect to one argument."""
        if index not in self._derivatives:

            def call(*tensors: Any) -> Any:
                before, after = tensors[:index], tensors[index + 1 :]
                (gradient,) = float64.gradients(
                    lambda x: self.call(*before, x, *after), [tensors[index]]
                )
                return gradient

            values = None
            if self.slopes is not None:
                above, below = self.slopes
                values = functools.partial(_step, above, below)
            # The kinks of a function of several arrays are never asked for.
            kinks = self.kinks if self.arity == 1 else ()
            self._derivatives[index] = Elementwise(
                call, kinks, values, steps=self.slopes, arity=self.arity
            )
        return self._derivatives[index]

    def passes_gradient(self, index: int = 0) -> bool:
        """Whether Keras's backend passes a gradient on to one argument."""
        return self.slopes is not None or self._passed_on[index]

    @functools.cached_property
    def _passed_on(self) -> tuple[bool, ...]:
        return float64.passed_on(self.call, self.arity)

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
        # (0.0,) is what a record has where no points were named.
        named = points is not None and points != (0.0,)
        return Elementwise(activation, points if named else None)
    phi = resolve(record, {})
    slope = phi.negative_slope
    return Elementwise(
        activation,
        phi.breakpoints,
        phi.function,
        slopes=None if slope is None else (1.0, slope),
    )


def found_kinks(values: Callable[[np.ndarray], np.ndarray]) -> tuple:
    """Returns the points of [-12, 12] where a function is not smooth.

    Where it is smooth, its second difference over a step h is h^2 times a
    derivative, and 1/256 of itself for a step of h/16. At a kink it is 1/16 of
    itself, and at a jump all of it. Such points are located to 1e-9, or as far
    as they exceed the rounding of a backend that computes in float32.

    Args:
        values: callable. The function, from a float64 array to one.

    Returns:
        Tuple of floats.
    """

    def difference(x: np.ndarray, h: float) -> np.ndarray:
        return np.abs(values(x - h) - 2 * values(x) + values(x + h))

    # What counts as smooth, and what may be rounding, both over the scale.
    smooth, rounding = (1e-7, 0.0) if float64.is_exact() else (1e-5, 2e-6)
    h = 1 / 32
    cells = np.arange(-12, 12, h)
    inside = cells[:, None] + h * (np.arange(16) + 0.5) / 16
    # A kink anywhere in the cell is within both of these steps.
    coarse = difference(cells + h / 2, h)
    # At an inflection point the neighbors still show a second derivative.
    around = np.pad(coarse, 1, mode="edge")
    coarse = np.maximum(coarse, np.maximum(around[:-2], around[2:]))
    fine = difference(inside.ravel(), h / 16).reshape(inside.shape).max(axis=1)
    scale = np.abs(values(cells)) + 1
    (found,) = np.nonzero((fine > coarse / 64) & (fine > smooth * scale))
    points: list[float] = []
    for low, size in zip(cells[found], scale[found], strict=True):
        high, digits = low + h, 6
        while high - low > 1e-9:
            x = low + (high - low) * (np.arange(16) + 0.5) / 16
            step = (high - low) / 16
            differences = difference(x, step)
            if differences.max() < rounding * size:
                # A kink is rarely at a number of many digits.
                digits = 3
                break
            at = x[differences.argmax()]
            low, high = at - step, at + step
        point = (low + high) / 2
        nearest = round(point, digits)
        near = 1e-7 if digits == 6 else high - low
        point = nearest if abs(point - nearest) < near else point
        if not points or abs(point - points[-1]) > 1e-6:
            points.append(float(point))
    return tuple(points)


def acts_on_each_entry(function: Callable[[Any], Any]) -> bool:
    """Whether a function of one tensor acts on each entry alone."""
    x = np.random.default_rng(0).normal(size=(4, 6, 5))
    order = np.random.default_rng(1).permutation(x.size)
    shuffled = x.ravel()[order].reshape(x.shape)
    try:
        results = [
            np.asarray(float64.at_float64(function, each))
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
