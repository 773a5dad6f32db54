"""The Fourier integrals of a stable law, along the path of steepest descent.

The density of the standardised S0 law and its upper tail are

    f(z) = (1/pi) Re int exp(-psi) dt,          t from 0 to infinity,
    P(Z > z) = 1/2 + (1/pi) Im int exp(-psi) dt/t   (Gil-Pelaez).

psi is entire in L = log(t), so any path in the plane of L will do. Taken is

    L(u) = L1 + c u - d (exp(-u) - 1),    c = (L2 - L1) / log(80),

a logarithmic spiral through the points where psi = 1 and psi = 80 in the plane
of t, so that psi is about exp(u) along it. The trapezoidal rule in u then
converges exponentially: the integrand is entire in u, and falls off double
exponentially on both sides.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.exponent import (
    Law,
    Pair,
    State,
    compose,
    compose_rates,
    exponent,
    logarithm,
    multiply,
    parameter_slopes,
    rate_of_e,
    real_state,
    sine,
    slope,
    state,
    where,
)

_FAR = math.log(80.0)
# More turning than this between L1 and L2 costs more accuracy than it gains.
_TURN = 0.6
_STEPS = 3
# Nodes u, in rows: the state at the sum of a row's and a column's part of L
# comes from 7 + 8 evaluations by multiplication.
_ROWS, _COLUMNS = 7, 8
_LOW, _HIGH = -3.5, 3.7
_SPACING = (_HIGH - _LOW) / (_ROWS * _COLUMNS - 1)


class Axis(NamedTuple):
    """Where the path is to run straight along t = -i s, s > 0, up to `log_end`.

    There Im psi = -(1 + skewness) sin(pi stability / 2) s^stability: a Pareto
    tail keeps its relative accuracy, and is exactly 0 where the law has none.
    """

    on: tf.Tensor
    log_end: tf.Tensor


def integrals(p: Law, axis: Axis, tail: bool, slopes: bool) -> list[tf.Tensor]:
    """The density or upper tail; or its derivatives.

    Args:
        p: The law at z >= 0, a vector.
        axis: Which of the points are in a tail.
        tail: The upper tail, not the density.
        slopes: The derivatives in z, stability and skewness, not the value.
    """
    start, rate = tf.nest.map_structure(tf.stop_gradient, _spiral(p))
    start = start[0], where(axis.on, -math.pi / 2, start[1])
    rate = rate[0], where(axis.on, 0.0, rate[1])
    depth = tf.maximum(1.0 / p.stability, 1.0)
    rows = _grid(_LOW + _SPACING * _COLUMNS * np.arange(_ROWS)[:, None], p)
    columns = _grid(_SPACING * np.arange(_COLUMNS)[None], p)
    hook = tf.exp(-(rows + columns))
    parts = [
        state((start[0] + rate[0] * rows, start[1] + rate[1] * rows), p.e),
        state((rate[0] * columns, rate[1] * columns), p.e),
        real_state(-depth * (hook - 1), p.e),
    ]
    at = compose(compose(parts[0], parts[1]), parts[2])
    psi = exponent(at, p)

    on = axis.on & tf.ones_like(hook, tf.bool)
    t = where(on, 0.0, at.t[0]), at.t[1]
    power = tf.sqrt(at.q[0] * at.q[0] + at.q[1] * at.q[1]) * -at.t[1]
    kappa = (1 + p.skewness) * sine(p.stability)
    psi = psi[0], where(on, -kappa * power, psi[1])
    size = where(at.log_t[0] < axis.log_end, tf.exp(-psi[0]), 0.0)
    wave = size * tf.cos(psi[1]), -size * tf.sin(psi[1])
    wave = multiply(wave, (rate[0] + depth * hook, rate[1]))
    if not tail:
        wave = multiply(wave, t)
    if slopes:
        return _slopes(p, parts, at, wave, power, on, tail)
    if not tail:
        return [_sum(wave[0])]
    # By parts, int exp(-psi) dL = L1 + int (L - L1) exp(-psi) d psi, less the
    # angle where the path starts.
    way = at.log_t[0] - start[0], at.log_t[1] - start[1]
    bent = multiply(wave, multiply(way, slope(at, psi, p)))[1]
    constant = where(axis.on, 0.0, 0.5 + start[1] / math.pi)
    return [constant + _sum(where(on, wave[1], bent))]


def _slopes(
    p: Law,
    parts: list[State],
    at: State,
    wave: Pair,
    power: tf.Tensor,
    on: tf.Tensor,
    tail: bool,
) -> list[tf.Tensor]:
    first, second, third = (rate_of_e(part, p.e) for part in parts)
    rate = compose_rates(parts[0], first, parts[1], second)
    rate = compose_rates(compose(parts[0], parts[1]), rate, parts[2], third)
    in_z, in_stability, in_skewness = parameter_slopes(at, rate, p)
    half = math.pi / 2
    sin = sine(p.stability)
    change = half * tf.cos(half * p.stability) + sin * at.log_t[0]
    change = -(1 + p.skewness) * change * power
    in_stability = in_stability[0], where(on, change, in_stability[1])
    in_skewness = in_skewness[0], where(on, -sin * power, in_skewness[1])
    return [
        -_sum(multiply(wave, each)[1 if tail else 0])
        for each in (in_z, in_stability, in_skewness)
    ]


def _spiral(p: Law) -> tuple[Pair, Pair]:
    """L1 and c, near enough."""
    start = logarithm((tf.ones_like(p.z), p.z))
    start = _descend((-start[0], -start[1]), 0.0, p)
    at = real_state(_FAR / p.stability, p.e)
    guess = logarithm((at.q[0], p.tau * at.big_e[0] + p.z))
    far = _descend((_FAR - guess[0], -guess[1]), _FAR, p)
    turn = tf.clip_by_value(far[1] - start[1], -_TURN, _TURN)
    start = start[0], far[1] - turn
    return start, ((far[0] - start[0]) / _FAR, turn / _FAR)


def _descend(log_t: Pair, target: float, p: Law) -> Pair:
    """Newton's method for log psi(L) = target."""
    for _ in range(_STEPS):
        at = state(log_t, p.e)
        psi = exponent(at, p)
        above = logarithm(psi)
        d = slope(at, psi, p)
        step = multiply((above[0] - target, above[1]), psi)
        step = multiply(step, (d[0], -d[1]))
        norm = d[0] * d[0] + d[1] * d[1]
        # Near a saddle of psi the slope vanishes.
        size = tf.sqrt(step[0] * step[0] + step[1] * step[1])
        norm = tf.maximum(norm, size / 1.5)
        log_t = log_t[0] - step[0] / norm, log_t[1] - step[1] / norm
    return log_t


def _grid(values: np.ndarray, p: Law) -> tf.Tensor:
    return tf.constant(values[..., None], p.z.dtype)


def _sum(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values, axis=[0, 1]) * (_SPACING / math.pi)
