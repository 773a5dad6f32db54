"""What moments a layer has, and so by what its units are corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx.calibration.unit_moments import UnitMoments
from keras_initx.inspection.linear_units import Readout
from keras_initx.measurement.moments import all_finite

# A unit is constant if its standard deviation is within rounding of its mean.
_ROUNDING = 1e-6
# Of so many numbers a variance is known to sqrt(2 / _FEW) = 20%.
_FEW = 50
_LARGE = 1e3
_KERNELS = ("kernel", "depthwise", "pointwise")


def correction(
    moments: UnitMoments, target_variance: float, by_unit: bool, center: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factor and shift of each unit, y -> factor (y - shift).

        factor = sqrt(target_variance / variance)
        shift  = mean if center else 0

    with the moments of each unit, or with those over all units together:
    mean m = <mean_j>_j and variance <variance_j + (mean_j - m)^2>_j. Constant
    units have factor 1 and shift 0.

    Args:
        moments: Of each unit.
        target_variance: The variance to reach.
        by_unit: Whether each unit has a correction of its own.
        center: Whether to subtract the mean.

    Returns:
        Factors, shifts, and which units are constant.

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020).
    """
    mean, variance = moments.mean, moments.variance
    if not by_unit:
        whole = mean.mean()
        variance = np.full_like(mean, np.mean(variance + (mean - whole) ** 2))
        mean = np.full_like(mean, whole)
    constant = variance <= (_ROUNDING * mean) ** 2
    with np.errstate(divide="ignore"):
        factor = np.where(constant, 1, np.sqrt(target_variance / variance))
    shift = np.where(constant | (not center), 0, mean)
    return factor, shift, constant


def told_of_units(factor: np.ndarray, constant: np.ndarray) -> Iterator[str]:
    """What a user should know of the corrections of a layer's units."""
    if constant.any():
        yield f"{constant.sum()} of {constant.size} units constant"
    large = np.count_nonzero(factor > _LARGE)
    if large:
        most = f"{factor.max():.2g}"
        yield f"{large} of {factor.size} units scaled by up to {most}"


def told_of_layer(
    layer: keras.layers.Layer,
    found: Readout,
    moments: UnitMoments,
    center: bool,
) -> Iterator[str]:
    """What a user should know of the correction of a layer."""
    if center and found.bias is None:
        yield "no bias, so scaled only"
    if moments.count < _FEW:
        yield f"from {moments.count} numbers a unit only"
    if any(getattr(layer, f"{name}_constraint", None) for name in _KERNELS):
        yield "the constraint of its kernel may undo it"


def folded(
    found: Readout,
    factor: np.ndarray,
    shift: np.ndarray,
    values: Mapping[int, tf.Tensor],
) -> list[tuple[Any, tf.Tensor]] | None:
    """The variables and their values for y -> factor (y - shift).

    Args:
        found: How y depends on its kernel and bias.
        factor: Of each unit.
        shift: Of each unit. Equal for all where a bias does not fit.
        values: What the variables hold, by their id.

    Returns:
        None where a value is beyond the range of its variable.
    """
    # Within a layer's call a variable names the dtype it is cast to.
    kernel = values[id(found.kernel)]
    by_axis = _along_kernel(found, factor, kernel.dtype)
    kernel = tf.cast(kernel, by_axis.dtype)
    changed = [(found.kernel, kernel * by_axis)]
    if found.bias is not None:
        fits = found.bias_fits
        factor, shift = (
            each.reshape(found.bias.shape) if fits else each[:1]
            for each in (factor, shift)
        )
        bias = tf.cast(values[id(found.bias)], tf.float64)
        changed.append((found.bias, factor * (bias - shift)))
    changed = [(w, tf.cast(value, values[id(w)].dtype)) for w, value in changed]
    # No other dtype is so soon at its end.
    narrow = [v for _, v in changed if v.dtype == tf.float16]
    fits = all(bool(all_finite(value)) for value in narrow)
    return changed if fits else None


def _along_kernel(
    found: Readout, by_unit: np.ndarray, dtype: tf.DType
) -> tf.Tensor:
    """Numbers of the units in float32, or beside float64 in that."""
    sizes = found.kernel.shape
    by_axis = np.reshape(by_unit, [sizes[i] for i in found.kernel_axes])
    shape = [
        size if axis in found.kernel_axes else 1
        for axis, size in enumerate(sizes)
    ]
    in_order = by_axis.transpose(np.argsort(found.kernel_axes))
    wide = tf.float64 if dtype == tf.float64 else tf.float32
    return tf.constant(in_order.reshape(shape), wide)
