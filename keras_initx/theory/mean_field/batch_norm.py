"""What batch normalisation does to the signal, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initx.theory.mean_field.activations import ArrayFunction, resolve
from keras_initx.theory.mean_field.quadrature import decorrelation


def batch_norm_raw_variance(
    activation: str | ArrayFunction = "relu", **parameters: Any
) -> float:
    """Sample variance of what batch normalisation is about to normalise.

        1 - c(0) = Var[phi(z)] / E[phi(z)^2],    relu: (pi - 1) / pi

    at unit total variance, in every layer after the first of an infinitely
    wide network that is batch-normalised before each activation.

    Args:
        activation: As in `correlation_map`.
        **parameters: As in `correlation_map`.

    Returns:
        The sample variance, in [0, 1].

    Raises:
        ValueError: As `correlation_map`.

    Example:

    >>> round(batch_norm_raw_variance(), 6)
    0.68169

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942, for relu; the others derived here.
    """
    step = decorrelation(resolve(activation, parameters))
    # Rounding may leave an odd activation at 1 + 2e-16.
    return min(float(step(np.float64(1))), 1.0)


def batch_norm_gradient_growth(
    activation: str | ArrayFunction = "relu", **parameters: Any
) -> float:
    """Growth of squared gradients through one batch-normalised layer.

        1 / (1 - c(0)),    relu: pi / (pi - 1) = 1.467

    towards the input, in an infinitely wide network. It holds where
    E[phi'(z)^2] = E[phi(z)^2], so that the division by the raw standard
    deviation is all that a gradient gains.

    Args:
        activation: "linear", "relu" or "leaky_relu".
        **parameters: As in `correlation_map`.

    Returns:
        The factor, >= 1; its square root for root-mean-square gradients.

    Raises:
        ValueError: As `correlation_map`, or the activation is another one.

    Example:

    >>> round(batch_norm_gradient_growth(), 6)
    1.466942

    Reference: the first author's notes on Luther & Seung, Physical Review
    Research 2, 033135 (2020), arXiv:1902.04942, for relu; the others derived
    here.
    """
    phi = resolve(activation, parameters)
    if phi.negative_slope is None:
        raise ValueError(
            f"The gradient growth is known for the positive-homogeneous "
            f"activations linear, relu and leaky_relu, whose phi and phi' have "
            f"the same mean square. Received: activation={phi.name!r}"
        )
    return 1 / batch_norm_raw_variance(activation, **parameters)
