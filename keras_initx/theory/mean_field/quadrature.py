"""Gaussian averages of an activation by quadrature.

They stand in wherever no closed form is known. All of it is derived here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import fft

from keras_initx.theory.mean_field.activations import (
    ArrayFunction,
    Nonlinearity,
    angle,
)

# Ends of the panels of the Gauss-Legendre rule. The density beyond is below
# exp(-12^2 / 2) = 5e-32.
_PANELS = np.array([-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0])
# Nodes per panel and number of angles. Each row is compared with the one
# before.
_REFINEMENTS = ((16, 48), (24, 64), (48, 128))
# If phi is analytic between its breakpoints the error falls exponentially with
# the number of nodes, so where two rows agree to 1e-9 the error of the second
# is far smaller. For any other phi the agreement itself is the accuracy.
_AGREED, _TOLERATED = 1e-9, 1e-6


def decorrelation(phi: Nonlinearity) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the map from eps = 1 - rho in [0, 2] to 1 - c(rho) in [0, 2]."""
    exact = phi.decorrelation or _interpolated(phi)
    # np.clip is slow on the scalars of a recursion.
    return lambda eps: np.minimum(np.maximum(exact(eps), 0), 2)


def _interpolated(phi: Nonlinearity) -> ArrayFunction:
    """Returns the map 1 - c = eps g(theta), with g a Chebyshev series.

    Here eps = 1 - cos(theta). At theta = 0, where the difference
    phi(u) - phi(v) would lose all its digits, g has the finite limit
    E phi'(z)^2 / E phi(z)^2. A kink of phi leaves odd powers of theta in c, so
    g is smooth on [0, pi] for activations with kinks too.
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


def _does_not_settle(phi: Nonlinearity) -> ValueError:
    return ValueError(
        f"activation must be continuous, smooth except at its breakpoints, and "
        f"not much steeper than tanh(5 z): the quadrature does not settle to "
        f"{_TOLERATED}. Name the kinks, for example breakpoints=(-1, 1). "
        f"Received: activation={phi.name!r}, breakpoints={phi.breakpoints}"
    )


def _ratio_series(phi: Nonlinearity, nodes: int, angles: int) -> np.ndarray:
    """Returns the Chebyshev series in theta of E phi(z)^2 (1 - c) / eps."""
    t = (np.arange(angles) + 0.5) * np.pi / angles
    theta = np.pi * np.sin(t / 2) ** 2
    squares = [_mean_square_difference(phi, a, nodes) for a in theta]
    ratio = np.array(squares) / (4 * np.sin(theta / 2) ** 2)
    series = fft.dct(ratio) / angles
    series[0] /= 2
    return series


def _cosine_series(series: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Returns sum_k series[k] cos(k t), where theta = pi sin(t / 2)^2."""
    t = 2 * np.arcsin(np.sqrt(theta / np.pi))
    return np.cos(np.multiply.outer(t, np.arange(len(series)))) @ series


def _mean_square_difference(
    phi: Nonlinearity, theta: float, nodes: int
) -> float:
    """Returns E (phi(u) - phi(v))^2 for standard normal u, v at angle theta.

    With independent standard normal x, y, c = cos(theta / 2) and
    s = sin(theta / 2),

        u = c x - s y,  v = c x + s y     or     u = s y - c x,  v = s y + c x.

    A kink b of phi lies on the lines u = b and v = b, so the integral over x
    at constant y is cut there. (A Gauss-Hermite product rule cannot be cut,
    and converges only algebraically for activations with kinks.) The result is
    a smooth function of y except where two cuts cross, so the integral over y
    is cut at the crossings.
    """
    kinks = np.array(phi.breakpoints)
    c, s, sign = math.cos(theta / 2), math.sin(theta / 2), 1.0
    if c < s:
        # This choice keeps the cuts from moving faster than y.
        c, s, sign = s, c, -1.0
    crossings = np.subtract.outer(kinks, sign * kinks).ravel() / (2 * s)
    y, weight_y = gaussian_rule(crossings, nodes)
    y = y[:, None]
    cuts = np.hstack([(sign * kinks + s * y) / c, (kinks - s * y) / c])
    x, weight_x = gaussian_rule(cuts, nodes)
    difference = phi.function(sign * (c * x - s * y)) - phi.function(
        c * x + s * y
    )
    return float(weight_y @ np.sum(weight_x * difference**2, axis=1))


