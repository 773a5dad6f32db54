"""Infinitely wide networks of symmetric stable weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    ArrayFunction,
    Nonlinearity,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import gauss_legendre
from keras_initx.theory.norm_moments.mellin import density_of_log, tail_constant
from keras_initx.validation import check_int, check_real

# Step of the table of the density of log |Z|. A spline of degree 7 interpolates
# it to 1e-13.
_STEP = 1 / 32
# Largest logarithm of |Z|: the square of e^350 is still a float64.
_LAST = 350
# Scales below this are counted as 0, since their powers would leave float64.
_NEGLIGIBLE = 1e-100
# Nodes per panel of the two rules that must agree. The panels are of length 1
# in log |z|.
_NODES = (16, 24)
_TOLERATED = 1e-7
# Largest exponent b, for phi(z) ~ |z|^b, that is told apart from 1.
_SUBLINEAR = 0.95


def stable_scale_recursion(
    depth: int,
    stability: float,
    activation: ActivationLike = "tanh",
    *,
    weight_scale: float = 1.0,
    bias_scale: float = 0.0,
    initial_scale: float = 1.0,
    **parameters: Any,
) -> np.ndarray:
    """Returns the scale of pre-activations at every layer of a wide network.

        y_(l+1)^a = bias_scale^a + weight_scale^a E |phi(y_l Z)|^a

    for an infinitely wide network of weights of scale
    weight_scale / fan_in^(1/a), biases of scale bias_scale and Z of scale 1,
    all symmetric stable with the same stability a. For an input x of n
    entries, y_0^a = bias_scale^a + weight_scale^a sum_i |x_i|^a / n.

    The mean must be finite. It is if phi grows more slowly than some power
    of |z| below 1. Below stability 2 it is infinite for linear, relu and other
    activations that grow as |z|: E |Z|^a is infinite, fan_in^(-1/a) is too
    large a scale by a power of log(fan_in), and `stable_weight_scale` is the
    function to use.

    Args:
        depth: int. The number of layers, >= 1.
        stability: float. a, in [0.05, 2]. At 2 Z is N(0, 2).
        activation: str, callable or Activation. The activation phi: "tanh",
            "erf", "sigmoid", "softsign" or another name or callable that grows
            more slowly than |z|; at stability 2 any that `correlation_map`
            accepts. Defaults to "tanh".
        weight_scale: float. Scale of the weights times fan_in^(1/a), finite
            and > 0. Defaults to 1.
        bias_scale: float. Scale of the biases, finite and >= 0. Defaults to 0.
        initial_scale: float. y_0, finite and > 0. Defaults to 1.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        y_0, ..., y_(depth-1), a float64 array of shape (depth,). The relative
        accuracy of y^stability is, per layer, 1e-10 for tanh and erf and 1e-9
        for a callable that is analytic except at 0 and its breakpoints. A
        scale below 1e-100 counts as 0.

    Raises:
        ValueError: If an argument is outside its range; the activation grows
            too fast, or is too steep, kinked or wavy for the quadrature to
            settle to 1e-7; or `correlation_map` refuses the activation.

    Example:

    >>> stable_scale_recursion(4, 1.5, bias_scale=0.3).round(6)
    array([1.      , 0.826165, 0.783005, 0.770424])

    Reference: Favaro, Fortini & Peluchetti, "Stable behaviour of infinitely
    wide deep neural networks", AISTATS (2020), arXiv:2003.00394. The
    quadrature is derived here.
    """
    depth = check_int("depth", depth, 1)
    stability = check_real("stability", stability, "[0.05, 2]")
    weight_scale = check_real("weight_scale", weight_scale, "(0, inf)")
    initial_scale = check_real("initial_scale", initial_scale, "(0, inf)")
    bias_scale = check_real("bias_scale", bias_scale, "[0, inf)")
    mean_power = _mean_power(resolve(activation, parameters), stability)
    scale = np.full(depth, initial_scale)
    for layer in range(depth - 1):
        power = weight_scale**stability * mean_power(scale[layer])
        power += bias_scale**stability
        scale[layer + 1] = power ** (1 / stability)
    return scale


def _mean_power(
    phi: Nonlinearity, stability: float
) -> Callable[[float], float]:
    """Returns the map from y to E |phi(y Z)|^stability."""
    # Left of `first` log |Z| has a probability of e^-45 or less, since Z has
    # the density Gamma(1 + 1/a) / pi at 0. Right of `last` its density is that
    # of the tail. At stability 2 there is nothing beyond e^3.5, which is 23
    # standard deviations.
    first = -45 - math.ceil(math.lgamma(1 + 1 / stability))
    last = 4 if stability == 2 else min(math.ceil(80 / stability), _LAST)
    ends = round(first / _STEP), round(last / _STEP)
    table = make_interp_spline(
        _STEP * np.arange(ends[0], ends[1] + 1),
        density_of_log(stability, *ends, _STEP),
        k=7,
    )
    tail = tail_constant(stability)
    kinks = np.log(np.abs([point for point in phi.breakpoints if point]))

    def density(x: np.ndarray) -> np.ndarray:
        beyond = stability * tail * np.exp(-stability * np.maximum(x, 0))
        return np.where(x < last, table(np.minimum(x, last)), beyond)

    def power(z: np.ndarray) -> np.ndarray:
        both = np.abs(phi.function(z)), np.abs(phi.function(-z))
        return (both[0] ** stability + both[1] ** stability) / 2

    def average(scale: float) -> float:
        if scale < _NEGLIGIBLE:
            return float(power(np.zeros(1))[0])
        log_scale = math.log(scale)
        # The last panel ends where phi has become a power of z.
        end = last + max(0, math.ceil(-log_scale))
        cuts = np.clip(kinks - log_scale, first, end)
        panels = np.unique([*range(first, end + 1), *cuts])
        with np.errstate(over="ignore"):
            growth, final = _growth(power, phi, end + log_scale, stability)
            coarse, fine = (
                weight @ (density(x) * power(np.exp(x + log_scale)))
                for x, weight in (gauss_legendre(panels, n) for n in _NODES)
            )
        if not abs(coarse - fine) <= _TOLERATED * fine:
            raise ValueError(
                f"activation must be smooth except at its breakpoints, and not "
                f"wavy: the quadrature does not settle to {_TOLERATED}. "
                f"Received: activation={phi.name!r}, "
                f"breakpoints={phi.breakpoints}"
            )
        rest = tail * math.exp(-stability * end) * final / (1 - growth)
        return float(fine + rest)

    return average


def _growth(
    power: ArrayFunction, phi: Nonlinearity, end: float, stability: float
) -> tuple[float, float]:
    """Returns b, where |phi(z)| ~ |z|^b, and |phi(z)|^stability at e^end.

    Raises:
        ValueError: If phi grows too fast for E |phi(Z)|^stability to be finite.
    """
    middle, final = power(np.exp([end / 2, end]))
    if stability == 2 or final == 0:
        return 0.0, final
    growth = math.inf
    if 0 < middle < math.inf:
        growth = math.log(final / middle) / (stability * end / 2)
    if growth > _SUBLINEAR:
        raise ValueError(
            f"activation must grow more slowly than |z|, by a power, or "
            f"E |phi(Z)|^stability is infinite. With activations like relu "
            f"weights of scale fan_in^(-1/stability) have no limit, see "
            f"stable_weight_scale. "
            f"Received: activation={phi.name!r}, stability={stability!r}"
        )
    return growth, final
