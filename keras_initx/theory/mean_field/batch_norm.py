"""Forward and backward signal of wide batch-normalized networks."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_initx.theory.mean_field.activations import ActivationLike, resolve
from keras_initx.theory.mean_field.quadrature import decorrelation
from keras_initx.validation import refuse


def batch_norm_raw_variance(
    activation: ActivationLike = "relu", **parameters: Any
) -> float:
    """Returns the sample variance of the inputs of a batch normalization.

        1 - c(0) = Var phi(z) / E phi(z)^2,    z ~ N(0, 1)

    at unit total variance, where c is `correlation_map`. For relu it is
    (pi - 1) / pi. It holds in every layer after the first of an infinitely
    wide network that is batch-normalized before each activation.

    Args:
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The sample variance, a float in [0, 1].

    Raises:
        ValueError: If `correlation_map` refuses the activation.

    Example:

    >>> round(batch_norm_raw_variance(), 6)
    0.68169

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942, for relu. The other activations are derived here.
    """
    eps = decorrelation(resolve(activation, parameters))(np.ones(()))
    # Rounding may give 1 + 2e-16 for an odd activation.
    return min(float(eps), 1.0)


def batch_norm_gradient_growth(
    activation: ActivationLike = "relu", **parameters: Any
) -> float:
    """Returns the growth of squared gradients through a batch-normalized layer.

        1 / (1 - c(0)),    relu: pi / (pi - 1) = 1.467

    where c is `correlation_map`. It is the factor per layer, toward the input,
    in an infinitely wide network that is batch-normalized before each
    activation. It holds for activations with E phi'(z)^2 = E phi(z)^2, where
    the division by the standard deviation is all that changes the size of a
    gradient.

    Args:
        activation: str or Activation. "linear", "relu" or "leaky_relu".
            Defaults to "relu".
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        The factor, a float >= 1. Its square root is the growth of root mean
        square gradients.

    Raises:
        ValueError: If the activation is another one, or `correlation_map`
            refuses it.

    Example:

    >>> round(batch_norm_gradient_growth(), 6)
    1.466942

    Reference: the first author's notes on Luther & Seung, Physical Review
    Research 2, 033135 (2020), arXiv:1902.04942, for relu. The other
    activations are derived here.
    """
    phi = resolve(activation, parameters)
    if phi.negative_slope is None:
        refuse(
            "The gradient growth is known for the positive-homogeneous "
            "activations linear, relu and leaky_relu, whose phi and phi' have "
            "the same mean square.",
            activation=phi.name,
        )
    return 1 / batch_norm_raw_variance(activation, **parameters)
