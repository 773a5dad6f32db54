"""What moments a layer has, and so by what its units are corrected."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from keras_initx.models.readout import Readout
from keras_initx.models.unit_moments import UnitMoments

# A unit is constant if its standard deviation is within rounding of its mean.
_ROUNDING = 1e-6
# Of so many numbers a variance is known to sqrt(2 / _FEW) = 20%.
_FEW = 50
_LARGE = 1e3
_KERNELS = ("kernel", "depthwise", "pointwise")


def correction(
    moments: UnitMoments, target: float, by_unit: bool, center: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factor and shift of each unit, y -> factor (y - shift).

        factor = sqrt(target / variance),    shift = mean if center else 0

    with the moments of each unit, or with those over all units together:
    mean m = <mean_j>_j and variance <variance_j + (mean_j - m)^2>_j. Constant
    units have factor 1 and shift 0.

    Args:
        moments: Of each unit.
        target: The variance to reach.
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
        factor = np.where(constant, 1, np.sqrt(target / variance))
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
