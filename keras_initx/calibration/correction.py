"""The moments of a layer's units, and the correction that follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_initx.backend.passes import Tensor, passes
from keras_initx.inspection.layer_rule import LinearUnits
from keras_initx.measurement.moments import all_finite, merged_variance

# A unit is constant if its standard deviation is within rounding of its mean.
_ROUNDING = 1e-6
# The variance of so few numbers has a standard error of sqrt(2 / _FEW) = 20%.
_FEW = 50
# A factor above this is noted: the unit was nearly constant over the data.
_LARGE = 1e3


class UnitMoments(NamedTuple):
    """Mean and variance of each unit of a layer, in float64.

    Attributes:
        numbers: How many numbers each mean is taken over.
        mean: array of shape `(units,)`.
        variance: array of shape `(units,)`.
    """

    numbers: int
    mean: np.ndarray
    variance: np.ndarray


def unit_moments(signal: Tensor, units: LinearUnits | None) -> UnitMoments:
    """Mean and variance of each unit over all other axes.

    They are computed in float32, or in float64 if the signal is.

    Args:
        signal: tensor of shape `(samples, ...)`. The pre-activation.
        units: LinearUnits. They name the axes along which units differ. None
            means the last axis.

    Raises:
        ValueError: If the signal does not have as many units as the kernel.
    """
    if _dtype(signal) != "float64":
        signal = ops.cast(signal, "float32")
    rank = len(signal.shape)
    kept = [rank - 1] if units is None else _axes(signal, units)
    over = [axis for axis in range(rank) if axis not in kept]
    return UnitMoments(
        math.prod(signal.shape[axis] for axis in over),
        *(
            np.ravel(passes().to_numpy(each)).astype(np.float64)
            for each in passes().mean_and_variance(signal, over)
        ),
    )


def _axes(signal: Tensor, units: LinearUnits) -> list[int]:
    """The axes of the signal along which units differ, from 1 on."""
    shape = tuple(signal.shape)
    rank = len(shape)
    if all(-rank < axis < rank for axis in units.signal_axes):
        axes = [axis % rank for axis in units.signal_axes]
        if math.prod(shape[axis] for axis in axes) == units.count:
            return axes
    raise ValueError(
        f"signal_axes must tell apart as many units as kernel_axes, "
        f"{units.count} in {units.kernel.name!r} of shape "
        f"{tuple(units.kernel.shape)}. Received: "
        f"signal_axes={units.signal_axes} of a pre-activation of shape {shape}"
    )


def merged(a: UnitMoments, b: UnitMoments) -> UnitMoments:
    """Moments of the samples of `a` and of `b` together."""
    numbers = a.numbers + b.numbers
    share = b.numbers / numbers
    step = b.mean - a.mean
    return UnitMoments(
        numbers,
        a.mean + share * step,
        merged_variance(a.variance, b.variance, step**2, share),
    )


class Correction(NamedTuple):
    """The map of each unit, y -> factor (y - shift).

    Attributes:
        factor: array of shape `(units,)`.
        shift: array of shape `(units,)`.
        constant: bool array of shape `(units,)`. Which units are constant over
            the data; they have factor 1 and shift 0.
    """

    factor: np.ndarray
    shift: np.ndarray
    constant: np.ndarray


def correction(
    moments: UnitMoments, target_variance: float, by_unit: bool, center: bool
) -> Correction:
    """The correction that gives the units of a layer the wanted variance.

        factor = sqrt(target_variance / variance)
        shift  = mean if center else 0

    with the moments of each unit, or with those over all units together:
    mean m = <mean_j>_j and variance <variance_j + (mean_j - m)^2>_j.

    Args:
        moments: UnitMoments. Those of the layer.
        target_variance: float. The variance to reach, > 0.
        by_unit: bool. Whether each unit has a correction of its own.
        center: bool. Whether to subtract the mean.

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
    return Correction(factor, shift, constant)


def corrected_moments(moments: UnitMoments, change: Correction) -> UnitMoments:
    """The moments of units after their correction."""
    return UnitMoments(
        moments.numbers,
        change.factor * (moments.mean - change.shift),
        change.factor**2 * moments.variance,
    )


def distance(a: UnitMoments, b: UnitMoments) -> float:
    """The distance of means and standard deviations, relative to those of `a`.

    It is the root of

        sum_j (mean_j - mean'_j)^2 + (s_j - s'_j)^2 over
        sum_j mean_j^2 + s_j^2
    """
    deviations = np.sqrt(a.variance) - np.sqrt(b.variance)
    square = np.sum((a.mean - b.mean) ** 2 + deviations**2)
    whole = np.sum(a.mean**2 + a.variance)
    return float(np.sqrt(square / whole)) if square else 0.0


