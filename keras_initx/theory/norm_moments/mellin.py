"""Distribution of |Z|, Z symmetric stable, from its moments of complex order.

At unit scale, E exp(i t Z) = exp(-|t|^a) with a the stability, and E |Z|^r is a
product of Gamma functions at every complex r with -1 < Re r < a. Densities and
transforms of |Z|, as functions f of a logarithm x, have a Mellin transform g
that is made of it:

    f(x) = e^(-c x) / (2 pi) int g(c + i y) e^(-i y x) dy

for every real c in the strip where g is analytic. There g falls exponentially
along the line of integration, so the trapezoidal rule is exact except for
rounding, and one FFT evaluates it on a whole grid of x. The rounding is
relative to e^(-c x), so each side of x = 0 has its own c; where that lies
beyond a pole of g, the residue of the pole is added. The method is derived
here.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import fft, special

from keras_initx.theory.norm_moments.sums import STEP, Transform

# Period in x of the discrete transform. The nearest poles are 1/4 away from the
# line of integration, so the part that is folded back is of size e^(-160 / 4).
_PERIOD = 160.0


def moment(r: np.ndarray, stability: float) -> np.ndarray:
    """Returns E |Z|^r, continued to every complex r that is not a pole.

        E |Z|^r = 2^r Gamma((1+r)/2) Gamma(1-r/a) / (sqrt(pi) Gamma(1-r/2))

    Reference: Shao & Nikias, "Signal processing with fractional lower order
    moments", Proceedings of the IEEE 81 (1993), for real r.
    """
    return (
        2.0**r
        * special.gamma((1 + r) / 2)
        * special.gamma(1 - r / stability)
        * special.rgamma(1 - r / 2)
        / math.sqrt(math.pi)
    )


def tail_constant(stability: float) -> float:
    """Returns C = lim z^a P(|Z| > z); E |Z|^r has the residue -a C at r = a."""
    # 1 / Gamma is 0 at a = 2, where Gamma has a pole.
    return float(
        2**stability
        * special.gamma((1 + stability) / 2)
        * special.rgamma(1 - stability / 2)
        / math.sqrt(math.pi)
    )


def laplace_transform(
    stability: float,
    slope: np.ndarray,
    probability: np.ndarray,
    positive: float,
) -> Transform:
    """Returns the Laplace transform of q = |b Z|^a, as `sums` needs it.

        int t^(u-1) E exp(-t |Z|^a) dt = Gamma(u) E |Z|^(-a u)

    with a the stability and b a random slope that is independent of Z.

    Args:
        stability: float. a.
        slope: float64 array. The positive values of b.
        probability: float64 array. The probability of each of them.
        positive: float. P(b > 0).
    """
    shift = stability * np.log(slope)

    def transform(x: np.ndarray) -> tuple[np.ndarray, ...]:
        z = np.add.outer(shift, x)
        size = _size(len(x), STEP, _PERIOD)
        y = _frequencies(size, STEP)
        wave = np.exp(-1j * np.multiply.outer(z[:, 0], y))
        left, right, below = z < 0, np.maximum(z, 0), np.minimum(z, 0)

        def inverse(g: np.ndarray) -> np.ndarray:
            return _inverse(wave * g, STEP, size)[:, : len(x)]

        # A line between the poles at 0 and 1 / a gives l, -t l' and t^2 l''.
        u = min(0.5, 0.5 / stability) + 1j * y
        g = special.gamma(u) * moment(-stability * u, stability)
        far = np.exp(-u[0].real * right)
        one, falling, curvature = (
            far * inverse(factor * g) for factor in (1, u, u * (u + 1))
        )
        # A line beyond the pole at 0 gives l - 1 and -t l'.
        u = -0.5 + 1j * y
        g = special.gamma(u) * moment(-stability * u, stability)
        near = np.exp(below / 2)
        absence = np.where(left, -near * inverse(g), 1 - one)
        falling = np.where(left, near * inverse(u * g), falling)
        # A line beyond the pole at -1 gives t^2 l'' less its leading term.
        u = u - 1
        g = special.gamma(u + 2) * moment(-stability * u, stability)
        rest = np.exp(1.5 * below) * inverse(g)
        tail = tail_constant(stability) * np.exp(below)
        curvature = np.where(left, tail + rest, curvature)
        return (
            1 - positive + probability @ np.where(left, 1 - absence, one),
            probability @ absence,
            probability @ falling,
            probability @ curvature,
        )

    return transform


def density_of_log(
    stability: float, first: int, last: int, step: float
) -> np.ndarray:
    """Returns the density of log |Z| at first * step, ..., last * step."""
    x = step * np.arange(first, last + 1)
    size = _size(len(x), step, _PERIOD / min(stability, 1))
    y = _frequencies(size, step)

    def inverse(c: float) -> np.ndarray:
        g = moment(c + 1j * y, stability) * np.exp(-1j * y * x[0])
        return _inverse(g, step, size)[: len(x)]

    left = np.exp(np.minimum(x, 0) / 2) * inverse(-0.5)
    decay = stability * np.maximum(x, 0)
    # A line beyond the pole at r = a, whose residue is the tail.
    right = np.exp(-1.5 * decay) * inverse(1.5 * stability)
    right += stability * tail_constant(stability) * np.exp(-decay)
    return np.where(x < 0, left, right)


def _size(points: int, step: float, period: float) -> int:
    """Returns a fast length of the FFT that covers all points and a period."""
    return fft.next_fast_len(max(points, math.ceil(period / step)), real=True)


def _frequencies(size: int, step: float) -> np.ndarray:
    """Returns the values of y on the line of integration."""
    return 2 * np.pi * fft.rfftfreq(size, step)


def _inverse(g: np.ndarray, step: float, size: int) -> np.ndarray:
    """Returns the integral of g e^(-i y x) dy / (2 pi) on the grid of x."""
    return fft.irfft(np.conj(g), size) / step
