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
    function: Callable[..., list[tf.Tensor]],
    start: tf.Tensor,
    largest: float,
    arguments: list[tf.Tensor],
) -> tf.Tensor:
    """Returns the x at which a falling function is zero.

    The next x is the value at zero of the cubic that equals the inverse
    function, with its derivative, at the last two points. Where it lies outside
    the bracket, or the function has not fallen to a half of its last value, the
    bracket is bisected. Points that are done are computed no more.

    Args:
        function: Callable. Takes a vector x, the vectors `arguments` and a
            count. Returns the function and its derivative in x at the first
            points of that count, and anything at others.
        start: float64 vector. The first x.
        largest: float. The largest |x| that is tried.
        arguments: list of float64 vectors.

    Reference: Brent, Algorithms for Minimization without Derivatives (1973),
    chapter 4, for inverse interpolation with bisection. The interpolation with
    derivatives is Hermite's.
    """
    infinite = math.inf * tf.ones_like(start)

    def step(
        active: tf.Tensor,
        xs: tf.Tensor,
        last: tf.Tensor,
        low: tf.Tensor,
        high: tf.Tensor,
    ) -> list[tf.Tensor]:
        x = xs[0]
        value, slope = _first_points(function, active, x, arguments)
        low, high = where(value > 0, x, low), where(value > 0, high, x)
        point = tf.stack([x, value, 1 / slope])
        following, error = _interpolated(point, last)
        bracketed = tf.math.is_finite(low) & tf.math.is_finite(high)
        # Far out the function may fall faster than its last slope says.
        unit = 1 + tf.abs(x)
        following = where(
            bracketed,
            following,
            tf.clip_by_value(following, x - unit, x + unit),
        )
        moved = tf.abs(x - xs[1])
        slow = tf.abs(value) > 0.5 * tf.abs(last[1])
        good = (following > low) & (following < high) & ~(bracketed & slow)
        # Without a bracket the steps grow.
        moved = where(tf.math.is_finite(moved), moved, 0.0)
        far = x + where(value > 0, 2 * moved + 0.5, -2 * moved - 0.5)
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
            tf.stack([following, x]),
            where(active, point, last),
            low,
            high,
        ]

    state = [
        tf.ones_like(start, tf.bool),
        tf.stack([start, infinite]),
        tf.stack([infinite] * 3),
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
    function: Callable[..., list[tf.Tensor]],
    active: tf.Tensor,
    x: tf.Tensor,
    arguments: list[tf.Tensor],
) -> list[tf.Tensor]:
    """Returns the function at points that are active, which are put first."""
    ones = tf.cast(active, tf.int32)
    count = tf.reduce_sum(ones)
    place = where(active, tf.cumsum(ones) - 1, count + tf.cumsum(1 - ones) - 1)
    order = tf.math.invert_permutation(place)
    values = function(
        *(tf.gather(each, order) for each in (x, *arguments)), count
    )
    return [tf.gather(each, place) for each in values]


def _interpolated(
    point: tf.Tensor, last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where a function is zero, and an estimate of the error.

    The inverse function X(y) is interpolated by a cubic at two points, or by a
    line at one, if there is no other. Both results may be NaN. The estimate is
    of the function there, whose scale is about 1, so that it is the product of
    the squared values at the points, if the cubic differs little from the line
    through the point.

    Args:
        point: Tensor of shape (3, points). x, y = f(x) and X'(y).
        last: Tensor of shape (3, points). The same of the point before; inf
            where there is none.
    """
    x, y, slope = tf.unstack(point)
    other_x, other_y, other_slope = tf.unstack(last)
    # Divided differences of X at y, y, other_y and at all four.
    width = other_y - y
    chord = (other_x - x) / width
    second = (chord - slope) / width
    third = ((other_slope - chord) / width - second) / width
    line = -y * slope
    change = y**2 * (second - other_y * third)
    cubic = tf.math.is_finite(change)
    change = where(cubic, change, 0.0)
    small = tf.abs(change) < 0.1 * tf.abs(line)
    error = where(small & cubic, (y * other_y) ** 2, math.inf)
    error = where(tf.abs(y) < _TOLERANCE, tf.abs(y), error)
    return x + line + change, error
