"""Singular values of the Jacobian of a plain network at infinite width."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import gaussian_moments
from keras_initx.validation import check_bool, check_int, check_real


class JacobianMoments(NamedTuple):
    """Moments of the squared singular values of a Jacobian.

    Attributes:
        mean: float. The mean of the squared singular values.
        variance: float. Their variance.
    """

    mean: float
    variance: float


def jacobian_moments(
    depth: int,
    activation: ActivationLike = "relu",
    variance: float = 1.0,
    orthogonal: bool = False,
    weight_variance: float | None = None,
    **parameters: Any,
) -> JacobianMoments:
    """Returns moments of the squared singular values of the Jacobian.

    The Jacobian of `depth` layers of infinite and equal width, each a kernel
    and the derivative of the activation behind it (or before it), has squared
    singular values of which the mean and the variance are

        mean = (weight_variance E phi'(sqrt(q) z)^2)^depth
        variance / mean^2 = depth (E phi'^4 / (E phi'^2)^2 - 1 - s)

    where q is the variance of the pre-activations, the same in all layers,
    z ~ N(0, 1), and s is 0 for orthogonal and -1 for normal weights. A mean of
    1 keeps gradients on average. With a mean of 1 and a variance of 0 the
    network is an isometry. Relu cannot reach that, since E phi'^4 /
    (E phi'^2)^2 is 2, unless its weights are paired (`initializers.Paired`).

    Args:
        depth: int. The number of layers, >= 0.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        variance: float. The variance q of the pre-activations, > 0. Defaults
            to 1.
        orthogonal: bool. Whether the weights are orthogonal and not normal.
            Defaults to False.
        weight_variance: float. The variance of the weights times the fan-in,
            above 0. Defaults to that of `edge_of_chaos` at q, for which the
            mean is 1.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        A `JacobianMoments`, two floats.

    Raises:
        ValueError: If an argument is out of range, or if `edge_of_chaos`
            refuses the activation because of its moments.

    Example:

    >>> jacobian_moments(10, "relu", orthogonal=True).variance
    10.0
    >>> round(jacobian_moments(10, "hard_tanh", 0.25).variance, 4)
    10.4767

    Reference: Pennington, Schoenholz & Ganguli, NeurIPS 30 (2017),
    arXiv:1711.04735, and AISTATS (2018), arXiv:1802.09979. The averages of the
    activations are derived here.
    """
    depth = check_int("depth", depth, 0)
    q = check_real("variance", variance, "(0, inf)")
    orthogonal = check_bool("orthogonal", orthogonal)
    weight = check_real(
        "weight_variance", weight_variance, "(0, inf)", optional=True
    )
    phi = resolve(activation, parameters)
    if phi.negative_slope is None:
        moments = gaussian_moments(phi, q)
        square = moments.derivative_square
        spread = moments.derivative_fourth / square**2
    else:
        # Exact where the quadrature has rounding.
        square = (1 + phi.negative_slope**2) / 2
        spread = (1 + phi.negative_slope**4) / 2 / square**2
    mean = 1.0 if weight is None else (weight * square) ** depth
    added = spread - 1 + (0 if orthogonal else 1)
    return JacobianMoments(mean, mean**2 * depth * added)
