"""The exponent of a stable law, in complex numbers t = exp(L).

With e = 1 - stability, u = pi e / 2, tau = (2 skewness / pi) u / tan(u), the
characteristic function of the standardised S0 law times exp(-i t z) is

    exp(-psi(t)),   psi(t) = t (q + i (tau E + z)),
    q = t^-e,       E = (1 - q) / e,

in which nothing is singular at stability 1, where E = log(t). Complex numbers
are pairs of real tensors, for which compilers have vectorised functions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]


class Law(NamedTuple):
    """z and the parameters of the law, of one shape and dtype."""

    z: tf.Tensor
    stability: tf.Tensor
    skewness: tf.Tensor
    e: tf.Tensor
    tau: tf.Tensor


class State(NamedTuple):
    """What the exponent needs to know of L; see `state` and `compose`."""

    log_t: Pair
    t: Pair
    q: Pair
    big_e: Pair


def law(z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor) -> Law:
    """That at stability 1 is taken at e = 1e-100, equal to the last digit."""
    e = 1.0 - stability
    e = where(tf.abs(e) < 1e-100, 1e-100, e)
    # u / tan(u) as u cos(u) / sin(u), where cos(u) = sin(pi stability / 2).
    tau = skewness * e * sine(stability) / tf.sin(math.pi / 2 * e)
    return Law(z, stability, skewness, e, tau)


def sine(stability: tf.Tensor) -> tf.Tensor:
    """sin(pi stability / 2), which is exactly 0 at stability 2."""
    return tf.sin(math.pi / 2 * tf.minimum(stability, 2.0 - stability))


def state(log_t: Pair, e: tf.Tensor) -> State:
    """t, q and E at L, to the last digit for any e that is not zero."""
    size = tf.exp(log_t[0])
    half = tf.sin(e * log_t[1] / 2)
    missing = 2 * half * half
    less = tf.math.expm1(-e * log_t[0])
    # Not less + 1, which has no digits left where q is small.
    q_size = tf.exp(-e * log_t[0])
    q = q_size * (1 - missing), -q_size * tf.sin(e * log_t[1])
    big_e = (missing - less * (1 - missing)) / e, -q[1] / e
    t = size * tf.cos(log_t[1]), size * tf.sin(log_t[1])
    return State(log_t, t, q, big_e)


def real_state(log_t: tf.Tensor, e: tf.Tensor) -> State:
    """`state` for a real L."""
    less = tf.math.expm1(-e * log_t)
    zero = tf.zeros_like(log_t)
    return State(
        (log_t, zero),
        (tf.exp(log_t), zero),
        (less + 1, zero),
        (-less / e, zero),
    )


def compose(a: State, b: State) -> State:
    """The state at the sum of two L: E(L + M) = E(L) + q(L) E(M)."""
    return State(
        add(a.log_t, b.log_t),
        multiply(a.t, b.t),
        multiply(a.q, b.q),
        add(a.big_e, multiply(a.q, b.big_e)),
    )


def exponent(at: State, p: Law) -> Pair:
    """psi."""
    inner = (
        at.q[0] - p.tau * at.big_e[1],
        at.q[1] + p.tau * at.big_e[0] + p.z,
    )
    return multiply(at.t, inner)


def slope(at: State, psi: Pair, p: Law) -> Pair:
    """d psi / dL = psi + t q (i tau - e)."""
    return add(psi, multiply(multiply(at.t, at.q), (-p.e, p.tau)))


def parameter_slopes(at: State, rate: Pair, p: Law) -> tuple[Pair, Pair, Pair]:
    """Derivatives of psi in z, stability and skewness, at a fixed L.

    Args:
        at: State at L.
        rate: d E / d stability there.
        p: The law.
    """
    of_stability, of_skewness = _tau_slopes(p)
    change = multiply(at.log_t, at.q)
    change = (
        change[0] - p.tau * rate[1] - of_stability * at.big_e[1],
        change[1] + p.tau * rate[0] + of_stability * at.big_e[0],
    )
    turned = -of_skewness * at.big_e[1], of_skewness * at.big_e[0]
    return (-at.t[1], at.t[0]), multiply(at.t, change), multiply(at.t, turned)


def _tau_slopes(p: Law) -> tuple[tf.Tensor, tf.Tensor]:
    """Derivatives of tau in stability and skewness."""
    u = p.e * (math.pi / 2)
    sin, cos = tf.sin(u), sine(p.stability)
    small = tf.abs(u) < 1e-3
    # d/du (u / tan u) = (sin u cos u - u) / sin^2 u, du / dstability = -pi/2
    change = where(
        small,
        -2 / 3 * u - 4 / 45 * u * u * u,
        (sin * cos - u) / where(small, 1.0, sin * sin),
    )
    return -p.skewness * change, p.e * cos / sin


# (1 - exp(-y) - y exp(-y)) / y^2 = sum_k (k + 1) / (k + 2)! (-y)^k
_RATE = [(-1) ** k * (k + 1) / math.factorial(k + 2) for k in range(13)]


def rate_of_e(at: State, e: tf.Tensor) -> Pair:
    """d E / d stability = (E - L q) / e; as a series where this cancels."""
    y = e * at.log_t[0], e * at.log_t[1]
    near = y[0] * y[0] + y[1] * y[1] < 0.25
    y = where(near, y[0], 0.0), where(near, y[1], 0.0)
    series = tf.zeros_like(y[0]), tf.zeros_like(y[1])
    for coefficient in reversed(_RATE):
        series = multiply(series, y)
        series = series[0] + coefficient, series[1]
    series = multiply(multiply(at.log_t, at.log_t), series)
    lq = multiply(at.log_t, at.q)
    return (
        where(near, series[0], (at.big_e[0] - lq[0]) / e),
        where(near, series[1], (at.big_e[1] - lq[1]) / e),
    )


def compose_rates(a: State, rate_a: Pair, b: State, rate_b: Pair) -> Pair:
    """`rate_of_e` at the sum of two L."""
    mixed = multiply(multiply(a.log_t, a.q), b.big_e)
    return add(add(rate_a, mixed), multiply(a.q, rate_b))


def add(a: Pair, b: Pair) -> Pair:
    return a[0] + b[0], a[1] + b[1]


def multiply(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def logarithm(a: Pair) -> Pair:
    return 0.5 * tf.math.log(a[0] * a[0] + a[1] * a[1]), tf.atan2(a[1], a[0])


def where(mask: tf.Tensor, this: object, that: object) -> tf.Tensor:
    """tf.where, in which a number takes the dtype of the other side."""
    dtype = this.dtype if tf.is_tensor(this) else that.dtype
    this, that = (tf.convert_to_tensor(each, dtype) for each in (this, that))
    return tf.where(mask, this, that)
