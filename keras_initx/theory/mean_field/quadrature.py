"""Gaussian averages of an activation, where no closed form is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import fft

from keras_initx.theory.mean_field.activations import (
    Activation,
    ArrayFunction,
    angle,
)

# Panels of the Gauss-Legendre rule: exp(-12^2 / 2) = 5e-32 is left out.
_PANELS = np.array([-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0])
# (nodes a panel, angles): each row must agree with the one before.
_REFINEMENTS = ((16, 48), (24, 64), (48, 128))
# Where phi is analytic between breakpoints the error falls exponentially in
# the nodes, and agreement of two rows to 1e-9 leaves far less in the second.
# Elsewhere the agreement itself is the accuracy.
_AGREED, _TOLERATED = 1e-9, 1e-6


def decorrelation(phi: Activation) -> Callable[[np.ndarray], np.ndarray]:
    """The map from eps = 1 - rho in [0, 2] to 1 - c(rho)."""
    exact = phi.decorrelation or _interpolated(phi)
    # Not np.clip, which is slow on the scalars of a recursion.
    return lambda eps: np.minimum(np.maximum(exact(eps), 0), 2)


def _interpolated(phi: Activation) -> ArrayFunction:
    """1 - c as eps g(theta), with g a Chebyshev series.

    At theta = 0, where phi(u) - phi(v) would have no digits left, g has the
    finite limit E[phi'^2] / E[phi^2]. A kink leaves odd powers of theta in c,
    so g is smooth on [0, pi] for kinked activations too.
    """
    moment = second_moment(phi)
    coarse = _ratio_series(phi, *_REFINEMENTS[0]) / moment
    for nodes, angles in _REFINEMENTS[1:]:
        fine = _ratio_series(phi, nodes, angles) / moment
        change = np.abs(fine - np.pad(coarse, (0, angles - len(coarse)))).sum()
        size = np.abs(fine).sum()
        if change <= _AGREED * size:
            break
        coarse = fine
    if not change <= _TOLERATED * size:
        raise _does_not_settle(phi)
    return lambda eps: eps * _cosine_series(fine, angle(eps))


def _does_not_settle(phi: Activation) -> ValueError:
    return ValueError(
        f"activation must be continuous, smooth but for its breakpoints, and "
        f"not much steeper than tanh(5 z): the quadrature does not settle to "
        f"{_TOLERATED}. Name the kinks, for example breakpoints=(-1, 1). "
        f"Received: activation={phi.name!r}, breakpoints={phi.breakpoints}"
    )


def _ratio_series(phi: Activation, nodes: int, angles: int) -> np.ndarray:
    """E[phi^2] (1 - c) / eps as a Chebyshev series in theta."""
    t = (np.arange(angles) + 0.5) * np.pi / angles
    theta = np.pi * np.sin(t / 2) ** 2
    squares = [_mean_square_difference(phi, a, nodes) for a in theta]
    ratio = np.array(squares) / (4 * np.sin(theta / 2) ** 2)
    series = fft.dct(ratio) / angles
    series[0] /= 2
    return series


def _cosine_series(series: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """sum_k series[k] cos(k t), where theta = pi sin^2(t/2)."""
    t = 2 * np.arcsin(np.sqrt(theta / np.pi))
    return np.cos(np.multiply.outer(t, np.arange(len(series)))) @ series


def _mean_square_difference(phi: Activation, theta: float, nodes: int) -> float:
    """E[(phi(u) - phi(v))^2] for standard normal u, v at angle theta.

    With independent standard normal x, y and c, s = cos, sin of theta / 2,

        u = c x - s y,  v = c x + s y     or     u = s y - c x,  v = s y + c x.

    phi has a kink b on the lines u = b and v = b, so each line of constant y
    is cut there. A Gauss-Hermite product rule cannot be cut, and converges
    only algebraically for relu and its kin. What is left is a smooth function
    of y, but where two cuts pass through each other.
    """
    kinks = np.array(phi.breakpoints)
    c, s, sign = math.cos(theta / 2), math.sin(theta / 2), 1.0
    if c < s:
        # The cuts must not move faster than y does.
        c, s, sign = s, c, -1.0
    crossings = np.subtract.outer(kinks, sign * kinks).ravel() / (2 * s)
    y, weight_y = _gaussian_rule(crossings, nodes)
    y = y[:, None]
    cuts = np.hstack([(sign * kinks + s * y) / c, (kinks - s * y) / c])
    x, weight_x = _gaussian_rule(cuts, nodes)
    difference = phi.function(sign * (c * x - s * y)) - phi.function(
        c * x + s * y
    )
    return float(weight_y @ np.sum(weight_x * difference**2, axis=1))


def _gaussian_rule(
    cuts: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of E[f(z)], z ~ N(0, 1), cut along the last axis."""
    panels = np.broadcast_to(_PANELS, (*cuts.shape[:-1], len(_PANELS)))
    edges = np.concatenate([panels, cuts], axis=-1)
    edges = np.sort(np.clip(edges, _PANELS[0], _PANELS[-1]), axis=-1)
    z, weights = gauss_legendre(edges, nodes)
    return z, weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def gauss_legendre(
    edges: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of an integral, panel by panel, on the last axis."""
    points, weights = leggauss(nodes)
    middle = (edges[..., 1:, None] + edges[..., :-1, None]) / 2
    half = (edges[..., 1:, None] - edges[..., :-1, None]) / 2
    shape = (*edges.shape[:-1], -1)
    return (middle + half * points).reshape(shape), (half * weights).reshape(
        shape
    )


def second_moment(phi: Activation) -> float:
    """E[phi(z)^2], z ~ N(0, 1)."""
    moment = phi.second_moment
    if moment is None:
        coarse, moment = (_mean_square(phi, nodes) for nodes in (64, 128))
        if abs(moment - coarse) > _TOLERATED * moment:
            raise _does_not_settle(phi)
    if not 0 < moment < math.inf:
        raise ValueError(
            f"activation must have a finite, positive mean square under a "
            f"standard normal. Received: activation={phi.name!r}, "
            f"which has {moment}"
        )
    return moment


def _mean_square(phi: Activation, nodes: int) -> float:
    z, weights = _gaussian_rule(np.array(phi.breakpoints), nodes)
    with np.errstate(over="ignore"):
        squares = phi.function(z) ** 2
    tails = squares[[0, -1]] * np.exp(-(z[[0, -1]] ** 2) / 2)
    moment = float(weights @ squares)
    return moment if (tails <= 1e-12 * moment).all() else math.inf
