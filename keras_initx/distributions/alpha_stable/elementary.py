"""Elementary functions of tensors that are defined at their singularities."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

_HALF_PI = math.pi / 2


def sinc(x: tf.Tensor) -> tf.Tensor:
    """Returns sin(x) / x for |x| <= pi/2, accurate to rounding.

    It is a polynomial, so neither the value nor its gradient has a special
    case at zero. XLA compiles a polynomial to vector instructions, `tf.sin` it
    does not.
    """
    return _sine_series(-(x**2))


def sin(x: tf.Tensor) -> tf.Tensor:
    """Returns the sine for |x| <= pi/2; its relative error is small at zero."""
    return x * sinc(x)


def sinhc(x: tf.Tensor) -> tf.Tensor:
    """Returns sinh(x) / x, which is 1 at zero."""
    small = tf.abs(x) < 1
    far = (tf.exp(x) - tf.exp(-x)) / (2 * tf.where(small, tf.ones_like(x), x))
    return tf.where(small, _sine_series(x**2), far)


def scaled_tangent(stability: tf.Tensor) -> tf.Tensor:
    """Returns (1 - a) tan(pi a / 2) for a stability a in (0, 2].

    The product is finite where the tangent is not: it is 2/pi at a = 1. At
    a = 2 it is exactly 0.
    """
    size = tf.abs(1 - stability)
    cosine = sin(_HALF_PI * tf.minimum(stability, 2 - stability))
    return cosine / (_HALF_PI * sinc(_HALF_PI * size))


def sums(values: list[tf.Tensor], axis: list[int]) -> list[tf.Tensor]:
    """Returns the sums of one or two real tensors of one shape.

    Two are summed as one complex tensor. XLA would otherwise compute all that
    the two depend on a second time, since each sum is a loop of its own.
    """
    if len(values) == 1:
        return [tf.reduce_sum(values[0], axis)]
    total = tf.reduce_sum(tf.complex(*values), axis)
    return [tf.math.real(total), tf.math.imag(total)]


def where(mask: tf.Tensor, first: Any, second: Any) -> tf.Tensor:
    """Returns `tf.where`, in which a number takes the other argument's dtype.

    Args:
        mask: Boolean tensor.
        first: Tensor or number. The values where `mask` is True.
        second: Tensor or number. The values where it is False. At least one of
            `first` and `second` is a tensor.
    """
    dtype = first.dtype if tf.is_tensor(first) else second.dtype
    first, second = (
        tf.convert_to_tensor(each, dtype) for each in (first, second)
    )
    return tf.where(mask, first, second)


def _sine_series(t: tf.Tensor) -> tf.Tensor:
    """Returns sum_k t^k / (2k + 1)!, for |t| <= (pi/2)^2."""
    terms = 12 if t.dtype == tf.float64 else 7
    total = tf.ones_like(t) / math.factorial(2 * terms - 1)
    for k in reversed(range(terms - 1)):
        total = total * t + 1 / math.factorial(2 * k + 1)
    return total
