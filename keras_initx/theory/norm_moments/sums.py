"""Moments of a sum of iid non-negative terms, from the law of one term.

Let Q = q_1 + ... + q_n and L(t) = E exp(-t Q) = l(t)^n. If G ~ Gamma(2) is
independent of Q, then at t = e^x

    x = log(G / Q)    has density    t^2 L''(t),

and its moments give those of Q, since those of G are known:

    E Q^p = E e^(-p x) / Gamma(2 - p),
    E log Q = psi(2) - E x,    Var log Q = Var x - psi'(2),

with psi(2) = 1 - 0.5772 and psi'(2) = pi^2/6 - 1.

The density is positive, so nothing cancels at any n, and analytic in a strip,
so that the trapezoidal rule converges exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

# The rule is exact to exp(-pi^2 / STEP) = 4e-28 times the integral along the
# edge of the strip, Im x = pi / 2, which grows at most as the width.
STEP = 5 / 32
# On the left the integrand falls as e^x at least once a geometric series has
# been added, on the right as e^(-x / 2): what is left out is below e^-40.
_LEFT, _RIGHT = -60.0, 80.0

# From x to l, 1 - l, -t l' and t^2 l'' at t = e^x.
Transform = Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Sum:
    """The law of Q, as a rule for averages over x = log(G / Q) where Q > 0.

    Attributes:
        x: The points, STEP apart.
        weight: Their weights, which add up to P(Q > 0).
        log_some: log P(Q > 0).
        decay: The density of x falls as exp(decay * x) on the left: 2 if Q has
            a mean, 1 if P(Q > q) falls as 1 / q.
    """

    x: np.ndarray
    weight: np.ndarray
    log_some: float
    decay: int

    def log_moment(self, p: float) -> float:
        """log(E Q^p) / p, for 0 < p < decay."""
        weight = self.weight / math.exp(self.log_some)
        # As a change from 1, which keeps its digits however small p is.
        log_gamma = _log_gamma(p)
        change = weight @ np.expm1(-p * self.x - log_gamma)
        first = weight[0] * math.exp(-p * self.x[0] - log_gamma)
        change += first / math.expm1((self.decay - p) * STEP)
        return (self.log_some + math.log1p(change)) / p

    def log_mean_and_variance(self) -> tuple[float, float]:
        """E log Q and Var log Q, given Q > 0."""
        weight = self.weight / self.weight.sum()
        mean = float(weight @ self.x)
        variance = float(weight @ (self.x - mean) ** 2)
        return 1 - np.euler_gamma - mean, variance - (math.pi**2 / 6 - 1)


def _log_gamma(p: float) -> float:
    """log Gamma(2 - p) for 0 <= p <= 1, to the last digit of a small p."""
    k = np.arange(2, 60)
    return (np.euler_gamma - 1) * p + float(special.zetac(k) @ (p**k / k))


def sum_of(
    transform: Transform,
    width: int,
    some: float,
    smallest: float,
    largest: float,
    decay: int,
) -> Sum:
    """The law of a sum of `width` terms.

    Args:
        transform: The Laplace transform of one term.
        width: n >= 1.
        some: P(q > 0).
        smallest: The log of a size that a q > 0 is seldom far below.
        largest: The log of a size that Q is seldom far above.
        decay: As in `Sum`.
    """
    first = math.floor((_LEFT - largest) / STEP)
    last = math.ceil((_RIGHT - smallest) / STEP)
    x = STEP * np.arange(first, last + 1)
    one, absence, slope, curvature = transform(x)
    log_one = np.where(
        absence < 0.5,
        np.log1p(-np.minimum(absence, 0.5)),
        np.log(np.maximum(one, np.finfo(float).tiny)),
    )
    # t^2 (l^n)''
    density = width * np.exp((width - 1) * log_one) * curvature
    if width > 1:
        pairs = width * (width - 1.0)
        density += pairs * np.exp((width - 2) * log_one) * slope**2
    log_none = float(special.xlog1py(width, -some))
    if log_none < -1:
        log_some = math.log1p(-math.exp(log_none))
    else:
        log_some = math.log(-math.expm1(log_none))
    return Sum(x, STEP * density, log_some, decay)


def exponential(exponent: float, **received: object) -> float:
    """exp, refusing what float64 does not hold."""
    if not -708 < exponent < 709:
        names = ", ".join(f"{key}={value!r}" for key, value in received.items())
        raise ValueError(
            f"The answer, exp({exponent:.6g}), must be within the range of "
            f"float64. Received: {names}"
        )
    return math.exp(exponent)
