"""Activations that are linear on either side of 0, as random slopes.

For a symmetric z, |phi(z)| has the distribution of a |z|, where the slope a is
random and independent of z: for relu it is 1 or 0 with probability 1/2 each.
The random slopes of rrelu and the scaled surviving units of dropout are of the
same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_initx.theory.mean_field.activations import (
    POSITIVE_HOMOGENEOUS,
    Activation,
    as_activation,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import gauss_legendre
from keras_initx.validation import check_real, refuse


@dataclass(frozen=True)
class Slopes:
    """The distribution of a random slope a >= 0.

    Attributes:
        slope: tuple of floats. The positive values of a.
        probability: tuple of floats. The probability of each of them.
        positive: float. P(a > 0). The probabilities add up to it except for
            rounding.
    """

    slope: tuple[float, ...]
    probability: tuple[float, ...]
    positive: float


def slopes(
    activation: str | Activation,
    dropout_rate: float,
    parameters: Mapping[str, Any],
) -> Slopes:
    """Returns the slopes of an activation, followed by inverted dropout.

    Args:
        activation: str or Activation. As in `fractional_moment_std`.
        dropout_rate: float. As in `fractional_moment_std`.
        parameters: Mapping. Parameters of the activation, by name.

    Raises:
        ValueError: If an argument is none that `fractional_moment_std`
            accepts.
    """
    keep_rate = 1 - check_real("dropout_rate", dropout_rate, "[0, 1)")
    record = as_activation(activation, parameters)
    if record.negative_slope_range is not None:
        negative, weight = _uniform(*record.negative_slope_range)
    else:
        phi = resolve(record, {})
        if phi.negative_slope is None:
            *names, last = map(repr, POSITIVE_HOMOGENEOUS)
            refuse(
                f"activation must be {', '.join(names)} or {last}: a moment is "
                "kept at every size of the input only by a "
                "positive-homogeneous activation.",
                activation=activation,
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


def _uniform(lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and weights for |a|, with a uniform on [lower, upper].

    The panels shrink toward 0, where a^s is not smooth.
    """
    size = max(abs(lower), abs(upper))
    if lower == upper:
        return np.array([size]), np.ones(1)
    cuts = size * 5.0 ** -np.arange(17)
    edges = np.unique(np.clip([*-cuts, 0, *cuts], lower, upper))
    slope, weight = gauss_legendre(edges, 16)
    return np.abs(slope), weight / weight.sum()
