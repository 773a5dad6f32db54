"""Residual networks of great depth: how the branch must be scaled.

    h_(k+1) = h_k + L^(-exponent) V_k phi(h_k)          one matrix a branch
    h_(k+1) = h_k + L^(-exponent) V_k phi(W_k h_k)      two

for k = 0, ..., L - 1, with weights of variance 1 / fan_in.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from keras_initx.theory.mean_field.activations import (
    ArrayFunction,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import second_moment
from keras_initx.validation import check_int, is_real

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
    activation: str | ArrayFunction = "relu",
    gradient: bool = False,
    **parameters: Any,
) -> float:
    """The exponent at which a deep residual net neither explodes nor idles.

        weights       one matrix    two matrices
        white         1/2           1/2
        smooth        1             1
        fractional    H             max(1/2, H) or max(1/2, 2 H - 1)

    Below it the signal explodes as the depth L grows, above it the network
    tends to the identity. The smaller value of two matrices holds where phi is
    odd, as tanh and linear, and for the gradient of these and of relu.

    Args:
        kind: Of the weights over depth, "white", "smooth" or "fractional", as
            in `initializers.DepthProcess`.
        hurst: H of "fractional", in (0, 1].
        matrices: Of independent paths in a branch, 1 or 2.
        activation: As in `correlation_map`.
        gradient: Whether of the gradient instead of the signal.
        **parameters: As in `correlation_map`.

    Returns:
        exponent.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> critical_exponent("smooth"), critical_exponent("fractional", hurst=0.7)
    (1.0, 0.7)

    Reference: Marion, Fermanian, Biau & Vert, JMLR 26(56), 2025,
    arXiv:2206.06929, who prove the case of white and that of smooth weights,
    and observe a range between for fractional ones. Fractional weights are
    derived here, to first order in the branch: the sum of L steps with one
    path grows as L^H. The product of two paths has the covariance
    g_m (mean^2 + g_m E phi'^2 ...), whose first term has the memory of one
    path, and whose second the exponent 2 H - 1 or, where it is summable, 1/2.
    The limit is far: at H = 0.7 and L = 1000 relu nets with two matrices
    balance at 0.61. Below H = 1/4 terms of the second order, which sum to
    L^(1/2 - 2 exponent), are not small at exponent = H: with one matrix, linear
    nets explode there, as seen at H = 0.05 and 0.1, and H is a lower bound.
    """
    if kind not in _KINDS:
        raise ValueError(
            f"kind must be one of {', '.join(_KINDS)}. Received: kind={kind!r}"
        )
    if not (is_real(hurst) and 0 < hurst <= 1):
        raise ValueError(f"hurst must be in (0, 1]. Received: hurst={hurst!r}")
    if not (is_real(matrices) and matrices in (1, 2)):
        raise ValueError(
            f"matrices must be 1 or 2. Received: matrices={matrices!r}"
        )
    phi = resolve(activation, parameters)
    if kind != "fractional":
        return 0.5 if kind == "white" else 1.0
    if matrices == 1:
        return float(hurst)
    # Points and weights are symmetric, so that of an odd phi nothing is left.
    z, weight = np.polynomial.hermite_e.hermegauss(100)
    odd = abs(weight @ phi.function(z)) < 1e-10
    return float(max(0.5, 2 * hurst - 1 if odd or gradient else hurst))


def residual_growth(
    depth: int,
    exponent: float = 0.5,
    activation: str | ArrayFunction = "relu",
    scale: float = 1.0,
    **parameters: Any,
) -> float:
    """Mean square of the signal after L residual branches of white weights.

        E |h_L|^2 / |h_0|^2       = (1 + energy L^(-2 exponent))^L
        E |h_L - h_0|^2 / |h_0|^2 = the same less 1
        energy = scale E phi(z)^2

    for independent weights V of mean 0 and variance 1 / fan_in. Exact, at any
    width, if phi is linear; and for piecewise linear phi with two matrices a
    branch, W symmetric in law and of variance scale / fan_in. With one matrix
    and relu it is the limit of a wide net whose input is of no sign: inputs
    that are all positive, as pixels, grow faster, since relu keeps all of them.
    Of other activations the energy is that of pre-activations of variance 1.
    The gradient of a sum of squares grows by the same factor.

    Args:
        depth: L, number of branches, an int >= 1.
        exponent: Of the scale L^(-exponent), finite.
        activation: As in `critical_scale`.
        scale: Variance of W times fan_in, finite and > 0.
        **parameters: As in `correlation_map`.

    Returns:
        The first ratio; inf where it is beyond float64.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> round(residual_growth(depth=1000), 4)
    1.6485

    Reference: derived here: the increments are uncorrelated. Marion,
    Fermanian, Biau & Vert, JMLR 26(56), 2025, arXiv:2206.06929, bound it.
    """
    rate = _log_growth(depth, exponent, activation, scale, parameters)
    return math.exp(rate) if rate < _LARGEST_LOG else math.inf


def residual_log_norm(
    depth: int,
    width: int,
    exponent: float = 0.5,
    activation: str | ArrayFunction = "relu",
    scale: float = 1.0,
    **parameters: Any,
) -> LogNorm:
    """Mean and variance of the normal limit of log(|h_L| / |h_0|).

        mean = S energy (1/2 - 1 / width),    variance = S energy / width
        S = L^(1 - 2 exponent)

    under the conditions of `residual_growth`, and with L^(-2 exponent) small.

    Args:
        depth: L, number of branches, an int >= 1.
        width: An int >= 1.
        exponent: Of the scale L^(-exponent), finite.
        activation: As in `critical_scale`.
        scale: As in `residual_growth`.
        **parameters: As in `correlation_map`.

    Returns:
        (mean, variance).

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> mean, variance = residual_log_norm(depth=1000, width=100)
    >>> round(mean, 3), round(variance**0.5, 4)
    (0.245, 0.0707)

    Reference: derived here, from the logarithm of one branch to the second
    order in its scale.
    """
    check_int("width", width, 1)
    _log_growth(depth, exponent, activation, scale, parameters)
    energy = scale * second_moment(resolve(activation, parameters))
    with np.errstate(over="ignore"):
        total = float(energy * np.exp((1 - 2 * exponent) * np.log(depth)))
    return LogNorm(total * (0.5 - 1 / width), total / width)


def _log_growth(
    depth: int,
    exponent: float,
    activation: str | ArrayFunction,
    scale: float,
    parameters: dict[str, Any],
) -> float:
    check_int("depth", depth, 1)
    if not is_real(exponent):
        raise ValueError(
            f"exponent must be a finite number. Received: exponent={exponent!r}"
        )
    if not (is_real(scale) and scale > 0):
        raise ValueError(
            f"scale must be finite and > 0. Received: scale={scale!r}"
        )
    energy = scale * second_moment(resolve(activation, parameters))
    # log1p of the energy L^(-2 exponent), which may be beyond float64.
    log_step = math.log(energy) - 2 * exponent * math.log(depth)
    return depth * float(np.logaddexp(0, log_step))
