"""The signal of shaped networks that are as deep as wide: a diffusion.

Depth and width go to infinity together, with time = depth / width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import (
    ArrayFunction,
    resolve,
)
from keras_initx.validation import check_int, is_real

_STEP = 1e-3
# Around 0, where the derivatives of an activation are taken from a polynomial.
_RADIUS, _DEGREE = 0.5, 32


class CorrelationLaw(NamedTuple):
    """Law of the correlation of two inputs at the end of a shaped network.

    Attributes:
        mean: Over networks.
        stddev: Over networks.
        quantiles: At the levels that were asked for, float64.
    """

    mean: float
    stddev: float
    quantiles: np.ndarray


def shaped_relu_drift(
    correlation: np.ndarray, c_plus: float = 0.0, c_minus: float = -1.0
) -> np.ndarray:
    """What a shaped relu adds to the correlation of two inputs, a unit of time.

        nu(rho) = (c_+ - c_-)^2 / (2 pi) (sqrt(1 - rho^2) - rho arccos rho)

    Args:
        correlation: rho, array-like, in [-1, 1].
        c_plus: As in `layers.ShapedReLU`.
        c_minus: As in `layers.ShapedReLU`.

    Returns:
        nu, float64 of the shape of `correlation`.

    Raises:
        ValueError: A correlation is outside [-1, 1], or c is not finite.

    Example:

    >>> round(float(shaped_relu_drift(0.3)), 5)
    0.09137

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768.
    """
    rho = np.asarray(correlation, float)
    if not (np.abs(rho) <= 1).all():
        raise ValueError(
            "correlation must be in [-1, 1]. "
            f"Received: correlation={correlation!r}"
        )
    for name, value in {"c_plus": c_plus, "c_minus": c_minus}.items():
        if not is_real(value):
            raise ValueError(
                f"{name} must be a finite number. Received: {name}={value!r}"
            )
    bend = (c_plus - c_minus) ** 2 / (2 * math.pi)
    return bend * (np.sqrt(1 - rho**2) - rho * np.arccos(rho))


def neural_covariance_sde(
    time: float,
    correlation: float,
    c_plus: float = 0.0,
    c_minus: float = -1.0,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    paths: int = 20_000,
    seed: int = 0,
) -> CorrelationLaw:
    """Correlation of two inputs after a shaped relu network.

        d rho = (nu(rho) - rho (1 - rho^2) / 2) dt + (1 - rho^2) dB

    with nu of `shaped_relu_drift`, solved by Euler's method for artanh rho,
    whose noise is of constant size. The logarithm of a signal's variance is
    meanwhile normal of mean -time and variance 2 time.

    Args:
        time: depth / width, finite and >= 0.
        correlation: Of the inputs, in (-1, 1).
        c_plus: As in `layers.ShapedReLU`.
        c_minus: As in `layers.ShapedReLU`.
        quantiles: Levels in [0, 1].
        paths: That are drawn, an int >= 1.
        seed: An int >= 0.

    Returns:
        Mean, standard deviation and quantiles over the paths: of 20,000, the
        mean is known to 0.005.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> law = neural_covariance_sde(1.0, 0.3, c_minus=-3.0)
    >>> round(law.mean, 1), round(law.stddev, 1)
    (0.7, 0.3)

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768. The equation
    for artanh rho, with the drift nu / (1 - rho^2) + rho / 2, is derived here.
    """
    if not (is_real(time) and time >= 0):
        raise ValueError(
            f"time must be finite and >= 0. Received: time={time!r}"
        )
    if not (is_real(correlation) and -1 < correlation < 1):
        raise ValueError(
            "correlation must be in (-1, 1). "
            f"Received: correlation={correlation!r}"
        )
    check_int("paths", paths, 1)
    check_int("seed", seed, 0)
    levels = np.asarray(quantiles, float)
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(
            f"quantiles must be in [0, 1]. Received: quantiles={quantiles!r}"
        )
    rng = np.random.default_rng(seed)
    x = np.full(paths, math.atanh(correlation))
    steps = math.ceil(time / _STEP)
    for _ in range(steps):
        rho = np.tanh(x)
        pull = shaped_relu_drift(rho, c_plus, c_minus) * np.cosh(x) ** 2
        move = (pull + rho / 2) * (time / steps)
        # Tamed: near rho = -1 the drift has no bound.
        x += move / (1 + np.abs(move))
        x += math.sqrt(time / steps) * rng.standard_normal(paths)
        # Beyond, tanh is 1 to the last digit.
        np.clip(x, -18, 18, out=x)
    rho = np.tanh(x)
    return CorrelationLaw(
        float(rho.mean()), float(rho.std()), np.quantile(rho, levels)
    )


def shaped_variance_drift(
    activation: str | ArrayFunction, a: float = 1.0, **parameters: Any
) -> float:
    """Whether the variance in a shaped network explodes: b of its equation.

        dV = b V (V - 1) dt + sqrt(2) V dB
        b = (3/4 phi''(0)^2 + phi'''(0)) / a^2

    With probability one V stays finite if, and only if, b <= 0. At b < -1 it
    has the stationary law Gamma of shape |b| - 1 and rate |b|; at -1 <= b <= 0
    it dies away.

    Args:
        activation: phi, smooth around 0, with phi(0) = 0 and phi'(0) = 1: of
            gelu or softplus give one that is shifted and scaled so. As in
            `correlation_map`.
        a: As in `layers.ShapedActivation`, finite and > 0.
        **parameters: As in `correlation_map`.

    Returns:
        b.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> round(shaped_variance_drift("tanh"), 6)
    -2.0

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768. That b = 0 is
    safe, and the stationary law, are derived here.
    """
    if not (is_real(a) and a > 0):
        raise ValueError(f"a must be finite and > 0. Received: a={a!r}")
    phi = resolve(activation, parameters)
    series = np.polynomial.Chebyshev.interpolate(
        phi.function, _DEGREE, (-_RADIUS, _RADIUS)
    )
    value, slope, second, third = (
        float(series.deriv(order)(0.0)) for order in range(4)
    )
    if not (abs(value) < 1e-9 and abs(slope - 1) < 1e-6):
        raise ValueError(
            "activation must pass through 0 with slope 1. Received: "
            f"activation={phi.name!r}, of value {value:g} and slope {slope:g}"
        )
    return (0.75 * second**2 + third) / a**2
