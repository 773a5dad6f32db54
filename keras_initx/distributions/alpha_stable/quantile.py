"""Quantiles and the mode of stable laws: roots of what `stable_density` has."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_initx.distributions.alpha_stable.density import (
    arguments,
    log_density,
    log_survival,
)
from keras_initx.distributions.alpha_stable.exponent import where
from keras_initx.distributions.alpha_stable.integration import standard_law

# asinh of the largest number, nearly.
_WIDEST = 709.0
# Of asinh(z), before the last step of Newton's method squares it.
_TOLERANCE = 1e-9
_STEPS = 80


def quantile(p: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """The z for which P(Z <= z) = p, for a stable law.

    Newton's method on the logarithm of the nearer tail as a function of
    asinh(z), in which both tails are nearly straight, with bisection where a
    step would leave the bracket.

    Args:
        p: Tensor-like of real numbers in [0, 1].
        stability: As in `log_density`.
        skewness: As in `log_density`.

    Returns:
        As `log_density`; -inf and inf for p = 0 and 1.

    Raises:
        ValueError: The shapes do not broadcast.

    Example:

    >>> round(float(quantile(0.75, 1.0, 0.0)), 6)
    1.0

    Reference: derived here.
    """
    p, stability, skewness, dtype = arguments(p, stability, skewness)
    # The lower tail is the upper one of the mirrored law.
    side = where(p < 0.5, -1.0, tf.ones_like(p))
    log_p = where(p < 0.5, tf.math.log(p), tf.math.log1p(-p))
    root = _root(side, log_p, stability, skewness)
    # One more step, differentiable in all that it depends on.
    excess, slope = _excess(root, side, log_p, stability, skewness)
    z = root - excess / tf.stop_gradient(slope)
    z = where((p > 0) & (p < 1), z, where(p == 1, math.inf, -math.inf + 0 * p))
    return tf.cast(where((p >= 0) & (p <= 1), z, math.nan), dtype)


def mode(stability: Any, skewness: Any) -> tf.Tensor:
    """Where the density of a stable law is highest, by bisection.

    Args:
        stability: As in `log_density`.
        skewness: As in `log_density`.

    Returns:
        As `log_density`, in [-1, 1], of the opposite sign of the skewness. No
        gradient.

    Raises:
        ValueError: The shapes do not broadcast.

    Example:

    >>> round(float(mode(0.5, 1.0)), 6)
    -0.666667

    Reference: stable laws have one mode: Yamazato, Annals of Probability 6
    (1978). That it lies in [-1, 1] was found numerically here.
    """
    stability, skewness, dtype = arguments(stability, skewness)
    mirrored = -tf.abs(skewness)

    def step(low: tf.Tensor, high: tf.Tensor) -> list[tf.Tensor]:
        middle = (low + high) / 2
        slope = standard_law(
            middle, stability, mirrored, tail=False, slopes=True
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
    """How far log P beyond z is from `log_p`, rising in z; and its slope."""
    half = side * z, stability, side * skewness
    tail = log_survival(*half)
    slope = tf.exp(log_density(*half) - tail)
    return side * (log_p - tail), slope


def _root(
    side: tf.Tensor,
    log_p: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
) -> tf.Tensor:
    def step(
        _: tf.Tensor, s: tf.Tensor, low: tf.Tensor, high: tf.Tensor
    ) -> list[tf.Tensor]:
        excess, slope = _excess(tf.sinh(s), side, log_p, stability, skewness)
        low = where(excess < 0, s, low)
        high = where(excess < 0, high, s)
        newton = s - excess / (slope * tf.cosh(s))
        inside = (newton > low) & (newton < high)
        new = where(inside, newton, (low + high) / 2)
        far = tf.abs(new - s) > _TOLERANCE * (1 + tf.abs(s))
        return [tf.reduce_any(far), new, low, high]

    wide = _WIDEST * tf.ones_like(log_p)
    s = tf.while_loop(
        lambda far, *_: far,
        step,
        [tf.constant(True), tf.zeros_like(log_p), -wide, wide],
        maximum_iterations=_STEPS,
    )[1]
    return tf.stop_gradient(tf.sinh(s))
