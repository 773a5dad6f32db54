"""The Fourier integrals of a stable density along a path of steepest descent.

With psi as in `exponent`, the density of the standard S0 distribution and its
upper tail probability are

    f(z) = (1/pi) Re int exp(-psi) dt,          t from 0 to infinity,
    P(Z > z) = 1/2 + (1/pi) Im int exp(-psi) dt/t   (Gil-Pelaez).

psi is an entire function of L = log(t), so the integrals are the same along any
path of L that starts at t = 0 and ends where Re psi is large. The path here is

    L(u) = L1 + c u - d (exp(-u) - 1),    c = (L2 - L1) / log(80),

for real u. The first two terms are a logarithmic spiral in the plane of t,
through the points L1 and L2 at which psi is 1 and 80. It is close to the path
of steepest descent, along which psi is real, and psi grows about as exp(u)
along it. The last term moves the path by less than d for u > 0, and takes t to
0 double exponentially as u falls.

As a function of u the integrand is entire and vanishes double exponentially at
both ends, so the trapezoidal rule converges exponentially. With the 56 nodes
used here its relative error is about 1e-9, and less nearly everywhere, as long
as the integral is not far smaller than its integrand.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import sums, where
from keras_initx.distributions.alpha_stable.exponent import (
    Pair,
    PathPoint,
    StableParameters,
    big_e_derivative,
    big_e_derivative_at_sum,
    exponent,
    exponent_derivative,
    logarithm,
    multiply,
    parameter_derivatives,
    path_point,
    point_at_sum,
    real_path_point,
    sin_half_pi_times,
)

# log(psi) at L2.
_LOG_PSI_2 = math.log(80.0)
# A path that turns by a larger angle between L1 and L2 loses accuracy.
_LARGEST_TURN = 0.6
_NEWTON_STEPS = 3
# The nodes u form a table, in which u is a part of the row plus a part of the
# column. The functions at all 7 * 8 nodes are products of those at 7 + 8.
_ROWS, _COLUMNS = 7, 8
_LOWEST, _HIGHEST = -3.5, 3.7
_SPACING = (_HIGHEST - _LOWEST) / (_ROWS * _COLUMNS - 1)
# The trapezoidal rule's weight, over pi.
_STEP = _SPACING / math.pi


class Axis(NamedTuple):
    """The points z whose path is the straight line t = -i s, s > 0.

    On this axis Im psi = -(1 + skewness) sin(pi stability / 2) s^stability.
    Computed so, a Pareto tail keeps its relative accuracy, and is exactly 0
    where the distribution has none.

    Args:
        on: Boolean tensor. Whether the path is the axis.
        log_end: Tensor. The largest log(s); inf for the whole axis.
    """

    on: tf.Tensor
    log_end: tf.Tensor


def contour_integrals(
    params: StableParameters,
    axis: Axis,
    orders: list[int],
    unit: tf.Tensor | float = 1.0,
) -> list[tf.Tensor]:
    """Returns integrals along the spiral, or along the axis.

    They are the upper tail probability, the density f and its derivatives

        f^(k)(z) = (1/pi) Re int (-i t)^k exp(-psi) dt,

    except where `axis.log_end` is finite: there the integral across the saddle
    point is missing, which `saddle.saddle_integrals` computes.

    Args:
        params: StableParameters. Points z >= 0, as vectors.
        axis: Axis. Which points to integrate along the axis.
        orders: list of int, one or two. What to compute: -1 for P(Z > z), and
            k >= 0 for unit^(k + 1) f^(k)(z).
        unit: Tensor or float. The unit of z. Defaults to 1.

    Returns:
        A list of tensors, one for each order.
    """
    path = _path(params, axis)
    constant = _tail_constant(path, axis)
    integrals = sums(
        [
            _tail_integrand(params, path)
            if order == -1
            else _density_integrand(path, order, unit)[0]
            for order in orders
        ],
        axis=[0, 1],
    )
    return [
        constant + each * _STEP if order == -1 else each * _STEP
        for order, each in zip(orders, integrals, strict=True)
    ]


def contour_derivatives(
    params: StableParameters, axis: Axis, tail: bool
) -> list[tf.Tensor]:
    """Returns an integral and its derivatives in z, stability and skewness.

    The integral is that of `contour_integrals`. The path moves with the
    parameters, but not the value of the integral along it, so that the
    derivatives are taken at fixed nodes L. They are integrals of
    -exp(-psi) d psi / d parameter.

    Args:
        params: StableParameters. Points z >= 0, as vectors.
        axis: Axis. Which points to integrate along the axis.
        tail: bool. Whether to differentiate P(Z > z) instead of the density.

    Returns:
        A list of four tensors.
    """
    path = _path(params, axis)
    first, second, third = (
        big_e_derivative(part, params.e) for part in path.parts
    )
    rate = big_e_derivative_at_sum(path.parts[0], first, path.parts[1], second)
    rate = big_e_derivative_at_sum(
        point_at_sum(path.parts[0], path.parts[1]), rate, path.parts[2], third
    )
    by_z, by_stability, by_skewness = parameter_derivatives(
        path.point, rate, params
    )
    half_pi = math.pi / 2
    sine = sin_half_pi_times(params.stability)
    # On the axis, of Im psi = -(1 + skewness) sine s^stability.
    change = (
        half_pi * tf.cos(half_pi * params.stability)
        + sine * path.point.log_t[0]
    )
    change = -(1 + params.skewness) * change * path.power
    by_stability = (
        by_stability[0],
        where(path.on_axis, change, by_stability[1]),
    )
    by_skewness = (
        by_skewness[0],
        where(path.on_axis, -sine * path.power, by_skewness[1]),
    )
    integrand = path.integrand if tail else _density_integrand(path, 0, 1.0)
    total = tf.reduce_sum(
        _tail_integrand(params, path) if tail else integrand[0], axis=[0, 1]
    )
    total = total * _STEP
    if tail:
        total = _tail_constant(path, axis) + total
    slopes = [
        -_STEP * tf.reduce_sum(multiply(integrand, each)[tail], axis=[0, 1])
        for each in (by_z, by_stability, by_skewness)
    ]
    return [total, *slopes]


class _Path(NamedTuple):
    """The nodes of a path, and the integrand there.

    Args:
        start: Pair. L1.
        parts: list of PathPoint. The three terms of L(u).
        point: PathPoint. Their sum, the nodes.
        psi: Pair. The exponent.
        power: Tensor. s^stability, if the path is the axis.
        on_axis: Boolean tensor. Whether it is.
        integrand: Pair. exp(-psi) dL/du.
    """

    start: Pair
    parts: list[PathPoint]
    point: PathPoint
    psi: Pair
    power: tf.Tensor
    on_axis: tf.Tensor
    integrand: Pair


def _path(params: StableParameters, axis: Axis) -> _Path:
    """Returns the nodes of the path of each z."""
    start, rate = _spiral(tf.nest.map_structure(tf.stop_gradient, params))
    start = start[0], where(axis.on, -math.pi / 2, start[1])
    rate = rate[0], where(axis.on, 0.0, rate[1])
    d = tf.maximum(1.0 / params.stability, 1.0)
    rows = _nodes(
        _LOWEST + _SPACING * _COLUMNS * np.arange(_ROWS)[:, None], params
    )
    columns = _nodes(_SPACING * np.arange(_COLUMNS)[None], params)
    exp_minus_u = tf.exp(-(rows + columns))
    # L(u) as a sum of three terms.
    parts = [
        path_point(
            (start[0] + rate[0] * rows, start[1] + rate[1] * rows), params.e
        ),
        path_point((rate[0] * columns, rate[1] * columns), params.e),
        real_path_point(-d * (exp_minus_u - 1), params.e),
    ]
    point = point_at_sum(point_at_sum(parts[0], parts[1]), parts[2])
    psi = exponent(point, params)

    on_axis = axis.on & tf.ones_like(exp_minus_u, tf.bool)
    # Rounding leaves a real part of t, which would hide a Pareto tail's slope.
    t = where(on_axis, 0.0, point.t[0]), point.t[1]
    point = point._replace(t=t)
    # s^stability on the axis.
    power = tf.sqrt(point.q[0] * point.q[0] + point.q[1] * point.q[1]) * -t[1]
    kappa = (1 + params.skewness) * sin_half_pi_times(params.stability)
    psi = psi[0], where(on_axis, -kappa * power, psi[1])
    modulus = where(point.log_t[0] < axis.log_end, tf.exp(-psi[0]), 0.0)
    integrand = modulus * tf.cos(psi[1]), -modulus * tf.sin(psi[1])
    integrand = multiply(integrand, (rate[0] + d * exp_minus_u, rate[1]))
    return _Path(start, parts, point, psi, power, on_axis, integrand)


def _tail_integrand(params: StableParameters, path: _Path) -> tf.Tensor:
    """Returns the integrand of P(Z > z), apart from a constant.

    Im L is 0 where the path starts, at t = 0. Hence, by parts,
    Im int exp(-psi) dL = Im L1 + Im int (L - L1) exp(-psi) d psi.
    """
    log_t, start = path.point.log_t, path.start
    from_start = log_t[0] - start[0], log_t[1] - start[1]
    slope = exponent_derivative(path.point, path.psi, params)
    by_parts = multiply(path.integrand, multiply(from_start, slope))[1]
    return where(path.on_axis, path.integrand[1], by_parts)


def _tail_constant(path: _Path, axis: Axis) -> tf.Tensor:
    """Returns what the integral leaves out of P(Z > z)."""
    return where(axis.on, 0.0, 0.5 + path.start[1] / math.pi)


def _density_integrand(
    path: _Path, order: int, unit: tf.Tensor | float
) -> Pair:
    """Returns unit^(k + 1) (-i t)^k exp(-psi) dt/du for the order k."""
    t = unit * path.point.t[0], unit * path.point.t[1]
    integrand = multiply(path.integrand, t)
    for _ in range(order):
        integrand = multiply(integrand, (t[1], -t[0]))
    return integrand


def _spiral(params: StableParameters) -> tuple[Pair, Pair]:
    """Returns approximations of L1 and c.

    L1 and L2 come from a few steps of Newton's method, which is enough because
    the integral does not depend on the path.
    """
    start = logarithm((tf.ones_like(params.z), params.z))
    point = real_path_point(_LOG_PSI_2 / params.stability, params.e)
    guess = logarithm((point.q[0], params.tau * point.big_e[0] + params.z))
    # Both at once, since XLA takes long to compile the steps.
    (start_size, size), (start_angle, angle) = map(
        tf.unstack,
        _solve_log_psi(
            (
                tf.stack([-start[0], _LOG_PSI_2 - guess[0]]),
                tf.stack([-start[1], -guess[1]]),
            ),
            tf.stack([tf.zeros_like(params.z), _LOG_PSI_2 + 0 * params.z]),
            params,
        ),
    )
    turn = tf.clip_by_value(angle - start_angle, -_LARGEST_TURN, _LARGEST_TURN)
    rate = (size - start_size) / _LOG_PSI_2, turn / _LOG_PSI_2
    return (start_size, angle - turn), rate


def _solve_log_psi(
    log_t: Pair, target: tf.Tensor, params: StableParameters
) -> Pair:
    """Returns an approximate root L of log(psi) = target.

    Args:
        log_t: Pair. The first guesses; the last axis is that of `params`.
        target: Tensor. The real logarithms of psi to reach.
        params: StableParameters.
    """

    def step(
        i: tf.Tensor, size: tf.Tensor, angle: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        point = path_point((size, angle), params.e)
        psi = exponent(point, params)
        log_psi = logarithm(psi)
        slope = exponent_derivative(point, psi, params)
        # The step of L is (log(psi) - target) psi / psi'.
        change = multiply((log_psi[0] - target, log_psi[1]), psi)
        change = multiply(change, (slope[0], -slope[1]))
        norm = slope[0] * slope[0] + slope[1] * slope[1]
        # No step is longer than 1.5: near a saddle point psi' vanishes.
        length = tf.sqrt(change[0] * change[0] + change[1] * change[1])
        norm = tf.maximum(norm, length / 1.5)
        return i + 1, size - change[0] / norm, angle - change[1] / norm

    # A loop, of which XLA compiles one step.
    _, size, angle = tf.while_loop(
        lambda i, *_: i < _NEWTON_STEPS, step, (tf.constant(0), *log_t)
    )
    return size, angle


def _nodes(values: np.ndarray, params: StableParameters) -> tf.Tensor:
    """Returns a tensor of nodes with a last axis for the points z."""
    return tf.constant(values[..., None], params.z.dtype)
