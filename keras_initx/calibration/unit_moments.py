"""Mean and variance of each unit of a layer, over all that is no unit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_initx.inspection.linear_units import Readout


class UnitMoments(NamedTuple):
    """Of each unit: numbers it is the mean of, mean and variance, float64."""

    count: int
    mean: np.ndarray
    variance: np.ndarray


def unit_moments(signal: tf.Tensor, found: Readout | None) -> UnitMoments:
    """Mean and variance of each unit over all else, in float32 or better.

    Args:
        signal: Of shape (samples, ...).
        found: What tells the units apart; None: the last axis.
    """
    if signal.dtype != tf.float64:
        signal = tf.cast(signal, tf.float32)
    rank = signal.shape.rank
    kept = (
        [rank - 1]
        if found is None
        else [axis % rank for axis in found.signal_axes]
    )
    over = [axis for axis in range(rank) if axis not in kept]
    mean = tf.reduce_mean(signal, over, keepdims=True)
    square = tf.math.squared_difference(signal, mean)
    variance = tf.reduce_mean(square, over)
    return UnitMoments(
        math.prod(signal.shape[axis] for axis in over),
        *(
            np.ravel(each.numpy()).astype(np.float64)
            for each in (mean, variance)
        ),
    )


def merged(a: UnitMoments, b: UnitMoments) -> UnitMoments:
    """Moments of the samples of `a` and of `b` together.

    Reference: Chan, Golub & LeVeque, 1979, eq. 2.1.
    """
    count = a.count + b.count
    share = b.count / count
    step = b.mean - a.mean
    return UnitMoments(
        count,
        a.mean + share * step,
        a.variance
        + share * (b.variance - a.variance)
        + share * (1 - share) * step**2,
    )
