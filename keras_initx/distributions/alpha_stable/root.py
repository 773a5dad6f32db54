"""Roots of falling functions that are costly, for a batch of points."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from keras_initx.distributions.alpha_stable.elementary import where

_MOST_STEPS = 100
# The estimated value of the function at a root.
_TOLERANCE = 1e-12


def falling_root(
    function: Callable[..., tf.Tensor],
    start: tf.Tensor,
    rate: tf.Tensor,
    largest: float,
    arguments: list[tf.Tensor],
) -> tf.Tensor:
    """Returns the x at which a falling function is zero.

    The next x is the inverse function's value at zero, of the parabola through
    the last three values, or the line through two. Where it lies outside the
    bracket, or the function has not fallen to a half of its last value, the
    bracket is bisected. Points that are done are computed no more.

    Args:
        function: Callable. Takes a vector x, the vectors `arguments` and a
            count. Returns the function at the first points of that count, and
            anything at others.
        start: float64 vector. The first x.
        rate: float64 vector. A guess of dx / df, < 0.
        largest: float. The largest |x| that is tried.
        arguments: list of float64 vectors.

    Reference: Brent, Algorithms for Minimization without Derivatives (1973),
    chapter 4, for inverse quadratic interpolation with bisection.
    """
    infinite = math.inf * tf.ones_like(start)

    def step(
        active: tf.Tensor,
        xs: tf.Tensor,
        values: tf.Tensor,
        low: tf.Tensor,
        high: tf.Tensor,
    ) -> list[tf.Tensor]:
        x = xs[0]
        value = _first_points(function, active, x, arguments)
        low, high = where(value > 0, x, low), where(value > 0, high, x)
        following, error = _interpolated(x, value, xs, values, rate)
        # Far out the function may fall faster than its last slope says.
        unit = 1 + tf.abs(x)
        following = where(
            tf.math.is_finite(low) & tf.math.is_finite(high),
            following,
            tf.clip_by_value(following, x - unit, x + unit),
        )
        last = tf.abs(x - xs[1])
        bracketed = tf.math.is_finite(low) & tf.math.is_finite(high)
        slow = tf.abs(value) > 0.5 * tf.abs(values[0])
        good = (following > low) & (following < high) & ~(bracketed & slow)
        # Without a bracket the steps grow.
        last = where(tf.math.is_finite(last), last, 0.0)
        far = x + where(value > 0, 2 * last + 0.5, -2 * last - 0.5)
        following = where(
            good, following, where(bracketed, (low + high) / 2, far)
        )
        following = tf.clip_by_value(following, -largest, largest)
        following = where(value == 0, x, following)
        following = where(active, following, x)
        done = (good & (error < _TOLERANCE)) | (high - low < 1e-15 * unit)
        done |= value == 0
        return [
            active & ~done,
            tf.stack([following, x, xs[1]]),
            tf.stack([value, values[0]]),
            low,
            high,
        ]

    state = [
        tf.ones_like(start, tf.bool),
        tf.stack([start, infinite, infinite]),
        tf.stack([infinite, infinite]),
        -infinite,
        infinite,
    ]
    return tf.while_loop(
        lambda active, *_: tf.reduce_any(active),
        step,
        state,
        maximum_iterations=_MOST_STEPS,
    )[1][0]


def _first_points(
    function: Callable[..., tf.Tensor],
    active: tf.Tensor,
    x: tf.Tensor,
    arguments: list[tf.Tensor],
) -> tf.Tensor:
    """Returns the function at points that are active, which are put first."""
    ones = tf.cast(active, tf.int32)
    count = tf.reduce_sum(ones)
    place = where(active, tf.cumsum(ones) - 1, count + tf.cumsum(1 - ones) - 1)
    order = tf.math.invert_permutation(place)
    values = function(
        *(tf.gather(each, order) for each in (x, *arguments)), count
    )
    return tf.gather(values, place)


def _interpolated(
    x: tf.Tensor,
    value: tf.Tensor,
    xs: tf.Tensor,
    values: tf.Tensor,
    rate: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where the inverse function is zero, and an estimate of the error.

    Both may be NaN. The estimate is of the function there, whose scale is about
    1, so that it is the product of the three values, if the parabola differs
    little from the line through two of them.

    Args:
        x: Tensor. The point.
        value: Tensor. The function there.
        xs: Tensor. x, the point before it and the one before that; inf where
            there is none.
        values: Tensor. The function at those two.
        rate: Tensor. The slope of the inverse function, for the first point.
    """
    first = (x - xs[1]) / (value - values[0])
    second = (xs[1] - xs[2]) / (values[0] - values[1])
    line = x - value * where(tf.math.is_finite(first), first, rate)
    change = value * values[0] * (first - second) / (value - values[1])
    parabola = tf.math.is_finite(change)
    bend = tf.abs(change / (line - x))
    error = tf.abs(value * values[0] * values[1])
    error = where(parabola & (bend < 0.1), error, math.inf)
    error = where(tf.abs(value) < _TOLERANCE, tf.abs(value), error)
    return where(parabola, line + change, line), error
