"""Regularity of the trained weights of a deep network over its depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_initx.validation import check_array

# Rounding errors of weights whose largest magnitude is 1.
_ROUNDING = 1e-12
# Largest number of layers whose sums are compared.
_LONGEST = 16
# Slope between that of rough weights, 0, and that of smooth ones, -1.
_SMOOTH = -0.5
# Largest slope that counts as 0.
_FLAT = 0.15


class HurstEstimate(NamedTuple):
    """Hurst index of weights over depth.

    Attributes:
        hurst: float. 1/2 for independent layers, 1 for tied or smooth ones,
            less than 1/2 for layers that are anti-correlated.
        without_mean: float. The same estimate after the mean over the layers
            is subtracted from each entry. A common mean, however small, pulls
            `hurst` to 1; subtracting it pulls the estimate of few layers down.
            NaN if all layers are equal.
    """

    hurst: float
    without_mean: float


class ScalingEstimate(NamedTuple):
    """Scaling of trained weights A_k with the depth L of their network.

    Attributes:
        exponent: float. The root mean square norm of a layer is proportional
            to L^(-exponent).
        root_sum_of_squares: float. Exponent of L in sqrt(sum_k |A_k|^2).
        increment: float. Exponent of L in L^exponent max_k |A_(k+1) - A_k|: -1
            for weights that are smooth in depth, 0 for rough ones.
        quadratic_variation: float. Exponent of L in sum_k |A_(k+1) - A_k|^2.
        limit: str. "ode" if the weights are smooth in depth; "sde" if their
            quadratic variation does not change with L; "neither" otherwise. It
            does not depend on `exponent`.
    """

    exponent: float
    root_sum_of_squares: float
    increment: float
    quadratic_variation: float
    limit: str


def estimate_hurst(weights: Any) -> HurstEstimate:
    """Returns the Hurst index of the weights of one network over its layers.

        v(m) = mean |w_(k+1) + ... + w_(k+m)|^2,    v(m) ~ m^(2 H)

    with the mean over all layers k and entries of a layer; H is half the slope
    of log v on log m, for m = 1, 2, 4, ... up to 16 and to half the depth.

    Args:
        weights: array-like of shape (L, ...). The weights w_1, ..., w_L of
            L >= 4 layers of one shape, finite and not all zero.

    Returns:
        (hurst, without_mean). For 100 entries the standard deviation is 0.02
        at 32 layers and 0.005 at 1000.

    Raises:
        ValueError: If the weights are not such an array.

    Example:

    >>> noise = np.random.default_rng(0).standard_normal((1000, 100))
    >>> round(estimate_hurst(noise).hurst, 1)
    0.5

    Reference: derived here, after the variance of sums in Mandelbrot & Van
    Ness, SIAM Review 10, 422 (1968).
    """
    w = _layers("weights", weights)
    if len(w) < 4:
        raise ValueError(
            f"weights must have at least 4 layers. Received: {len(w)} layers"
        )
    # Squares then neither underflow nor overflow.
    w = w / np.abs(w).max()
    varying = w - w.mean(axis=0)
    if np.abs(varying).max() <= _ROUNDING:
        return HurstEstimate(_hurst(w), math.nan)
    return HurstEstimate(_hurst(w), _hurst(varying))


def _hurst(w: np.ndarray) -> float:
    """Returns half the slope of log v on log m."""
    steps = 2 ** np.arange(1 + int(math.log2(min(_LONGEST, len(w) // 2))))
    path = np.concatenate([np.zeros((1, w.shape[1])), np.cumsum(w, axis=0)])
    squares = [np.mean((path[m:] - path[:-m]) ** 2) for m in steps]
    return float(np.polyfit(np.log(steps), np.log(squares), 1)[0]) / 2


def estimate_scaling(weights_by_depth: Sequence[Any]) -> ScalingEstimate:
    """Returns exponents of the depth from trained networks of several depths.

    Each exponent is the slope of a logarithm on log L, with L the depth and
    |.| the Frobenius norm of a layer.

    Args:
        weights_by_depth: sequence of array-likes of shape (L, ...). The
            weights of each network, finite and not all zero, with L >= 2; two
            or more different L, and layers of one shape.

    Returns:
        A `ScalingEstimate`: the exponents, and the continuous limit that they
        indicate.

    Raises:
        ValueError: If the weights are not such arrays.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> nets = [rng.standard_normal((L, 100)) / L**0.5 for L in (64, 256, 1024)]
    >>> estimate = estimate_scaling(nets)
    >>> round(estimate.exponent, 1), estimate.limit
    (0.5, 'sde')

    Reference: Cohen, Cont, Rossier & Xu, ICML (2021), arXiv:2105.12245. They
    take the largest norm; the root mean square, which has no bias of order
    log log L, and the bounds between the limits are chosen here.
    """
    nets = [_layers("weights_by_depth", net) for net in weights_by_depth]
    depth = np.array([len(net) for net in nets], float)
    if len(set(depth)) < 2 or depth.min() < 2:
        raise ValueError(
            "weights_by_depth must hold networks of two or more depths, each "
            f">= 2. Received: depths {depth.astype(int).tolist()}"
        )
    if len({net.shape[1] for net in nets}) > 1:
        raise ValueError(
            "weights_by_depth must hold layers of one shape, or width is "
            "mistaken for depth. "
            f"Received: layers of {[net.shape[1] for net in nets]} entries"
        )
    norms = [np.linalg.norm(net, axis=1) for net in nets]
    steps = [np.linalg.norm(np.diff(net, axis=0), axis=1) for net in nets]

    def slope(values: list[float]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.polyfit(np.log(depth), np.log(values), 1)[0])

    total = slope([math.sqrt(np.sum(norm**2)) for norm in norms])
    exponent = 0.5 - total
    if not all(step.any() for step in steps):
        # Layers that are all equal are as smooth as possible.
        return ScalingEstimate(exponent, total, -math.inf, -math.inf, "ode")
    increment = slope([step.max() for step in steps]) + exponent
    variation = slope([np.sum(step**2) for step in steps])
    limit = "sde" if abs(variation) <= _FLAT else "neither"
    return ScalingEstimate(
        exponent,
        total,
        increment,
        variation,
        "ode" if increment < _SMOOTH else limit,
    )


def _layers(name: str, weights: Any) -> np.ndarray:
    """Returns checked weights as a float64 array of shape (layers, entries)."""
    w = check_array(name, weights)
    if w.ndim < 2 or not w.any():
        raise ValueError(
            f"{name} must be finite numbers of shape (layers, ...), not all "
            f"zero. Received: {name}={weights!s:.200}"
        )
    return w.reshape(len(w), -1)
