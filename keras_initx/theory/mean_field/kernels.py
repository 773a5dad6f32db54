"""Kernels of infinitely wide networks on given inputs.

The kernel of the Gaussian process (NNGP) is the covariance of the outputs of
random networks, and the tangent kernel (NTK) that of gradient descent on a wide
network. Both need E phi(u) phi(v) and E phi'(u) phi'(v) for normal u and v,
which have closed forms for relu-like activations, and a Hermite series for
smooth ones. Other activations with kinks are integrated for each pair of
inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    Nonlinearity,
    resolve,
)
from keras_initx.theory.mean_field.gaussian_products import (
    Function,
    product_and_slopes,
)
from keras_initx.theory.mean_field.quadrature import (
    gauss_legendre,
    gaussian_moments,
)
from keras_initx.validation import check_array, check_int, check_real, refuse

# The number of Hermite polynomials, and the largest share that the last 16 of
# them may have in the sum, so that the series counts as converged.
_TERMS, _SETTLED = 240, 1e-9
# The nodes of the quadrature, more where its diagonal differs by more than the
# first number from the exact one. A difference above the second is refused.
_NODES, _AGREED, _TOLERATED = (20, 40, 80), 1e-10, 1e-7


def nngp_kernel(
    x: Any,
    depth: int,
    activation: ActivationLike = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    y: Any = None,
    **parameters: Any,
) -> np.ndarray:
    """Returns the covariance of the outputs of infinitely wide networks.

        K_0(x, y) = weight_variance x.y / dimensions + bias_variance
        K_(l+1)   = weight_variance E phi(u) phi(v) + bias_variance

    for normal u, v of mean 0 with the covariances K_l, and l < depth: a random
    network with `depth` hidden layers is a Gaussian process with the kernel
    K_depth.

    Args:
        x: array-like of shape `(samples, dimensions)`. The inputs, of which
            none is 0 unless there is a bias.
        depth: int. The number of hidden layers, >= 0.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. One with kinks, other than linear, relu and
            leaky_relu, takes a few milliseconds for each pair of inputs and
            each layer, and one that jumps is refused. Defaults to "relu".
        weight_variance: float. The variance of the weights times the fan-in,
            above 0. Defaults to 2.
        bias_variance: float. The variance of the biases, >= 0. Defaults to 0.
        y: array-like of shape `(others, dimensions)`. Other inputs. Defaults
            to x.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        A float64 array of shape `(samples, others)`.

    Raises:
        ValueError: If an argument is out of range or of another shape, if an
            input is 0 without bias, or if the activation jumps, is too steep,
            or has kinks that `breakpoints` does not name.

    Example:

    >>> x = [[1, 0, 1], [0, 1, 1], [1, 1, -1]]
    >>> nngp_kernel(x, 2, "relu", 2.0, 0.1)[0].round(4)
    array([1.6333, 1.2009, 1.0796])

    Reference: Matthews et al., ICLR (2018), arXiv:1804.11271. The averages
    of relu are those of Cho & Saul, NeurIPS 22 (2009); the Hermite series and
    the quadrature of other activations are derived here.
    """
    return _kernels(
        x, y, depth, activation, weight_variance, bias_variance, parameters
    )[0]


def tangent_kernel(
    x: Any,
    depth: int,
    activation: ActivationLike = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    y: Any = None,
    **parameters: Any,
) -> np.ndarray:
    """Returns the tangent kernel of infinitely wide networks.

        T_0 = K_0,    T_(l+1) = K_(l+1) + weight_variance T_l E phi'(u) phi'(v)

    with K of `nngp_kernel`: the sum over weights and biases of the products of
    derivatives by them, where a layer is sqrt(weight_variance / fan_in) W x +
    sqrt(bias_variance) b and W, b are standard normal. Gradient descent on an
    infinitely wide network of this form follows that kernel.

    Args:
        x: array-like of shape `(samples, dimensions)`. As in `nngp_kernel`.
        depth: int. The number of hidden layers, >= 0.
        activation: str, callable or Activation. As in `nngp_kernel`.
        weight_variance: float. As in `nngp_kernel`.
        bias_variance: float. As in `nngp_kernel`.
        y: array-like of shape `(others, dimensions)`. As in `nngp_kernel`.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        A float64 array of shape `(samples, others)`.

    Raises:
        ValueError: As `nngp_kernel` does.

    Example:

    >>> x = [[1, 0, 1], [0, 1, 1], [1, 1, -1]]
    >>> tangent_kernel(x, 2, "relu", 2.0, 0.1)[0].round(4)
    array([4.6   , 2.3129, 1.5515])

    Reference: Jacot, Gabriel & Hongler, NeurIPS 31 (2018), arXiv:1806.07572.
    The averages are those of `nngp_kernel`.
    """
    return _kernels(
        x, y, depth, activation, weight_variance, bias_variance, parameters
    )[1]


def _kernels(
    x: Any,
    y: Any,
    depth: int,
    activation: ActivationLike,
    weight_variance: float,
    bias_variance: float,
    parameters: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns K_depth and T_depth."""
    x = _inputs("x", x)
    y = x if y is None else _inputs("y", y)
    if x.shape[1] != y.shape[1]:
        refuse(
            "x and y must have equally many dimensions.",
            x=f"array of shape {x.shape}",
            y=f"array of shape {y.shape}",
        )
    depth = check_int("depth", depth, 0)
    phi = resolve(activation, parameters)
    weight = check_real("weight_variance", weight_variance, "(0, inf)")
    bias = check_real("bias_variance", bias_variance, "[0, inf)")
    share = weight / x.shape[1]
    kernel = share * (x @ y.T) + bias
    sides = [share * np.sum(side**2, axis=1) + bias for side in (x, y)]
    if depth and not all((side > 0).all() for side in sides):
        refuse(
            "x and y must have no input that is 0 if there is no bias.",
            bias_variance=bias,
        )
    tangent = kernel.copy()
    averages = _averages_of(phi)
    for _ in range(depth):
        size = np.sqrt(np.multiply.outer(*sides))
        correlation = np.clip(kernel / size, -1, 1)
        average = averages(sides[0], sides[1], correlation)
        kernel = weight * average.product + bias
        tangent = kernel + weight * tangent * average.slopes
        sides = [
            weight * square + bias
            for square in (average.squares, average.other_squares)
        ]
    return kernel, tangent


