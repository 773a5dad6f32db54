"""Moments of a sum of iid non-negative terms, from the transform of one term.

Let Q = q_1 + ... + q_n, let l(t) = E exp(-t q) be the Laplace transform of one
term and L(t) = E exp(-t Q) = l(t)^n that of the sum. If G ~ Gamma(2) is
independent of Q, then

    x = log(G / Q)    has the density    t^2 L''(t)    at t = e^x,

and its moments give those of Q, since those of G are known:

    E Q^p = E e^(-p x) / Gamma(2 - p),
    E log Q = psi(2) - E x,    Var log Q = Var x - psi'(2),

with psi(2) = 1 - 0.5772 and psi'(2) = pi^2/6 - 1, psi being the digamma
function.

The density is positive, so nothing cancels at any n. It is analytic in a strip
around the real axis, so the trapezoidal rule converges exponentially. The
method is derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from keras_initx.validation import refuse

# Step of the trapezoidal rule in x. The rule is exact to exp(-pi^2 / STEP) =
# 4e-28 times the integral along the edge of the strip, Im x = pi / 2, which
# grows at most in proportion to n.
STEP = 5 / 32
# On the left the integrand falls at least as fast as e^x once a geometric
# series has been added, on the right as e^(-x / 2): beyond these ends it is
# below e^-40.
_LEFT, _RIGHT = -60.0, 80.0

# The map from x to l, 1 - l, -t l' and t^2 l'' at t = e^x.
Transform = Callable[[np.ndarray], tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Sum:
    """The distribution of Q, as a rule for averages over x = log(G / Q).

    Attributes:
        x: float64 array. The points, STEP apart.
        weight: float64 array. Their weights, which add up to P(Q > 0).
        log_positive: float. log P(Q > 0).
        decay: int. The density of x falls as exp(decay * x) on the left: 2 if
            Q has a mean, 1 if P(Q > q) falls as 1 / q.
    """

    x: np.ndarray
    weight: np.ndarray
    log_positive: float
    decay: int

    def log_moment(self, p: float) -> float:
        """Returns log(E Q^p) / p, for 0 < p < decay."""
        weight = self.weight / math.exp(self.log_positive)
        # Summing the change from 1 keeps its digits however small p is.
        log_gamma = _log_gamma(p)
        change = weight @ np.expm1(-p * self.x - log_gamma)
        # The part to the left of the first point is a geometric series.
        first = weight[0] * math.exp(-p * self.x[0] - log_gamma)
        change += first / math.expm1((self.decay - p) * STEP)
        return (self.log_positive + math.log1p(change)) / p

    def log_mean_and_variance(self) -> tuple[float, float]:
        """Returns E log Q and Var log Q, given Q > 0."""
        weight = self.weight / self.weight.sum()
        mean = float(weight @ self.x)
        variance = float(weight @ (self.x - mean) ** 2)
        return 1 - np.euler_gamma - mean, variance - (math.pi**2 / 6 - 1)


def _log_gamma(p: float) -> float:
    """Returns log Gamma(2 - p) for 0 <= p <= 1, exact for a small p."""
    k = np.arange(2, 60)
    return (np.euler_gamma - 1) * p + float(special.zetac(k) @ (p**k / k))


def sum_of(
    transform: Transform,
    width: int,
    positive: float,
    smallest: float,
    largest: float,
    decay: int,
) -> Sum:
    """Returns the distribution of a sum of iid terms.

    Args:
        transform: callable. The Laplace transform of one term.
        width: int. n, the number of terms, >= 1.
        positive: float. P(q > 0).
        smallest: float. The logarithm of a size that a positive q is seldom
            far below.
        largest: float. The logarithm of a size that Q is seldom far above.
        decay: int. As in `Sum`.
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
    # t^2 (l^n)'' = n l^(n-1) t^2 l'' + n (n-1) l^(n-2) (t l')^2
    density = width * np.exp((width - 1) * log_one) * curvature
    if width > 1:
        pairs = width * (width - 1.0)
        density += pairs * np.exp((width - 2) * log_one) * slope**2
    log_none = float(special.xlog1py(width, -positive))
    if log_none < -1:
        log_positive = math.log1p(-math.exp(log_none))
    else:
        log_positive = math.log(-math.expm1(log_none))
    return Sum(x, STEP * density, log_positive, decay)


def exponential(exponent: float, **received: Any) -> float:
    """Returns exp(exponent), refusing what is beyond the range of float64.

    Args:
        exponent: float. The exponent.
        **received: The arguments to blame, by name.

    Raises:
        ValueError: If the result is not a normal float64.
    """
    if not -708 < exponent < 709:
        refuse(
            f"The result, exp({exponent:.6g}), must be within the range of "
            "float64.",
            **received,
        )
    return math.exp(exponent)