def gaussian_rule(
    cuts: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and weights of E f(z), z ~ N(0, 1), cut on axis -1."""
    panels = np.broadcast_to(_PANELS, (*cuts.shape[:-1], len(_PANELS)))
    edges = np.concatenate([panels, cuts], axis=-1)
    edges = np.sort(np.clip(edges, _PANELS[0], _PANELS[-1]), axis=-1)
    z, weights = gauss_legendre(edges, nodes)
    return z, weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def gauss_legendre(
    edges: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and weights of an integral, panel by panel.

    Args:
        edges: float64 array of shape (..., panels + 1). Ends of the panels, in
            ascending order.
        nodes: int. Nodes of the Gauss-Legendre rule per panel.

    Returns:
        Two float64 arrays of shape (..., panels * nodes).
    """
    points, weights = _legendre(nodes)
    middle = (edges[..., 1:, None] + edges[..., :-1, None]) / 2
    half = (edges[..., 1:, None] - edges[..., :-1, None]) / 2
    shape = (*edges.shape[:-1], -1)
    return (middle + half * points).reshape(shape), (half * weights).reshape(
        shape
    )


@functools.cache
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and weights of the Gauss-Legendre rule on [-1, 1]."""
    return np.polynomial.legendre.leggauss(nodes)


def panel_slopes(
    values: np.ndarray, points: np.ndarray, nodes: int
) -> np.ndarray:
    """Returns the slopes of a function at the points of `gauss_legendre`.

    On each panel they are those of the polynomial through the values.

    Args:
        values: float64 array of shape (..., panels * nodes). The values.
        points: float64 array of that shape. The points.
        nodes: int. Nodes per panel.

    Returns:
        Array of that shape, 0 on panels of width 0.
    """
    x, _ = _legendre(nodes)
    shape = (*values.shape[:-1], -1, nodes)
    ends = points.reshape(shape)[..., [0, -1]]
    half = (ends[..., 1] - ends[..., 0]) / (x[-1] - x[0])
    slopes = values.reshape(shape) @ _differentiation(nodes).T
    inverse = np.divide(1, half, out=np.zeros_like(half), where=half > 0)
    return (slopes * inverse[..., None]).reshape(values.shape)


def second_moment(phi: Nonlinearity) -> float:
    """Returns E phi(z)^2 for z ~ N(0, 1).

    Raises:
        ValueError: If it is 0 or infinite, or the quadrature does not settle.
    """
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


def _mean_square(phi: Nonlinearity, nodes: int) -> float:
    z, weights = gaussian_rule(np.array(phi.breakpoints), nodes)
    with np.errstate(over="ignore"):
        squares = phi.function(z) ** 2
    tails = squares[[0, -1]] * np.exp(-(z[[0, -1]] ** 2) / 2)
    moment = float(weights @ squares)
    return moment if (tails <= 1e-12 * moment).all() else math.inf


class GaussianMoments(NamedTuple):
    """Averages of phi(x) and its derivative over x ~ N(0, q).

    Attributes:
        square: E phi(x)^2.
        slope: d/dq E phi(x)^2.
        derivative_square: E phi'(x)^2.
        derivative_fourth: E phi'(x)^4.
    """

    square: float
    slope: float
    derivative_square: float
    derivative_fourth: float


def gaussian_moments(phi: Nonlinearity, variance: float) -> GaussianMoments:
    """Returns averages of phi and its derivative at a variance.

    On each panel of the quadrature phi is a polynomial through its values, and
    that polynomial is differentiated. Panels end at the breakpoints and are
    halved until nothing changes.

    Args:
        phi: Nonlinearity. The activation, which must be continuous.
        variance: float. The variance q, > 0.

    Raises:
        ValueError: If phi jumps, if a moment is infinite, or if the
            quadrature does not settle.
    """
    sigma = math.sqrt(variance)
    _check_continuous(phi, sigma)
    cuts = np.array([b / sigma for b in phi.breakpoints])
    coarse, _ = _moments_on_panels(phi, sigma, cuts, 24)
    for panels in (48, 96, 192, 384, 768):
        fine, sizes = _moments_on_panels(phi, sigma, cuts, panels)
        with np.errstate(invalid="ignore"):
            change = float(np.max(np.abs(fine - coarse) / (sizes + 1e-300)))
        if change <= _SETTLED:
            break
        coarse = fine
    if not np.isfinite(fine).all() or not change <= _TOLERATED:
        raise _does_not_settle(phi)
    square, weighted, first, second = map(float, fine)
    return GaussianMoments(square, weighted / sigma, first, second)


def _moments_on_panels(
    phi: Nonlinearity, sigma: float, cuts: np.ndarray, panels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns E phi^2, E z phi phi', E phi'^2 and E phi'^4 at x = sigma z.

    The second array has the averages of the absolute values.
    """
    edges = np.linspace(_PANELS[0], _PANELS[-1], panels + 1)
    inside = cuts[(cuts > edges[0]) & (cuts < edges[-1])]
    edges = np.unique(np.concatenate([edges, inside]))
    z, weights = gauss_legendre(edges, _NODES)
    weights = weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    with np.errstate(over="ignore", invalid="ignore"):
        value = phi.function(sigma * z)
        slope = panel_slopes(value, z, _NODES) / sigma
        values = np.stack(
            [value**2, z * value * slope, slope**2, slope**4], axis=-1
        )
        parts = weights[:, None] * np.abs(values)
        sizes = parts.sum(0)
        # The quadrature leaves out what lies beyond its ends.
        tails = parts[:_NODES].sum(0) + parts[-_NODES:].sum(0)
        sums = np.where(tails <= 1e-10 * sizes, weights @ values, math.inf)
        return sums, sizes


@functools.cache
def _differentiation(nodes: int) -> np.ndarray:
    """Returns the matrix from values at the nodes to those of the slope."""
    x, _ = _legendre(nodes)
    gaps = np.subtract.outer(x, x) + np.eye(nodes)
    # Logarithms, since the products of many gaps are tiny.
    log = np.log(np.abs(gaps)).sum(1)
    sign = np.prod(np.sign(gaps), axis=1)
    ratio = np.exp(np.subtract.outer(log, log)) * np.multiply.outer(sign, sign)
    matrix = ratio / gaps
    np.fill_diagonal(matrix, 0)
    # A constant has the slope 0.
    np.fill_diagonal(matrix, -matrix.sum(1))
    return matrix


def _check_continuous(phi: Nonlinearity, sigma: float) -> None:
    """Refuses a function that jumps at one of its breakpoints."""
    points = np.array(phi.breakpoints)
    points = points[np.abs(points) < _PANELS[-1] * sigma]
    step = 1e-9 * np.maximum(1, np.abs(points))
    jump = np.abs(phi.function(points + step) - phi.function(points - step))
    size = np.abs(phi.function(points)) + 1
    if (jump > 1e-6 * size).any():
        raise ValueError(
            "activation must be continuous: the derivative of a jump has no "
            f"mean square. Received: activation={phi.name!r}, which jumps at "
            f"{points[int((jump / size).argmax())]:.4g}"
        )


# Nodes on a panel. More nodes would multiply rounding by their square.
_NODES = 12
_SETTLED = 1e-14
