"""Symmetric stable distributions, and the scale of weights drawn from them.

Z is symmetric stable of unit scale throughout: E exp(i t Z) = exp(-|t|^a),
with a the stability. At a = 2 it is N(0, 2), at a = 1 the Cauchy distribution.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import Activation
from keras_initx.theory.norm_moments.mellin import (
    laplace_transform,
    tail_constant,
)
from keras_initx.theory.norm_moments.piecewise_linear import Slopes, slopes
from keras_initx.theory.norm_moments.sums import Sum, exponential, sum_of
from keras_initx.validation import check_int, check_real, is_real, refuse


class LogMoments(NamedTuple):
    """Mean and variance of the logarithm of a stable variable's magnitude.

    Attributes:
        mean: float. E log |Z|, in nats.
        variance: float. Var log |Z|, in squared nats.
    """

    mean: float
    variance: float


def stable_weight_scale(
    stability: float,
    width: int,
    activation: str | Activation = "relu",
    order: str | float = "log",
    *,
    dropout_rate: float = 0.0,
    **parameters: Any,
) -> float:
    """Returns the scale of symmetric stable weights that keeps a moment.

        c = (E R^s)^(-1/s)  or  exp(-E log R),    R^a = sum_i |phi(Z_i)|^a

    over `width` independent Z_i, a being the stability. Given x, the entries
    of W x are independent and equal to c |x|_a Z_i, so |phi(W x)|_a has the
    distribution of c |x|_a R, in the norm |x|_a = (sum_i |x_i|^a)^(1/a). With
    zero biases this c keeps E |x|_a^s, or E log |x|_a, in every layer. Moments
    of order a or more are infinite. As the width grows,

        c ~ (h C width log(width))^(-1/a),    h = 1/2 for relu, 1 for linear

    with C = `stable_tail_constant(stability)`, but slowly: at width 1024 and a
    from 0.5 to 1.8 it is still 0.5 to 0.8 of that. The customary
    width^(-1/a) is too large, so that the norm grows in every layer, by a
    factor of 1.44 with relu at stability 1.5 and width 256.

    Which width: as in `fractional_moment_std`, the fan-out keeps the moment
    itself, and the fan-in keeps it divided by its value for phi(Z) of as many
    units, so that the size of the signal per unit stays the same, whatever the
    widths.

    Args:
        stability: float. a, in (0, 2]. At 2 the weights are N(0, 2 c^2), and
            sqrt(2) c is `fractional_moment_std`.
        width: int. Number of units, >= 1.
        activation: str or Activation. The activation phi, as in
            `fractional_moment_std`. Defaults to "relu".
        order: "log" or float. The order s of the moment, in (0, stability), or
            "log" for the mean of the logarithm. With relu or dropout all units
            may be 0: "log" is conditional on their not all being 0, a moment
            includes the zeros. Defaults to "log".
        dropout_rate: float. As in `fractional_moment_std`. Defaults to 0.
        **parameters: Parameters of the activation, as in
            `fractional_moment_std`.

    Returns:
        c, a float > 0, the scale of the distribution of the weights, to a
        relative accuracy of 1e-10 up to a width of 10^6.

    Raises:
        ValueError: If an argument is outside its range; the activation is
            another one, or does not have the parameter; or c is beyond the
            range of float64, as it may be at a stability below 0.03.

    Example:

    >>> round(stable_weight_scale(1.5, 256), 9)
    0.017170488
    >>> round(stable_weight_scale(1.5, 256, order=0.5), 9)
    0.016171802

    Reference: derived here, after the Gaussian case of Gürbüzbalaban & Hu,
    AISTATS (2021), arXiv:2005.11878. That relu needs a logarithm beside
    width^(-1/a) is in Favaro, Fortini & Peluchetti, "Large-width asymptotics
    for ReLU neural networks with alpha-stable initializations" (2022),
    arXiv:2206.08065.
    """
    stability = check_real("stability", stability, "(0, 2]")
    width = check_int("width", width, 1)
    phi = slopes(activation, dropout_rate, parameters)
    powers = _sum_of_powers(stability, width, phi)
    if isinstance(order, str) and order == "log":
        log_power = powers.log_mean_and_variance()[0]
    elif (
        not isinstance(order, str) and is_real(order) and 0 < order < stability
    ):
        log_power = powers.log_moment(float(order) / stability)
    else:
        refuse(
            "order must be 'log' or a number in (0, stability).",
            order=order,
            stability=stability,
        )
    return exponential(
        -log_power / stability,
        stability=stability,
        width=width,
        order=order,
    )


@functools.lru_cache(maxsize=64)
def _sum_of_powers(stability: float, width: int, phi: Slopes) -> Sum:
    """Returns the distribution of R^a."""
    slope, probability = np.array(phi.slope), np.array(phi.probability)
    return sum_of(
        laplace_transform(stability, slope, probability, phi.positive),
        width,
        phi.positive,
        smallest=stability * math.log(slope.min()),
        largest=stability * math.log(slope.max()) + math.log(width),
        decay=1,
    )


def stable_moment(order: float, stability: float) -> float:
    """Returns the moment E |Z|^p of a symmetric stable variable of unit scale.

        E |Z|^p = 2^p Gamma((1+p)/2) Gamma(1-p/a) / (sqrt(pi) Gamma(1-p/2))

    where E exp(i t Z) = exp(-|t|^a). For another scale it is multiplied by
    scale^p.

    Args:
        order: float. p, > -1, and < stability unless that is 2.
        stability: float. a, in (0, 2]. At 2 Z is N(0, 2).

    Returns:
        The moment, a float > 0.

    Raises:
        ValueError: If an argument is outside its range, or the moment is
            beyond the range of float64.

    Example:

    >>> round(stable_moment(0.5, 1.5), 6)
    1.08043
    >>> round(stable_moment(2.0, 2.0), 12)
    2.0

    Reference: Shao & Nikias, "Signal processing with fractional lower order
    moments", Proceedings of the IEEE 81 (1993).
    """
    a = check_real("stability", stability, "(0, 2]")
    if not is_real(order) or order <= -1 or (order >= a and a < 2):
        refuse(
            "order must be a number in (-1, stability): beyond it E |Z|^order "
            "is infinite.",
            order=order,
            stability=stability,
        )
    p = float(order)
    log = p * math.log(2) + math.lgamma((1 + p) / 2) - math.log(math.pi) / 2
    if a < 2:
        log += math.lgamma(1 - p / a) - math.lgamma(1 - p / 2)
    return exponential(log, order=order, stability=stability)


def stable_log_moments(stability: float) -> LogMoments:
    """Returns mean and variance of log |Z|, Z symmetric stable of unit scale.

        E log |Z| = g (1/a - 1),    Var log |Z| = pi^2/6 (1/a^2 + 1/2)

    where E exp(i t Z) = exp(-|t|^a) and g = 0.5772 is Euler's constant. They
    are finite at every stability: exp(mean(log |z|) - g (1/a - 1)) estimates
    the scale of a sample z.

    Args:
        stability: float. a, in (0, 2]. At 2 Z is N(0, 2).

    Returns:
        (mean, variance).

    Raises:
        ValueError: If `stability` is outside its range.

    Example:

    >>> moments = stable_log_moments(1.5)
    >>> round(moments.mean, 6), round(moments.variance, 6)
    (-0.192405, 1.553549)

    Reference: Ma & Nikias, "Parameter estimation and blind channel
    identification in impulsive signal environments", IEEE Transactions on
    Signal Processing 43 (1995). They are the derivatives of `stable_moment` at
    order 0.
    """
    a = check_real("stability", stability, "(0, 2]")
    mean = np.euler_gamma * (1 / a - 1)
    variance = math.pi**2 / 6 * (1 / a**2 + 0.5)
    return LogMoments(mean, variance)


def stable_tail_constant(stability: float) -> float:
    """Returns the weight of the tails of a symmetric stable variable.

        C = lim z^a P(|Z| > z) = (2 / pi) Gamma(a) sin(pi a / 2)

    as z goes to infinity, at unit scale, where E exp(i t Z) = exp(-|t|^a). For
    another scale it is multiplied by scale^a.

    Args:
        stability: float. a, in (0, 2].

    Returns:
        C for both tails together, a float: 0 at stability 2, 2 / pi at 1, and
        1 in the limit of stability 0.

    Raises:
        ValueError: If `stability` is outside its range.

    Example:

    >>> round(stable_tail_constant(1.5), 6), stable_tail_constant(2.0)
    (0.398942, 0.0)

    Reference: Samorodnitsky & Taqqu, "Stable non-Gaussian random processes"
    (1994), property 1.2.15.
    """
    return tail_constant(check_real("stability", stability, "(0, 2]"))
