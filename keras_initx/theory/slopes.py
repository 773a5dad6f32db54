"""Activations that are a line through 0 on either side, as random slopes.

For a symmetric z, |phi(z)| has the law of a |z| with a random slope a,
independent of z: of relu, 1 or 0 with probability 1/2 each. Dropout and the
random slopes of rrelu are of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss

from keras_initx.theory.activations import check_names, is_real, resolve


@dataclass(frozen=True)
class Slopes:
    """The law of a slope.

    Attributes:
        slope: Its positive values.
        probability: Their probabilities.
        none: The probability of 0.
    """

    slope: np.ndarray
    probability: np.ndarray
    none: float


def slopes(
    activation: str, keep_rate: float, parameters: Mapping[str, Any]
) -> Slopes:
    """The slopes of a named activation, followed by inverted dropout."""
    if not is_real(keep_rate) or not 0 < keep_rate <= 1:
        raise ValueError(
            f"keep_rate must be a number in (0, 1]. "
            f"Received: keep_rate={keep_rate!r}"
        )
    if activation == "rrelu":
        check_names(activation, parameters, {"bounds": ()})
        negative, weight = _uniform(*_check_bounds(parameters))
    else:
        phi = resolve(activation, parameters)
        if phi.negative_slope is None:
            raise ValueError(
                f"activation must be 'linear', 'relu', 'leaky_relu' or "
                f"'rrelu', which scale as their input does. "
                f"Received: activation={activation!r}"
            )
        negative, weight = np.array([abs(phi.negative_slope)]), np.ones(1)
    slope = np.concatenate([[1.0], negative]) / keep_rate
    probability = np.concatenate([[0.5], weight / 2]) * keep_rate
    alive = slope > 0
    none = 1 - keep_rate + probability[~alive].sum()
    return Slopes(slope[alive], probability[alive], none)


def check_width(width: Any) -> None:
    if isinstance(width, bool) or not isinstance(width, int | np.integer):
        raise ValueError(f"width must be an int. Received: width={width!r}")
    if width < 1:
        raise ValueError(f"width must be >= 1. Received: width={width!r}")


def _check_bounds(parameters: Mapping[str, Any]) -> tuple[float, float]:
    bounds = parameters.get("bounds", (1 / 8, 1 / 3))
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
    """Points and weights for |a|, a uniform between the bounds.

    The panels shrink towards 0, where a^s is not smooth.
    """
    size = max(abs(lower), abs(upper))
    if lower == upper:
        return np.array([size]), np.ones(1)
    panels = size * 4.0 ** -np.arange(20)
    edges = np.clip([*-panels, 0, *panels[::-1]], lower, upper)
    edges = np.unique([lower, *edges, upper])
    points, weights = leggauss(16)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    slope = middle[:, None] + half[:, None] * points
    weight = half[:, None] * weights / (upper - lower)
    return np.abs(slope).ravel(), weight.ravel()
