"""What moments a layer has, and so by what its units are corrected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keras_initx.models.unit_moments import UnitMoments

# A unit is constant if its standard deviation is within rounding of its mean.
_ROUNDING = 1e-6
# Of so many numbers a variance is known to sqrt(2 / FEW) = 20%.
FEW = 50
_LARGE = 1e3


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
