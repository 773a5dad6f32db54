"""Samples alpha-stable distributions by a transform smooth at stability 1.

The transform is that of Chambers, Mallows and Stuck, regrouped so that nothing
is singular at stability 1. It yields the standard distribution in Nolan's
parameterization S0, which is continuous in all its parameters.

The transform takes an angle V, uniform on (-pi/2, pi/2). The functions here
take the signed gap between V and the nearer end of that interval instead,
because the tails of the distribution lie at the ends and floating-point numbers
are dense near zero only.

This module needs TensorFlow alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import (
    scaled_tangent,
    sin,
    sinc,
    sinhc,
)

_HALF_PI = math.pi / 2

# Values in a chunk: its intermediate results stay in a core's cache.
CHUNK = 1 << 16
# From this number of values on, samples are drawn in chunks by a compiled
# function. For fewer, the compilation takes longer than it saves.
CHUNKED_FROM = 1 << 20


def standard_stable(
    shape: Any,
    stability: Any,
    skewness: Any = 0.0,
    *,
    seed: Any,
    loc: Any = 0.0,
    scale: Any = 1.0,
    dtype: Any = tf.float32,
) -> tf.Tensor:
    """Samples stable distributions in the S0 parameterization.

        E exp(i t X) = exp(-|t|^a [1 + i b sign(t) tan(pi a / 2)
                                        (|t|^(1-a) - 1)])

    at loc 0 and scale 1, with stability a and skewness b. It is N(0, 2) at
    a = 2.

    A value beyond the dtype's range becomes its largest finite number, of the
    same sign. That happens with probability C_a / max^a, where C_a is of order
    1 and max that number: in float32 (max 3.4e38) 2e-12 at a = 0.3 and 1e-4 at
    a = 0.1; in float16 (max 65504) 2e-8 at 1.5, 1e-5 at 1, 3e-3 at 0.5.

    Args:
        shape: Shape of the result: ints, or an integer tensor. The parameters
            broadcast against it.
        stability: Number or floating tensor, in (0, 2]. Any other value gives
            NaN.
        skewness: Number or floating tensor, in [-1, 1]. Any other value gives
            NaN. The Python number 0 makes sampling cheaper. Defaults to 0.
        seed: Two integers, as for `tf.random.stateless_uniform`.
        loc: Number or floating tensor, which is added to the standard values
            times `scale`. Defaults to 0.
        scale: Number or floating tensor, by which the standard values are
            multiplied before they are cast to `dtype`. Defaults to 1.
        dtype: Floating dtype of the result. float16 and bfloat16 samples are
            computed in float32. Defaults to `tf.float32`.

    Returns:
        A tensor of `shape` and `dtype`, a pure function of the arguments. It
        is differentiable in the parameters. Eager, graph and XLA modes differ
        by rounding alone. From 2^20 values on, a shape that is known only when
        the graph runs gives other samples of the same distribution than a
        shape that is known when it is traced.

    Example:

    >>> standard_stable([3], 1.5, seed=[1, 2]).dtype
    tf.float32

    Reference: that of `chambers_mallows_stuck`.
    """
    dtype = tf.as_dtype(dtype)
    working = dtype if dtype == tf.float64 else tf.float32
    skewness = None if _is_zero(skewness) else skewness
    parameters = [
        None if p is None else _as_tensor(p, working)
        for p in (stability, skewness, loc, scale)
    ]
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    size = _static_size(shape)
    if size is None or size < CHUNKED_FROM or any(map(_is_batch, parameters)):
        values = _draw(seed, tf.cast(shape, tf.int32), *parameters, dtype)
        return tf.reshape(values, shape)
    count = tf.constant(size // CHUNK)
    values = tf.reshape(_draw_chunks(seed, count, *parameters, dtype), [-1])
    if size % CHUNK:
        # No chunk has this seed, because chunks are counted from zero.
        rest_seed = tf.random.fold_in(seed, -1, alg="philox")
        rest = _draw(rest_seed, [size % CHUNK], *parameters, dtype)
        values = tf.concat([values, rest], axis=0)
    return tf.reshape(values, shape)


def chambers_mallows_stuck(
    gap: tf.Tensor,
    exponential: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the standard S0 value of an angle and an exponential variable.

    With V uniform on (-pi/2, pi/2), W exponential, e = 1 - a,

        X = [tan V K - sin(eV)] exp(eq) + tau (cos(eV) D - 2 e H^2)
        K = cos(eV) + tau sin(eV) / e,     tau = b e / tan(pi e / 2),
        q = log(K / (W cos V)) / a,        D = (exp(eq) - 1) / e,
        H = sin(eV / 2) / e

    This is the published transform for a != 1, less its S1 shift
    b tan(pi a / 2), regrouped so that nothing is singular at e = 0. There it
    is the published transform for a = 1. Without skewness it reduces to

        X = sin(aV) / cos V (cos(eV) / (W cos V))^(e/a).

    All arguments have one floating dtype, float32 or float64, and shapes that
    broadcast.

    Args:
        gap: Tensor. (pi/2 - |V|) sign(V), in [-pi/2, pi/2] but not 0.
        exponential: Tensor. W > 0.
        stability: Tensor. a, in (0, 2].
        skewness: Tensor. b, in [-1, 1]. Defaults to None, which means 0 and is
            cheaper.

    Returns:
        A tensor, X, of the common shape and dtype. It is infinite where X
        overflows.

    Reference: Chambers, Mallows & Stuck, JASA 71, 340 (1976), whose own code
    is continuous at a = 1 too; Weron, Statistics & Probability Letters 28, 165
    (1996), for both cases. This grouping is derived here.
    """
    m, sign = tf.abs(gap), tf.sign(gap)
    v = _HALF_PI - m
    e = 1 - stability
    size = tf.abs(e)
    # (pi/2)(1 - |e|), accurate to the last digit at a = 0 and a = 2.
    rest = _HALF_PI * tf.minimum(stability, 2 - stability)
    cos_v, sin_v = sin(m), sin(v)
    cos_ev, sin_ev = sin(rest + size * m), sin(e * v)
    if skewness is None:
        k = cos_ev
    else:
        # K as a sum of two terms that are not negative: nothing cancels.
        towards, away = (1 + sign * skewness) / 2, (1 - sign * skewness) / 2
        y = math.pi - m
        k = sinc(size * y / 2) * sin(rest + size * m / 2) * y * towards
        k = k + sinc(size * m) * m * away
        k = k / (_HALF_PI * sinc(_HALF_PI * size))
    # exp(eq) = root^2. The limit on q keeps root and its products finite.
    limit = 1.44 * math.log(gap.dtype.max) / tf.maximum(size, 1e-6)
    q = tf.math.log(k / (exponential * cos_v)) / stability
    q = tf.clip_by_value(q, -limit, limit)
    root = tf.exp(e * q / 2)
    x = (sin_v / cos_v * k - sin_ev) * root
    if skewness is None:
        return sign * x * root
    tau = sign * skewness * scaled_tangent(stability)
    h = v / 2 * sinc(e * v / 2)
    x = (x + tau * cos_ev * q * sinhc(e * q / 2)) * root
    return sign * (x - tau * 2 * e * h**2)


