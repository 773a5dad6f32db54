"""Density, distribution function and quantiles of stable laws."""

from __future__ import annotations

import functools
import math

import tensorflow as tf

from keras_initx.distributions.stable_contour import Axis, integrals, law, where
from keras_initx.distributions.stable_saddle import light_integrals, saddle

# Points computed at a time, so that memory does not grow with the batch.
_PIECE = 512
_TAIL = 20.0


def log_density(z, stability, skewness):
    """Log of the density of the standardised S0 stable law."""
    z, stability, skewness, dtype = _broadcast(z, stability, skewness)
    return tf.cast(_log_density(z, stability, skewness), dtype)


def density(z, stability, skewness):
    """Density of the standardised S0 stable law."""
    return tf.exp(log_density(z, stability, skewness))


def log_survival(z, stability, skewness):
    """log P(Z > z) of the standardised S0 stable law."""
    z, stability, skewness, dtype = _broadcast(z, stability, skewness)
    return tf.cast(_log_survival(z, stability, skewness), dtype)


def survival(z, stability, skewness):
    """P(Z > z) of the standardised S0 stable law."""
    return tf.exp(log_survival(z, stability, skewness))


def log_cdf(z, stability, skewness):
    """log P(Z <= z) of the standardised S0 stable law."""
    return log_survival(-z, stability, -skewness)


def cdf(z, stability, skewness):
    """P(Z <= z) of the standardised S0 stable law."""
    return tf.exp(log_cdf(z, stability, skewness))


def quantile(p, stability, skewness):
    """The z of which P(Z <= z) = p."""
    p, stability, skewness, dtype = _broadcast(p, stability, skewness)
    low = -tf.ones_like(p) * 150.0
    high = -low

    # Bisection in s, z = sinh(s).
    def step(low, high):
        middle = (low + high) / 2
        below = cdf(tf.sinh(middle), stability, skewness) < p
        return [where(below, middle, low), where(below, high, middle)]

    low, high = tf.while_loop(
        lambda low, high: True, step, [low, high], maximum_iterations=62
    )
    return tf.cast(tf.sinh((low + high) / 2), dtype)


def mode(stability, skewness):
    """Where the density of the standardised S0 stable law is highest."""
    stability, skewness, _, dtype = _broadcast(stability, skewness, 0.0)
    low = -tf.ones_like(stability)
    high = -low

    def step(low, high):
        third = (high - low) / 3
        left = log_density(low + third, stability, skewness)
        right = log_density(high - third, stability, skewness)
        up = left < right
        return [where(up, low + third, low), where(up, high, high - third)]

    low, high = tf.while_loop(
        lambda low, high: True, step, [low, high], maximum_iterations=60
    )
    return tf.cast((low + high) / 2, dtype)


def _broadcast(*values):
    values = [tf.convert_to_tensor(v) for v in values]
    dtype = next((v.dtype for v in values if v.dtype.is_floating), tf.float32)
    shape = values[0].shape
    for v in values[1:]:
        shape = tf.broadcast_static_shape(shape, v.shape)
    full = tf.shape(values[0])
    for v in values[1:]:
        full = tf.broadcast_dynamic_shape(full, tf.shape(v))
    values = [
        tf.ensure_shape(tf.broadcast_to(tf.cast(v, tf.float64), full), shape)
        for v in values
    ]
    return *values, dtype


@tf.custom_gradient
def _log_density(z, stability, skewness):
    flip = where(z < 0, -1.0, tf.ones_like(z))

    def grad(upstream):
        in_z, in_stability, in_skewness = _pieces(
            z * flip, stability, skewness * flip, False, True
        )
        return (
            upstream * in_z * flip,
            upstream * in_stability,
            upstream * in_skewness * flip,
        )

    (value,) = _pieces(z * flip, stability, skewness * flip, False, False)
    normal = -z * z / 4 - math.log(2 * math.sqrt(math.pi))
    cauchy = -tf.math.log1p(z * z) - math.log(math.pi)
    value = where(stability == 2, normal, value)
    value = where((stability == 1) & (skewness == 0), cauchy, value)
    return value, grad


