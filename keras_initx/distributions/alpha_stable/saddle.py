"""The light tail of a stable law: the integral over the saddle point.

On the light side of a law of skewness -1 (for z > 0), and on both sides of the
normal law, the exponent psi has a saddle point t_s = -i s on the axis, where it
is W = psi(t_s) > 0, and with t = t_s (1 + w)

    psi(t) = W (1 + D(w)),   D(w) = w - (1 + w) (1 - (1 + w)^-e) / e.

The axis itself adds nothing to the density, and the line w = i v the rest:

    f(z) = (s / pi) exp(-W) Re int exp(-W D(i v)) dv,    v from 0 to infinity.

In place of the line, the parabola w = i v - (2 - stability) / 6 v^2 touches the
path of steepest descent, along which D is real.

Near such laws t_s is near the axis, W is complex, and the axis up to |t_s|
adds the Pareto tail.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.exponent import (
    Law,
    Pair,
    add,
    multiply,
    parameter_slopes,
    rate_of_e,
    state,
    where,
)

_GRID = np.arange(0, 7.2, 0.3)
_WEIGHTS = np.where(_GRID == 0, 0.5, 1.0) * 0.3
# With the axis and the path across it in place of one around the corner, the
# density is off by |t_s| exp(-W) times the angle between t_s and the axis.
_DEEP, _SMALL, _ANGLE = 6.0, 1e-13, 0.1
# Beyond, only the leading term is left to the last digit.
_GAUSSIAN = 1e9


class Saddle(NamedTuple):
    """Whether a point is in a light tail; log|t_s|, its angle, and psi."""

    light: tf.Tensor
    log_s: tf.Tensor
    angle: tf.Tensor
    depth: Pair


def saddle(p: Law) -> Saddle:
    a, e = p.stability, p.e
    # t_s^-e = (tau + e z) (tau - i e) / (stability (e^2 + tau^2)), whose
    # modulus squared is 1 + change.
    norm = a * a * (e * e + p.tau * p.tau)
    edge = p.tau + e * p.z
    change = p.tau * (2 * p.z + p.tau * (2 - e)) + e * (p.z * p.z - a * a)
    change = e * change / norm
    log_square = where(
        tf.abs(change) < 0.5,
        tf.math.log1p(tf.clip_by_value(change, -0.5, 0.5)),
        tf.math.log(edge * edge / norm),
    )
    log_s = -0.5 * log_square / e
    angle = tf.atan2(e * edge, p.tau * edge) / e + math.pi / 2
    exact = (p.skewness == -1) | (a == 2)
    angle = where(exact & (tf.abs(angle) < 1.0), 0.0, angle)
    # exp(W) is no number beyond W = 709; W, |t_s| and the slopes are to stay
    # numbers, so the logarithm of the density is never below -1e148.
    log_s = tf.clip_by_value(log_s, -340.0, 340 / tf.maximum(a, 1.0))
    size = tf.exp(a * log_s)
    # psi_s = t_s^stability (e - i tau)
    turned = a * (angle - math.pi / 2)
    depth = multiply(
        (p.e, -p.tau), (size * tf.cos(turned), size * tf.sin(turned))
    )
    depth = depth[0], where(exact, 0.0, depth[1])
    error = tf.abs(angle) * tf.exp(log_s - depth[0])
    light = (tf.abs(angle) < _ANGLE) & (depth[0] > _DEEP) & (error < _SMALL)
    # Elsewhere numbers that do no harm to those that are added to them.
    return Saddle(
        light,
        where(light, log_s, 0.0),
        where(light, angle, 0.0),
        (where(light, depth[0], _DEEP), where(light, depth[1], 0.0)),
    )


def light_integrals(
    p: Law, at: Saddle, tail: bool, slopes: bool
) -> list[tf.Tensor]:
    """exp(Re W) times the density or tail, or its derivatives."""
    depth, log_s = at.depth, at.log_s
    shape = [-1] + [1] * len(p.z.shape)
    y = tf.reshape(tf.constant(_GRID, p.z.dtype), shape)
    weights = tf.reshape(tf.constant(_WEIGHTS, p.z.dtype), shape)
    width = tf.math.rsqrt(p.stability * depth[0] / 2)
    v = width * y
    bend = (2 - p.stability) / 6
    # t = -i s r, with r on the axis where v = 0.
    r_less_1 = -bend * v * v, v
    r = 1 + r_less_1[0], v
    log_r = (
        0.5 * tf.math.log1p(v * v * (1 - 2 * bend + (bend * v) ** 2)),
        tf.atan2(v, r[0]),
    )
    # 1 + w = r exp(-i angle), with all digits of w.
    cos, sin = tf.cos(at.angle), tf.sin(at.angle)
    off_axis = -2 * tf.sin(at.angle / 2) ** 2, -sin
    w = add(off_axis, multiply(r_less_1, (cos, -sin)))
    big_e = state((log_r[0], log_r[1] - at.angle), p.e).big_e
    less = multiply((1 + w[0], w[1]), big_e)
    drop = multiply(depth, (w[0] - less[0], w[1] - less[1]))
    gaussian = depth[0] > _GAUSSIAN
    drop = where(gaussian, y * y, drop[0]), where(gaussian, 0.0, drop[1])
    drop = drop[0], drop[1] + depth[1]
    size = tf.exp(-drop[0]) * weights * width / math.pi
    wave = size * tf.cos(drop[1]), -size * tf.sin(drop[1])
    wave = multiply(wave, (tf.ones_like(v), 2 * bend * v))
    if tail:
        norm = r[0] * r[0] + v * v
        wave = multiply(wave, (r[0] / norm, -v / norm))
    else:
        s = tf.exp(log_s)
        wave = wave[0] * s, wave[1] * s
    if not slopes:
        return [tf.reduce_sum(wave[0], axis=0)]
    log_t = log_s + log_r[0], log_r[1] - math.pi / 2
    at_node = state(log_t, p.e)
    return [
        -tf.reduce_sum(multiply(wave, each)[0], axis=0)
        for each in parameter_slopes(at_node, rate_of_e(at_node, p.e), p)
    ]
