"""The light tail of a stable distribution: an integral across a saddle point.

In the light tail of a distribution of skewness -1 (z > 0), and in both tails of
the normal distribution, the exponent psi has a saddle point t_s = -i s on the
negative imaginary axis, at which W = psi(t_s) > 0. With t = t_s (1 + w),

    psi(t) = W (1 + D(w)),   D(w) = w - (1 + w) (1 - (1 + w)^-e) / e.

The integral along the axis up to t_s is imaginary, so the density is that along
the line w = i v across the axis:

    f(z) = (s / pi) exp(-W) Re int exp(-W D(i v)) dv,    v from 0 to infinity.

The code integrates along the parabola w = i v - (2 - stability) / 6 v^2
instead, which touches the path of steepest descent, along which D is real. The
trapezoidal rule on it has 24 nodes.

For a skewness close to -1 the saddle point is close to the axis, W is complex,
and the integral along the axis up to |t_s| adds the density's small Pareto
tail. `integration` adds the two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import sums, where
from keras_initx.distributions.alpha_stable.exponent import (
    Pair,
    StableParameters,
    add,
    big_e_derivative,
    multiply,
    parameter_derivatives,
    path_point,
)

# Nodes y and weights of the trapezoidal rule. They are v in units in which
# exp(-W D) is exp(-y^2) near the saddle point.
_NODES = np.arange(0, 7.2, 0.3)
_WEIGHTS = np.where(_NODES == 0, 0.5, 1.0) * 0.3
# The path along the axis and then across the saddle point leaves out the arc
# between them, which would add |t_s| exp(-W) times the angle of t_s with the
# axis to the density. It is used where Re W is above the first number, that
# error below the second, and the angle below the third.
_LEAST_DEPTH, _LARGEST_ERROR, _LARGEST_ANGLE = 6.0, 1e-13, 0.1
# For a larger Re W the leading term, a Gaussian, is exact to the last digit.
_GAUSSIAN_DEPTH = 1e9


class SaddlePoint(NamedTuple):
    """The saddle point t_s of each z, and whether it is used.

    Args:
        light: Boolean tensor. Whether z lies in a light tail, where the
            integral across the saddle point is used. Elsewhere the other
            fields are harmless constants.
        log_s: Tensor. log|t_s|.
        angle: Tensor. The angle from the axis t = -i s to t_s, in radians.
        depth: Pair. W = psi(t_s).
    """

    light: tf.Tensor
    log_s: tf.Tensor
    angle: tf.Tensor
    depth: Pair


def saddle_point(params: StableParameters) -> SaddlePoint:
    """Returns the saddle point of psi, in closed form.

    t_s^-e = (tau + e z) (tau - i e) / (stability (e^2 + tau^2)),
    W = t_s^stability (e - i tau).
    """
    a, e = params.stability, params.e
    # |t_s^-e|^2 = edge^2 / norm = 1 + change
    norm = a * a * (e * e + params.tau * params.tau)
    edge = params.tau + e * params.z
    change = params.tau * (2 * params.z + params.tau * (2 - e)) + e * (
        params.z * params.z - a * a
    )
    change = e * change / norm
    log_square = where(
        tf.abs(change) < 0.5,
        tf.math.log1p(tf.clip_by_value(change, -0.5, 0.5)),
        tf.math.log(edge * edge / norm),
    )
    log_s = -0.5 * log_square / e
    angle = tf.atan2(e * edge, params.tau * edge) / e + math.pi / 2
    exact = (params.skewness == -1) | (a == 2)
    angle = where(exact & (tf.abs(angle) < 1.0), 0.0, angle)
    # exp(W) overflows beyond W = 709, but W, |t_s| and the derivatives have to
    # stay finite. Hence the logarithm of the density is never below -1e148.
    log_s = tf.clip_by_value(log_s, -340.0, 340 / tf.maximum(a, 1.0))
    modulus = tf.exp(a * log_s)
    power_angle = a * (angle - math.pi / 2)
    depth = multiply(
        (params.e, -params.tau),
        (modulus * tf.cos(power_angle), modulus * tf.sin(power_angle)),
    )
    depth = depth[0], where(exact, 0.0, depth[1])
    error = tf.abs(angle) * tf.exp(log_s - depth[0])
    light = (
        (tf.abs(angle) < _LARGEST_ANGLE)
        & (depth[0] > _LEAST_DEPTH)
        & (error < _LARGEST_ERROR)
    )
    return SaddlePoint(
        light,
        where(light, log_s, 0.0),
        where(light, angle, 0.0),
        (where(light, depth[0], _LEAST_DEPTH), where(light, depth[1], 0.0)),
    )


def saddle_integrals(
    params: StableParameters,
    saddle: SaddlePoint,
    orders: list[int],
    unit: tf.Tensor | float = 1.0,
) -> list[tf.Tensor]:
    """Returns exp(Re W) times integrals across the saddle point.

    Args:
        params: StableParameters. Points z >= 0, as vectors.
        saddle: SaddlePoint. Their saddle points. The result has no meaning
            where `saddle.light` is False.
        orders: list of int, one or two. As in `contour.contour_integrals`.
        unit: Tensor or float. The unit of z. Defaults to 1.

    Returns:
        A list of tensors, one for each order.
    """
    path = _path(params, saddle)
    return sums(
        [_integrand(path, order, unit)[0] for order in orders], axis=[0]
    )


def saddle_derivatives(
    params: StableParameters, saddle: SaddlePoint, tail: bool
) -> list[tf.Tensor]:
    """Returns an integral and its derivatives in z, stability and skewness.

    The integral is that of `saddle_integrals`. The factor exp(Re W) is not
    differentiated.

    Args:
        params: StableParameters. Points z >= 0, as vectors.
        saddle: SaddlePoint. Their saddle points.
        tail: bool. Whether to differentiate P(Z > z) instead of the density.

    Returns:
        A list of four tensors.
    """
    path = _path(params, saddle)
    point = path_point(path.log_t, params.e)
    rate = big_e_derivative(point, params.e)
    integrand = _integrand(path, -1 if tail else 0, 1.0)
    slopes = [
        -tf.reduce_sum(multiply(integrand, each)[0], axis=0)
        for each in parameter_derivatives(point, rate, params)
    ]
    return [tf.reduce_sum(integrand[0], axis=[0]), *slopes]


class _Path(NamedTuple):
    """The nodes of the path across the saddle point, and the integrand there.

    Args:
        s: Tensor. |t_s|. The nodes are t = -i s r.
        r: Pair. It is on the axis where the path begins.
        log_t: Pair. log(t).
        integrand: Pair. exp(Re W - psi) dr / pi, times the rule's weights.
    """

    s: tf.Tensor
    r: Pair
    log_t: Pair
    integrand: Pair


def _path(params: StableParameters, saddle: SaddlePoint) -> _Path:
    """Returns the nodes of the path of each z."""
    depth, log_s = saddle.depth, saddle.log_s
    shape = [-1] + [1] * len(params.z.shape)
    y = tf.reshape(tf.constant(_NODES, params.z.dtype), shape)
    weights = tf.reshape(tf.constant(_WEIGHTS, params.z.dtype), shape)
    width = tf.math.rsqrt(params.stability * depth[0] / 2)
    v = width * y
    bend = (2 - params.stability) / 6
    # t = -i s r, with r on the axis where v = 0.
    r_less_1 = -bend * v * v, v
    r = 1 + r_less_1[0], v
    log_r = (
        0.5 * tf.math.log1p(v * v * (1 - 2 * bend + (bend * v) ** 2)),
        tf.atan2(v, r[0]),
    )
    # w = r exp(-i angle) - 1 is a sum of two small terms: nothing cancels.
    cosine, sine = tf.cos(saddle.angle), tf.sin(saddle.angle)
    off_axis = -2 * tf.sin(saddle.angle / 2) ** 2, -sine
    w = add(off_axis, multiply(r_less_1, (cosine, -sine)))
    big_e = path_point((log_r[0], log_r[1] - saddle.angle), params.e).big_e
    product = multiply((1 + w[0], w[1]), big_e)
    # W D(w)
    drop = multiply(depth, (w[0] - product[0], w[1] - product[1]))
    gaussian = depth[0] > _GAUSSIAN_DEPTH
    drop = where(gaussian, y * y, drop[0]), where(gaussian, 0.0, drop[1])
    drop = drop[0], drop[1] + depth[1]
    modulus = tf.exp(-drop[0]) * weights * width / math.pi
    integrand = modulus * tf.cos(drop[1]), -modulus * tf.sin(drop[1])
    integrand = multiply(integrand, (tf.ones_like(v), 2 * bend * v))
    log_t = log_s + log_r[0], log_r[1] - math.pi / 2
    return _Path(tf.exp(log_s), r, log_t, integrand)


def _integrand(path: _Path, order: int, unit: tf.Tensor | float) -> Pair:
    """Returns the integrand of an order, of which the real part is used."""
    if order == -1:
        # dt / t = dr / r
        real, imaginary = path.r
        norm = real * real + imaginary * imaginary
        return multiply(path.integrand, (real / norm, -imaginary / norm))
    s = unit * path.s
    integrand = path.integrand[0] * s, path.integrand[1] * s
    for _ in range(order):
        # -i t = -s r
        integrand = multiply(integrand, (-s * path.r[0], -s * path.r[1]))
    return integrand
