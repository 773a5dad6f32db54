"""How the trained weights of a deep network vary over its depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of weights whose largest is 1.
_ROUNDING = 1e-12
# Sums of as many layers are compared at the most.
_LONGEST = 16
# Between the slope 0 of rough weights and -1 of smooth ones.
_SMOOTH = -0.5
# A slope that counts as none.
_FLAT = 0.15


class HurstEstimate(NamedTuple):
    """Hurst index of weights over depth.

    Attributes:
        hurst: 1/2 for independent layers, 1 for tied or smooth ones, less
            than 1/2 for layers that undo each other.
        without_mean: The same after the mean over the layers is taken off each
            entry. A common mean, however small, pulls `hurst` to 1; taking it
            off pulls the estimate of few layers down. NaN if all layers are
            equal.
    """

    hurst: float
    without_mean: float


class ScalingEstimate(NamedTuple):
    """How weights change with the depth L of the network they were trained in.

    Attributes:
        exponent: Their root mean square norm goes as L^(-exponent).
        root_sum_of_squares: Exponent of L in sqrt(sum_k |A_k|^2).
        increment: Exponent in L^exponent max_k |A_(k+1) - A_k|: -1 for weights
            that are smooth in depth, 0 for rough ones.
        quadratic_variation: Exponent in sum_k |A_(k+1) - A_k|^2.
        limit: "ode" if the weights are smooth in depth; "sde" if their
            quadratic variation stays as it is; "neither" otherwise. It says
            nothing of exponent.
    """

    exponent: float
    root_sum_of_squares: float
    increment: float
    quadratic_variation: float
    limit: str


def estimate_hurst(weights: np.ndarray) -> HurstEstimate:
    """Hurst index of the weights of one network, from layer to layer.

        v(m) = mean |w_(k+1) + ... + w_(k+m)|^2,    v(m) ~ m^(2 H)

    over all k and entries; H is half the slope of log v on log m, for m = 1,
    2, 4, ... up to 16 and to half the depth.

    Args:
        weights: Of L >= 4 layers of one shape: array-like, (L, ...), finite.

    Returns:
        The estimate, raw and without the mean. With 100 entries its standard
        deviation is 0.02 at 32 layers and 0.005 at 1000.

    Raises:
        ValueError: The weights are not such an array, or all zero.

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
    # So that squares neither vanish nor overflow.
    w = w / np.abs(w).max()
    varying = w - w.mean(axis=0)
    if np.abs(varying).max() <= _ROUNDING:
        return HurstEstimate(_hurst(w), math.nan)
    return HurstEstimate(_hurst(w), _hurst(varying))


def _hurst(w: np.ndarray) -> float:
    steps = 2 ** np.arange(1 + int(math.log2(min(_LONGEST, len(w) // 2))))
    path = np.concatenate([np.zeros((1, w.shape[1])), np.cumsum(w, axis=0)])
    squares = [np.mean((path[m:] - path[:-m]) ** 2) for m in steps]
    return float(np.polyfit(np.log(steps), np.log(squares), 1)[0]) / 2


def estimate_scaling(weights_by_depth: Sequence[np.ndarray]) -> ScalingEstimate:
    """Exponents of the weights in depth, from networks of several depths.

    With |.| the Frobenius norm of a layer, slopes of logarithms on log L.

    Args:
        weights_by_depth: For each network its weights, array-like of shape
            (L, ...) with L >= 2, finite; two or more different L, and layers
            of one shape.

    Returns:
        The exponents, and which continuous limit they speak for.

    Raises:
        ValueError: The weights are not such arrays.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> nets = [rng.standard_normal((L, 100)) / L**0.5 for L in (64, 256, 1024)]
    >>> found = estimate_scaling(nets)
    >>> round(found.exponent, 1), found.limit
    (0.5, 'sde')

    Reference: Cohen, Cont, Rossier & Xu, ICML (2021), arXiv:2105.12245. They
    take the largest norm where we take the root mean square, which has no bias
    of order log log L; the bounds between the limits are ours.
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
            "weights_by_depth must hold layers of one shape, or width is taken "
            f"for depth. Received: layers of {[n.shape[1] for n in nets]} "
            "entries"
        )
    norms = [np.linalg.norm(net, axis=1) for net in nets]
    steps = [np.linalg.norm(np.diff(net, axis=0), axis=1) for net in nets]

    def slope(values: list[float]) -> float:
        with np.errstate(divide="ignore"):
            return float(np.polyfit(np.log(depth), np.log(values), 1)[0])

    total = slope([math.sqrt(np.sum(norm**2)) for norm in norms])
    exponent = 0.5 - total
    if not all(step.any() for step in steps):
        # Equal in all layers: as smooth as can be.
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


def _layers(name: str, weights: np.ndarray) -> np.ndarray:
    """float64 of shape (layers, entries)."""
    try:
        w = np.asarray(weights, float)
    except (TypeError, ValueError):
        w = np.array(math.nan)
    if w.ndim < 2 or not (np.isfinite(w).all() and w.any()):
        raise ValueError(
            f"{name} must be finite numbers of shape (layers, ...), not all "
            f"zero. Received: {name}={weights!s:.200}"
        )
    return w.reshape(len(w), -1)
