"""Fixed points of the signal at infinite width, and the edge of chaos.

A plain network has weights of variance weight_variance / fan_in and biases of
variance bias_variance. The variance q of its pre-activations becomes in the
next layer

    V(q) = weight_variance E phi(sqrt(q) z)^2 + bias_variance,    z ~ N(0, 1)

and the correlation rho of two samples, at q = V(q),

    R(rho) = (weight_variance E phi(u) phi(v) + bias_variance) / q

for normal u and v of variance q and correlation rho. A fixed point is q = V(q)
with rho = R(rho); the factors by which deviations from it grow are V'(q), which
is called chi_q, and R'(rho). At rho = 1 the slope R'(1) is called chi_1, which
also is the growth of squared gradients. The edge of chaos is chi_1 = 1.

Reference: Poole et al., NeurIPS 29 (2016), arXiv:1606.05340; Schoenholz et al.,
ICLR (2017), arXiv:1611.01232.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
from scipy import optimize

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    Nonlinearity,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import (
    decorrelation,
    gaussian_moments,
)
from keras_initx.theory.mean_field.variance import UNSTABLE
from keras_initx.validation import check_real, refuse

# A fixed point is searched for between these variances.
_SMALLEST, _LARGEST = 1e-9, 1e9


class SignalFixedPoint(NamedTuple):
    """Where the signal of a plain network ends up, and how fast.

    Attributes:
        variance: float. The variance q* of the pre-activations.
        gradient_growth: float. chi_1, the factor by which squared gradients
            grow in a layer, as do the squares of small differences between
            samples.
        stability: float. chi_q, the factor by which a deviation of the
            variance grows in a layer. Above 1 the variance leaves q*.
        correlation: float. The correlation c* that two samples tend to.
        correlation_slope: float. The factor by which a deviation of the
            correlation from c* shrinks in a layer.
        variance_depth: float. The number of layers in which a deviation of
            the variance falls to 1 / e; inf if it does not.
        correlation_depth: float. The same for the correlation.
        gradient_depth: float. The number of layers in which squared gradients
            grow or shrink by a factor of e; inf if they do neither.
    """

    variance: float
    gradient_growth: float
    stability: float
    correlation: float
    correlation_slope: float
    variance_depth: float
    correlation_depth: float
    gradient_depth: float


class EdgeOfChaos(NamedTuple):
    """Variances of weights and biases at which gradients keep their size.

    Attributes:
        weight_variance: float. The variance of the weights times the fan-in:
            the `scale` of `keras.initializers.VarianceScaling` in mode
            "fan_in".
        bias_variance: float. The variance of the biases.
        variance: float. The variance q of the pre-activations.
        gradient_growth: float. chi_1, which is 1 at the edge.
        stability: float. chi_q, the factor by which a deviation of the
            variance grows in a layer.
        isometry: float. E phi'^4 / (E phi'^2)^2, which is 1 for a linear
            function. The larger it is, the more the squared singular values
            of the Jacobian differ after each layer, see `jacobian_moments`.
        stable: bool. Whether a deviation of the variance dies away: whether
            `stability` is below 1.
    """

    weight_variance: float
    bias_variance: float
    variance: float
    gradient_growth: float
    stability: float
    isometry: float
    stable: bool


def signal_fixed_point(
    activation: ActivationLike = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    **parameters: Any,
) -> SignalFixedPoint:
    """Returns the fixed point of the signal of a plain network.

    The variance of the pre-activations and the correlation of two samples tend
    to it from layer to layer, at infinite width:

        q* = weight_variance E phi(sqrt(q*) z)^2 + bias_variance
        chi_1 = weight_variance E phi'(sqrt(q*) z)^2
        chi_q = weight_variance d/dq E phi(sqrt(q) z)^2  at q*
        c* = R(c*),    R(rho) = (weight_variance E phi(u) phi(v)
                                 + bias_variance) / q*

    where u and v are normal with the variance q* and the correlation rho. If
    chi_1 is below 1 (the ordered phase), gradients vanish and all samples
    become alike: c* = 1. If it is above 1 (the chaotic phase), gradients
    explode and samples tend to a correlation c* < 1, however alike they were.
    `edge_of_chaos` returns variances at which chi_1 is 1.

    If there are several fixed points, this is the one that a signal of variance
    1 tends to. For relu, leaky_relu and linear at their `critical_scale`
    without bias every variance is a fixed point, and 1 is returned.

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        weight_variance: float. The variance of the weights times the fan-in,
            above 0. Defaults to 2.
        bias_variance: float. The variance of the biases, >= 0. Defaults to 0.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        A `SignalFixedPoint`. Depths are -1 / log of a factor.

    Raises:
        ValueError: If an argument is out of range, if the variance falls to 0
            or grows without bound, or if `correlation_map` refuses the
            activation.

    Example:

    >>> point = signal_fixed_point("tanh", 3.0, 0.05)
    >>> round(point.variance, 6), round(point.gradient_growth, 6)
    (1.428008, 1.208934)
    >>> round(point.correlation, 6), round(point.gradient_depth, 4)
    (0.299318, 5.2704)

    Reference: Poole et al., NeurIPS 29 (2016), arXiv:1606.05340; Schoenholz et
    al., ICLR (2017), arXiv:1611.01232, for the depths. The quadrature is
    derived here.
    """
    phi = resolve(activation, parameters)
    weight = check_real("weight_variance", weight_variance, "(0, inf)")
    bias = check_real("bias_variance", bias_variance, "[0, inf)")
    variance = _fixed_variance(phi, weight, bias)
    moments = gaussian_moments(phi, variance)
    growth = weight * moments.derivative_square
    stability = weight * moments.slope
    correlation, slope = 1.0, growth
    if growth > UNSTABLE:
        share = weight * moments.square / variance
        correlation, slope = _chaotic_correlation(phi, variance, share)
    return SignalFixedPoint(
        variance,
        growth,
        stability,
        correlation,
        slope,
        _decay_depth(stability),
        _decay_depth(slope),
        math.inf if abs(growth - 1) < 1e-12 else 1 / abs(math.log(growth)),
    )


def edge_of_chaos(
    activation: ActivationLike = "relu",
    variance: float | None = None,
    bias_variance: float | None = None,
    **parameters: Any,
) -> EdgeOfChaos:
    """Returns variances of weights and biases that keep gradients.

    On the edge of chaos, at infinite width,

        weight_variance = 1 / E phi'(sqrt(q) z)^2,    z ~ N(0, 1)
        bias_variance = q - weight_variance E phi(sqrt(q) z)^2

    With these the pre-activations keep the variance q, and squared gradients
    neither grow nor shrink with depth. Differences between samples die away
    slowly, like a power of the depth. Each activation has a family of such
    points, one for each q at which `bias_variance` is not negative; give q, or
    the variance of the biases.

        activation   weight_variance              stability
        relu         2, without bias, at any q    1
        leaky_relu   2 / (1 + a^2), likewise      1
        erf          pi / 4 sqrt(1 + 4 q)         1 / (1 + 2 q)
        sine         1 + tanh(q)                  1 - tanh(q)

    For gelu, silu and mish the point is unstable over a wide range of q: the
    variance of a deep network leaves it, and a warning says so. (Paired weights
    keep such a network linear at the start, see `initializers.Paired`.)
    softplus has no such point at any q.

    The smaller bias_variance / q, the nearer is the correlation map to the
    identity. An activation that is linear on [-a, a] with a large `a`, as
    `layers.HardTanh`, allows a larger bias variance, and its Jacobian is nearer
    to an isometry (`isometry` is nearer to 1).

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        variance: float. The variance q of the pre-activations, > 0. Defaults
            to 1 if `bias_variance` is not given either.
        bias_variance: float. The variance of the biases, >= 0, in place of
            `variance`. If several q belong to it, the one nearest to 1 is
            returned, of those that are stable if there are any.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        An `EdgeOfChaos`. The biases are to be drawn as well, as in
        `keras.initializers.RandomNormal(0, sqrt(bias_variance))`.

    Raises:
        ValueError: If an argument is out of range or both are given, if the
            activation has no edge of chaos there, or if `correlation_map`
            refuses the activation.

    Warns:
        UserWarning: If `stability` is above 1.

    Example:

    >>> point = edge_of_chaos("tanh", bias_variance=0.1)
    >>> round(point.weight_variance, 6), round(point.variance, 6)
    (1.986073, 0.805799)

    Reference: Poole et al., NeurIPS 29 (2016), arXiv:1606.05340; Murray, Abrol
    & Tanner (2021), arXiv:2105.07741, for the part of the linear region. The
    closed forms and `stability` at the edge are derived here.
    """
    phi = resolve(activation, parameters)
    variance = check_real("variance", variance, "(0, inf)", optional=True)
    bias = check_real("bias_variance", bias_variance, "[0, inf)", optional=True)
    if variance is not None and bias is not None:
        refuse(
            "Only one of variance and bias_variance can be given.",
            variance=variance,
            bias_variance=bias,
        )
    if bias is None:
        variance = 1.0 if variance is None else variance
        needed = _edge_bias(phi, variance)
        if needed < 0:
            refuse(
                f"variance must be one at which {phi.name} has an edge of "
                "chaos: the bias would need the variance "
                f"{needed:.4g}, which is negative.",
                variance=variance,
            )
    else:
        variance = _edge_variance(phi, bias)
    moments = gaussian_moments(phi, variance)
    weight = 1 / moments.derivative_square
    stability = weight * moments.slope
    if phi.negative_slope is not None:
        # Exact where the quadrature has rounding.
        weight, stability = 2 / (1 + phi.negative_slope**2), 1.0
    if stability > UNSTABLE:
        warnings.warn(
            f"The edge of chaos of {phi.name} at variance {variance:.4g} is "
            f"unstable: a deviation from it grows by a factor of "
            f"{stability:.4g} in every layer. Paired weights, residual "
            "branches or normalization prevent this.",
            stacklevel=2,
        )
    return EdgeOfChaos(
        weight,
        max(0.0, _edge_bias(phi, variance)) if bias is None else bias,
        variance,
        weight * moments.derivative_square,
        stability,
        moments.derivative_fourth / moments.derivative_square**2,
        stability < 1,
    )


def _edge_bias(phi: Nonlinearity, variance: float) -> float:
    """Returns the variance of the biases at the edge, 0 up to rounding."""
    if phi.negative_slope is not None:
        return 0.0
    moments = gaussian_moments(phi, variance)
    bias = variance - moments.square / moments.derivative_square
    return 0.0 if abs(bias) < 1e-13 * variance else bias


def _edge_variance(phi: Nonlinearity, bias: float) -> float:
    """Returns the variance at which the edge needs this bias variance."""
    if _edge_bias(phi, 1.0) == bias:
        return 1.0
    found = []
    for low, high in _crossings(lambda q: _edge_bias(phi, q) - bias):
        q = _root(lambda q: _edge_bias(phi, q) - bias, low, high)
        moments = gaussian_moments(phi, q)
        found.append((q, moments.slope / moments.derivative_square))
    if not found:
        refuse(
            f"bias_variance must be one at which {phi.name} has an edge of "
            f"chaos at a variance from {_SMALLEST:g} to {_LARGEST:g}.",
            bias_variance=bias,
        )
    stable = [pair for pair in found if pair[1] < 1] or found
    return min(stable, key=lambda pair: abs(math.log(pair[0])))[0]


def _fixed_variance(phi: Nonlinearity, weight: float, bias: float) -> float:
    """Returns the variance that a signal of variance 1 tends to."""
    if phi.negative_slope is not None:
        share = weight * (1 + phi.negative_slope**2) / 2
        if bias == 0 and abs(share - 1) < 1e-13:
            return 1.0
        if share < 1 and bias > 0:
            return bias / (1 - share)
        _refuse_runaway(phi, weight, bias, grows=share >= 1)

    def change(q: float) -> float:
        return weight * gaussian_moments(phi, q).square + bias - q

    at_one = change(1.0)
    if abs(at_one) < 1e-12 * (1 + weight):
        return 1.0
    # The next fixed point above 1 if the variance grows, below 1 if it falls.
    step = 1.25 if at_one > 0 else 0.8
    before = 1.0
    while _SMALLEST < before < _LARGEST:
        q = before * step
        try:
            now = change(q)
        except ValueError:
            break
        if now * at_one <= 0:
            return _root(change, *sorted((before, q)))
        before = q
    _refuse_runaway(phi, weight, bias, grows=at_one > 0)


def _refuse_runaway(
    phi: Nonlinearity, weight: float, bias: float, grows: bool
) -> NoReturn:
    end = "grows without bound" if grows else "falls to 0"
    refuse(
        "weight_variance and bias_variance must have a fixed point. For "
        f"{phi.name} the variance {end}, from 1 on.",
        weight_variance=weight,
        bias_variance=bias,
    )


def _crossings(
    function: Callable[[float], float],
) -> Iterator[tuple[float, float]]:
    """Yields intervals in which a function changes its sign, on both sides."""
    for step in (1.25, 0.8):
        before, value = 1.0, function(1.0)
        while _SMALLEST < before < _LARGEST:
            q = before * step
            try:
                # A zero counts as positive, which rounding may bring.
                now = function(q) or 1e-300
            except ValueError:
                break
            if value * now < 0:
                yield min(before, q), max(before, q)
            before, value = q, now


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-300, rtol=1e-14))


def _chaotic_correlation(
    phi: Nonlinearity, variance: float, share: float
) -> tuple[float, float]:
    """Returns the fixed point c* below 1, and the slope R'(c*) there.

    With eps = 1 - rho the map is eps' = share d(eps), where d is the map at
    unit variance of phi(sqrt(q) z) without bias.
    """
    sigma = math.sqrt(variance)
    scaled = dataclasses.replace(
        phi,
        function=lambda z: phi.function(sigma * z),
        breakpoints=tuple(b / sigma for b in phi.breakpoints),
        second_moment=None,
        # Closed forms are those of unit variance.
        decorrelation=None,
    )
    mapped = decorrelation(scaled)

    def change(eps: float) -> float:
        return share * float(mapped(np.array(eps))) - eps

    # The map is convex in rho on [0, 1]: it meets the diagonal once.
    if change(1.0) >= -1e-13:
        eps = 1.0
    else:
        eps = float(optimize.brentq(change, 1e-9, 1.0, rtol=1e-14))
    # The slope of a polynomial through points on both sides.
    radius = min(eps, 2 - eps) / 2
    nodes = np.cos(np.pi * (np.arange(24) + 0.5) / 24)
    fit = np.polynomial.chebyshev.chebfit(
        nodes, mapped(eps + radius * nodes), 23
    )
    slope = np.polynomial.chebyshev.chebval(
        0, np.polynomial.chebyshev.chebder(fit)
    )
    return 1 - eps, share * float(slope) / radius


def _decay_depth(factor: float) -> float:
    """Returns the number of layers in which a factor multiplies to 1 / e."""
    size = abs(factor)
    if size >= 1 - 1e-12:
        return math.inf
    return -1 / math.log(size) if size else 0.0
