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

from keras_initx.theory.mean_field.activations import (
    check_names,
    is_real,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import gauss_legendre

# In PyTorch the bounds of rrelu by default; Keras has no rrelu.
_BOUNDS = (1 / 8, 1 / 3)


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
    activation: str, keep_rate: float, parameters: Mapping[str, Any]
) -> Slopes:
    """The slopes of a named activation, followed by inverted dropout.

    Raises:
        ValueError: As `fractional_moment_std` of its three arguments.
    """
    if not is_real(keep_rate) or not 0 < keep_rate <= 1:
        raise ValueError(
            f"keep_rate must be a number in (0, 1]. "
            f"Received: keep_rate={keep_rate!r}"
        )
    if isinstance(activation, str) and activation == "rrelu":
        check_names(activation, parameters, {"bounds": _BOUNDS})
        bounds = _check_bounds(parameters.get("bounds", _BOUNDS))
        negative, weight = _uniform(*bounds)
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
    keep_rate = float(keep_rate)
    slope = np.append(negative, 1.0) / keep_rate
    if slope.max() > 1e150:
        raise ValueError(
            f"activation must have a finite mean square. "
            f"Received: activation={activation!r}, keep_rate={keep_rate!r}, "
            f"which has a slope of {slope.max():.4g}"
        )
    probability = np.append(weight, 1.0) / 2 * keep_rate
    alive = slope > 0
    return Slopes(
        tuple(slope[alive].tolist()),
        tuple(probability[alive].tolist()),
        keep_rate if alive.all() else keep_rate / 2,
    )


def _check_bounds(bounds: Any) -> tuple[float, float]:
    if (
        not isinstance(bounds, tuple | list | np.ndarray)
        or len(bounds) != 2
        or not all(is_real(bound) for bound in bounds)
        or bounds[0] > bounds[1]
    ):
        raise ValueError(
            f"bounds must be two finite numbers, the lower first. "
            f"Received: bounds={bounds!r}"
        )
    return float(bounds[0]), float(bounds[1])


def _uniform(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for |a|, where a is uniform between the bounds.

    The panels shrink towards 0, where a^s is not smooth.
    """
    size = max(abs(lower), abs(upper))
    if lower == upper:
        return np.array([size]), np.ones(1)
    cuts = size * 5.0 ** -np.arange(17)
    edges = np.unique(np.clip([*-cuts, 0, *cuts], lower, upper))
    slope, weight = gauss_legendre(edges, 16)
    return np.abs(slope), weight / weight.sum()
