"""Activations that are a line on either side of 0, as random slopes.

For a symmetric z, |phi(z)| has the law of a |z|, the slope a being random and
independent of z: for relu, 1 or 0 with probability 1/2 each. The random
slopes of rrelu and the scaled survivors of dropout are of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_initx.theory.mean_field.activations import check_names, resolve
from keras_initx.theory.mean_field.quadrature import gauss_legendre
from keras_initx.validation import check_real, is_real

# The default range of rrelu in PyTorch; Keras has no rrelu.
_RANGE = (1 / 8, 1 / 3)


@dataclass(frozen=True)
class Slopes:
    """The law of a slope a >= 0.

    Attributes:
        slope: Its positive values.
        probability: Their probabilities.
        some: P(a > 0), which these add up to but for rounding.
    """

    slope: tuple[float, ...]
    probability: tuple[float, ...]
    some: float


def slopes(
    activation: str, dropout_rate: float, parameters: Mapping[str, Any]
) -> Slopes:
    """The slopes of a named activation, followed by inverted dropout.

    Raises:
        ValueError: As `fractional_moment_std` of its three arguments.
    """
    keep_rate = 1 - check_real("dropout_rate", dropout_rate, "[0, 1)")
    if isinstance(activation, str) and activation == "rrelu":
        check_names(activation, parameters, {"negative_slope_range": _RANGE})
        ends = _check_range(parameters.get("negative_slope_range", _RANGE))
        negative, weight = _uniform(*ends)
    else:
        phi = resolve(activation, parameters)
        if phi.negative_slope is None:
            raise ValueError(
                f"activation must be 'linear', 'relu', 'leaky_relu' or "
                f"'rrelu': only of a positive-homogeneous one is the moment "
                f"kept at every size of the input. "
                f"Received: activation={activation!r}"
            )
        negative, weight = np.array([abs(phi.negative_slope)]), np.ones(1)
    slope = np.append(negative, 1.0) / keep_rate
    if slope.max() > 1e150:
        raise ValueError(
            f"activation must have a finite mean square. "
            f"Received: activation={activation!r}, which has a slope of "
            f"{slope.max():.4g}, dropout_rate={dropout_rate!r}"
        )
    probability = np.append(weight, 1.0) / 2 * keep_rate
    alive = slope > 0
    return Slopes(
        tuple(slope[alive].tolist()),
        tuple(probability[alive].tolist()),
        keep_rate if alive.all() else keep_rate / 2,
    )


def _check_range(ends: Any) -> tuple[float, float]:
    if (
        not isinstance(ends, tuple | list | np.ndarray)
        or len(ends) != 2
        or not all(is_real(end) for end in ends)
        or ends[0] > ends[1]
    ):
        raise ValueError(
            f"negative_slope_range must be two finite numbers, the lower "
            f"first. Received: negative_slope_range={ends!r}"
        )
    return float(ends[0]), float(ends[1])


def _uniform(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for |a|, where a is uniform between the two ends.

    The panels shrink towards 0, where a^s is not smooth.
    """
    size = max(abs(lower), abs(upper))
    if lower == upper:
        return np.array([size]), np.ones(1)
    cuts = size * 5.0 ** -np.arange(17)
    edges = np.unique(np.clip([*-cuts, 0, *cuts], lower, upper))
    slope, weight = gauss_legendre(edges, 16)
    return np.abs(slope), weight / weight.sum()
