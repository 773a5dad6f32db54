"""Residual networks of great depth: how their branches must be scaled.

    h_(k+1) = h_k + L^(-e) V_k phi(h_k)          one matrix per branch
    h_(k+1) = h_k + L^(-e) V_k phi(W_k h_k)      two matrices

for k = 0, ..., L - 1, with L the depth, e the exponent of the scale, and
weights V, W of variance 1 / fan_in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import ActivationLike, resolve
from keras_initx.theory.mean_field.quadrature import second_moment
from keras_initx.validation import (
    check_bool,
    check_choice,
    check_int,
    check_real,
)

_LARGEST_LOG = math.log(np.finfo(float).max)
_KINDS = ("white", "smooth", "fractional")


class LogNorm(NamedTuple):
    """Mean and variance of the normal limit of log(|h_L| / |h_0|).

    Attributes:
        mean: float. In nats.
        variance: float. In squared nats.
    """

    mean: float
    variance: float


def critical_exponent(
    kind: str = "white",
    hurst: float = 0.5,
    matrices: int = 1,
    activation: ActivationLike = "relu",
    gradient: bool = False,
    **parameters: Any,
) -> float:
    """Returns the exponent at which a deep residual net keeps its signal.

        weights       one matrix    two matrices
        white         1/2           1/2
        smooth        1             1
        fractional    H             max(1/2, H) or max(1/2, 2 H - 1)

    With a smaller exponent of the scale L^(-exponent) the signal explodes as
    the depth L grows; with a larger one the network tends to the identity. Two
    matrices have two values: the second, smaller one holds where phi is odd, as
    tanh and linear are, and for the gradient of these and of relu.

    Args:
        kind: str. How the weights vary over depth: "white", "smooth" or
            "fractional", as in `initializers.DepthProcess`. Defaults to
            "white".
        hurst: float. H of "fractional", in (0, 1]. Defaults to 0.5.
        matrices: int. Number of matrices in a branch with independent paths
            over depth, 1 or 2. Defaults to 1.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        gradient: bool. Whether the exponent is that of the gradient instead of
            the signal. Defaults to False.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The exponent, a float.

    Raises:
        ValueError: If an argument is outside its range, or `correlation_map`
            refuses the activation.

    Example:

    >>> critical_exponent("smooth"), critical_exponent("fractional", hurst=0.7)
    (1.0, 0.7)

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929, who prove the cases of white and of smooth weights, and
    observe a range between them for fractional ones. The exponents of
    fractional weights are derived here, to first order in the branch: the sum
    of L steps with one path grows as L^H. The product of two paths has the
    covariance g_m (mean^2 + g_m E phi'^2 ...), with g_m that of one path
    between layers m apart; its first term has the memory of one path, and its
    second the exponent 2 H - 1 or, where it is summable, 1/2. The limit is
    approached slowly: at H = 0.7 and L = 1000 relu nets with two matrices keep
    their signal at 0.61. Below H = 1/4 terms of the second order, which sum to
    L^(1/2 - 2 exponent), are not small at the exponent H: with one matrix,
    linear nets were seen to explode there at H = 0.05 and 0.1, and H is a
    lower bound.
    """
    kind = check_choice("kind", kind, _KINDS)
    hurst = check_real("hurst", hurst, "(0, 1]")
    matrices = check_int("matrices", matrices, 1, 2)
    gradient = check_bool("gradient", gradient)
    phi = resolve(activation, parameters)
    if kind != "fractional":
        return 0.5 if kind == "white" else 1.0
    if matrices == 1:
        return hurst
    # Points and weights are symmetric, so an odd phi sums to 0.
    z, weight = np.polynomial.hermite_e.hermegauss(100)
    odd = abs(weight @ phi.function(z)) < 1e-10
    return max(0.5, 2 * hurst - 1 if odd or gradient else hurst)


def residual_growth(
    depth: int,
    exponent: float = 0.5,
    activation: ActivationLike = "relu",
    scale: float = 1.0,
    **parameters: Any,
) -> float:
    """Returns the growth of the mean square through L residual branches.

        E |h_L|^2 / |h_0|^2       = (1 + energy L^(-2 exponent))^L
        E |h_L - h_0|^2 / |h_0|^2 = the same less 1
        energy = scale E phi(z)^2,    z ~ N(0, 1)

    for independent weights V of mean 0 and variance 1 / fan_in. It is exact,
    at any width, if phi is linear; and for piecewise linear phi with two
    matrices per branch if W has a symmetric distribution of variance
    scale / fan_in. With one matrix and relu it is the limit of a wide net whose
    input has entries of both signs: inputs that are all positive, as pixels
    are, grow faster, since relu keeps all of them. For other activations the
    energy is that of pre-activations of variance 1. The gradient of a sum of
    squares grows by the same factor.

    Args:
        depth: int. L, the number of branches, >= 1.
        exponent: float. The exponent of the scale L^(-exponent), finite.
            Defaults to 0.5.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        scale: float. The variance of W times its fan-in, finite and > 0.
            Defaults to 1.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The first ratio, a float; inf where it is beyond the range of float64.

    Raises:
        ValueError: If an argument is outside its range, or `correlation_map`
            refuses the activation.

    Example:

    >>> round(residual_growth(depth=1000), 4)
    1.6485

    Reference: derived here: the increments are uncorrelated. Marion,
    Fermanian, Biau & Vert, JMLR 26(56), 2025, arXiv:2206.06929, bound it.
    """
    depth, exponent, energy = _checked(
        depth, exponent, activation, scale, parameters
    )
    # L^(-2 exponent) may be beyond the range of float64; its logarithm is not.
    log_step = math.log(energy) - 2 * exponent * math.log(depth)
    log_growth = depth * float(np.logaddexp(0, log_step))
    return math.exp(log_growth) if log_growth < _LARGEST_LOG else math.inf


def residual_log_norm(
    depth: int,
    width: int,
    exponent: float = 0.5,
    activation: ActivationLike = "relu",
    scale: float = 1.0,
    **parameters: Any,
) -> LogNorm:
    """Returns mean and variance of the normal limit of log(|h_L| / |h_0|).

        mean = S energy (1/2 - 1 / width),    variance = S energy / width
        S = L^(1 - 2 exponent),    energy = scale E phi(z)^2,    z ~ N(0, 1)

    under the conditions of `residual_growth`, if L^(-2 exponent) is small.

    Args:
        depth: int. L, the number of branches, >= 1.
        width: int. The number of entries of h, >= 1.
        exponent: float. The exponent of the scale L^(-exponent), finite.
            Defaults to 0.5.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        scale: float. The variance of W times its fan-in, finite and > 0.
            Defaults to 1.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        (mean, variance); inf where they are beyond the range of float64.

    Raises:
        ValueError: If an argument is outside its range, or `correlation_map`
            refuses the activation.

    Example:

    >>> limit = residual_log_norm(depth=1000, width=100)
    >>> round(limit.mean, 3), round(limit.variance**0.5, 4)
    (0.245, 0.0707)

    Reference: derived here, from the logarithm of one branch to the second
    order in its scale.
    """
    width = check_int("width", width, 1)
    depth, exponent, energy = _checked(
        depth, exponent, activation, scale, parameters
    )
    with np.errstate(over="ignore"):
        total = float(energy * np.exp((1 - 2 * exponent) * np.log(depth)))
    return LogNorm(total * (0.5 - 1 / width), total / width)


def _checked(
    depth: int,
    exponent: float,
    activation: ActivationLike,
    scale: float,
    parameters: Mapping[str, Any],
) -> tuple[int, float, float]:
    """Returns the depth, the exponent and the energy, all checked."""
    depth = check_int("depth", depth, 1)
    exponent = check_real("exponent", exponent)
    scale = check_real("scale", scale, "(0, inf)")
    energy = scale * second_moment(resolve(activation, parameters))
    return depth, exponent, energy
