"""Infinitely wide networks of symmetric stable weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.interpolate import make_interp_spline

from keras_initx.theory.mean_field.activations import (
    Activation,
    ArrayFunction,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import gauss_legendre
from keras_initx.theory.norm_moments.mellin import density_of_log, tail_constant
from keras_initx.validation import check_int, is_real

# Step of the table of the density of log |Z|, which a spline of degree 7
# fills in to 1e-13.
_STEP = 1 / 32
# The square of e^350 is still a number.
_LAST = 350
# Below, powers of the scale would fall out of float64.
_NOTHING = 1e-100
# Two rules must agree. Their panels are of length 1 in log |z|.
_NODES = (16, 24)
_TOLERATED = 1e-7
# Growth of phi as a power of z that is told from that of a line.
_SUBLINEAR = 0.95


def stable_scale_recursion(
    depth: int,
    stability: float,
    activation: str | ArrayFunction = "tanh",
    *,
    weight_scale: float = 1.0,
    bias_scale: float = 0.0,
    initial_scale: float = 1.0,
    **parameters: Any,
) -> np.ndarray:
    """Scale of the pre-activations at every layer of an infinite network.

        y_(l+1)^a = bias_scale^a + weight_scale^a E |phi(y_l Z)|^a

    for weights of scale weight_scale / fan_in^(1/a), biases of bias_scale and
    Z of scale 1, all symmetric stable with the same stability a. For an input
    x of n entries, y_0^a = bias_scale^a + weight_scale^a sum_i |x_i|^a / n.

    The mean must be finite. It is if phi grows more slowly than some power
    of |z| below 1. Below stability 2 it is not for linear, relu and their
    kin: E |Z|^a is infinite, fan_in^(-1/a) is too large a scale by a power of
    log(fan_in), and `stable_weight_scale` is for them.

    Args:
        depth: Last layer, an int >= 0.
        stability: a, in [0.05, 2]. At 2 Z is N(0, 2).
        activation: "tanh" or "erf", at stability 2 any as in
            `correlation_map`; or a callable as there that grows more slowly.
        weight_scale: Finite and > 0.
        bias_scale: Finite and >= 0.
        initial_scale: y_0, finite and > 0.
        **parameters: As in `correlation_map`.

    Returns:
        y_0, ..., y_depth, float64 of shape (depth + 1,). The relative accuracy
        of y^stability is, per layer, 1e-10 for tanh and erf and 1e-9 for a
        callable that is analytic but for 0 and its breakpoints. Below 1e-100 a
        scale counts as 0.

    Raises:
        ValueError: An argument is outside its range; the activation grows too
            fast, or is too steep, kinked or wavy for the quadrature to settle
            to 1e-7; or as `correlation_map`.

    Example:

    >>> stable_scale_recursion(3, 1.5, bias_scale=0.3).round(6)
    array([1.      , 0.826165, 0.783005, 0.770424])

    Reference: Favaro, Fortini & Peluchetti, "Stable behaviour of infinitely
    wide deep neural networks", AISTATS (2020), arXiv:2003.00394. The
    quadrature is derived here.
    """
    check_int("depth", depth, 0)
    if not is_real(stability) or not 0.05 <= stability <= 2:
        raise ValueError(
            f"stability must be a number in [0.05, 2]. "
            f"Received: stability={stability!r}"
        )
    for name, value in (
        ("weight_scale", weight_scale),
        ("initial_scale", initial_scale),
    ):
        if not is_real(value) or value <= 0:
            raise ValueError(
                f"{name} must be finite and > 0. Received: {name}={value!r}"
            )
    if not is_real(bias_scale) or bias_scale < 0:
        raise ValueError(
            f"bias_scale must be finite and >= 0. "
            f"Received: bias_scale={bias_scale!r}"
        )
    stability = float(stability)
    mean_power = _mean_power(resolve(activation, parameters), stability)
    scale = np.full(depth + 1, float(initial_scale))
    for layer in range(depth):
        power = float(weight_scale) ** stability * mean_power(scale[layer])
        power += float(bias_scale) ** stability
        scale[layer + 1] = power ** (1 / stability)
    return scale


def _mean_power(phi: Activation, stability: float) -> Callable[[float], float]:
    """The map from y to E |phi(y Z)|^stability."""
    # Below, log |Z| has probability e^-45 or less, for Z has the density
    # Gamma(1 + 1/a) / pi at 0. Above, it has that of the tail, or at stability
    # 2 nothing is left beyond e^3.5, which is 23 standard deviations.
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
        if scale < _NOTHING:
            return float(power(np.zeros(1))[0])
        log_scale = math.log(scale)
        # As far as phi has become a power of z.
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
                f"activation must be smooth but for its breakpoints, and not "
                f"wavy: the quadrature does not settle to {_TOLERATED}. "
                f"Received: activation={phi.name!r}, "
                f"breakpoints={phi.breakpoints}"
            )
        rest = tail * math.exp(-stability * end) * final / (1 - growth)
        return float(fine + rest)

    return average


def _growth(
    power: ArrayFunction, phi: Activation, end: float, stability: float
) -> tuple[float, float]:
    """b, for |phi(z)| ~ |z|^b at large z, and |phi(z)|^stability at e^end."""
    middle, final = power(np.exp([end / 2, end]))
    if stability == 2 or final == 0:
        return 0.0, final
    growth = math.inf
    if middle > 0:
        growth = math.log(final / middle) / (stability * end / 2)
    if growth > _SUBLINEAR:
        raise ValueError(
            f"activation must grow more slowly than |z|, by a power, or "
            f"E |phi(Z)|^stability is infinite: with relu, linear and their "
            f"kin weights of scale fan_in^(-1/stability) have no limit, see "
            f"stable_weight_scale. "
            f"Received: activation={phi.name!r}, stability={stability!r}"
        )
    return growth, final
