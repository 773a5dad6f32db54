"""Moments of a sum of iid non-negative terms, from the law of one term.

Let Q = q_1 + ... + q_n and L(t) = E exp(-t Q) = l(t)^n. If G ~ Gamma(2) is
independent of Q, then at t = e^x

    x = log(G / Q)    has density    t^2 L''(t),

and its moments give those of Q, since G's are known:

    E Q^p = E e^(-p x) / Gamma(2 - p)
    E log Q = psi(2) - E x,    Var log Q = Var x - psi'(2)

The integrand is positive, so nothing cancels at any p or n, and analytic in a
strip, so that the trapezoidal rule converges exponentially.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

# The rule is exact to exp(-2 pi (pi / 2) / _STEP), times the size of the
# integrand on the edge of its strip, which is of the order of the width.
_STEP = 5 / 32
# x / e^40 is nothing beside 1; e^(-p x) L'' decays as e^x, and as e^(-x / 2).
_LEFT, _RIGHT = -40.0, 80.0

# From x to l, 1 - l, -t l' and t^2 l'' at t = e^x.
Transform = Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Sum:
    """The law of Q, as a rule for averages over x = log(G / Q) where Q > 0.

    Attributes:
        x: The points.
        weight: Their weights, which add up to P(Q > 0).
        none: P(Q = 0).
        decay: The density of x falls as exp(decay * x) on the left: 2 if Q has
            a mean, 1 if P(Q > q) ~ 1 / q.
    """

    x: np.ndarray
    weight: np.ndarray
    none: float
    decay: int

    def log_moment(self, p: float) -> float:
        """log(E Q^p) / p, for 0 < p < decay."""
        # expm1 and log1p keep the digits of a small p.
        scale = special.gammaln(2 - p)
        change = self.weight @ np.expm1(-p * self.x - scale) - self.none
        # What lies to the left of the rule is a geometric series.
        first = self.weight[0] * math.exp(-p * self.x[0] - scale)
        change += first / math.expm1((self.decay - p) * _STEP)
        return math.log1p(change) / p

    def log_mean_and_variance(self) -> tuple[float, float]:
        """E log Q and Var log Q, given Q > 0."""
        weight = self.weight / self.weight.sum()
        mean = weight @ self.x
        variance = weight @ (self.x - mean) ** 2
        return (
            special.digamma(2) - mean,
            variance - special.polygamma(1, 2),
        )


def sum_of(
    transform: Transform,
    width: int,
    none: float,
    left: float,
    right: float,
    decay: int,
) -> Sum:
    """The law of a sum of `width` terms.

    Args:
        transform: The Laplace transform of one term.
        width: How many terms, >= 1.
        none: P(q = 0).
        left: Below it, Q t is nothing to any Q.
        right: Above it, q t is without end to any q but 0.
        decay: As in `Sum`.
    """
    ends = (
        math.floor((left + _LEFT) / _STEP),
        math.ceil((right + _RIGHT) / _STEP),
    )
    x = _STEP * np.arange(*ends)
    one, absence, first, second = transform(x)
    near = np.log1p(-np.minimum(absence, 0.5))
    log = np.where(absence < 0.5, near, np.log(np.maximum(one, 1e-300)))
    density = width * np.exp((width - 1) * log) * second
    if width > 1:
        density += width * (width - 1) * np.exp((width - 2) * log) * first**2
    return Sum(x, _STEP * density, float(none) ** width, decay)
