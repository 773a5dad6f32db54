"""Quantiles and the mode of the alpha-stable distribution, by root finding."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_initx.distributions.alpha_stable.density import (
    float64_arguments,
    log_density,
    log_survival,
)
from keras_initx.distributions.alpha_stable.elementary import where
from keras_initx.distributions.alpha_stable.integration import integrate

# About asinh of the largest float64.
_LARGEST_ASINH = 709.0
# Relative tolerance of asinh(z), before one more Newton step squares the error.
_TOLERANCE = 1e-9
_MOST_STEPS = 80


def quantile(p: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the z for which P(Z <= z) = p, for a standard S0 distribution.

    Newton's method is applied to the logarithm of the smaller of the two tail
    probabilities as a function of asinh(z), in which both tails are nearly
    straight lines. It bisects where a step would leave the bracket.

    Args:
        p: Tensor-like of real numbers in [0, 1].
        stability: Tensor-like, in (0, 2].
        skewness: Tensor-like, in [-1, 1].

    Returns:
        A tensor of the broadcast shape, of the widest floating dtype among the
        arguments, float32 for Python numbers. It is -inf and inf for p = 0 and
        1, and NaN for arguments outside their range. It is differentiable in
        all arguments.

    Raises:
        ValueError: If the shapes do not broadcast.

    Example:

    >>> round(float(quantile(0.75, 1.0, 0.0)), 6)
    1.0

    Reference: derived here.
    """
    p, stability, skewness, dtype = float64_arguments(p, stability, skewness)
    # The lower tail is the upper one of -Z, whose skewness is the opposite.
    side = where(p < 0.5, -1.0, tf.ones_like(p))
    log_p = where(p < 0.5, tf.math.log(p), tf.math.log1p(-p))
    root = _root(side, log_p, stability, skewness)
    # This step makes the result differentiable in all that it depends on.
    excess, slope = _excess(root, side, log_p, stability, skewness)
    z = root - excess / tf.stop_gradient(slope)
    z = where((p > 0) & (p < 1), z, where(p == 1, math.inf, -math.inf + 0 * p))
    return tf.cast(where((p >= 0) & (p <= 1), z, math.nan), dtype)


def mode(stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the z at which the density of a stable distribution is highest.

    It is found by 54 bisections of the sign of the density's derivative.

    Args:
        stability: Tensor-like, in (0, 2].
        skewness: Tensor-like, in [-1, 1].

    Returns:
        A tensor of the broadcast shape, of the widest floating dtype among the
        arguments, float32 for Python numbers. It lies in [-1, 1], has the
        opposite sign of the skewness, and has no gradient.

    Raises:
        ValueError: If the shapes do not broadcast.

    Example:

    >>> round(float(mode(0.5, 1.0)), 6)
    -0.666667

    Reference: Yamazato, Annals of Probability 6 (1978), for the fact that a
    stable distribution has one mode. That it lies in [-1, 1] was found
    numerically here.
    """
    stability, skewness, dtype = float64_arguments(stability, skewness)
    left_skewed = -tf.abs(skewness)

    def step(low: tf.Tensor, high: tf.Tensor) -> list[tf.Tensor]:
        middle = (low + high) / 2
        slope = integrate(
            middle, stability, left_skewed, tail=False, derivatives=True
        )[0]
        rises = slope > 0
        return [where(rises, middle, low), where(rises, high, middle)]

    low, high = tf.while_loop(
        lambda *_: True,
        step,
        [tf.zeros_like(stability), tf.ones_like(stability)],
        maximum_iterations=54,
    )
    z = -tf.sign(skewness) * (low + high) / 2
    return tf.cast(tf.stop_gradient(z), dtype)


def _excess(
    z: tf.Tensor,
    side: tf.Tensor,
    log_p: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a function of z that rises and has the quantile as its root.

    Args:
        z: Tensor. The point.
        side: Tensor. 1 for the upper tail P(Z > z), -1 for the lower one.
        log_p: Tensor. The logarithm of the probability of that tail.
        stability: Tensor.
        skewness: Tensor.

    Returns:
        Two tensors: `side` times `log_p` less the logarithm of the tail
        probability at z; and its derivative in z.
    """
    mirrored = side * z, stability, side * skewness
    log_tail = log_survival(*mirrored)
    slope = tf.exp(log_density(*mirrored) - log_tail)
    return side * (log_p - log_tail), slope


def _root(
    side: tf.Tensor,
    log_p: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
) -> tf.Tensor:
    """Returns the root of `_excess`, without a gradient."""

    def step(
        _: tf.Tensor, s: tf.Tensor, low: tf.Tensor, high: tf.Tensor
    ) -> list[tf.Tensor]:
        excess, slope = _excess(tf.sinh(s), side, log_p, stability, skewness)
        low = where(excess < 0, s, low)
        high = where(excess < 0, high, s)
        newton = s - excess / (slope * tf.cosh(s))
        inside = (newton > low) & (newton < high)
        new = where(inside, newton, (low + high) / 2)
        moved = tf.abs(new - s) > _TOLERANCE * (1 + tf.abs(s))
        return [tf.reduce_any(moved), new, low, high]

    widest = _LARGEST_ASINH * tf.ones_like(log_p)
    s = tf.while_loop(
        lambda moved, *_: moved,
        step,
        [tf.constant(True), tf.zeros_like(log_p), -widest, widest],
        maximum_iterations=_MOST_STEPS,
    )[1]
    return tf.stop_gradient(tf.sinh(s))
