"""Functions whose singularities are removed: smooth in every argument."""

from __future__ import annotations

import math

import tensorflow as tf

_HALF_PI = math.pi / 2


def sinc(x: tf.Tensor) -> tf.Tensor:
    """sin(x) / x for |x| <= pi/2, to rounding.

    A polynomial is one expression at zero and away from it, and so is its
    gradient. XLA compiles it to vector instructions, `tf.sin` it does not.
    """
    return _series(-(x**2))


def sin(x: tf.Tensor) -> tf.Tensor:
    """sin(x) for |x| <= pi/2, relatively accurate at zero."""
    return x * sinc(x)


def sinhc(x: tf.Tensor) -> tf.Tensor:
    """sinh(x) / x."""
    small = tf.abs(x) < 1
    far = (tf.exp(x) - tf.exp(-x)) / (2 * tf.where(small, tf.ones_like(x), x))
    return tf.where(small, _series(x**2), far)


def scaled_tangent(stability: tf.Tensor) -> tf.Tensor:
    """(1 - a) tan(pi a / 2) for a in (0, 2]: 2/pi at a = 1, 0 at a = 2."""
    size = tf.abs(1 - stability)
    cosine = sin(_HALF_PI * tf.minimum(stability, 2 - stability))
    return cosine / (_HALF_PI * sinc(_HALF_PI * size))


def _series(t: tf.Tensor) -> tf.Tensor:
    """sum_k t^k / (2k + 1)!, for |t| <= (pi/2)^2."""
    terms = 12 if t.dtype == tf.float64 else 7
    total = tf.ones_like(t) / math.factorial(2 * terms - 1)
    for k in reversed(range(terms - 1)):
        total = total * t + 1 / math.factorial(2 * k + 1)
    return total