def _random_bits(seed: Any, shape: Any, working: tf.DType) -> tf.Tensor:
    """Returns two independent random integers for each value.

    They have as many bits as the dtype that the values are computed in.
    """
    shape = tf.concat([[2], tf.cast(shape, tf.int32)], axis=0)
    # The algorithm is named because XLA's own choice on a CPU is two hundred
    # times slower.
    return tf.random.stateless_uniform(
        shape,
        seed,
        minval=None,
        maxval=None,
        dtype=tf.int64 if working == tf.float64 else tf.int32,
        alg="philox",
    )


def _from_bits(
    bits: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor | None,
    loc: tf.Tensor,
    scale: tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns the stable values that `_random_bits` are mapped to."""
    working = stability.dtype
    width = 8 * bits.dtype.size
    # Odd integers are symmetric about zero, and never zero.
    first, second = tf.unstack(tf.cast(bits | 1, working), num=2)
    gap = first * math.pi * 2.0**-width
    # The cast may round a uniform number up to 1, whose logarithm is zero.
    below_one = 1 - np.finfo(working.as_numpy_dtype).epsneg
    uniform = tf.minimum(tf.abs(second) * 2.0 ** (1 - width), below_one)
    valid = (stability > 0) & (stability <= 2)
    if skewness is not None:
        valid &= tf.abs(skewness) <= 1
    stability = tf.where(valid, stability, math.nan)
    x = loc + scale * chambers_mallows_stuck(
        gap, -tf.math.log(uniform), stability, skewness
    )
    bound = min(dtype.max, working.max)
    return tf.cast(tf.clip_by_value(x, -bound, bound), dtype)


_compiled_from_bits = tf.function(_from_bits, autograph=False, jit_compile=True)


@tf.function(autograph=False, reduce_retracing=True)
def _draw(
    seed: tf.Tensor,
    shape: Any,
    stability: tf.Tensor,
    skewness: tf.Tensor | None,
    loc: tf.Tensor,
    scale: tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns samples of a shape, computed at once."""
    bits = _random_bits(seed, shape, stability.dtype)
    return _from_bits(bits, stability, skewness, loc, scale, dtype)


@tf.function(autograph=False, reduce_retracing=True)
def _draw_chunks(
    seed: tf.Tensor,
    count: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor | None,
    loc: tf.Tensor,
    scale: tf.Tensor,
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns `count` chunks of samples, each with a seed that is derived."""

    def chunk(i: tf.Tensor) -> tf.Tensor:
        chunk_seed = tf.random.fold_in(seed, i, alg="philox")
        bits = _random_bits(chunk_seed, [CHUNK], stability.dtype)
        return _compiled_from_bits(bits, stability, skewness, loc, scale, dtype)

    return tf.map_fn(
        chunk,
        tf.range(count),
        fn_output_signature=tf.TensorSpec([CHUNK], dtype),
    )


def _as_tensor(value: Any, working: tf.DType) -> tf.Tensor:
    if tf.is_tensor(value):
        return tf.cast(value, working)
    return tf.convert_to_tensor(value, working)


def _is_zero(skewness: Any) -> bool:
    # A tensor of zeros does not count, because its gradient may be needed.
    return not tf.is_tensor(skewness) and not np.any(skewness)


def _is_batch(parameter: tf.Tensor | None) -> bool:
    return parameter is not None and parameter.shape.rank != 0


def _static_size(shape: Any) -> int | None:
    """Returns the number of values, or None if it is not known yet."""
    static = tf.get_static_value(shape) if tf.is_tensor(shape) else shape
    if static is None or any(tf.is_tensor(n) for n in static):
        return None
    return math.prod(int(n) for n in static)
