"""Density and distribution function of the alpha-stable distribution.

All functions are of the standard S0 distribution, with location 0 and scale 1.
Its characteristic function is

    exp(-|t|^a [1 + i b sign(t) tan(pi a / 2) (|t|^(1-a) - 1)])

for stability a and skewness b, and at a = 1 the limit
exp(-|t| [1 + (2/pi) i b sign(t) log|t|]). At stability 2 it is the normal
distribution of variance 2.

Arguments broadcast. All is computed in float64, by closed forms for the normal,
Cauchy and Levy distributions and by `integration` otherwise, and has a gradient
in every argument, which is an integral too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import where
from keras_initx.distributions.alpha_stable.integration import (
    stable_derivatives,
    stable_value,
)

# Densities, probabilities and quantiles are NaN for a stability below 0.05,
# which is less than this in no floating dtype.
LEAST_STABILITY = 0.0499
# exp and erfc underflow, or z^2 overflows, not far beyond these.
_LARGEST_ERFC_ARGUMENT, _LARGEST_SQUARED = 25.0, 1e8

_Gradient = Callable[[tf.Tensor], list[tf.Tensor]]


def log_density(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the logarithm of the density of a stable distribution.

        f(z) = (1/pi) Re int_0^inf exp(-i t z) E[exp(i t Z)] dt

    by the trapezoidal rule along a path of steepest descent, or in closed form
    for the normal, Cauchy and Levy distributions. It is smooth through
    stability 1. For a stability in [0.3, 2] and |z| up to 1e6 its error is
    below 1e-9 nearly everywhere and below 1e-6 everywhere, in the light tails
    too. A stability in [0.05, 0.3) has an integral of its own, with an error
    below 1e-7; its densities are so narrow at the center that a skewed one
    changes by more from one float64 z to the next there.

    Args:
        z: Tensor-like of real numbers.
        stability: Tensor-like, in [0.05, 2].
        skewness: Tensor-like, in [-1, 1].

    Returns:
        A tensor of the broadcast shape, of the widest floating dtype among the
        arguments, float32 for Python numbers. It is -inf outside the support
        of a distribution with stability < 1 and skewness -1 or 1, and NaN for
        parameters outside their range.

    Raises:
        ValueError: If the shapes do not broadcast.

    Example:

    >>> log_density([0.0, 1.0], 1.0, 0.0).numpy().round(5)
    array([-1.14473, -1.83788], dtype=float32)

    Reference: the distribution is M of Zolotarev, One-dimensional Stable
    Distributions (1986), and S0 of Nolan, Communications in Statistics:
    Stochastic Models 13 (1997). The path of steepest descent is that of their
    integral over an angle; its replacement by a spiral, and the quadrature, are
    derived here.
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(_log_density(z, stability, skewness), dtype)


def density(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns the density of a stable distribution, exp of `log_density`.

    Arguments, result and errors are those of `log_density`.

    Example:

    >>> round(float(density(0.0, 2.0, 0.0)), 6)
    0.282095
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(tf.exp(_log_density(z, stability, skewness)), dtype)


def log_survival(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns log P(Z > z) of a stable distribution.

        P(Z > z) = 1/2 + (1/pi) Im int_0^inf exp(-i t z) E[exp(i t Z)] dt/t

    by the method of `log_density` and with its accuracy, which is relative in
    both tails. Arguments, result and errors are those of `log_density`.

    Example:

    >>> round(float(log_survival(0.0, 1.5, 0.0)), 6)
    -0.693147

    Reference: Gil-Pelaez, Biometrika 38 (1951), for the integral; `log_density`
    for the rest.
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(_log_survival(z, stability, skewness), dtype)


def survival(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns P(Z > z) of a stable distribution, exp of `log_survival`.

    Arguments, result and errors are those of `log_density`.

    Example:

    >>> round(float(survival(1.0, 1.0, 0.0)), 6)
    0.25
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(tf.exp(_log_survival(z, stability, skewness)), dtype)


def log_cdf(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns log P(Z <= z) of a stable distribution.

    It is `log_survival` at -z of the distribution of -Z, whose skewness has the
    opposite sign. Arguments, result and errors are those of `log_density`.

    Example:

    >>> round(float(log_cdf(0.0, 1.5, 0.0)), 6)
    -0.693147
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(_log_survival(-z, stability, -skewness), dtype)


def cdf(z: Any, stability: Any, skewness: Any) -> tf.Tensor:
    """Returns P(Z <= z) of a stable distribution, exp of `log_cdf`.

    Arguments, result and errors are those of `log_density`.

    Example:

    >>> round(float(cdf(1.0, 1.0, 0.0)), 6)
    0.75
    """
    z, stability, skewness, dtype = float64_arguments(z, stability, skewness)
    return tf.cast(tf.exp(_log_survival(-z, stability, -skewness)), dtype)


def float64_arguments(*values: Any) -> tuple[Any, ...]:
    """Returns the values as float64 tensors of one shape, and a result dtype.

    Args:
        *values: Tensor-likes whose shapes broadcast.

    Returns:
        A tuple of the tensors and, last, the widest floating dtype among the
        values, float32 if none of them has one.

    Raises:
        ValueError: If the shapes do not broadcast.
    """
    dtypes = [tf.as_dtype(v.dtype) for v in values if hasattr(v, "dtype")]
    dtypes = [each for each in dtypes if each.is_floating]
    dtype = max(dtypes, key=lambda each: each.size, default=tf.float32)
    tensors = [
        tf.cast(
            tf.convert_to_tensor(
                v, None if hasattr(v, "dtype") else tf.float64
            ),
            tf.float64,
        )
        for v in values
    ]
    shape, size = tensors[0].shape, tf.shape(tensors[0])
    for each in tensors[1:]:
        shape = tf.broadcast_static_shape(shape, each.shape)
        size = tf.broadcast_dynamic_shape(size, tf.shape(each))
    tensors = [
        tf.ensure_shape(tf.broadcast_to(each, size), shape) for each in tensors
    ]
    return *tensors, dtype


def quotient(x: Any, scale: Any) -> tf.Tensor:
    """Returns x / scale in float64, with a gradient that does not overflow.

    Far out the gradient that arrives from a logarithm of a density is near
    -(stability + 1) / z. That of `tf.divide` would multiply it by z / scale,
    which may be infinite.

    Args:
        x: Tensor-like of real numbers.
        scale: Tensor-like, > 0.

    Raises:
        ValueError: If the shapes do not broadcast.
    """
    x, scale, _ = float64_arguments(x, scale)
    return _quotient(x, scale)


@tf.custom_gradient
def _quotient(x: tf.Tensor, scale: tf.Tensor) -> tuple[tf.Tensor, _Gradient]:
    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        # Where the quotient is infinite, so that the upstream gradient is 0.
        limited = tf.clip_by_value(x / scale, -x.dtype.max, x.dtype.max)
        return [upstream / scale, -(upstream * limited) / scale]

    return x / scale, gradient


@tf.custom_gradient
def _log_density(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, _Gradient]:
    """Returns the logarithm of the density at any z, and its gradient."""
    # Z and -Z have opposite skewness, so only z >= 0 is integrated.
    sign = where(z < 0, -1.0, tf.ones_like(z))
    mirrored = sign * z, stability, sign * skewness
    at_z, *parameters = (tf.stop_gradient(each) for each in mirrored)
    value = stable_value(at_z, parameters[0], parameters[1], tail=False)
    value = _with_known_log_density(value, z, stability, skewness)

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        by_z, by_stability, by_skewness = stable_derivatives(
            *mirrored, tail=False
        )
        return [
            upstream * each
            for each in (sign * by_z, by_stability, sign * by_skewness)
        ]

    return _where_valid(value, stability, skewness), gradient


@tf.custom_gradient
def _log_survival(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, _Gradient]:
    """Returns log P(Z > z) at any z, and its gradient."""
    negative = z < 0
    sign = where(negative, -1.0, tf.ones_like(z))
    mirrored = sign * z, stability, sign * skewness
    at_z, *parameters = (tf.stop_gradient(each) for each in mirrored)
    outer = stable_value(at_z, parameters[0], parameters[1], tail=True)
    # The tail beyond |z|, on the side of z.
    outer = _with_known_log_survival(outer, *mirrored)
    value = where(negative, _log_complement(outer), outer)

    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
        by_z, by_stability, by_skewness = stable_derivatives(
            *mirrored, tail=True
        )
        factor = where(negative, -tf.exp(outer - value), tf.ones_like(z))
        return [
            upstream * factor * each
            for each in (sign * by_z, by_stability, sign * by_skewness)
        ]

    return _where_valid(value, stability, skewness), gradient


def _log_complement(log_p: tf.Tensor) -> tf.Tensor:
    """Returns log(1 - p)."""
    log_p = tf.minimum(log_p, -1e-17)
    return where(
        log_p < -0.7,
        tf.math.log1p(-tf.exp(tf.minimum(log_p, -0.5))),
        tf.math.log(-tf.math.expm1(tf.maximum(log_p, -1.0))),
    )


def _where_valid(
    value: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns the value, or NaN where a parameter is out of its range."""
    valid = (stability >= LEAST_STABILITY) & (stability <= 2)
    valid &= tf.abs(skewness) <= 1
    return where(valid, value, math.nan)


