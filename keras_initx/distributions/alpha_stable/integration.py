"""The logarithm of a stable density or tail probability, and its derivatives.

The integral along the spiral of `contour` is accurate to about 1e-9, relative
to the result, as long as the result is not far smaller than the integrand.
Where it is, one of two other paths is taken:

- in the tails, the axis t = -i s, along which nothing cancels;
- in a light tail, the axis up to the saddle point and, of `saddle`, the line
  across it.

For a stability below 0.3, `small_stability` has another integral.

Each point z takes all branches, and `where` selects, so that XLA can compile
one computation for all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_initx.distributions.alpha_stable.contour import (
    Axis,
    contour_derivatives,
    contour_integrals,
)
from keras_initx.distributions.alpha_stable.elementary import where
from keras_initx.distributions.alpha_stable.exponent import (
    StableParameters,
    stable_parameters,
)
from keras_initx.distributions.alpha_stable.saddle import (
    SaddlePoint,
    saddle_derivatives,
    saddle_integrals,
    saddle_point,
)
from keras_initx.distributions.alpha_stable.small_stability import (
    log_derivatives,
    log_value,
)

# Points computed at a time. So the memory does not grow with the batch, and
# intermediate results stay in the processor's cache.
_CHUNK = 256
# Below this stability, the integral of `small_stability` is used.
SMALL = 0.3
# The axis is accurate for all parameters from this z on.
_TAIL = 20.0
# From this z on, a heavy tail equals its Pareto tail to the last digit, and the
# logarithm of a light tail is a power of z.
_FAR = 1e50
# The derivatives of a logarithm are clipped to this, so that their product
# with an ordinary number is finite. So is the logarithm in a light tail.
_LARGEST_DERIVATIVE = 1e300
# exp of this times a number below 1e148 is finite.
_LARGEST_POWER = 360.0


def stable_value(
    z: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
    tail: bool,
    count: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns log f(z) or log P(Z > z), for z >= 0.

    Z has the standard S0 distribution and f is its density. The result has no
    gradient that can be used.

    Args:
        z: float64 tensor of any shape, >= 0.
        stability: float64 tensor of this shape, in [0.05, 2].
        skewness: float64 tensor of this shape, in [-1, 1].
        tail: bool. Whether to return log P(Z > z) instead of log f(z).
        count: int32 tensor. How many of the points are needed, the first ones.
            The results of others have no meaning. Defaults to None, which
            means all.

    Returns:
        A tensor of this shape. It is -inf outside the support.
    """
    count = tf.size(z) if count is None else count
    return _reshaped(_value_function(tail), count, z, stability, skewness)[0]


def log_tail_and_slope(
    x: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, count: tf.Tensor
) -> list[tf.Tensor]:
    """Returns log P(Z > sinh(x)) and its derivative in x, for x >= 0.

    Args:
        x: float64 vector, >= 0.
        stability: float64 vector, in [`SMALL`, 2].
        skewness: float64 vector, in [-1, 1].
        count: int32 tensor. As in `stable_value`.
    """
    return _tail_function()(count, x, stability, skewness)


def density_slopes(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, count: tf.Tensor
) -> list[tf.Tensor]:
    """Returns f'(z) and f''(z), for a z >= 0 that is in no light tail.

    Args:
        z: float64 vector, >= 0.
        stability: float64 vector, in [`SMALL`, 2].
        skewness: float64 vector, in [-1, 1].
        count: int32 tensor. As in `stable_value`.
    """
    return _slope_function()(count, z, stability, skewness)


