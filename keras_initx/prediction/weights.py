"""The variance of a weight: of its present values, or of its initializer."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from scipy import special

from keras_initx.initializers.alpha_stable import AlphaStable
from keras_initx.initializers.base import (
    FanInInitializer,
    axes_of,
    compute_fans,
)
from keras_initx.initializers.depth_process import DepthWeights
from keras_initx.initializers.paired import Paired
from keras_initx.initializers.scaled import Scaled
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.theory.residual.depth_processes import (
    fractional_noise_covariance,
    smooth_covariance,
)

Source = Literal["present", "initial"]

# The standard deviation of a normal distribution that is truncated at two of
# its own, as Keras draws it.
_TRUNCATED = 0.87962566103423978
# A kurtosis above that of all usual initializers, which is 3 for normal and 6
# for Laplace weights.
_HEAVY = 12.0


class WeightMoments(NamedTuple):
    """Mean and variance of the entries of a weight.

    Attributes:
        mean: float. The mean, 0 unless all entries share one.
        variance: float. The variance.
    """

    mean: float
    variance: float


def weight_moments(
    variable: Any,
    initializer: Any,
    source: Source,
    fans: tuple[float, float] | None = None,
    part: Any = (),
) -> WeightMoments:
    """Returns mean and variance of the entries of a weight.

    Args:
        variable: keras.Variable. The weight.
        initializer: keras.Initializer or None. What draws it.
        source: str. "present" for its values, "initial" for its initializer.
        fans: tuple of two floats. The fan-in and the fan-out, where the layer
            gives them to its initializer. Defaults to those of the shape.
        part: slice or tuple. The index of the part of the weight that is meant,
            whose values are taken. Defaults to all of it.

    Raises:
        Unpredictable: If the entries are not independent draws of a finite
            variance, or the variance of the initializer is not known.
    """
    _check_kind(initializer)
    if source == "initial":
        found = initializer_moments(initializer, tuple(variable.shape), fans)
        if found is None:
            kind = "none" if initializer is None else type(initializer).__name__
            raise Unpredictable(
                f"the variance that its initializer ({kind}) draws is not "
                'known; weights="present" takes that of the present values'
            )
        return found
    values = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    return value_moments(np.asarray(values, dtype=np.float64)[part])


def value_moments(values: np.ndarray) -> WeightMoments:
    """Returns mean and variance of given entries.

    A mean within 6 standard errors of 0, as n independent entries of mean 0 may
    have, is taken to be 0; the variance is then the mean square.

    Raises:
        Unpredictable: If they are non-finite, or have a heavy tail.
    """
    if not np.isfinite(values).all():
        raise Unpredictable("a weight of it is not finite")
    flat = values.ravel()
    mean = float(flat.mean())
    squares = (flat - mean) ** 2
    variance = float(squares.mean())
    square = variance + mean**2
    if variance <= 1e-12 * square:
        return WeightMoments(mean, 0.0)
    if values.size >= 256:
        fourth = float(squares @ squares) / flat.size
        if fourth > _HEAVY * variance**2:
            raise Unpredictable(
                "the entries of a weight are no draws of one distribution with "
                "a light tail: heavy-tailed weights are the subject of "
                "theory.stable_scale_recursion, and constructed ones have no "
                "random limit"
            )
    # |mean| > 6 sqrt(variance / n)
    if mean**2 * values.size > 36 * variance:
        return WeightMoments(mean, variance)
    return WeightMoments(0.0, square)


def initializer_moments(
    initializer: Any,
    shape: Sequence[int],
    fans: tuple[float, float] | None = None,
) -> WeightMoments | None:
    """Returns mean and variance of what an initializer draws, if known.

    Args:
        initializer: keras.Initializer. The initializer.
        shape: Sequence of int. The shape of the weight.
        fans: tuple of two floats. As in `weight_moments`.

    Returns:
        WeightMoments, or None for an initializer that is not known here.
    """
    k = keras.initializers
    if isinstance(initializer, Scaled):
        inner = initializer_moments(initializer.initializer, shape, fans)
        if inner is None:
            return None
        factor = initializer.factor
        return WeightMoments(factor * inner.mean, factor**2 * inner.variance)
    if isinstance(initializer, DepthWeights):
        return WeightMoments(
            0.0, initializer.scale / _fan_in(initializer, shape)
        )
    if isinstance(initializer, k.VarianceScaling) and not isinstance(
        initializer, FanInInitializer
    ):
        fans = fans or compute_fans(shape, *axes_of(initializer))
        fan = {
            "fan_in": fans[0],
            "fan_out": fans[1],
            "fan_avg": sum(fans) / 2,
        }[initializer.mode]
        return WeightMoments(0.0, initializer.scale / max(1.0, fan))
    if isinstance(initializer, k.RandomNormal):
        return WeightMoments(initializer.mean, initializer.stddev**2)
    if isinstance(initializer, k.TruncatedNormal):
        return WeightMoments(
            initializer.mean, (_TRUNCATED * initializer.stddev) ** 2
        )
    if isinstance(initializer, k.RandomUniform):
        low, high = initializer.minval, initializer.maxval
        return WeightMoments((low + high) / 2, (high - low) ** 2 / 12)
    if isinstance(initializer, k.Orthogonal):
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return WeightMoments(
            0.0, float(initializer.gain) ** 2 / max(rows, columns)
        )
    for cls, value in ((k.Zeros, 0.0), (k.Ones, 1.0)):
        if isinstance(initializer, cls):
            return WeightMoments(value, 0.0)
    if isinstance(initializer, k.Constant) and np.ndim(initializer.value) == 0:
        return WeightMoments(float(initializer.value), 0.0)
    return None


def weight_entries(
    variable: Any, initializer: Any, source: Source
) -> np.ndarray | None:
    """Returns entries of a weight, which show the shape of its distribution.

    Args:
        variable: keras.Variable. The weight.
        initializer: keras.Initializer or None. What draws it.
        source: str. "present" for its values, "initial" for equal shares of the
            distribution of the initializer, up to a factor.

    Returns:
        Array of one axis. None for an initializer whose distribution is not
        known here, and for entries that are all 0.
    """
    if source == "present":
        values = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
        entries = np.asarray(values, dtype=np.float64).ravel()
        return entries if entries.any() else None
    while isinstance(initializer, Scaled):
        initializer = initializer.initializer
    k = keras.initializers
    kind = getattr(initializer, "distribution", None)
    share = (np.arange(4096) + 0.5) / 4096
    if isinstance(initializer, k.RandomUniform) or kind == "uniform":
        return 2 * share - 1
    if isinstance(initializer, k.TruncatedNormal) or kind == "truncated_normal":
        low, high = special.ndtr([-2.0, 2.0])
        return special.ndtri(low + (high - low) * share)
    return None


def _fan_in(initializer: DepthWeights, shape: Sequence[int]) -> float:
    """Returns the fan-in that an initializer reads from a shape."""
    fan_in = initializer.fan_in
    if fan_in is None:
        axes = initializer.input_axes, initializer.output_axes
        fan_in, _ = compute_fans(shape, *axes)
    return max(1, fan_in)


class Process(NamedTuple):
    """The place of a weight in a `DepthProcess`.

    Attributes:
        name: Hashable. The process, the same one for all its layers.
        layer: int. The index of the layer.
        covariance: Array. The covariance of two layers that lie m apart, for
            m = 0, 1 and so on; 1 at 0.
    """

    name: Hashable
    layer: int
    covariance: np.ndarray


def depth_process(
    variable: Any, initializer: Any, source: Source
) -> Process | None:
    """Returns the place of a weight in a `DepthProcess`, None without one.

    Args:
        variable: keras.Variable. The weight.
        initializer: keras.Initializer or None. What draws it.
        source: str. As in `weight_moments`. Present values that the process
            does not draw, up to a factor, have no place in it.
    """
    while isinstance(initializer, Scaled):
        initializer = initializer.initializer
    if not isinstance(initializer, DepthWeights):
        return None
    shape, depth = tuple(variable.shape), initializer.depth
    lags = np.arange(depth)
    if initializer.kind == "smooth":
        row = smooth_covariance(lags, depth, initializer.length_scale)
    elif initializer.kind == "fractional":
        row = fractional_noise_covariance(lags, initializer.hurst)
    else:
        row = (lags == 0).astype(float)
    if source == "present":
        drawn = initializer.draw(shape, 1)
        first, second = (
            keras.ops.convert_to_numpy(keras.ops.cast(w, "float32")).ravel()
            for w in (drawn, variable)
        )
        size = np.linalg.norm(first) * np.linalg.norm(second)
        if abs(float(first @ second)) < 0.99 * size:
            return None
    config = initializer.get_config()
    names = ("depth", "kind", "length_scale", "hurst", "seed", "stream")
    name = ("process", *(str(config[name]) for name in names), shape)
    return Process(name, initializer.index, row)


def has_paired_halves(variable: Any, signs: Sequence[int] = (-1, 1)) -> bool:
    """Returns whether half of a weight is the other half times a sign.

    `Paired` makes such kernels. Draws of a continuous distribution have no
    equal values.

    Args:
        variable: keras.Variable. The weight.
        signs: Sequence of int. The signs to look for, 1, -1 or both. Defaults
            to both.
    """
    values = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
    for axis in range(values.ndim):
        # A few values of 16 bits may be equal by chance.
        if values.shape[axis] % 2 or values.size < 16:
            continue
        left, right = np.split(values, 2, axis=axis)
        for sign in signs:
            # The first values tell of most kernels that they are no pairs.
            if left.flat[0] == sign * right.flat[0] and np.array_equal(
                left, sign * right
            ):
                return bool(np.ptp(left))
    return False


def _check_kind(initializer: Any) -> None:
    """Refuses initializers whose weights have no limit of wide layers here.

    Raises:
        Unpredictable: If the weights have an infinite variance, or come in
            pairs.
    """
    while isinstance(initializer, Scaled):
        initializer = initializer.initializer
    if isinstance(initializer, AlphaStable):
        raise Unpredictable(
            "its weights have an infinite variance; use "
            "theory.stable_scale_recursion"
        )
    if isinstance(initializer, Paired) and (
        initializer.inputs or initializer.outputs
    ):
        raise Unpredictable(
            "its weights come in pairs, which are not independent"
        )
