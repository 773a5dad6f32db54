"""Fractional moments of a layer of Gaussian weights, at any width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from keras_initx.theory.activations import is_real
from keras_initx.theory.slopes import check_width, slopes
from keras_initx.theory.sums import Sum, sum_of


def fractional_moment_std(
    s: float,
    width: int,
    activation: str = "relu",
    *,
    keep_rate: float = 1.0,
    **parameters: Any,
) -> float:
    if not is_real(s) or not 0 < s <= 2:
        raise ValueError(f"s must be a number in (0, 2]. Received: s={s!r}")
    scale, law = _sum_of_squares(width, activation, keep_rate, parameters)
    return math.exp(-law.log_moment(s / 2) / 2) / scale


def log_norm_drift_and_variance(
    std: float,
    width: int,
    activation: str = "relu",
    *,
    keep_rate: float = 1.0,
    **parameters: Any,
) -> tuple[float, float]:
    if not is_real(std) or std <= 0:
        raise ValueError(
            f"std must be a finite number > 0. Received: std={std!r}"
        )
    scale, law = _sum_of_squares(width, activation, keep_rate, parameters)
    mean, variance = law.log_mean_and_variance()
    return math.log(std * scale) + mean / 2, variance / 4


def _sum_of_squares(
    width: int, activation: str, keep_rate: float, parameters: Any
) -> tuple[float, Sum]:
    """r, the root of E|phi(g)|^2, and the law of |phi(g)|^2 / r^2."""
    check_width(width)
    phi = slopes(activation, keep_rate, parameters)
    root = math.sqrt(width * (phi.probability @ phi.slope**2))
    # A slope a makes E exp(-t q) = (1 + 2 a^2 t)^(-1/2).
    shift = np.log(2) + 2 * np.log(phi.slope / root)

    def transform(x: np.ndarray) -> tuple[np.ndarray, ...]:
        z = np.add.outer(x, shift)
        # 1 + e^z, and the like, for any z.
        log = -np.logaddexp(0, z) / 2
        one, part = np.exp(log), special.expit(z)
        return (
            phi.none + one @ phi.probability,
            -np.expm1(log) @ phi.probability,
            (part * one) @ phi.probability / 2,
            (part**2 * one) @ phi.probability * 0.75,
        )

    law = sum_of(transform, width, phi.none, 0.0, -shift.min(), decay=2)
    return root, law
