"""Stable densities of a small stability, by Zolotarev's integral.

The integral along a path in the plane of t has two scales there, that of t and
that of t^stability, which lie many powers of ten apart. Zolotarev's integral
over an angle has a positive integrand instead, so that nothing cancels. Let a
be the stability, b the skewness, T = tan(pi a / 2), and y = z + b T > 0. Then

    f = a / ((1 - a) pi y) int g exp(-g) d theta
    P(0 < Y < y) = (1/pi) int exp(-g) d theta

over an interval of length B = atan(T (1 + b) / (1 - b T^2)) / a, which is pi
times P(Y > 0). With r the distance to its right end, l = B - r that to its left
end, and R = sqrt(1 + (b T)^2),

    log g = (log R - a log(y) + a log sin(a l) - log sin(r)) / (1 - a)
            + log sin(a l + r).

The points are l = B / (1 + exp(-v)) for equally spaced v. Then the integrand
falls at least as exp(v) on the left, and double exponentially on the right. The
code computes with x = v - log(y), since g does not depend on y at a fixed x as
y tends to 0.

For w = R y^-a < 1 the series

    P(Y > y) = (1/pi) sum_k (-1)^(k + 1) Gamma(k a) / k! sin(k a B) w^k

takes the integral's place: it converges for any y if a < 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import where

# Number of the points v, and how far they reach: the integrand is below
# exp(-_DEPTH) of its largest value outside.
_POINTS, _DEPTH = 160, 39.0
# Terms of the series.
_TERMS = 24
# exp of this is finite, and so is twice its value.
_LARGEST_EXPONENT = 690.0


def log_value(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns log f(z) or log P(Z > z), which are differentiable.

    Args:
        z: float64 vector.
        stability: float64 vector, in (0, 0.5).
        skewness: float64 vector, in [-1, 1].
        tail: bool. Whether to return log P(Z > z) instead of log f(z).

    Returns:
        A list of one vector, which is -inf outside the support.

    Reference: Zolotarev, One-dimensional Stable Distributions (1986), section
    2.2 for the integrals and 2.4 for the series. The change of variables is
    derived here.
    """
    y = z + skewness * tf.tan(math.pi / 2 * stability)
    positive = y >= 0
    # Not the absolute value, which has no slope at 0.
    y = where(positive, y, -y)
    # The distribution of -Y has the opposite skewness.
    skewness = where(positive, skewness, -skewness)
    values = centered_values(y, stability, skewness)
    if not tail:
        return [values.log_density]
    return [where(positive, values.log_above, values.log_below)]


class CenteredValues(NamedTuple):
    """Values at a y >= 0 of the distribution of Y = Z + skewness T.

    Args:
        log_density: Tensor. Its logarithm at y.
        slopes: Pair of Tensors. The first two derivatives of `log_density` in
            log(y).
        log_above: Tensor. log P(Y > y).
        log_below: Tensor. log P(Y < y).
        log_between: Tensor. log P(0 < Y < y).
    """

    log_density: tf.Tensor
    slopes: tuple[tf.Tensor, tf.Tensor]
    log_above: tf.Tensor
    log_below: tf.Tensor
    log_between: tf.Tensor