def _inputs(name: str, value: Any) -> np.ndarray:
    array = check_array(name, value)
    if array.ndim != 2 or 0 in array.shape:
        received: dict[str, Any] = {name: f"array of shape {array.shape}"}
        refuse(f"{name} must have the shape (samples, dimensions).", **received)
    return array


class _Averages(NamedTuple):
    """Averages over normal u and v of given variances and correlations.

    Attributes:
        product: E phi(u) phi(v).
        slopes: E phi'(u) phi'(v).
        squares: E phi(u)^2.
        other_squares: E phi(v)^2.
    """

    product: np.ndarray
    slopes: np.ndarray
    squares: np.ndarray
    other_squares: np.ndarray


_Average = Callable[[np.ndarray, np.ndarray, np.ndarray], _Averages]


def _averages_of(phi: Nonlinearity) -> _Average:
    """Returns the function from variances and correlations to averages."""
    if phi.negative_slope is not None:
        return lambda p, q, rho: _piecewise_linear(
            phi.negative_slope, p, q, rho
        )
    return lambda p, q, rho: (
        _by_hermite(phi, p, q, rho) or _by_quadrature(phi, p, q, rho)
    )


def _piecewise_linear(
    slope: float | None, p: np.ndarray, q: np.ndarray, rho: np.ndarray
) -> _Averages:
    """Returns the averages of leaky relu, by those of Cho & Saul (2009).

    It is (1 + a) / 2 z + (1 - a) / 2 |z|, of which the products of the odd and
    the even part vanish on average.
    """
    a = 0.0 if slope is None else slope
    odd, even = ((1 + a) / 2) ** 2, ((1 - a) / 2) ** 2
    angle = np.arccos(rho)
    size = np.sqrt(np.multiply.outer(p, q))
    # E |u v| and E sign(u v).
    absolute = 2 / math.pi * (np.sqrt(1 - rho**2) + rho * np.arcsin(rho))
    signs = 1 - 2 * angle / math.pi
    return _Averages(
        size * (odd * rho + even * absolute),
        odd + even * signs,
        (odd + even) * p,
        (odd + even) * q,
    )


