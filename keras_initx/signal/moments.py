"""Mean over samples and variance between them, of every unit of a layer.

For `n` samples of `u` units each, `Moments` holds

    count     n
    mean      <y_j>, one for each unit j
    variance  (1/u) sum_j <(y_j - <y_j>)^2>, already averaged over units

which is all that the moments of more samples can be made of, exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Moments(NamedTuple):
    """Moments of one layer's signal over the samples seen so far."""

    count: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def batch_moments(signal: tf.Tensor) -> Moments:
    """Moments of one batch.

    Two passes, the second about the mean: one pass over sums of squares would
    lose v^2 where m^2 is a thousand times larger, as in deep layers.

    Args:
        signal: Floating tensor, shape `(samples, ...)`.

    Returns:
        Moments in float32, or in float64 if `signal` is.
    """
    samples = tf.shape(signal)[0]
    flat = tf.reshape(signal, [samples, -1])
    if flat.dtype != tf.float64:
        flat = tf.cast(flat, tf.float32)
    mean, deviation = _fused(_mean_and_deviation)(flat)
    return Moments(tf.cast(samples, flat.dtype), mean, mean_square(deviation))


def merged(a: Moments, b: Moments) -> Moments:
    """Moments of the samples of `a` and of `b` together.

    Reference: Chan, Golub & LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979, eq. 2.1.
    """
    count = a.count + b.count
    share = b.count / count
    mean, shift = _fused(_moved_mean)(a.mean, b.mean, share)
    within = a.variance + share * (b.variance - a.variance)
    between = share * (1 - share) * mean_square(shift)
    return Moments(count, mean, within + between)


def mean_square(x: tf.Tensor) -> tf.Tensor:
    """Mean of the squares of a vector."""
    # On a CPU this kernel sums in a tree over several threads; reduce_mean,
    # ten times slower for a large layer, is no more exact.
    return 2 * tf.nn.l2_loss(x) / tf.cast(tf.size(x), x.dtype)


def all_finite(x: tf.Tensor) -> tf.Tensor:
    """Whether no element is NaN or infinite."""
    return _fused(_all_finite)(x)


def _mean_and_deviation(flat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean = tf.reduce_mean(flat, axis=0)
    variance = tf.reduce_mean(tf.math.squared_difference(flat, mean), axis=0)
    return mean, tf.sqrt(variance)


def _moved_mean(
    a: tf.Tensor, b: tf.Tensor, share: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    shift = b - a
    return a + share * shift, shift


def _all_finite(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(tf.math.is_finite(x))


@functools.cache
def _fused(function: Callable) -> Callable:
    """`function` in one kernel, so that nothing of its input's size is stored.

    Memory is the point, and half of the time. Where the fusing compiler does
    not run (a GPU installation may lack parts of it), the same operations run
    one by one.
    """
    if _can_fuse():
        return tf.function(function, autograph=False, jit_compile=True)
    return function


@functools.cache
def _can_fuse() -> bool:
    try:
        with tf.init_scope():
            tf.function(tf.sqrt, jit_compile=True)(tf.ones(1))
    except (tf.errors.OpError, ValueError):
        return False
    return True