def centered_values(
    y: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> CenteredValues:
    """Returns the density and probabilities at y >= 0.

    Args:
        y: float64 vector, >= 0.
        stability: float64 vector, in (0, 0.5).
        skewness: float64 vector, in [-1, 1].
    """
    tangent = tf.tan(math.pi / 2 * stability)
    log_root = 0.5 * tf.math.log1p((skewness * tangent) ** 2)
    width, rest = angles(stability, skewness)
    outside = (width <= 0) | ((rest <= 0) & (y == 0))
    width = where(outside, math.pi / 2, width)
    rest = where(outside, math.pi / 2, rest)

    largest = tf.exp(log_root / stability)
    far = y > largest
    near = _integrals(where(far, largest, y), stability, width, rest, log_root)
    density, slopes, above = _series(
        where(far, y, largest), stability, width, log_root
    )
    # Not the logarithm times y, which has no slope at y = 0.
    between = tf.exp(tf.minimum(near[2], _LARGEST_EXPONENT)) * y
    above = where(far, above, width / math.pi - between)
    below = where(far, 1 - above, rest / math.pi + between)
    log_between = near[2] + _log(y)
    # In a light tail the probability itself may underflow.
    deep = below < 1e-290
    log_below = tf.math.log(where(deep, 1.0, below))
    log_below = where(deep, log_between, log_below)
    inside = where(far, width / math.pi - above, 1.0)
    log_between = where(far, tf.math.log(inside), log_between)
    return CenteredValues(
        where(outside, -math.inf, where(far, density, near[0])),
        (
            where(outside, 0.0, where(far, slopes[0], near[1][0])),
            where(outside, 0.0, where(far, slopes[1], near[1][1])),
        ),
        where(outside, -math.inf, tf.math.log(above)),
        where(outside, 0.0, log_below),
        where(outside, -math.inf, log_between),
    )


def angles(
    stability: tf.Tensor, skewness: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns pi P(Y > 0) and pi P(Y < 0), each accurate to its last digit."""
    tangent = tf.tan(math.pi / 2 * stability)
    product = skewness * tangent * tangent
    return (
        tf.atan2(tangent * (1 + skewness), 1 - product) / stability,
        tf.atan2(tangent * (1 - skewness), 1 + product) / stability,
    )


def log_derivatives(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the derivatives of `log_value` in z, stability and skewness.

    Args:
        z: float64 vector.
        stability: float64 vector, in (0, 0.5).
        skewness: float64 vector, in [-1, 1].
        tail: bool. Whether to differentiate log P(Z > z) instead of log f(z).
    """
    arguments = [z, stability, skewness]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        (value,) = log_value(z, stability, skewness, tail)
    slopes = tape.gradient(value, arguments)
    if not tail:
        # The rounding errors at the very narrow peak are large numbers.
        slopes[0] = where((z == 0) & (skewness == 0), 0.0, slopes[0])
    outside = tf.math.is_inf(value)
    return [where(outside, 0.0, each) for each in slopes]


def _integrals(
    y: tf.Tensor,
    a: tf.Tensor,
    width: tf.Tensor,
    rest: tf.Tensor,
    log_root: tf.Tensor,
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns log f(y), its derivatives in log(y), and log(P(0 < Y < y) / y).

    Args:
        y: Tensor, >= 0.
        a: Tensor. The stability.
        width: Tensor. The length B of the interval.
        rest: Tensor. pi - B.
        log_root: Tensor. log R.
    """
    low, spacing = tf.nest.map_structure(
        tf.stop_gradient, _range(y, a, width, rest, log_root)
    )
    nodes = tf.constant(np.arange(_POINTS)[:, None], y.dtype)
    x = low + spacing * nodes
    # exp(v), which is proportional to y.
    scaled = y * tf.exp(tf.minimum(x, _LARGEST_EXPONENT))
    log_share = -tf.math.log1p(scaled)
    right = width * tf.exp(log_share)
    left = right * scaled
    sine = tf.sin(tf.minimum(right, rest + left))
    turned = tf.sin(tf.minimum(a * left + right, rest + (1 - a) * left))
    # log(sin(a l) / (a l)), of which sin loses no digit.
    small = a * left < 1e-150
    argument = where(small, 1.0, a * left)
    log_sinc = where(small, 0.0, tf.math.log(tf.sin(argument) / argument))
    log_g = (
        log_root
        + a * (x + tf.math.log(a * width) + log_share + log_sinc)
        - _log(sine)
    ) / (1 - a) + _log(turned)
    log_g = tf.minimum(log_g, _LARGEST_EXPONENT)
    g = tf.exp(log_g)
    # d theta / y is l r / (B y) dv.
    log_weight = (
        tf.math.log(width) + x + 2 * log_share + tf.math.log(spacing)
    ) - math.log(math.pi)
    log_density = _log_sum(log_g - g + log_weight)
    # m_k, the mean of g^k under the density. As log(y) rises, log g falls at
    # the rate r = a / (1 - a) at each angle, so that the derivative of m_1 is
    # -r (m_1 - m_2 + m_1^2).
    m1, m2 = (
        tf.exp(_log_sum((k + 1) * log_g - g + log_weight) - log_density)
        for k in (1, 2)
    )
    r = a / (1 - a)
    slopes = (a * m1 - 1) / (1 - a), r**2 * (m2 - m1 * (1 + m1))
    return (
        log_density + tf.math.log(r),
        slopes,
        _log_sum(log_weight - g),
    )


def _range(
    y: tf.Tensor,
    a: tf.Tensor,
    width: tf.Tensor,
    rest: tf.Tensor,
    log_root: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the lowest x, and the spacing of the x.

    log g rises with v. On the left it is a / (1 - a) x + `left`, and on the
    right v / (1 - a) + `right`. If the interval is almost a half-turn long,
    log g is almost constant between -log(rest) and 0.
    """
    log_y = tf.math.log(tf.maximum(y, 1e-300))
    log_rest = _log(rest)
    slope = a / (1 - a)
    sine = _log(tf.sin(tf.minimum(width, rest)))
    left = (log_root + a * tf.math.log(a * width) - sine) / (1 - a) + sine
    turned = tf.math.log(tf.sin(a * width))
    right = (log_root - a * log_y + a * turned - tf.math.log(width)) / (
        1 - a
    ) + turned
    # Between, for `rest` = 0.
    plateau = (log_root - a * log_y + a * tf.math.log(a)) / (1 - a)
    plateau += tf.math.log(1 - a)
    end = tf.minimum(log_rest, 0.0) - log_y
    # There is no left end then.
    end = where(rest == 0, -math.inf, end)

    # Where g is so large that the integrand is negligible.
    largest = tf.math.log(1 / a + 10 * tf.math.rsqrt(a) + _DEPTH + 6)
    high = (largest - left) / slope
    high = where(
        high < end - 1,
        high,
        tf.maximum((largest - right) * (1 - a), 0.0) - log_y,
    )
    # The integrand is largest where g = 1 / a, or where the plateau begins.
    peak = (-tf.math.log(a) - left) / slope
    center = tf.minimum(
        tf.maximum(log_rest, -0.5 * tf.maximum(plateau, 0.0) - 3), 0.0
    )
    # The width of the peak of g^(1 / a) exp(-g) is a^(-1/2).
    low = where(
        peak < end,
        peak - tf.maximum(9 * tf.math.rsqrt(a), _DEPTH),
        center - log_y - _DEPTH,
    )
    return low, (high + 1.5 - low) / (_POINTS - 1)


def _series(
    y: tf.Tensor, a: tf.Tensor, width: tf.Tensor, log_root: tf.Tensor
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns log f(y), its derivatives in log(y), and P(Y > y), for w <= 1."""
    log_y = tf.math.log(y)
    log_w = log_root - a * log_y
    k = tf.constant(np.arange(1.0, _TERMS + 1)[:, None], y.dtype)
    log_size = tf.math.lgamma(k * a) - tf.math.lgamma(k + 1) + (k - 1) * log_w
    sign = tf.constant((-1.0) ** np.arange(_TERMS)[:, None], y.dtype)
    terms = sign * tf.exp(log_size) * tf.sin(k * a * width)
    total, first, second, third = (
        tf.reduce_sum((a * k) ** power * terms, axis=0) for power in range(4)
    )
    slopes = -1 - second / first, third / first - (second / first) ** 2
    log_w -= math.log(math.pi)
    return (
        log_w + tf.math.log(first) - log_y,
        slopes,
        tf.exp(log_w) * total,
    )


def _log_sum(logs: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of the sum of exp over the first axis."""
    largest = tf.stop_gradient(tf.reduce_max(logs, axis=0))
    return largest + tf.math.log(tf.reduce_sum(tf.exp(logs - largest), axis=0))


def _log(x: tf.Tensor) -> tf.Tensor:
    """Returns log(x), with the least positive number in the place of 0."""
    return tf.math.log(tf.maximum(x, 1e-300))
