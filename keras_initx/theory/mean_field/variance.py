"""Variance of the pre-activations in infinitely wide random networks."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    Nonlinearity,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import second_moment

# The quadrature's slope of a relu given as a callable is 1 to 1e-14.
UNSTABLE = 1 + 1e-9


def critical_scale(
    activation: ActivationLike = "relu", **parameters: Any
) -> float:
    """Returns the scale of weights that keeps pre-activations at variance 1.

        scale = 1 / E phi(z)^2,    z ~ N(0, 1)

    for weights of variance scale / fan_in. It is the `scale` of
    `keras.initializers.VarianceScaling` in mode "fan_in": 1 for linear, 2 for
    relu, 2 / (1 + a^2) for leaky_relu of negative slope a.

    For linear, relu and leaky_relu the scale keeps any variance, and for the
    other activations only variance 1. For "gelu", "silu", "mish" and all others
    whose `signal_stability` is above 1, variance 1 is an unstable fixed point:
    the signal of a deep plain network leaves it, and vanishes or explodes. A
    warning says so.

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`; "hard_shrink" too. Defaults to "relu".
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The scale, a float > 0. It multiplies a variance.

    Raises:
        ValueError: If `correlation_map` refuses the activation for another
            reason than a jump.

    Warns:
        UserWarning: If `signal_stability` of the activation is above 1.

    Example:

    >>> critical_scale("relu"), round(critical_scale("tanh"), 6)
    (2.0, 2.536175)

    Reference: He et al., ICCV (2015), arXiv:1502.01852, for relu and
    leaky_relu.
    """
    phi = resolve(activation, parameters)
    scale = 1 / second_moment(phi)
    try:
        slope = _slope(phi)
    except ValueError:
        # E z^2 phi(z)^2 may be beyond the quadrature where E phi(z)^2 is not.
        return scale
    if slope > UNSTABLE:
        warnings.warn(
            f"The variance 1 that critical_scale keeps is unstable for "
            f"{phi.name}: a deviation from it grows by a factor of "
            f"{slope:.4g} in every layer, so that the signal of a deep plain "
            "network vanishes or explodes. Residual branches or normalization "
            "prevent this; theory.signal_stability returns the factor.",
            stacklevel=2,
        )
    return scale


def signal_stability(
    activation: ActivationLike = "relu", **parameters: Any
) -> float:
    """Returns the factor by which a deviation of the variance grows in a layer.

    At the critical scale of the weights, the variance q of the pre-activations
    becomes in the next layer

        V(q) = E phi(sqrt(q) z)^2 / E phi(z)^2,    z ~ N(0, 1)

    V(1) = 1, and a small deviation of q from 1 is multiplied by the slope

        V'(1) = (E z^2 phi(z)^2 / E phi(z)^2 - 1) / 2

    Below 1 the fixed point is stable, and the variance returns to 1: tanh
    (0.46), elu (0.89) and selu (0.78). At 1 every variance stays as it is:
    linear, relu and leaky_relu. Above 1 the fixed point is unstable, and the
    signal of a deep plain network vanishes or explodes: a deviation grows by a
    factor of

        gelu    1.144 a layer, 840 in 50 layers
        silu    1.173 a layer, 2900 in 50 layers
        mish    1.076 a layer, 40 in 50 layers

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `critical_scale`. Defaults to "relu".
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The slope V'(1), a float. It is exactly 1 for "linear", "relu" and
        "leaky_relu", and accurate to about 1e-12 for the other names.

    Raises:
        ValueError: If `critical_scale` refuses the activation.

    Example:

    >>> round(signal_stability("gelu"), 4), round(signal_stability("tanh"), 4)
    (1.1441, 0.4611)

    Reference: Poole et al., NeurIPS 29 (2016), arXiv:1606.05340, for the map of
    the variance. The slope as a moment, which needs no derivative of phi, is
    derived here.
    """
    return _slope(resolve(activation, parameters))


def _slope(phi: Nonlinearity) -> float:
    """Returns V'(1), from d/dq of the density of N(0, q) at q = 1."""
    if phi.negative_slope is not None:
        return 1.0
    weighted = dataclasses.replace(
        phi, function=lambda z: z * phi.function(z), second_moment=None
    )
    return (second_moment(weighted) / second_moment(phi) - 1) / 2
