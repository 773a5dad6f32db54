"""Forward and backward signal of wide batch-normalized networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import integrate

from keras_initx.theory.mean_field.activations import ActivationLike, resolve
from keras_initx.theory.mean_field.quadrature import decorrelation
from keras_initx.validation import check_array, check_real, refuse


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


def mean_inverse_variance(
    eigenvalues: np.ndarray, epsilon: float = 0.0
) -> float:
    """Returns the mean of 1 / (s^2 + epsilon) of a batch of normal values.

        E 1/(s^2 + eps)
            = int_0^inf e^(-eps t) prod_j (1 + 2 t l_j / n)^(-1/2) dt

    with s^2 the variance of n normal values and l_j the eigenvalues of their
    covariance after the mean is subtracted. It multiplies the squared gradient
    of a batch normalization. For n independent values of variance 1 it is
    n / (n - 3).

    Args:
        eigenvalues: Array of shape `(n,)`. The l_j, >= 0 within rounding, one
            of which is 0.
        epsilon: float. What the normalization adds to the variance, >= 0.
            Defaults to 0.

    Returns:
        The mean, a float; inf if there are too few independent values.

    Raises:
        ValueError: If an argument is outside of its range.

    Example:

    >>> round(mean_inverse_variance(np.array([0.0, 1.0, 1.0, 1.0])), 6)
    4.0

    Reference: the integral is Laplace's, as in Yang et al., ICLR (2019),
    arXiv:1902.08129. This form is derived here.
    """
    eigenvalues = _checked(eigenvalues)
    epsilon = check_real("epsilon", epsilon, "[0, inf)")
    share = eigenvalues / len(eigenvalues)
    scale = share.sum()
    if scale <= 0:
        return 1 / epsilon if epsilon > 0 else math.inf
    share = share[share > 1e-12 * scale] / scale
    small = epsilon / scale
    if len(share) <= 2 and small == 0:
        return math.inf

    def integrand(x: float) -> float:
        # t = e^x, so that many scales of t are met alike.
        t = math.exp(x)
        return math.exp(
            x - small * t - 0.5 * float(np.log1p(2 * t * share).sum())
        )

    value, _ = integrate.quad(integrand, -40, 60, limit=500, epsabs=0)
    return float(value / scale)


def normalized_spectrum(
    eigenvalues: np.ndarray, epsilon: float = 0.0
) -> np.ndarray:
    """Returns the eigenvalues of a normal batch after its normalization.

        m_k = E v_k^2 / (s^2 + eps),    s^2 = (1/n) sum_j v_j^2
            = l_k int_0^inf e^(-eps t) / (1 + 2 t l_k / n)
                  prod_j (1 + 2 t l_j / n)^(-1/2) dt

    with v_j independent normal values of variance l_j. These are the components
    of n values whose mean is subtracted, along the eigenvectors of their
    covariance, so that m_k are the eigenvalues of E y y^T of the normalized
    values y. As s^2 is large where a large component is, they are more alike
    than l_k / (E s^2 + eps). For equal l_k, and where no l_k is a large part of
    their sum, both agree.

    Args:
        eigenvalues: Array of shape `(n,)`. The eigenvalues l_j of the
            covariance, >= 0 within rounding; at least one is 0, that of the
            mean.
        epsilon: float. What the normalization adds to the variance, >= 0.
            Defaults to 0.

    Returns:
        Array of shape `(n,)`, whose mean is 1 without epsilon.

    Raises:
        ValueError: If an argument is outside of its range.

    Example:

    >>> normalized_spectrum(np.array([0.0, 1.0, 1.0, 1.0]))
    array([0.        , 1.33333333, 1.33333333, 1.33333333])

    Reference: derived here, by the integral of `mean_inverse_variance`.
    """
    eigenvalues = _checked(eigenvalues)
    epsilon = check_real("epsilon", epsilon, "[0, inf)")
    share = eigenvalues / len(eigenvalues)
    scale = share.sum()
    if scale <= 0:
        return np.zeros(len(share))
    share = share / scale
    # t = e^x. The integrand is analytic in a strip of x, so that the sum over
    # equally spaced points converges geometrically.
    x = np.arange(-40, 90, 0.25)
    growth = 2 * np.exp(x)[:, None] * share
    weight = np.exp(
        x - epsilon / scale * np.exp(x) - 0.5 * np.log1p(growth).sum(axis=1)
    )
    inner = 0.25 * (weight @ (1 / (1 + growth)))
    return len(share) * share * inner


def _checked(eigenvalues: np.ndarray) -> np.ndarray:
    """Returns eigenvalues of a covariance, 0 in place of negative rounding."""
    values = check_array("eigenvalues", eigenvalues)
    if values.ndim != 1 or not values.size:
        refuse(
            "eigenvalues must be an array of shape (n,).",
            eigenvalues=eigenvalues,
        )
    if values.min() < -1e-9 * values.max(initial=0):
        refuse("eigenvalues must be >= 0.", eigenvalues=eigenvalues)
    return np.maximum(values, 0)
