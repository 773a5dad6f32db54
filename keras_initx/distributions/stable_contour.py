"""The contour on which the Fourier integral of a stable law is computed.

With e = 1 - stability, u = pi e / 2, tau = (2 skewness / pi) u / tan(u), the
density of the standardised S0 law and its upper tail are

    f(z) = (1/pi) Re int exp(-psi) dt,      t from 0 to infinity,
    S(z) = 1/2 + (1/pi) Im int exp(-psi) dt/t   (Gil-Pelaez),
    psi(t) = t (q + i (tau E + z)),   q = t^-e,   E = (1 - q) / e,

whose exponent has no singularity at stability 1, where E = log(t). Since psi is
entire in L = log(t), any path in the L plane will do. Taken here is

    L(u) = L1 + c u - d (exp(-u) - 1),   c = (L2 - L1) / log(80),

a logarithmic spiral from near the point L1 where psi = 1 to L2 where psi = 80,
that is along the path of steepest descent, with u on a uniform grid: the
trapezoidal rule then converges exponentially, and psi is about exp(u).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Pair = tuple[tf.Tensor, tf.Tensor]

_FAR = math.log(80.0)
# More turning than this between L1 and L2 costs more accuracy than it gains.
_TURN = 0.6
_GRID = np.linspace(-3.6, 3.75, 56)
_STEP = float(_GRID[1] - _GRID[0])


class Law(NamedTuple):
    """What the exponent needs of z >= 0, stability and skewness."""

    z: tf.Tensor
    stability: tf.Tensor
    skewness: tf.Tensor
    e: tf.Tensor
    tau: tf.Tensor


def law(z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor) -> Law:
    e = 1.0 - stability
    # E has its limit to the last digit long before e is as small as this.
    e = where(tf.abs(e) < 1e-30, tf.ones_like(e) * 1e-30, e)
    u = e * (math.pi / 2)
    # u / tan(u) as u cos(u) / sin(u), where cos(u) = sin(pi stability / 2).
    tau = skewness * e * sine(stability) / tf.sin(u)
    return Law(z, stability, skewness, e, tau)


def where(mask: tf.Tensor, this, that) -> tf.Tensor:
    """tf.where, whose numbers take the other side's dtype."""
    dtype = this.dtype if tf.is_tensor(this) else that.dtype
    this, that = (tf.convert_to_tensor(each, dtype) for each in (this, that))
    return tf.where(mask, this, that)


def sine(stability: tf.Tensor) -> tf.Tensor:
    """sin(pi stability / 2), exactly 0 at stability 2."""
    return tf.sin(math.pi / 2 * tf.minimum(stability, 2.0 - stability))


