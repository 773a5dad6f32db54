"""The logarithm of a stable density or tail probability, and its derivatives.

The integral along the spiral of `contour` is accurate to about 1e-9, relative
to the result, as long as the result is not far smaller than the integrand.
Where it is, one of two other paths is taken:

- in the tails, the axis t = -i s, along which nothing cancels;
- in a light tail, the axis up to the saddle point and, of `saddle`, the line
  across it.

Each point z takes all branches, and `where` selects, so that XLA can compile
one computation for all of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from keras_initx.distributions.alpha_stable.contour import (
    Axis,
    contour_integrals,
)
from keras_initx.distributions.alpha_stable.elementary import where
from keras_initx.distributions.alpha_stable.exponent import (
    StableParameters,
    stable_parameters,
)
from keras_initx.distributions.alpha_stable.saddle import (
    SaddlePoint,
    saddle_integrals,
    saddle_point,
)

# Points computed at a time. So the memory does not grow with the batch, and
# intermediate results stay in the processor's cache.
_CHUNK = 256
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


def integrate(
    z: tf.Tensor,
    stability: tf.Tensor,
    skewness: tf.Tensor,
    *,
    tail: bool,
    derivatives: bool = False,
) -> list[tf.Tensor]:
    """Returns log f(z) or log P(Z > z) for z >= 0, or its derivatives.

    Z has the standard S0 distribution and f is its density.

    Args:
        z: float64 tensor of any shape, >= 0.
        stability: float64 tensor of this shape, in (0, 2].
        skewness: float64 tensor of this shape, in [-1, 1].
        tail: bool. Whether to return log P(Z > z) instead of log f(z).
        derivatives: bool. Whether to return the derivatives of the logarithm
            in z, stability and skewness instead. Defaults to False.

    Returns:
        A list of one tensor, or of the three derivatives, of the shape of `z`.
        The logarithm is -inf outside the support, and the derivatives are 0.
    """
    flat = [tf.reshape(each, [-1]) for each in (z, stability, skewness)]
    results = _chunked(tail, derivatives)(*flat)
    return [
        tf.ensure_shape(tf.reshape(each, tf.shape(z)), z.shape)
        for each in results
    ]


@functools.cache
def _chunked(tail: bool, derivatives: bool) -> Callable[..., list[tf.Tensor]]:
    """Returns the function of three vectors that computes them in chunks."""
    chunk = tf.function(
        functools.partial(
            _log_derivatives if derivatives else _log_value, tail=tail
        ),
        jit_compile=True,
        autograph=False,
    )
    signature = [tf.TensorSpec([_CHUNK], tf.float64)] * (
        3 if derivatives else 1
    )

    def run(*vectors: tf.Tensor) -> list[tf.Tensor]:
        size = tf.size(vectors[0])
        padding = [[0, -size % _CHUNK]]
        tables = tuple(
            tf.reshape(tf.pad(each, padding, constant_values=1), [-1, _CHUNK])
            for each in vectors
        )
        results = tf.map_fn(
            lambda rows: chunk(*rows), tables, fn_output_signature=signature
        )
        return [tf.reshape(each, [-1])[:size] for each in results]

    vector = tf.TensorSpec([None], tf.float64)
    return tf.function(run, [vector] * 3, autograph=False)


def _log_value(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the logarithm of the density or tail probability."""
    params = stable_parameters(tf.minimum(z, _FAR), stability, skewness)
    saddle = saddle_point(params)
    # Most batches have no light tail.
    (light,) = tf.nest.flatten(
        tf.cond(
            tf.reduce_any(saddle.light),
            lambda: saddle_integrals(params, saddle, tail, derivatives=False),
            lambda: [tf.zeros_like(z)],
        )
    )
    total = _combine(params, saddle, light, tail)[0]
    beyond = _log_beyond_far(z)
    index = stability if tail else stability + 1
    growth = tf.minimum((1 + _light_power(params)) * beyond, _LARGEST_POWER)
    beyond_far = where(
        _has_light_tail_only(params),
        total * tf.exp(growth),
        total - index * beyond,
    )
    return [where(z > _FAR, beyond_far, total)]


def _log_derivatives(
    z: tf.Tensor, stability: tf.Tensor, skewness: tf.Tensor, tail: bool
) -> list[tf.Tensor]:
    """Returns the derivatives of `_log_value` in its three arguments."""
    params = stable_parameters(tf.minimum(z, _FAR), stability, skewness)
    saddle = saddle_point(params)
    # Without tf.cond, which XLA could not differentiate.
    (light,) = saddle_integrals(params, saddle, tail, derivatives=False)
    total, log_light, depth = _combine(params, saddle, light, tail)
    # The derivative of log(heavy + exp(-depth) light). The heavy part may be
    # 0 and its derivative not, because a distribution without a Pareto tail
    # gets one when its skewness changes. exp(690) is close to overflow.
    heavy_factor = tf.exp(tf.minimum(-total, 690.0))
    light_factor = tf.exp((log_light - depth) - total) * tf.exp(-log_light)
    outside = _is_outside_support(params)
    by_z, by_stability, by_skewness = (
        where(outside, 0.0, heavy * heavy_factor + light * light_factor)
        for heavy, light in zip(
            contour_integrals(
                params, _axis(params, saddle), tail, derivatives=True
            ),
            saddle_integrals(params, saddle, tail, derivatives=True),
            strict=True,
        )
    )
    beyond, power = _log_beyond_far(z), _light_power(params)
    growth = tf.minimum(power * beyond, _LARGEST_POWER)
    only_light = _has_light_tail_only(params)
    change = power * power * beyond * where(only_light, total, 0.0)
    change = (by_stability - change) * tf.exp(
        tf.minimum(growth + beyond, _LARGEST_POWER)
    )
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
    light: tf.Tensor,
    tail: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds the contour integral and the integral across the saddle point.

    Args:
        params: StableParameters. Points z >= 0.
        saddle: SaddlePoint. Their saddle points.
        light: Tensor. exp(Re W) times the integral across the saddle point.
        tail: bool. Whether it is the tail probability.

    Returns:
        Three tensors: the logarithm of the sum; log(light), or 0 where it is
        not used; and Re W, or inf where it is not used.
    """
    (heavy,) = contour_integrals(
        params, _axis(params, saddle), tail, derivatives=False
    )
    # Far from a light tail the integral over the saddle has no sign.
    used = saddle.light & (light > 0)
    log_light = where(used, tf.math.log(where(used, light, 1.0)), 0.0)
    depth = where(used, saddle.depth[0], math.inf)
    logs = _log(heavy), log_light - depth
    largest = tf.maximum(tf.maximum(*logs), -_LARGEST_DERIVATIVE)
    total = largest + _log(
        tf.exp(logs[0] - largest) + tf.exp(logs[1] - largest)
    )
    return (
        where(_is_outside_support(params), -math.inf, total),
        log_light,
        depth,
    )


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
