"""The exponent of the Fourier integrals of a stable density, and derivatives.

Let a be the stability and b the skewness. With e = 1 - a, u = pi e / 2 and
tau = (2 b / pi) u / tan(u), the characteristic function of the standard S0
distribution times exp(-i t z) is

    exp(-psi(t)),   psi(t) = t (q + i (tau E + z)),
    q = t^-e,       E = (1 - q) / e.

Nothing here is singular at a = 1, where E = log(t). The formula continues psi
to complex t, and all functions of this module work with L = log(t), of which
psi is an entire function.

A complex number is a pair of real tensors (`Pair`), because XLA has vectorized
elementary functions for real tensors only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import where

Pair = tuple[tf.Tensor, tf.Tensor]


class StableParameters(NamedTuple):
    """A point z and the parameters of its distribution, as float64 tensors.

    All fields have one shape.

    Args:
        z: Tensor. The point, in units of the scale and relative to the
            location.
        stability: Tensor. a, in (0, 2].
        skewness: Tensor. b, in [-1, 1].
        e: Tensor. 1 - a, or 1e-100 at a = 1.
        tau: Tensor. e b tan(pi a / 2), which is 2 b / pi at a = 1.
    """

    z: tf.Tensor
    stability: tf.Tensor
    skewness: tf.Tensor
    e: tf.Tensor
    tau: tf.Tensor


class PathPoint(NamedTuple):
    """The functions of L = log(t) that psi is made of, at one complex L.

    Args:
        log_t: Pair. L.
        t: Pair. exp(L).
        q: Pair. exp(-e L).
        big_e: Pair. E = (1 - q) / e.
    """

    log_t: Pair
    t: Pair
    q: Pair
    big_e: Pair


def stable_parameters(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> StableParameters:
    """Returns the parameters together with e and tau.

    At stability 1, e is set to 1e-100, which changes no digit of any result.
    """
    e = 1.0 - stability
    e = where(tf.abs(e) < 1e-100, 1e-100, e)
    # u / tan(u) as u cos(u) / sin(u), where cos(u) = sin(pi stability / 2).
    tau = skewness * e * sin_half_pi_times(stability) / tf.sin(math.pi / 2 * e)
    return StableParameters(z, stability, skewness, e, tau)


def sin_half_pi_times(stability: tf.Tensor) -> tf.Tensor:
    """Returns sin(pi stability / 2), which is exactly 0 at stability 2."""
    return tf.sin(math.pi / 2 * tf.minimum(stability, 2.0 - stability))


def path_point(log_t: Pair, e: tf.Tensor) -> PathPoint:
    """Returns t, q and E at a complex L, for any e that is not zero.

    All are accurate to rounding: 1 - q, which cancels for small e L, is
    computed from expm1 and from 1 - cos(x) = 2 sin^2(x / 2).
    """
    t_modulus = tf.exp(log_t[0])
    half_sine = tf.sin(e * log_t[1] / 2)
    one_minus_cosine = 2 * half_sine * half_sine
    q_modulus_less_1 = tf.math.expm1(-e * log_t[0])
    # Not q_modulus_less_1 + 1, which has no digits left where q is small.
    q_modulus = tf.exp(-e * log_t[0])
    q = q_modulus * (1 - one_minus_cosine), -q_modulus * tf.sin(e * log_t[1])
    big_e = (
        (one_minus_cosine - q_modulus_less_1 * (1 - one_minus_cosine)) / e,
        -q[1] / e,
    )
    t = t_modulus * tf.cos(log_t[1]), t_modulus * tf.sin(log_t[1])
    return PathPoint(log_t, t, q, big_e)


def real_path_point(log_t: tf.Tensor, e: tf.Tensor) -> PathPoint:
    """Returns `path_point` for a real L."""
    q_less_1 = tf.math.expm1(-e * log_t)
    zero = tf.zeros_like(log_t)
    return PathPoint(
        (log_t, zero),
        (tf.exp(log_t), zero),
        (q_less_1 + 1, zero),
        (-q_less_1 / e, zero),
    )


def point_at_sum(first: PathPoint, second: PathPoint) -> PathPoint:
    """Returns the point at the sum of two L, without exponential functions.

    t and q multiply, and E(L + M) = E(L) + q(L) E(M).
    """
    return PathPoint(
        add(first.log_t, second.log_t),
        multiply(first.t, second.t),
        multiply(first.q, second.q),
        add(first.big_e, multiply(first.q, second.big_e)),
    )


def exponent(point: PathPoint, params: StableParameters) -> Pair:
    """Returns psi = t (q + i (tau E + z))."""
    factor = (
        point.q[0] - params.tau * point.big_e[1],
        point.q[1] + params.tau * point.big_e[0] + params.z,
    )
    return multiply(point.t, factor)


def exponent_derivative(
    point: PathPoint, psi: Pair, params: StableParameters
) -> Pair:
    """Returns the derivative of psi in L: psi + t q (i tau - e)."""
    return add(
        psi, multiply(multiply(point.t, point.q), (-params.e, params.tau))
    )


def parameter_derivatives(
    point: PathPoint, big_e_rate: Pair, params: StableParameters
) -> tuple[Pair, Pair, Pair]:
    """Returns the derivatives of psi in z, stability and skewness at a fixed L.

    Args:
        point: PathPoint. The functions of L.
        big_e_rate: Pair. The derivative of E in stability, from
            `big_e_derivative`.
        params: StableParameters.
    """
    tau_by_stability, tau_by_skewness = _tau_derivatives(params)
    change = multiply(point.log_t, point.q)
    change = (
        change[0]
        - params.tau * big_e_rate[1]
        - tau_by_stability * point.big_e[1],
        change[1]
        + params.tau * big_e_rate[0]
        + tau_by_stability * point.big_e[0],
    )
    i_times_big_e = (
        -tau_by_skewness * point.big_e[1],
        tau_by_skewness * point.big_e[0],
    )
    return (
        (-point.t[1], point.t[0]),
        multiply(point.t, change),
        multiply(point.t, i_times_big_e),
    )


def _tau_derivatives(params: StableParameters) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the derivatives of tau in stability and skewness."""
    u = params.e * (math.pi / 2)
    sine, cosine = tf.sin(u), sin_half_pi_times(params.stability)
    small = tf.abs(u) < 1e-3
    # d/du (u / tan u) = (sin u cos u - u) / sin^2 u, du / dstability = -pi/2
    change = where(
        small,
        -2 / 3 * u - 4 / 45 * u * u * u,
        (sine * cosine - u) / where(small, 1.0, sine * sine),
    )
    return -params.skewness * change, params.e * cosine / sine