def _with_known_log_density(
    value: tf.Tensor, z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns `value`, or the closed form where there is one.

    normal   stability 2              -z^2 / 4 - log(4 pi) / 2
    Cauchy   stability 1, skewness 0  -log(1 + z^2) - log(pi)
    Levy     stability 1/2, skewness +-1, y = 1 +- z > 0
                                      -log(2 pi y^3) / 2 - 1 / (2 y)
    """
    z2 = tf.minimum(tf.abs(z), _LARGEST_SQUARED) ** 2
    normal = -tf.abs(z) * (tf.abs(z) / 4) - math.log(4 * math.pi) / 2
    cauchy = -tf.math.log1p(z2) - math.log(math.pi)
    y, inside = _levy_argument(z, skewness)
    levy = -0.5 * (math.log(2 * math.pi) + 1 / y) - 1.5 * tf.math.log(y)
    levy = where(inside, levy, -math.inf)
    near = tf.abs(z) < _LARGEST_SQUARED
    value = where(stability == 2, normal, value)
    value = where(_is_cauchy(stability, skewness) & near, cauchy, value)
    return where(_is_levy(stability, skewness), levy, value)


def _with_known_log_survival(
    value: tf.Tensor, z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> tf.Tensor:
    """Returns `value`, or log P(Z > z) in closed form, for z >= 0.

    P(Z > z) is

    normal   stability 2                            erfc(z / 2) / 2
    Cauchy   stability 1, skewness 0                arctan2(1, z) / pi
    Levy     stability 1/2, skewness 1, y = 1 + z   erf(1 / sqrt(2 y))
    Levy     stability 1/2, skewness -1, y = 1 - z  erfc(1 / sqrt(2 y))
    """
    normal = tf.math.erfc(tf.minimum(z / 2, _LARGEST_ERFC_ARGUMENT)) / 2
    cauchy = tf.atan2(tf.ones_like(z), z) / math.pi
    y, inside = _levy_argument(z, skewness)
    root = tf.math.rsqrt(2 * y)
    levy = where(skewness > 0, tf.math.erf(root), tf.math.erfc(root))
    underflows = inside & (root > _LARGEST_ERFC_ARGUMENT)
    value = where(
        (stability == 2) & (z / 2 < _LARGEST_ERFC_ARGUMENT),
        tf.math.log(normal),
        value,
    )
    value = where(_is_cauchy(stability, skewness), tf.math.log(cauchy), value)
    levy = where(inside, tf.math.log(levy), -math.inf)
    return where(_is_levy(stability, skewness) & ~underflows, levy, value)


def _is_cauchy(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    return (stability == 1) & (skewness == 0)


def _is_levy(stability: tf.Tensor, skewness: tf.Tensor) -> tf.Tensor:
    return (stability == 0.5) & (tf.abs(skewness) == 1)


def _levy_argument(
    z: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns y = 1 + sign(skewness) z and whether it is positive.

    y is replaced by 1 where it is not positive.
    """
    y = 1 + tf.sign(skewness) * z
    return where(y > 0, y, 1.0), y > 0