def corrected_values(
    units: LinearUnits, change: Correction, values: Mapping[int, Tensor]
) -> list[tuple[Any, Tensor]] | None:
    """The values of kernel and bias with which a layer is corrected.

    Args:
        units: LinearUnits. How the pre-activation depends on its weights.
        change: Correction. Shifts must be equal where the bias does not have
            one number for each unit.
        values: The present value of each weight, by its id.

    Returns:
        Pairs of a variable and its value, None if a value is beyond the range
        of its variable.
    """
    # Within the call of a layer a variable names the dtype it is cast to.
    kernel = values[id(units.kernel)]
    factors = _along_kernel(units, change.factor, kernel)
    pairs = [(units.kernel, ops.cast(kernel, factors.dtype) * factors)]
    if units.bias is not None:
        factor, shift = (
            each.reshape(units.bias.shape) if units.bias_per_unit else each[:1]
            for each in (change.factor, change.shift)
        )
        bias = _in_float64(values[id(units.bias)])
        pairs.append(
            (units.bias, ops.convert_to_tensor(factor * (bias - shift)))
        )
    pairs = [(w, ops.cast(value, values[id(w)].dtype)) for w, value in pairs]
    # No other dtype has so narrow a range.
    narrow = [value for _, value in pairs if _dtype(value) == "float16"]
    return pairs if bool(all_finite(narrow)) else None


def rounded_otherwise(
    units: LinearUnits,
    values: Mapping[int, tuple[Any, Tensor]],
    rounding: float,
) -> Tensor:
    """The kernel with errors that act as the rounding of sums over it does.

    A sum of n products is the exact sum for a kernel whose entries have
    relative errors of about rounding * sqrt(n).

    Args:
        units: LinearUnits. They hold the kernel.
        values: Pairs of a variable and its value, by the id of the variable.
        rounding: float. The rounding error of the dtype of the sum.

    Reference: Higham & Mary, SIAM Journal on Scientific Computing 41 (2019),
    "A new approach to probabilistic rounding error analysis".
    """
    _, kernel = values[id(units.kernel)]
    terms = math.prod(units.kernel.shape) / units.count
    signs = np.random.default_rng(0).choice([-1.0, 1.0], units.kernel.shape)
    wide = _in_float64(kernel) * (1 + rounding * math.sqrt(terms) * signs)
    return ops.cast(ops.convert_to_tensor(wide), kernel.dtype)


def _along_kernel(
    units: LinearUnits, by_unit: np.ndarray, kernel: Tensor
) -> Tensor:
    """One number a unit as a tensor that the kernel can be multiplied by.

    It is in float32, or in float64 beside a kernel in float64.
    """
    sizes = units.kernel.shape
    by_axis = np.reshape(by_unit, [sizes[i] for i in units.kernel_axes])
    shape = [
        size if axis in units.kernel_axes else 1
        for axis, size in enumerate(sizes)
    ]
    in_order = by_axis.transpose(np.argsort(units.kernel_axes))
    wide = "float64" if _dtype(kernel) == "float64" else "float32"
    return ops.convert_to_tensor(in_order.reshape(shape), wide)


def _dtype(tensor: Tensor) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _in_float64(tensor: Tensor) -> np.ndarray:
    # Tensors of JAX are not float64.
    return passes().to_numpy(tensor).astype(np.float64)


def correction_notes(
    units: LinearUnits,
    moments: UnitMoments,
    change: Correction,
    center: bool,
    has_bias: bool,
) -> Iterator[str]:
    """What a user should know of the correction of a layer, in few words.

    Args:
        units: LinearUnits. How the pre-activation depends on its weights.
        moments: UnitMoments. Those before the correction.
        change: Correction. The correction.
        center: bool. Whether the user asked to subtract the mean.
        has_bias: bool. Whether the layer holds a bias.
    """
    if center and units.bias is None:
        why = "its LinearUnits name no bias" if has_bias else "no bias"
        yield f"{why}, so scaled only"
    if moments.numbers < _FEW:
        yield f"from {moments.numbers} numbers a unit only"
    if getattr(units.kernel, "constraint", None) is not None:
        yield "the constraint of its kernel may undo it"
    factor, constant = change.factor, change.constant
    if constant.any():
        yield f"{constant.sum()} of {constant.size} units constant"
    large = np.count_nonzero(factor > _LARGE)
    if large:
        most = f"{factor.max():.2g}"
        yield f"{large} of {factor.size} units scaled by up to {most}"