@tf.custom_gradient
def _log_survival(z, stability, skewness):
    flip = where(z < 0, -1.0, tf.ones_like(z))
    left = z < 0
    (value,) = _pieces(z * flip, stability, skewness * flip, True, False)
    # The other tail is 1 - exp(value).
    tail = tf.minimum(value, -1e-17)
    other = where(
        tail < -0.5,
        tf.math.log1p(-tf.exp(tf.minimum(tail, -0.1))),
        tf.math.log(-tf.math.expm1(tf.maximum(tail, -1.0))),
    )
    result = where(left, other, value)

    def grad(upstream):
        slopes = _pieces(z * flip, stability, skewness * flip, True, True)
        slopes = [
            upstream * where(left, -s * tf.exp(value - other), s)
            for s in slopes
        ]
        return slopes[0] * flip, slopes[1], slopes[2] * flip

    return result, grad


def _pieces(z, stability, skewness, tail, slopes):
    """The kernel, mapped over pieces of the batch."""
    shape = tf.shape(z)
    size = tf.size(z)
    pad = -size % _PIECE
    columns = [
        tf.reshape(
            tf.pad(tf.reshape(v, [-1]), [[0, pad]], constant_values=c),
            [-1, _PIECE],
        )
        for v, c in ((z, 0.5), (stability, 1.5), (skewness, 0.0))
    ]
    kernel = _compiled(tail, slopes)
    count = 3 if slopes else 1
    out = tf.map_fn(
        lambda row: kernel(*row),
        columns,
        fn_output_signature=[
            tf.TensorSpec([_PIECE], tf.float64) for _ in range(count)
        ],
    )
    return [
        tf.ensure_shape(tf.reshape(tf.reshape(v, [-1])[:size], shape), z.shape)
        for v in out
    ]


@functools.cache
def _compiled(tail, slopes):
    return tf.function(
        lambda z, a, b: _kernel(z, a, b, tail, slopes),
        jit_compile=True,
        autograph=False,
    )


def _kernel(z, stability, skewness, tail, slopes):
    """Log of the density, or of P(Z > z), for z >= 0; or its gradient."""
    p = law(z, stability, skewness)
    at = saddle(p)
    infinity = tf.constant(math.inf, z.dtype)
    axis = Axis(
        at.light | (z >= _TAIL),
        where(at.light, at.log_s, infinity),
    )
    (heavy,) = integrals(p, axis, tail, False)
    zeros = tf.zeros_like(z)

    def light_part(slopes):
        return tf.cond(
            tf.reduce_any(at.light),
            lambda: light_integrals(p, at, tail, slopes),
            lambda: [zeros] * (3 if slopes else 1),
        )

    light = light_part(False)
    light = light[0] if isinstance(light, (list, tuple)) else light
    light = where(at.light, light, 0.0)
    log_heavy = _log(heavy)
    log_light = _log(light) - at.depth[0]
    log_light = where(at.light, log_light, -infinity)
    top = tf.maximum(tf.maximum(log_heavy, log_light), -1e300)
    total = top + _log(tf.exp(log_heavy - top) + tf.exp(log_light - top))
    outside = (stability < 1) & (skewness == -1) & (p.tau + p.e * z >= 0)
    total = where(outside, -infinity, total)
    if not slopes:
        return [total]
    parts = integrals(p, axis, tail, True)
    light_parts = light_part(True)
    scale = tf.exp(tf.minimum(-total, 690.0))
    share = where(at.light, tf.exp(-at.depth[0] - total), 0.0)
    share = where(outside, 0.0, share)
    result = []
    for a, b in zip(parts, light_parts, strict=True):
        g = a * scale + where(at.light, b, 0.0) * share
        g = where(outside, 0.0, g)
        result.append(tf.clip_by_value(g, -1e300, 1e300))
    return result


def _log(x):
    positive = x > 0
    return where(
        positive,
        tf.math.log(where(positive, x, 1.0)),
        tf.constant(-math.inf, x.dtype),
    )