# (1 - exp(-y) - y exp(-y)) / y^2 = sum_k (k + 1) / (k + 2)! (-y)^k
_BIG_E_DERIVATIVE_SERIES = [
    (-1) ** k * (k + 1) / math.factorial(k + 2) for k in range(13)
]


def big_e_derivative(point: PathPoint, e: tf.Tensor) -> Pair:
    """Returns the derivative of E in stability: (E - L q) / e.

    A power series in y = e L takes its place for |y| < 1/2, where the
    difference cancels.
    """
    y = e * point.log_t[0], e * point.log_t[1]
    near = y[0] * y[0] + y[1] * y[1] < 0.25
    y = where(near, y[0], 0.0), where(near, y[1], 0.0)
    series = tf.zeros_like(y[0]), tf.zeros_like(y[1])
    for coefficient in reversed(_BIG_E_DERIVATIVE_SERIES):
        series = multiply(series, y)
        series = series[0] + coefficient, series[1]
    series = multiply(multiply(point.log_t, point.log_t), series)
    log_t_q = multiply(point.log_t, point.q)
    return (
        where(near, series[0], (point.big_e[0] - log_t_q[0]) / e),
        where(near, series[1], (point.big_e[1] - log_t_q[1]) / e),
    )


def big_e_derivative_at_sum(
    first: PathPoint, first_rate: Pair, second: PathPoint, second_rate: Pair
) -> Pair:
    """Returns `big_e_derivative` at the sum of two L.

    Args:
        first: PathPoint. The functions at the first L.
        first_rate: Pair. `big_e_derivative` there.
        second: PathPoint. The functions at the second L.
        second_rate: Pair. `big_e_derivative` there.
    """
    mixed = multiply(multiply(first.log_t, first.q), second.big_e)
    return add(add(first_rate, mixed), multiply(first.q, second_rate))


def add(a: Pair, b: Pair) -> Pair:
    """Returns the sum of two complex numbers."""
    return a[0] + b[0], a[1] + b[1]


def multiply(a: Pair, b: Pair) -> Pair:
    """Returns the product of two complex numbers."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def logarithm(a: Pair) -> Pair:
    """Returns the principal value of a complex logarithm."""
    return 0.5 * tf.math.log(a[0] * a[0] + a[1] * a[1]), tf.atan2(a[1], a[0])
