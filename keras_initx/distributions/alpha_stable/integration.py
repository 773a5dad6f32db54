"""A stable law at a batch of points, computed piece by piece.

The path of `stable_contour` has a relative accuracy of about 1e-9, and better
nearly everywhere, as long as the density is not far smaller than its integrand.
Where it is, the path is replaced by two: in the tails by the axis t = -i s,
along which nothing cancels; and in a light tail by the axis up to the saddle
point together with the line across it, of `stable_saddle`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from keras_initx.distributions.alpha_stable.contour import Axis, integrals
from keras_initx.distributions.alpha_stable.exponent import Law, law, where
from keras_initx.distributions.alpha_stable.saddle import (
    Saddle,
    light_integrals,
    saddle,
)

# Points at a time: the memory does not grow with the batch, and stays in cache.
_PIECE = 256
# From here on the axis will do for all laws.
_TAIL = 20.0
# Beyond, any stable law is its Pareto tail to the last digit.
_FAR = 1e50
# Slopes of a logarithm are cut here, so that a product with them is a number.
_STEEPEST = 1e300


def standard_law(
    z: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
    tail: bool,
    slopes: bool = False,
) -> list[tf.Tensor]:
    """Log of the density, or of P(Z > z), for z >= 0; or its derivatives.

    Args:
        z: float64 tensor of any shape, >= 0.
        stability: float64 tensor of this shape.
        skewness: float64 tensor of this shape.
        tail: P(Z > z), not the density.
        slopes: The derivatives in z, stability and skewness, not the value.

    Returns:
        One tensor, or three, of the shape of `z`.
    """
    flat = [tf.reshape(each, [-1]) for each in (z, stability, skewness)]
    results = _by_pieces(tail, slopes)(*flat)
    return [
        tf.ensure_shape(tf.reshape(each, tf.shape(z)), z.shape)
        for each in results
    ]


@functools.cache
def _by_pieces(tail: bool, slopes: bool) -> Callable[..., list[tf.Tensor]]:
    piece = tf.function(
        functools.partial(_slopes if slopes else _value, tail=tail),
        jit_compile=True,
        autograph=False,
    )
    signature = tf.TensorSpec([_PIECE], tf.float64)
    signature = [signature] * (3 if slopes else 1)

    def run(*columns: tf.Tensor) -> list[tf.Tensor]:
        size = tf.size(columns[0])
        padding = [[0, -size % _PIECE]]
        columns = [
            tf.reshape(tf.pad(each, padding, constant_values=1), [-1, _PIECE])
            for each in columns
        ]
        results = tf.map_fn(
            lambda each: piece(*each), columns, fn_output_signature=signature
        )
        return [tf.reshape(each, [-1])[:size] for each in results]

    vector = tf.TensorSpec([None], tf.float64)
    return tf.function(run, [vector] * 3, autograph=False)


def _value(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    p = law(tf.minimum(z, _FAR), stability, skewness)
    at = saddle(p)
    # Most batches have no light tail.
    (light,) = tf.nest.flatten(
        tf.cond(
            tf.reduce_any(at.light),
            lambda: light_integrals(p, at, tail, slopes=False),
            lambda: [tf.zeros_like(z)],
        )
    )
    total = _parts(p, at, light, tail)[0]
    index = stability if tail else stability + 1
    return [total - index * _log_beyond(z)]


def _slopes(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    p = law(tf.minimum(z, _FAR), stability, skewness)
    at = saddle(p)
    # Without a condition, which XLA could not differentiate.
    (light,) = light_integrals(p, at, tail, slopes=False)
    total, log_light, depth = _parts(p, at, light, tail)
    # A law without a Pareto tail gets one when its skewness changes. exp(690)
    # is nearly the largest number.
    of_heavy = tf.exp(tf.minimum(-total, 690.0))
    of_light = tf.exp((log_light - depth) - total) * tf.exp(-log_light)
    outside = _outside(p)
    in_z, in_stability, in_skewness = (
        where(outside, 0.0, heavy * of_heavy + light * of_light)
        for heavy, light in zip(
            integrals(p, _axis(p, at), tail, slopes=True),
            light_integrals(p, at, tail, slopes=True),
            strict=True,
        )
    )
    beyond = _log_beyond(z)
    results = in_z * tf.exp(-beyond), in_stability - beyond, in_skewness
    return [tf.clip_by_value(each, -_STEEPEST, _STEEPEST) for each in results]


def _parts(
    p: Law, at: Saddle, light: tf.Tensor, tail: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The logarithm; and that of exp(depth) times its light part, and depth."""
    (heavy,) = integrals(p, _axis(p, at), tail, slopes=False)
    # Far from a light tail the integral over the saddle has no sign.
    there = at.light & (light > 0)
    log_light = where(there, tf.math.log(where(there, light, 1.0)), 0.0)
    depth = where(there, at.depth[0], math.inf)
    logs = _log(heavy), log_light - depth
    top = tf.maximum(tf.maximum(*logs), -_STEEPEST)
    total = top + _log(tf.exp(logs[0] - top) + tf.exp(logs[1] - top))
    return where(_outside(p), -math.inf, total), log_light, depth


def _axis(p: Law, at: Saddle) -> Axis:
    """Where the axis is close to the path of steepest descent."""
    beyond = (p.stability < 1) & (p.skewness < -0.999) & _beyond_edge(p)
    return Axis(
        at.light | beyond | (p.z >= _TAIL),
        where(at.light, at.log_s, math.inf),
    )


def _outside(p: Law) -> tf.Tensor:
    """Whether z >= 0 is beyond the support of a one-sided law."""
    return (p.stability < 1) & (p.skewness == -1) & _beyond_edge(p)


def _beyond_edge(p: Law) -> tf.Tensor:
    """z >= -skewness tan(pi stability / 2), for stability below 1."""
    return p.tau + p.e * p.z >= 0


def _log_beyond(z: tf.Tensor) -> tf.Tensor:
    return tf.math.log(tf.maximum(z, _FAR) / _FAR)


def _log(x: tf.Tensor) -> tf.Tensor:
    none = x <= 0
    return where(none, -math.inf, tf.math.log(where(none, 1.0, x)))
