"""Draws from stable laws, by a form of the classical transform without seams.

TensorFlow alone. The law is the standard one in Nolan's S0 parameterisation,
which is continuous in all its parameters, stability 1 included.

The transform takes an angle V in (-pi/2, pi/2). It is handed the signed gap
between V and the nearer end of that interval instead, because the tails of the
law lie there and floating point numbers are dense near zero only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.smooth import (
    scaled_tangent,
    sin,
    sinc,
    sinhc,
)

_HALF_PI = math.pi / 2

# Values in a piece: its intermediate results stay in a core's cache.
PIECE = 1 << 16
# Values from which a compiled piece repays its compilation.
LARGE = 1 << 20


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
    """Draws from stable laws, in the S0 parameterisation.

        E exp(i t X) = exp(-|t|^a [1 + i b sign(t) tan(pi a / 2)
                                        (|t|^(1-a) - 1)])

    at loc 0 and scale 1, with stability a and skewness b: N(0, 2) at a = 2.

    A value beyond the dtype's range becomes its largest finite number, of the
    same sign. That happens with probability C_a / max^a, where C_a is of order
    1 and max that number: in float32 (max 3.4e38) 2e-12 at a = 0.3 and 1e-4 at
    a = 0.1; in float16 (max 65504) 2e-8 at 1.5, 1e-5 at 1, 3e-3 at 0.5.

    Args:
        shape: Shape of the result, ints or a tensor of ints. The parameters
            broadcast against it.
        stability: In (0, 2], a number or a floating tensor. NaN follows from
            any other value.
        skewness: In [-1, 1], likewise. A number 0 makes the draw cheaper.
        seed: Two integers, as of `tf.random.stateless_uniform`.
        loc, scale: The values are multiplied by `scale` and `loc` is added,
            before they are cast.
        dtype: Any floating dtype. float16 and bfloat16 are drawn in float32.

    Returns:
        A tensor of `shape` and `dtype`, a pure function of the arguments. It
        is differentiable in the parameters. Eager, graph and XLA modes differ
        by rounding alone. From 2^20 values on, a shape that is known only when
        the graph runs gives other draws of the same law than a known one.

    Example:

    >>> standard_stable([3], 1.5, seed=[1, 2]).dtype
    tf.float32

    Reference: as `chambers_mallows_stuck`.
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
    if size is None or size < LARGE or any(map(_is_batch, parameters)):
        values = _at_once(seed, tf.cast(shape, tf.int32), *parameters, dtype)
        return tf.reshape(values, shape)
    count = tf.constant(size // PIECE)
    values = tf.reshape(_in_pieces(seed, count, *parameters, dtype), [-1])
    if size % PIECE:
        # Not a piece's seed, since pieces are counted from zero.
        own = tf.random.fold_in(seed, -1, alg="philox")
        rest = _at_once(own, [size % PIECE], *parameters, dtype)
        values = tf.concat([values, rest], axis=0)
    return tf.reshape(values, shape)


def chambers_mallows_stuck(
    gap: tf.Tensor,
    exponential: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor | None = None,
) -> tf.Tensor:
    """The stable value, S0 and standard, of an angle and an exponential.

    With V uniform on (-pi/2, pi/2), W exponential, e = 1 - a,

        X = [tan V K - sin(eV)] exp(eq) + tau (cos(eV) D - 2 e H^2)
        K = cos(eV) + tau sin(eV) / e,     tau = b e / tan(pi e / 2),
        q = log(K / (W cos V)) / a,        D = (exp(eq) - 1) / e,
        H = sin(eV / 2) / e

    which is the published transform for a != 1, less its S1 shift
    b tan(pi a / 2), regrouped so that nothing is singular at e = 0: there it
    is the published transform for a = 1. Without skewness it reduces to

        X = sin(aV) / cos V (cos(eV) / (W cos V))^(e/a).

    Args:
        gap: (pi/2 - |V|) sign(V), in [-pi/2, pi/2] but not 0.
        exponential: W > 0.
        stability: a in (0, 2].
        skewness: b in [-1, 1], or None for 0. All four of one floating dtype,
            float32 or float64, and of shapes that broadcast.

    Returns:
        X, of the common shape and dtype; infinite where it overflows.

    Reference: Chambers, Mallows & Stuck, JASA 71, 340 (1976), whose own code
    is continuous at a = 1 too; Weron, Statistics & Probability Letters 28, 165
    (1996), for both cases. This grouping is derived here.
    """
    m, sign = tf.abs(gap), tf.sign(gap)
    v = _HALF_PI - m
    e = 1 - stability
    size = tf.abs(e)
    # (pi/2)(1 - |e|), to the last digit at either end of stability.
    rest = _HALF_PI * tf.minimum(stability, 2 - stability)
    cos_v, sin_v = sin(m), sin(v)
    cos_ev, sin_ev = sin(rest + size * m), sin(e * v)
    if skewness is None:
        k = cos_ev
    else:
        # cos(eV) + tau sin(eV)/e as a sum of two terms, neither negative.
        towards, away = (1 + sign * skewness) / 2, (1 - sign * skewness) / 2
        y = math.pi - m
        k = sinc(size * y / 2) * sin(rest + size * m / 2) * y * towards
        k = k + sinc(size * m) * m * away
        k = k / (_HALF_PI * sinc(_HALF_PI * size))
    # exp(eq) = root^2, and the limit keeps finite what root multiplies.
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


def _bits(seed: Any, shape: Any, working: tf.DType) -> tf.Tensor:
    shape = tf.concat([[2], tf.cast(shape, tf.int32)], axis=0)
    # Named, because XLA's own choice on a CPU is two hundred times slower.
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
    working = stability.dtype
    width = 8 * bits.dtype.size
    # Odd integers are symmetric about zero, and never zero.
    first, second = tf.unstack(tf.cast(bits | 1, working), num=2)
    gap = first * math.pi * 2.0**-width
    # Rounding may leave a uniform number at one, whose logarithm is zero.
    below_one = 1 - np.finfo(working.as_numpy_dtype).epsneg
    uniform = tf.minimum(tf.abs(second) * 2.0 ** (1 - width), below_one)
    inside = (stability > 0) & (stability <= 2)
    if skewness is not None:
        inside &= tf.abs(skewness) <= 1
    stability = tf.where(inside, stability, math.nan)
    x = loc + scale * chambers_mallows_stuck(
        gap, -tf.math.log(uniform), stability, skewness
    )
    bound = min(dtype.max, working.max)
    return tf.cast(tf.clip_by_value(x, -bound, bound), dtype)


_compiled = tf.function(_from_bits, autograph=False, jit_compile=True)


@tf.function(autograph=False, reduce_retracing=True)
def _at_once(seed, shape, stability, skewness, loc, scale, dtype):
    bits = _bits(seed, shape, stability.dtype)
    return _from_bits(bits, stability, skewness, loc, scale, dtype)


@tf.function(autograph=False, reduce_retracing=True)
def _in_pieces(seed, count, stability, skewness, loc, scale, dtype):
    def piece(i):
        own = tf.random.fold_in(seed, i, alg="philox")
        bits = _bits(own, [PIECE], stability.dtype)
        return _compiled(bits, stability, skewness, loc, scale, dtype)

    return tf.map_fn(
        piece,
        tf.range(count),
        fn_output_signature=tf.TensorSpec([PIECE], dtype),
    )


def _as_tensor(value: Any, working: tf.DType) -> tf.Tensor:
    if tf.is_tensor(value):
        return tf.cast(value, working)
    return tf.convert_to_tensor(value, working)


def _is_zero(skewness: Any) -> bool:
    # A tensor of zeros is not, since a gradient may be asked of it.
    return not tf.is_tensor(skewness) and not np.any(skewness)


def _is_batch(parameter: tf.Tensor | None) -> bool:
    return parameter is not None and parameter.shape.rank != 0


def _static_size(shape: Any) -> int | None:
    static = tf.get_static_value(shape) if tf.is_tensor(shape) else shape
    if static is None or any(tf.is_tensor(n) for n in static):
        return None
    return math.prod(int(n) for n in static)