def stable_derivatives(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the derivatives of log f(z) or log P(Z > z), for z >= 0.

    Args:
        z: float64 tensor of any shape, >= 0.
        stability: float64 tensor of this shape, in [0.05, 2].
        skewness: float64 tensor of this shape, in [-1, 1].
        tail: bool. Whether to differentiate log P(Z > z) instead of log f(z).

    Returns:
        A list of the derivatives in z, stability and skewness, which are 0
        outside the support.
    """
    function = _derivative_function(tail)
    return _reshaped(function, tf.size(z), z, stability, skewness)


def _reshaped(
    function: Callable[..., list[tf.Tensor]],
    count: tf.Tensor,
    *tensors: tf.Tensor,
) -> list[tf.Tensor]:
    """Returns the results of a function of vectors, in the tensors' shape."""
    results = function(count, *(tf.reshape(each, [-1]) for each in tensors))
    first = tensors[0]
    return [
        tf.ensure_shape(tf.reshape(each, tf.shape(first)), first.shape)
        for each in results
    ]


@functools.cache
def _value_function(tail: bool) -> Callable[..., list[tf.Tensor]]:
    return _in_both_ranges(
        functools.partial(_log_value, tail=tail),
        functools.partial(log_value, tail=tail),
        1,
    )


@functools.cache
def _tail_function() -> Callable[..., list[tf.Tensor]]:
    return in_chunks(_log_tail_and_slope, 2)


@functools.cache
def _slope_function() -> Callable[..., list[tf.Tensor]]:
    return in_chunks(_slopes, 2)


@functools.cache
def _derivative_function(tail: bool) -> Callable[..., list[tf.Tensor]]:
    return _in_both_ranges(
        functools.partial(_log_derivatives, tail=tail),
        functools.partial(log_derivatives, tail=tail),
        3,
    )


def _in_both_ranges(
    ordinary: Callable[..., list[tf.Tensor]],
    small: Callable[..., list[tf.Tensor]],
    results: int,
) -> Callable[..., list[tf.Tensor]]:
    """Returns a function of a count and three vectors, for any stability.

    Args:
        ordinary: Callable. Takes z, stability and skewness, as vectors of one
            length, and returns vectors, for a stability of `SMALL` or more.
        small: Callable. The same for a smaller stability.
        results: int. The number of vectors that both return.
    """
    ordinary = in_chunks(ordinary, results)
    small = in_chunks(small, results)

    def run(
        count: tf.Tensor,
        z: tf.Tensor,
        stability: tf.Tensor,
        skewness: tf.Tensor,
    ) -> list[tf.Tensor]:
        is_small = stability < SMALL
        none = [tf.zeros_like(z)] * results
        # A function is compiled when it first runs, and in eager mode it is
        # not even traced before.
        high = tf.cond(
            tf.reduce_all(is_small),
            lambda: none,
            lambda: ordinary(count, z, tf.maximum(stability, SMALL), skewness),
        )
        low = tf.cond(
            tf.reduce_any(is_small),
            lambda: small(count, z, tf.minimum(stability, SMALL), skewness),
            lambda: none,
        )
        return [where(is_small, *each) for each in zip(low, high, strict=True)]

    return run


def in_chunks(
    function: Callable[..., list[tf.Tensor]], results: int
) -> Callable[..., list[tf.Tensor]]:
    """Returns a compiled function of a count and three vectors, in chunks.

    Args:
        function: Callable. Takes three vectors and returns vectors, all of one
            length.
        results: int. The number of vectors that it returns.

    Returns:
        A function of the number of points that are needed, the first ones, and
        of vectors of any length.
    """
    chunk = tf.function(function, jit_compile=True, autograph=False)
    signature = [tf.TensorSpec([_CHUNK], tf.float64)] * results
    none = [np.zeros(_CHUNK)] * results
    vector = tf.TensorSpec([None], tf.float64)
    arguments = [tf.TensorSpec([], tf.int32), vector, vector, vector]

    @tf.function(input_signature=arguments, autograph=False)
    def run(count: tf.Tensor, *vectors: tf.Tensor) -> list[tf.Tensor]:
        size = tf.size(vectors[0])
        padding = [[0, -size % _CHUNK]]
        tables = tuple(
            tf.reshape(tf.pad(each, padding, constant_values=1), [-1, _CHUNK])
            for each in vectors
        )
        starts = tf.range(0, size, _CHUNK)
        parts = tf.map_fn(
            lambda rows: tf.cond(
                rows[0] < count,
                lambda: chunk(*rows[1:]),
                lambda: [tf.constant(each) for each in none],
            ),
            (starts, *tables),
            fn_output_signature=signature,
        )
        return [tf.reshape(each, [-1])[:size] for each in parts]

    return run


def _log_value(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the logarithm of the density or tail probability."""
    params = stable_parameters(tf.minimum(z, _FAR), stability, skewness)
    saddle = saddle_point(params)
    heavy, light = _both_integrals(params, saddle, [-1 if tail else 0])
    total = _combine(params, saddle, heavy[0], light[0])[0]
    index = stability if tail else stability + 1
    return [_beyond_far(total, index, z, params)]


def _log_tail_and_slope(
    x: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> list[tf.Tensor]:
    """Returns log P(Z > sinh(x)) and its derivative in x."""
    z = tf.sinh(x)
    params = stable_parameters(tf.minimum(z, _FAR), stability, skewness)
    saddle = saddle_point(params)
    # dz / dx
    unit = tf.sqrt(1 + params.z * params.z)
    heavy, light = _both_integrals(params, saddle, [-1, 0], unit)
    total, heavy_factor, light_factor = _combine(
        params, saddle, heavy[0], light[0]
    )
    # The density of asinh(Z), over P(Z > z).
    hazard = heavy[1] * heavy_factor + light[1] * light_factor
    growth = where(
        _has_light_tail_only(params), tf.exp(_growth(z, params)), 1.0
    )
    return [_beyond_far(total, stability, z, params), -hazard * growth]


def _both_integrals(
    params: StableParameters,
    saddle: SaddlePoint,
    orders: list[int],
    unit: tf.Tensor | float = 1.0,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the integrals along the contour, and across the saddle point."""
    # Most batches have no light tail.
    light = tf.cond(
        tf.reduce_any(saddle.light),
        lambda: saddle_integrals(params, saddle, orders, unit),
        lambda: [tf.zeros_like(params.z)] * len(orders),
    )
    heavy = contour_integrals(params, _axis(params, saddle), orders, unit)
    return heavy, tf.nest.flatten(light)


def _slopes(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor
) -> list[tf.Tensor]:
    params = stable_parameters(z, stability, skewness)
    no = tf.zeros_like(z, tf.bool)
    axis = Axis(no, math.inf * tf.ones_like(z))
    return contour_integrals(params, axis, [1, 2])


def _log_derivatives(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the derivatives of a logarithm in its three arguments."""
    params = stable_parameters(tf.minimum(z, _FAR), stability, skewness)
    saddle = saddle_point(params)
    axis = _axis(params, saddle)
    # Without tf.cond, which XLA could not differentiate.
    light, *light_slopes = saddle_derivatives(params, saddle, tail)
    heavy, *heavy_slopes = contour_derivatives(params, axis, tail)
    total, heavy_factor, light_factor = _combine(params, saddle, heavy, light)
    outside = _is_outside_support(params)
    by_z, by_stability, by_skewness = (
        where(outside, 0.0, heavy * heavy_factor + light * light_factor)
        for heavy, light in zip(heavy_slopes, light_slopes, strict=True)
    )
    beyond, power = _log_beyond_far(z), _light_power(params)
    only_light = _has_light_tail_only(params)
    change = power * power * beyond * where(only_light, total, 0.0)
    change = (by_stability - change) * tf.exp(_growth(z, params))
    growth = tf.minimum(power * beyond, _LARGEST_POWER)
    results = (
        by_z * tf.exp(where(only_light, growth, -beyond)),
        where(only_light, change, by_stability - beyond),
        by_skewness,
    )
    return [
        tf.clip_by_value(each, -_LARGEST_DERIVATIVE, _LARGEST_DERIVATIVE)
        for each in results
    ]


def _combine(
    params: StableParameters,
    saddle: SaddlePoint,
    heavy: tf.Tensor,
    light: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds the contour integral and the integral across the saddle point.

    Args:
        params: StableParameters. Points z >= 0.
        saddle: SaddlePoint. Their saddle points.
        heavy: Tensor. The integral along the contour.
        light: Tensor. exp(Re W) times the integral across the saddle point.

    Returns:
        Three tensors: the logarithm of the sum; and its derivatives in `heavy`
        and in `light`.
    """
    # Far from a light tail the integral over the saddle has no sign.
    used = saddle.light & (light > 0)
    log_light = where(used, tf.math.log(where(used, light, 1.0)), 0.0)
    depth = where(used, saddle.depth[0], math.inf)
    logs = _log(heavy), log_light - depth
    largest = tf.maximum(tf.maximum(*logs), -_LARGEST_DERIVATIVE)
    total = largest + _log(
        tf.exp(logs[0] - largest) + tf.exp(logs[1] - largest)
    )
    total = where(_is_outside_support(params), -math.inf, total)
    # The heavy part may be 0 and its derivative not, because a distribution
    # without a Pareto tail gets one when its skewness changes. exp(690) is
    # close to overflow.
    heavy_factor = tf.exp(tf.minimum(-total, 690.0))
    light_factor = tf.exp((log_light - depth) - total) * tf.exp(-log_light)
    return total, heavy_factor, light_factor


def _axis(params: StableParameters, saddle: SaddlePoint) -> Axis:
    """Returns the points for which the axis is close to steepest descent."""
    beyond = (
        (params.stability < 1)
        & (params.skewness < -0.999)
        & _is_beyond_edge(params)
    )
    return Axis(
        saddle.light | beyond | (params.z >= _TAIL),
        where(saddle.light, saddle.log_s, math.inf),
    )


def _beyond_far(
    logarithm: tf.Tensor,
    index: tf.Tensor,
    z: tf.Tensor,
    params: StableParameters,
) -> tf.Tensor:
    """Returns the logarithm of a density or tail probability at any z.

    Args:
        logarithm: Tensor. The logarithm at the lesser of z and `_FAR`.
        index: Tensor. The power with which the heavy tail falls.
        z: Tensor. The point.
        params: StableParameters. Points not beyond `_FAR`.
    """
    far = where(
        _has_light_tail_only(params),
        logarithm * tf.exp(_growth(z, params)),
        logarithm - index * _log_beyond_far(z),
    )
    return where(z > _FAR, far, logarithm)


def _growth(z: tf.Tensor, params: StableParameters) -> tf.Tensor:
    """Returns log(log f(z) / log f(_FAR)) in a light tail, 0 up to `_FAR`."""
    growth = (1 + _light_power(params)) * _log_beyond_far(z)
    return tf.minimum(growth, _LARGEST_POWER)


def _is_outside_support(params: StableParameters) -> tf.Tensor:
    """Returns whether z >= 0 is outside the support, a half-line.

    The support is a half-line for stability < 1 and skewness -1.
    """
    return (
        (params.stability < 1)
        & (params.skewness == -1)
        & _is_beyond_edge(params)
    )


def _is_beyond_edge(params: StableParameters) -> tf.Tensor:
    """Returns z >= -skewness tan(pi stability / 2), for stability < 1."""
    return params.tau + params.e * params.z >= 0


def _has_light_tail_only(params: StableParameters) -> tf.Tensor:
    """Returns whether there is no Pareto tail, but no end of the support."""
    a = params.stability
    return (a == 2) | ((a > 1) & (params.skewness == -1))


def _light_power(params: StableParameters) -> tf.Tensor:
    """Returns 1 / (a - 1). A light tail falls as exp(-c z^(a / (a - 1)))."""
    a = params.stability
    return 1 / where(a > 1, a - 1, 1.0)


def _log_beyond_far(z: tf.Tensor) -> tf.Tensor:
    """Returns log(z / _FAR), or 0 for a smaller z."""
    return tf.math.log(tf.maximum(z, _FAR) / _FAR)


def _log(x: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm, -inf where x <= 0, with a finite gradient."""
    none = x <= 0
    return where(none, -math.inf, tf.math.log(where(none, 1.0, x)))
