"""Fractional moments of a layer of Gaussian weights, at any width."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from keras_initx.theory.norm_moments.piecewise_linear import Slopes, slopes
from keras_initx.theory.norm_moments.sums import Sum, exponential, sum_of
from keras_initx.validation import check_int, check_real


class LogNormStep(NamedTuple):
    """Mean and variance of log |phi(W x)| - log |x| for one layer.

    Attributes:
        drift: float. The mean, in nats a layer.
        variance: float. The variance, in squared nats a layer.
    """

    drift: float
    variance: float


def fractional_moment_std(
    order: float,
    width: int,
    activation: str = "relu",
    *,
    dropout_rate: float = 0.0,
    **parameters: Any,
) -> float:
    """Standard deviation of Gaussian weights that keeps the s-th moment.

        sigma = (E |phi(g)|^s)^(-1/s),    g ~ N(0, I) of `width` entries

    Given x, W x is Gaussian with standard deviation sigma |x| in each unit, so
    |phi(W x)| = sigma |x| |phi(g)| in law, in the Euclidean norm, and with
    zero biases E |phi(W x)|^s = E |x|^s in every layer. At s = 2 sigma^2 is
    Kaiming's, 1 / width for linear, 2 / width for relu; it grows as s falls:

        sigma^2 = (1 + (2-s) k / (4 width) + ...) / (width E phi(z)^2)

    with k = Var[phi(z)^2] / E[phi(z)^2]^2, 2 for linear, 5 for relu.

    Which width: of a kernel from n units to m, E |phi(W x)|^s = E |x|^s asks
    for width m, the fan-out, since |phi(g)| counts outputs. The authors' code
    takes n, the fan-in, as Kaiming does at s = 2. This keeps E |x|^s divided
    by its value for phi(g) of as many units as x has, so that from layer to
    layer what a unit holds stays, whatever the widths. Where n = m, the case
    of the paper, they agree.

    Args:
        order: s, the order of the moment, in (0, 2].
        width: Number of units, an int >= 1.
        activation: "linear", "relu", "leaky_relu", or "rrelu", a leaky relu
            whose slope is uniform and redrawn for every unit.
        dropout_rate: float. Share of the units that an inverted dropout after
            the activation sets to 0, in [0, 1), as in `keras.layers.Dropout`;
            the others are divided by 1 - dropout_rate. Defaults to 0.
        **parameters: `negative_slope` of "leaky_relu" (0.2, as Keras's),
            `negative_slope_range` of "rrelu" ((1/8, 1/3), as in PyTorch).

    Returns:
        sigma > 0, to a relative accuracy of 1e-12 up to a width of 10^6. Where
        all units may be 0 at once sigma grows without end as s falls to 0, as
        (1 - 2^-width)^(-1/s) for relu: felt where 2^-width is not below s.

    Raises:
        ValueError: An argument is outside its range; the activation is another
            one, or does not have the parameter; sigma is beyond float64.

    Example:

    >>> round(fractional_moment_std(1.0, 64), 9)
    0.178528029
    >>> round(fractional_moment_std(2.0, 64), 9)  # Kaiming's sqrt(2 / 64)
    0.176776695
    >>> round(fractional_moment_std(1.0, 64, "leaky_relu"), 9)
    0.174900438

    Reference: Gürbüzbalaban & Hu, "Fractional moment-preserving
    initialization schemes for training deep neural networks", AISTATS (2021),
    arXiv:2005.11878, for linear, relu, leaky relu and its random slopes. The
    one formula for all, `theory.sums`, is derived here, and so are dropout
    and what is said of widths that differ.
    """
    order = check_real("order", order, "(0, 2]")
    check_int("width", width, 1)
    phi = slopes(activation, dropout_rate, parameters)
    root, law = _sum_of_squares(int(width), phi)
    excess = -law.log_moment(order / 2) / 2
    return exponential(excess, order=order, width=width) / root


def log_norm_drift_and_variance(
    std: float,
    width: int,
    activation: str = "relu",
    *,
    dropout_rate: float = 0.0,
    **parameters: Any,
) -> LogNormStep:
    """Mean and variance of what a layer of Gaussian weights adds to log |x|.

        drift = log(std) + E log |phi(g)|,    variance = Var log |phi(g)|

    for g ~ N(0, I) of `width` entries, given that phi(g) is not 0. Layers are
    independent, so log |x_k| - log |x_0| is close to a normal variable of mean
    k drift and variance k variance after k of them. In wide layers

        drift = -s k / (8 width),    variance = k / (4 width)

    at std = `fractional_moment_std(s, width)`, with k as there: whatever s,
    |x_k| falls to 0, the slower the smaller s is.

    Args:
        std: Standard deviation of the weights, finite and > 0.
        width: Number of units that come out, an int >= 1.
        activation: As in `fractional_moment_std`.
        dropout_rate: As in `fractional_moment_std`.
        **parameters: As in `fractional_moment_std`.

    Returns:
        (drift, variance), to about 1e-14 absolute. With relu or
        dropout all units may be 0, for relu with probability 2^-width, and
        x stays 0 from there on; both numbers are given that this did not
        happen.

    Raises:
        ValueError: As `fractional_moment_std`.

    Example:

    >>> std = fractional_moment_std(1.0, 64)
    >>> drift, variance = log_norm_drift_and_variance(std, 64)
    >>> round(drift, 7), round(variance, 7)
    (-0.010196, 0.0207493)

    Reference: Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878, for the
    limit law. The two numbers are derived here; for linear they are
    log(std) + (log 2 + psi(width / 2)) / 2 and psi'(width / 2) / 4.
    """
    std = check_real("std", std, "(0, inf)")
    check_int("width", width, 1)
    phi = slopes(activation, dropout_rate, parameters)
    root, law = _sum_of_squares(int(width), phi)
    mean, variance = law.log_mean_and_variance()
    return LogNormStep(math.log(std * root) + mean / 2, variance / 4)


@functools.lru_cache(maxsize=64)
def _sum_of_squares(width: int, phi: Slopes) -> tuple[float, Sum]:
    """r, for r^2 = E |phi(g)|^2, and the law of |phi(g)|^2 / r^2."""
    slope, probability = np.array(phi.slope), np.array(phi.probability)
    root = math.sqrt(width * probability @ slope**2)
    # One term is q = (a z / r)^2, and l = E (1 + e^(x + shift))^(-1/2).
    shift = math.log(2) + 2 * np.log(slope / root)

    def transform(x: np.ndarray) -> tuple[np.ndarray, ...]:
        z = np.add.outer(x, shift)
        log = -np.logaddexp(0, z) / 2
        one, part = np.exp(log), special.expit(z)
        return (
            1 - phi.some + one @ probability,
            -np.expm1(log) @ probability,
            (part * one) @ probability / 2,
            (part**2 * one) @ probability * 0.75,
        )

    ends = shift.min(), max(0.0, shift.max())
    return root, sum_of(transform, width, phi.some, *ends, decay=2)
