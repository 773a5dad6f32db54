"""How large the weights are that a layer starts with."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_initx.initializers import Scaled
from keras_initx.initializers.base import axes_of, compute_fans
from keras_initx.inspection.traversal import ModelWeight

_I = keras.initializers
# The standard deviation of a normal distribution that is cut off at two.
_CUT_OFF = 0.8796256610342398
# The largest distance of a mean square from that of an initializer, in standard
# deviations. Weights beyond it were drawn by another initializer.
_TOLERANCE = 6


def start_factor(
    weight: ModelWeight, base: ModelWeight, wanted: float
) -> float | None:
    """The factor that makes a weight as large as it is to be.

    The initializer of the layer says exactly how large it is, if it is one of
    Keras's and the weight is as large as it says. Otherwise it is measured.

    Args:
        weight: ModelWeight. A weight of the model.
        base: ModelWeight. The same weight of the base model.
        wanted: float. The ratio of the root mean squares of `weight` and
            `base` that the factor is to bring about.

    Returns:
        The factor; 1 if both weights are zero, and None if one of them is.
    """
    size, base_size = initial_size(weight), initial_size(base)
    measured = _measured(weight)
    if not (size and base_size and _agree(weight, measured, size)):
        size, base_size = measured, _measured(base)
    if size == base_size == 0:
        return 1.0
    return wanted * base_size / size if size and base_size else None


def is_known(weight: ModelWeight) -> bool:
    """Whether the weight is as large as the initializer of its layer says."""
    size, measured = initial_size(weight), _measured(weight)
    if size == 0:
        return measured == 0
    return size is not None and _agree(weight, measured, size)


def initial_size(weight: ModelWeight) -> float | None:
    """The root mean square of what the initializer of a layer draws.

    Args:
        weight: ModelWeight. A linear map.

    Returns:
        The root of the mean square, None if it is not known.
    """
    name = weight.variable.name
    # "recurrent_kernel" has the `recurrent_initializer`.
    for stem in (name, name.removesuffix("_kernel")):
        held = getattr(weight.layer, f"{stem}_initializer", None)
        if held is not None:
            return _size(held, weight)
    return None


def _size(initializer: Any, weight: ModelWeight) -> float | None:
    shape = tuple(weight.variable.shape)
    if isinstance(initializer, Scaled):
        inner = _size(initializer.initializer, weight)
        return None if inner is None else abs(initializer.factor) * inner
    if isinstance(initializer, _I.VarianceScaling):
        fan_in, fan_out = _keras_fans(initializer, weight)
        fans = {
            "fan_in": fan_in,
            "fan_out": fan_out,
            "fan_avg": (fan_in + fan_out) / 2,
        }
        return math.sqrt(initializer.scale / max(1, fans[initializer.mode]))
    if isinstance(initializer, _I.Orthogonal):
        rows, columns = math.prod(shape[:-1]), shape[-1]
        return abs(initializer.gain) / math.sqrt(max(1, rows, columns))
    if isinstance(initializer, _I.RandomUniform):
        a, b = initializer.minval, initializer.maxval
        return math.sqrt((a * a + a * b + b * b) / 3)
    if isinstance(initializer, _I.TruncatedNormal):
        return math.hypot(initializer.mean, _CUT_OFF * initializer.stddev)
    if isinstance(initializer, _I.RandomNormal):
        return math.hypot(initializer.mean, initializer.stddev)
    if isinstance(initializer, _I.Zeros):
        return 0.0
    return None


def _keras_fans(initializer: Any, weight: ModelWeight) -> tuple[int, int]:
    """The fans that the initializer saw, which need not be those of the layer.

    `EinsumDense` names the axes to it.
    """
    shape = tuple(weight.variable.shape)
    axes = axes_of(initializer)
    # Before Keras 3.15 it names none.
    names_axes = hasattr(initializer, "input_axes")
    if (
        names_axes
        and None in axes
        and isinstance(weight.layer, keras.layers.EinsumDense)
    ):
        geometry = weight.geometry
        axes = (
            geometry.input_axes,
            (*geometry.batch_axes, *geometry.output_axes),
        )
    return compute_fans(shape, *axes)


def _measured(weight: ModelWeight) -> float:
    value = keras.ops.convert_to_numpy(weight.variable).astype(np.float64)
    return float(np.sqrt(np.mean(np.square(value)))) if value.size else 0.0


def _agree(weight: ModelWeight, measured: float, size: float) -> bool:
    """Whether a mean square may be that of so many numbers of this size.

    The mean square of n normal numbers has the relative deviation
    sqrt(2 / n); that of the other distributions has a smaller one.
    """
    count = max(1, math.prod(weight.variable.shape))
    difference = abs((measured / size) ** 2 - 1)
    return difference <= _TOLERANCE * math.sqrt(2 / count) + 1e-3