def multiply(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def exponent(log_t: Pair, p: Law) -> tuple[Pair, Pair, Pair, Pair]:
    """t, q, E and psi at L, all complex numbers as pairs."""
    size, angle = tf.exp(log_t[0]), log_t[1]
    t = size * tf.cos(angle), size * tf.sin(angle)
    shrink = tf.math.expm1(-p.e * log_t[0])
    half = tf.sin(p.e * angle / 2)
    q_imag = -(shrink + 1) * tf.sin(p.e * angle)
    less = shrink * (1 - 2 * half * half) - 2 * half * half
    q = 1 + less, q_imag
    big_e = -less / p.e, -q_imag / p.e
    psi = multiply(t, (q[0] - p.tau * big_e[1], q[1] + p.tau * big_e[0] + p.z))
    return t, q, big_e, psi


def slope(t: Pair, q: Pair, psi: Pair, p: Law) -> Pair:
    """d psi / dL = psi + t q (i tau - e)."""
    turn = multiply(t, multiply(q, (-p.e, p.tau)))
    return psi[0] + turn[0], psi[1] + turn[1]


def _log(a: Pair) -> Pair:
    return 0.5 * tf.math.log(a[0] * a[0] + a[1] * a[1]), tf.atan2(a[1], a[0])


def _descend(log_t: Pair, target: float, p: Law, steps: int) -> Pair:
    """Newton's method for log psi(L) = target."""
    for _ in range(steps):
        t, q, _, psi = exponent(log_t, p)
        above = _log(psi)
        d = slope(t, q, psi, p)
        norm = d[0] * d[0] + d[1] * d[1]
        step = multiply((above[0] - target, above[1]), psi)
        step = multiply(step, (d[0] / norm, -d[1] / norm))
        # A point near a saddle, where the slope is 0, would be thrown away.
        size = tf.sqrt(step[0] * step[0] + step[1] * step[1])
        shorter = 1.5 / tf.maximum(size, 1.5)
        log_t = log_t[0] - shorter * step[0], log_t[1] - shorter * step[1]
    return log_t


def spiral(p: Law) -> tuple[Pair, Pair]:
    """L1 and c."""
    first = _log((tf.ones_like(p.z), p.z))
    first = _descend((-first[0], -first[1]), 0.0, p, 5)
    real = _FAR / p.stability, tf.zeros_like(p.z)
    _, q, big_e, _ = exponent(real, p)
    guess = _log((q[0] - p.tau * big_e[1], q[1] + p.tau * big_e[0] + p.z))
    far = _descend((_FAR - guess[0], -guess[1]), _FAR, p, 7)
    turn = tf.clip_by_value(far[1] - first[1], -_TURN, _TURN)
    first = first[0], far[1] - turn
    return first, ((far[0] - first[0]) / _FAR, turn / _FAR)


def parameter_slopes(
    log_t: Pair, t: Pair, q: Pair, big_e: Pair, p: Law
) -> tuple[Pair, Pair, Pair]:
    """Derivatives of psi in z, stability and skewness, at a fixed L.

    d q / d stability = L q, and d E / d stability = (E - L q) / e.
    """
    tau_stability, tau_skewness = _tau_slopes(p)
    rate = _rate_of_e(log_t, q, big_e, p)
    lq = multiply(log_t, q)
    in_z = -t[1], t[0]
    in_stability = multiply(
        t,
        (
            lq[0] - p.tau * rate[1] - tau_stability * big_e[1],
            lq[1] + p.tau * rate[0] + tau_stability * big_e[0],
        ),
    )
    in_skewness = multiply(
        t, (-tau_skewness * big_e[1], tau_skewness * big_e[0])
    )
    return in_z, in_stability, in_skewness


def _tau_slopes(p: Law) -> tuple[tf.Tensor, tf.Tensor]:
    """Derivatives of tau in stability and skewness."""
    u = p.e * (math.pi / 2)
    sin_u, cos_u = tf.sin(u), sine(p.stability)
    small = tf.abs(u) < 1e-3
    safe = where(small, tf.ones_like(u), sin_u)
    # d/du (u / tan u) = (sin u cos u - u) / sin^2 u
    change = where(
        small,
        -2 / 3 * u - 4 / 45 * u**3,
        (sin_u * cos_u - u) / (safe * safe),
    )
    return -p.skewness * change, p.e * cos_u / sin_u


# (1 - exp(-y) - y exp(-y)) / y^2 = sum_k (-1)^k y^k (k + 1) / (k + 2)!
_RATE = [(-1.0) ** k * (k + 1) / math.factorial(k + 2) for k in range(13)]


def _rate_of_e(log_t: Pair, q: Pair, big_e: Pair, p: Law) -> Pair:
    """(E - L q) / e, by its series where the difference cancels."""
    y = p.e * log_t[0], p.e * log_t[1]
    near = y[0] * y[0] + y[1] * y[1] < 0.25
    y = where(near, y[0], 0.0), where(near, y[1], 0.0)
    series = tf.zeros_like(y[0]), tf.zeros_like(y[1])
    for coefficient in reversed(_RATE):
        series = multiply(series, y)
        series = series[0] + coefficient, series[1]
    series = multiply(multiply(log_t, log_t), series)
    lq = multiply(log_t, q)
    return (
        where(near, series[0], (big_e[0] - lq[0]) / p.e),
        where(near, series[1], (big_e[1] - lq[1]) / p.e),
    )


class Axis(NamedTuple):
    """Where the contour runs straight along t = -i s, s > 0, up to `end`.

    There Im psi = -(1 + skewness) sin(pi stability / 2) s^stability, so that
    the integrand is real, its Pareto tail keeps its relative accuracy, and
    vanishes where the law has none.
    """

    on: tf.Tensor
    log_end: tf.Tensor


def integrals(p: Law, axis: Axis, tail: bool, slopes: bool) -> list[tf.Tensor]:
    """The density or the tail; or its derivatives in z and the parameters."""
    first, rate = (tuple(map(tf.stop_gradient, pair)) for pair in spiral(p))
    first = first[0], where(axis.on, -math.pi / 2, first[1])
    rate = rate[0], where(axis.on, 0.0, rate[1])
    shape = [-1] + [1] * len(p.z.shape)
    u = tf.constant(_GRID, p.z.dtype)
    hook = tf.reshape(tf.exp(-u), shape)
    u = tf.reshape(u, shape)
    depth = tf.maximum(1.0 / p.stability, 1.0)
    from_first = rate[0] * u - depth * (hook - 1), rate[1] * u
    log_t = first[0] + from_first[0], first[1] + from_first[1]
    step = rate[0] + depth * hook, rate[1] + tf.zeros_like(hook)

    t, q, big_e, psi = exponent(log_t, p)
    on = axis.on & tf.ones_like(u, tf.bool)
    power = tf.exp(p.stability * log_t[0])
    kappa = (1 + p.skewness) * sine(p.stability)
    t = where(on, 0.0, t[0]), t[1]
    psi = psi[0], where(on, -kappa * power, psi[1])
    size = where(log_t[0] < axis.log_end, tf.exp(-psi[0]), 0.0)
    wave = size * tf.cos(psi[1]), -size * tf.sin(psi[1])
    wave = multiply(wave, step)
    pick = 1 if tail else 0
    if not tail:
        wave = multiply(wave, t)
    if not slopes:
        if tail:
            rise = multiply(slope(t, q, psi, p), from_first)
            bent = multiply(wave, rise)[1]
            inside = where(on, wave[1], bent)
            start = where(axis.on, 0.0, math.pi / 2 + first[1])
            return [_sum(inside) + start / math.pi]
        return [_sum(wave[0])]
    in_z, in_stability, in_skewness = parameter_slopes(log_t, t, q, big_e, p)
    in_stability = (
        in_stability[0],
        where(
            on,
            -(_kappa_slope(p) + kappa * log_t[0]) * power,
            in_stability[1],
        ),
    )
    in_skewness = (
        in_skewness[0],
        where(on, -sine(p.stability) * power, in_skewness[1]),
    )
    return [
        -_sum(multiply(wave, each)[pick])
        for each in (in_z, in_stability, in_skewness)
    ]


def _kappa_slope(p: Law) -> tf.Tensor:
    half = math.pi / 2
    return (1 + p.skewness) * half * tf.cos(half * p.stability)


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, axis=0) * (_STEP / math.pi)
