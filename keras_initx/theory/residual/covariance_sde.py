"""Signal of shaped networks that are as deep as wide, as a diffusion.

Depth and width go to infinity together, with time = depth / width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import ActivationLike, resolve
from keras_initx.validation import check_array, check_int, check_real

# Step of Euler's method in time.
_STEP = 1e-3
# Radius around 0 and degree of the polynomial from which the derivatives of an
# activation are taken.
_RADIUS, _DEGREE = 0.5, 32


class CorrelationDistribution(NamedTuple):
    """Correlation of two inputs at the end of shaped random networks.

    Attributes:
        mean: float. The mean over networks.
        stddev: float. The standard deviation over networks.
        quantiles: float64 array. The quantiles at the requested levels.
    """

    mean: float
    stddev: float
    quantiles: np.ndarray


def shaped_relu_drift(
    correlation: Any, c_plus: float = 0.0, c_minus: float = -1.0
) -> np.ndarray:
    """Returns the drift of the correlation of two inputs under a shaped relu.

        nu(rho) = (c_+ - c_-)^2 / (2 pi) (sqrt(1 - rho^2) - rho arccos rho)

    It is the rate at which the activation, of slope 1 + c_+ / sqrt(width) for
    z > 0 and 1 + c_- / sqrt(width) for z < 0, changes rho per unit of time.

    Args:
        correlation: array-like of any shape. rho, in [-1, 1].
        c_plus: float. c_+, as in `layers.ShapedReLU`. Defaults to 0.
        c_minus: float. c_-, as in `layers.ShapedReLU`. Defaults to -1.

    Returns:
        nu, a float64 array of the shape of `correlation`.

    Raises:
        ValueError: If a correlation is outside [-1, 1], or c_+ or c_- is not
            finite.

    Example:

    >>> round(float(shaped_relu_drift(0.3)), 5)
    0.09137

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768.
    """
    rho = check_array("correlation", correlation, "[-1, 1]")
    c_plus = check_real("c_plus", c_plus)
    c_minus = check_real("c_minus", c_minus)
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
) -> CorrelationDistribution:
    """Returns the correlation of two inputs after a shaped relu network.

        d rho = (nu(rho) - rho (1 - rho^2) / 2) dt + (1 - rho^2) dB

    with nu of `shaped_relu_drift` and B Brownian motion. It is solved by
    Euler's method for artanh rho, whose noise is of constant size. The
    logarithm of a signal's variance is meanwhile normal of mean -time and
    variance 2 time.

    Args:
        time: float. depth / width, finite and >= 0.
        correlation: float. rho of the inputs, in (-1, 1).
        c_plus: float. As in `layers.ShapedReLU`. Defaults to 0.
        c_minus: float. As in `layers.ShapedReLU`. Defaults to -1.
        quantiles: sequence of floats. The levels of the quantiles, in [0, 1].
            Defaults to (0.05, 0.5, 0.95).
        paths: int. Number of simulated networks, >= 1. Defaults to 20,000.
        seed: int. Seed of the simulation, >= 0. Defaults to 0.

    Returns:
        A `CorrelationDistribution` over the paths. With 20,000 paths the mean
        is accurate to 0.005.

    Raises:
        ValueError: If an argument is outside its range.

    Example:

    >>> result = neural_covariance_sde(1.0, 0.3, c_minus=-3.0)
    >>> round(result.mean, 1), round(result.stddev, 1)
    (0.7, 0.3)

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768. The equation
    for artanh rho, with the drift nu / (1 - rho^2) + rho / 2, is derived here.
    """
    time = check_real("time", time, "[0, inf)")
    correlation = check_real("correlation", correlation, "(-1, 1)")
    levels = check_array("quantiles", quantiles, "[0, 1]")
    paths = check_int("paths", paths, 1)
    seed = check_int("seed", seed)
    rng = np.random.default_rng(seed)
    x = np.full(paths, math.atanh(correlation))
    steps = math.ceil(time / _STEP)
    for _ in range(steps):
        rho = np.tanh(x)
        pull = shaped_relu_drift(rho, c_plus, c_minus) * np.cosh(x) ** 2
        move = (pull + rho / 2) * (time / steps)
        # A bounded step, since the drift is unbounded near rho = -1.
        x += move / (1 + np.abs(move))
        x += math.sqrt(time / steps) * rng.standard_normal(paths)
        # Beyond 18, tanh is 1 to the last digit.
        np.clip(x, -18, 18, out=x)
    rho = np.tanh(x)
    return CorrelationDistribution(
        float(rho.mean()), float(rho.std()), np.quantile(rho, levels)
    )


def shaped_variance_drift(
    activation: ActivationLike, a: float = 1.0, **parameters: Any
) -> float:
    """Returns the drift coefficient of the variance in a shaped network.

    In the limit of width and depth, the variance V of the pre-activations
    follows the stochastic differential equation

        dV = b V (V - 1) dt + sqrt(2) V dB
        b = (3/4 phi''(0)^2 + phi'''(0)) / a^2

    with B Brownian motion. V stays finite with probability one if, and only
    if, b <= 0. At b < -1 it has a stationary distribution, Gamma of shape
    |b| - 1 and rate |b|; at -1 <= b <= 0 it tends to 0.

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`, smooth around 0, with phi(0) = 0 and
            phi'(0) = 1. gelu and softplus must be shifted and scaled to this.
        a: float. As in `layers.ShapedActivation`, finite and > 0. Defaults to
            1.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        b, a float.

    Raises:
        ValueError: If an argument is outside its range, or `correlation_map`
            refuses the activation.

    Example:

    >>> round(shaped_variance_drift("tanh"), 6)
    -2.0

    Reference: Li, Nica & Roy, NeurIPS (2022), arXiv:2206.02768. That b = 0 is
    safe, and the stationary distribution, are derived here.
    """
    a = check_real("a", a, "(0, inf)")
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
