"""Fractional moments of a layer of Gaussian weights, at any width."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from keras_initx.theory.mean_field.activations import Activation
from keras_initx.theory.norm_moments.piecewise_linear import Slopes, slopes
from keras_initx.theory.norm_moments.sums import Sum, exponential, sum_of
from keras_initx.validation import check_int, check_real


class LogNormStep(NamedTuple):
    """Mean and variance of log |phi(W x)| - log |x| for one layer.

    Attributes:
        drift: float. The mean, in nats per layer.
        variance: float. The variance, in squared nats per layer.
    """

    drift: float
    variance: float


def fractional_moment_std(
    order: float,
    width: int,
    activation: str | Activation = "relu",
    *,
    dropout_rate: float = 0.0,
    **parameters: Any,
) -> float:
    """Returns the standard deviation of weights that keeps a moment.

        sigma = (E |phi(g)|^s)^(-1/s),    g ~ N(0, I) of `width` entries

    Given x, each unit of W x is Gaussian with standard deviation sigma |x|, so
    |phi(W x)| has the distribution of sigma |x| |phi(g)| in the Euclidean
    norm, and with zero biases E |phi(W x)|^s = E |x|^s in every layer. At s = 2
    sigma^2 is that of He et al., 1 / width for linear and 2 / width for relu.
    It grows as s falls:

        sigma^2 = (1 + (2-s) k / (4 width) + ...) / (width E phi(z)^2)

    with z ~ N(0, 1) and k = Var[phi(z)^2] / (E phi(z)^2)^2, which is 2 for
    linear and 5 for relu.

    Which width: for a kernel from n units to m, E |phi(W x)|^s = E |x|^s needs
    width m, the fan-out, since |phi(g)| counts outputs. The authors' code takes
    n, the fan-in, as He et al. do at s = 2. The fan-in keeps E |x|^s divided by
    its value for phi(g) of as many units as x has, so that the size of the
    signal per unit stays the same from layer to layer, whatever the widths.
    The two agree where n = m, the case of the paper.

    Args:
        order: float. s, the order of the moment, in (0, 2].
        width: int. Number of units, >= 1.
        activation: str or Activation. The activation phi: "linear", "relu",
            "leaky_relu", or "rrelu", a leaky relu whose negative slope is
            uniform on a range and drawn anew for every unit. Defaults to
            "relu".
        dropout_rate: float. Share of the units that an inverted dropout after
            the activation sets to 0, in [0, 1), as in `keras.layers.Dropout`;
            the others are divided by 1 - dropout_rate. Defaults to 0.
        **parameters: Parameters of the activation, as in `Activation`:
            `negative_slope` for "leaky_relu" (0.2 by default, as in Keras),
            `negative_slope_range` for "rrelu" ((1/8, 1/3) by default, as in
            PyTorch).

    Returns:
        sigma, a float > 0, to a relative accuracy of 1e-12 up to a width of
        10^6. Where all units may be 0 at once sigma is unbounded as s falls to
        0: it grows as (1 - 2^-width)^(-1/s) for relu, which matters where
        2^-width is not below s.

    Raises:
        ValueError: If an argument is outside its range; the activation is
            another one, or does not have the parameter; or sigma is beyond the
            range of float64.

    Example:

    >>> round(fractional_moment_std(1.0, 64), 9)
    0.178528029
    >>> round(fractional_moment_std(2.0, 64), 9)  # He et al.: sqrt(2 / 64)
    0.176776695
    >>> round(fractional_moment_std(1.0, 64, "leaky_relu"), 9)
    0.174900438

    Reference: Gürbüzbalaban & Hu, "Fractional moment-preserving
    initialization schemes for training deep neural networks", AISTATS (2021),
    arXiv:2005.11878, for linear, relu, leaky relu and its random slopes. The
    one formula for all of them, in `theory.norm_moments.sums`, is derived
    here, and so are dropout and the statements on widths that differ.
    """
    order = check_real("order", order, "(0, 2]")
    width = check_int("width", width, 1)
    phi = slopes(activation, dropout_rate, parameters)
    root, squares = _sum_of_squares(width, phi)
    excess = -squares.log_moment(order / 2) / 2
    return exponential(excess, order=order, width=width) / root


def log_norm_drift_and_variance(
    std: float,
    width: int,
    activation: str | Activation = "relu",
    *,
    dropout_rate: float = 0.0,
    **parameters: Any,
) -> LogNormStep:
    """Returns mean and variance of the change of log |x| in a Gaussian layer.

        drift = log(std) + E log |phi(g)|,    variance = Var log |phi(g)|

    for g ~ N(0, I) of `width` entries, given that phi(g) is not 0. Layers are
    independent, so after k of them log |x_k| - log |x_0| is close to a normal
    variable of mean k drift and variance k variance. In wide layers

        drift = -s kappa / (8 width),    variance = kappa / (4 width)

    at std = `fractional_moment_std(s, width)`, with kappa the k of that
    function: for every s, |x_k| falls to 0, the more slowly the smaller s is.

    Args:
        std: float. Standard deviation of the weights, finite and > 0.
        width: int. Number of output units, >= 1.
        activation: str or Activation. As in `fractional_moment_std`. Defaults
            to "relu".
        dropout_rate: float. As in `fractional_moment_std`. Defaults to 0.
        **parameters: Parameters of the activation, as in
            `fractional_moment_std`.

    Returns:
        (drift, variance), to about 1e-14 absolute. With relu or dropout all
        units may be 0, for relu with probability 2^-width, and x stays 0 from
        there on; both numbers are conditional on this not having happened.

    Raises:
        ValueError: If an argument is outside its range, or the activation is
            none that `fractional_moment_std` accepts.

    Example:

    >>> std = fractional_moment_std(1.0, 64)
    >>> step = log_norm_drift_and_variance(std, 64)
    >>> round(step.drift, 7), round(step.variance, 7)
    (-0.010196, 0.0207493)

    Reference: Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878, for the
    limit distribution. The two numbers are derived here; for linear they are
    log(std) + (log 2 + psi(width / 2)) / 2 and psi'(width / 2) / 4, with psi
    the digamma function.
    """
    std = check_real("std", std, "(0, inf)")
    width = check_int("width", width, 1)
    phi = slopes(activation, dropout_rate, parameters)
    root, squares = _sum_of_squares(width, phi)
    mean, variance = squares.log_mean_and_variance()
    return LogNormStep(math.log(std * root) + mean / 2, variance / 4)


@functools.lru_cache(maxsize=64)
def _sum_of_squares(width: int, phi: Slopes) -> tuple[float, Sum]:
    """Returns r, r^2 = E |phi(g)|^2, and the distribution of |phi(g)|^2/r^2."""
    slope, probability = np.array(phi.slope), np.array(phi.probability)
    root = math.sqrt(width * probability @ slope**2)
    # One term is q = (a z / r)^2, of l(e^x) = E (1 + e^(x + shift))^(-1/2).
    shift = math.log(2) + 2 * np.log(slope / root)

    def transform(x: np.ndarray) -> tuple[np.ndarray, ...]:
        z = np.add.outer(x, shift)
        log = -np.logaddexp(0, z) / 2
        one, part = np.exp(log), special.expit(z)
        return (
            1 - phi.positive + one @ probability,
            -np.expm1(log) @ probability,
            (part * one) @ probability / 2,
            (part**2 * one) @ probability * 0.75,
        )

    ends = shift.min(), max(0.0, shift.max())
    return root, sum_of(transform, width, phi.positive, *ends, decay=2)
