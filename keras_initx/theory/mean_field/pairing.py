"""Activations for which phi(u) - phi(-u) is linear in u.

Each of them is a linear function plus an even one, which pairs of opposite
pre-activations cancel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    resolve,
)
from keras_initx.validation import refuse

# Sizes of pre-activations: the range where theory averages a callable.
_SIZES = np.concatenate(
    [np.geomspace(1e-3, 0.1, 20), np.linspace(0.1, 17, 400)]
)
# The largest deviation from a line, relative to its slope. Rounding is far
# below it.
_TOLERANCE = 1e-9


def paired_scale(
    activation: ActivationLike = "relu", **parameters: Any
) -> float:
    """Returns the scale of paired weights that makes a network an isometry.

        scale = 1 / c^2    where    phi(u) - phi(-u) = c u    for every u

    A layer with the pre-activations u and -u, followed by one whose kernel is
    [B; -B], computes B phi(u) - B phi(-u) = c B u, a linear map. With an
    orthogonal block B it is an isometry if the block's entries are multiplied
    by 1 / c, and so their variance by the scale, see `initializers.Paired`.

        c = 1        relu, gelu (both forms), silu, hard_silu, softplus,
                     squareplus, sparse_plus, log_sigmoid
        c = 1 + a    leaky_relu of negative slope a; 2 for linear

    These are the functions c z / 2 plus an even function. Other activations are
    refused: the difference of tanh, erf and other odd functions is twice the
    function, that of elu, selu, celu and mish is not linear, and that of relu6
    is linear up to 6 only.

    Args:
        activation: str, callable or Activation. The activation phi between the
            two layers, as in `correlation_map`. A callable is compared with
            the line at 420 sizes of u up to 17. Defaults to "relu".
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The scale, a float > 0. It multiplies a variance.

    Raises:
        ValueError: If phi(u) - phi(-u) is not linear in u, or is zero, or if
            `correlation_map` refuses the activation for another reason than a
            jump.

    Example:

    >>> paired_scale("gelu"), paired_scale("leaky_relu", negative_slope=0.25)
    (1.0, 0.64)

    Reference: Balduzzi et al., ICML (2017), arXiv:1702.08591, for relu. Other
    activations are derived here.
    """
    phi = resolve(activation, parameters)
    if phi.negative_slope is not None:
        slope = 1 + phi.negative_slope
    else:
        difference = phi.function(_SIZES) - phi.function(-_SIZES)
        slope = float(difference[-1] / _SIZES[-1])
        error = np.abs(difference - slope * _SIZES) / _SIZES
        if error.max() > _TOLERANCE * abs(slope):
            worst = int(error.argmax())
            refuse(
                "activation must have phi(u) - phi(-u) = c u for every u, as "
                "relu, leaky_relu, gelu, silu, hard_silu and softplus have. "
                f"The difference is {difference[worst]:.4g} at u = "
                f"{_SIZES[worst]:.4g}, and {difference[-1]:.4g} at u = 17.",
                activation=phi.name,
            )
        # Rounding of the quotient is no property of the activation.
        slope = round(slope, 12)
    if slope == 0:
        refuse(
            "activation must have phi(u) - phi(-u) = c u with c other than 0: "
            "an even function gives no signal to paired weights.",
            activation=phi.name,
        )
    return 1 / slope**2