def _by_hermite(
    phi: Nonlinearity, p: np.ndarray, q: np.ndarray, rho: np.ndarray
) -> _Averages | None:
    """Returns the averages of a smooth function by its Hermite series.

    None if the series does not settle, as after kinks or steep slopes.

    With phi(sqrt(q) z) = sum_k a_k(q) h_k(z), where the h_k are orthonormal,

        E phi(u) phi(v) = sum_k a_k(p) a_k(q) rho^k
        E phi'(u) phi'(v) = sum_k k a_k(p) a_k(q) rho^(k-1) / sqrt(p q)
    """
    k = np.arange(_TERMS)
    with np.errstate(over="ignore", invalid="ignore"):
        left, right = _hermite(phi, p), _hermite(phi, q)
        for series in (left, right):
            parts = k * series**2
            # Infinite values, which make NaN, have not settled.
            if not (parts[:, -16:].sum(1) <= _SETTLED * parts.sum(1)).all():
                return None
    product = np.zeros_like(rho)
    slopes = np.zeros_like(rho)
    for i in range(_TERMS - 1, -1, -1):
        term = np.multiply.outer(left[:, i], right[:, i])
        product = product * rho + term
        if i:
            slopes = slopes * rho + i * term
    return _Averages(
        product,
        slopes / np.sqrt(np.multiply.outer(p, q)),
        (left**2).sum(1),
        (right**2).sum(1),
    )


def _by_quadrature(
    phi: Nonlinearity, p: np.ndarray, q: np.ndarray, rho: np.ndarray
) -> _Averages:
    """Returns the averages of a function with kinks, pair by pair.

    Raises:
        ValueError: If the function jumps, or the quadrature does not agree
            with that of a single variable, where both variables are equal.
    """
    function = Function(phi.function, phi.breakpoints)
    alone = {v: gaussian_moments(phi, v) for v in {*p.tolist(), *q.tolist()}}
    variances = np.array(list(alone))
    exact = np.array([(m.square, m.derivative_square) for m in alone.values()])
    for nodes in _NODES:
        diagonal = np.stack(
            product_and_slopes(
                function, variances, variances, variances, nodes
            ),
            axis=1,
        )
        error = float(np.max(np.abs(diagonal - exact) / exact))
        if error <= _AGREED:
            break
    if not error <= _TOLERATED:
        refuse(
            "activation must be smooth except at its breakpoints, and not too "
            f"steep: the quadrature is off by {error:.2g}. Name the kinks, for "
            "example breakpoints=(-1, 1).",
            activation=phi.name,
            breakpoints=phi.breakpoints,
        )
    # Both variables have the same function, so their order does not matter.
    sides = np.sort(np.stack(np.meshgrid(p, q, indexing="ij")), axis=0)
    columns = np.concatenate([sides.reshape(2, -1), rho.reshape(1, -1)])
    pairs, inverse = np.unique(columns, axis=1, return_inverse=True)
    low, high, correlation = pairs
    product, slopes = product_and_slopes(
        function, low, high, correlation * np.sqrt(low * high), nodes
    )
    return _Averages(
        product[inverse.ravel()].reshape(rho.shape),
        slopes[inverse.ravel()].reshape(rho.shape),
        np.array([alone[v].square for v in p.tolist()]),
        np.array([alone[v].square for v in q.tolist()]),
    )


def _hermite(phi: Nonlinearity, variances: np.ndarray) -> np.ndarray:
    """Returns the coefficients of phi(sqrt(q) z), a row for each variance."""
    # Polynomials of this order oscillate within +-2 sqrt(order).
    edges = np.linspace(-38, 38, 153)
    z, weights = gauss_legendre(edges, 12)
    polynomials = np.empty((_TERMS, z.size))
    # With the root of the density, which keeps them of size 1.
    polynomials[0] = np.exp(-(z**2) / 4) / (2 * math.pi) ** 0.25
    polynomials[1] = z * polynomials[0]
    for i in range(2, _TERMS):
        polynomials[i] = (
            z * polynomials[i - 1] - math.sqrt(i - 1) * polynomials[i - 2]
        ) / math.sqrt(i)
    weights = weights * polynomials[0]
    unique, index = np.unique(variances, return_inverse=True)
    values = np.stack([phi.function(math.sqrt(v) * z) for v in unique])
    return ((values * weights) @ polynomials.T)[index]
