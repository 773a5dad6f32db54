"""Correlation of two samples in an infinitely wide random network.

Let u and v be the pre-activations of one unit for two samples. Over random
weights they are jointly Gaussian. At the critical scale of the weights both
keep variance 1, so their correlation rho is all that changes from layer to
layer:

    rho' = c(rho) = E phi(u) phi(v) / E phi(z)^2,    z ~ N(0, 1)

Everything here is computed from eps = 1 - rho instead, because

    1 - c = E (phi(u) - phi(v))^2 / (2 E phi(z)^2)

keeps its relative accuracy as samples become indistinguishable, where rho
rounds to one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_initx.profile import VarianceProfile
from keras_initx.theory.mean_field.activations import (
    ActivationLike,
    bend,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import decorrelation
from keras_initx.validation import (
    check_array,
    check_bool,
    check_int,
    check_real,
    refuse,
)


def correlation_map(
    correlation: Any,
    activation: ActivationLike = "relu",
    **parameters: Any,
) -> float | np.ndarray:
    """Returns the correlation of two pre-activations after one more layer.

        c(rho) = E phi(u) phi(v) / E phi(z)^2

    for standard normal u, v of correlation rho and z ~ N(0, 1), at the
    critical scale of the weights. With theta = arccos(rho) and the negative
    slope a,

        relu        rho + (sin theta - theta cos theta) / pi
        leaky_relu  rho + (1-a)^2/(1+a^2) (sin theta - theta cos theta) / pi
        erf         arcsin(2 rho / 3) / arcsin(2/3)
        sine        sinh(rho) / sinh(1)

    All other activations are averaged by quadrature, to about 1e-12 for those
    with a name.

    Args:
        correlation: array-like of any shape. rho, in [-1, 1]. In terms of a
            profile it is m^2 / (m^2 + v^2), not its square root.
        activation: str, callable or Activation. The activation phi: "linear",
            "relu", "leaky_relu", "relu6", "elu", "celu", "selu", "gelu",
            "silu" or "swish", "hard_silu" or "hard_swish", "mish", "softplus",
            "squareplus", "sparse_plus", "exponential", "log_sigmoid",
            "sigmoid", "hard_sigmoid", "sparse_sigmoid", "tanh", "hard_tanh",
            "erf", "arctan", "sine", "softsign", "tanh_shrink",
            "soft_shrink"; or a callable from a float64 array to a float64
            array of the same shape that acts on each entry alone and is
            continuous, which "hard_shrink" is not; or an `Activation` or a
            function or layer of Keras that stands for one of these. Defaults
            to "relu".
        **parameters: Parameters of the activation, as in `Activation`:
            `negative_slope` for "leaky_relu" (0.2 by default), `alpha` for
            "elu" and "celu" (1 by default), `approximate` for "gelu" (False by
            default), `b` for "squareplus" (4 by default), `threshold` for
            "soft_shrink" (0.5 by default); `breakpoints` for a callable, the
            points where it has kinks (`(0.0,)` by default).

    Returns:
        c(rho), a float64 array of the shape of `correlation`, or a float for a
        scalar.

    Raises:
        ValueError: If `correlation` is outside [-1, 1] or NaN; `activation` or
            its parameters are not known; or a callable returns another shape
            or dtype, grows too fast, is zero everywhere, or is too steep or
            has too many kinks or jumps for the quadrature to settle to 1e-6.

    Example:

    >>> round(correlation_map(0.0), 6)
    0.31831
    >>> correlation_map([-0.5, 0.5, 1.0], "tanh").round(6)
    array([-0.472551,  0.472551,  1.      ])
    >>> def hard_tanh(z):
    ...     return np.clip(z, -1, 1)
    >>> round(correlation_map(0.5, hard_tanh, breakpoints=(-1, 1)), 6)
    0.461516

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942, which uses the relu map; its kernel is that of Cho & Saul,
    NeurIPS 22 (2009), degree 1, and the erf kernel is that of Williams,
    NeurIPS 9 (1997). The leaky_relu map and the quadrature are derived here.
    """
    rho = check_array("correlation", correlation, "[-1, 1]")
    eps = 1 - rho
    # Adding the change to rho, rather than taking 1 - eps', leaves the map of
    # linear exact.
    mapped = rho + (eps - decorrelation(resolve(activation, parameters))(eps))
    mapped = np.clip(mapped, -1, 1)
    return float(mapped) if mapped.ndim == 0 else mapped


def sample_variance_decay(
    depth: int,
    activation: ActivationLike = "relu",
    initial_correlation: float = 0.0,
    batch_norm: bool = False,
    **parameters: Any,
) -> VarianceProfile:
    """Returns the sample variance at every layer of a wide critical network.

    The network is infinitely wide, its biases are zero, its weights have the
    variance `critical_scale() / fan_in`, and every two samples are equally
    correlated. At total variance m^2 + v^2 = 1,

        m_l^2 = rho_l,    v_l^2 = 1 - rho_l,    rho_(l+1) = c(rho_l)

    with c of `correlation_map`. With batch normalization before each
    activation, m_l = 0 and v_l = 1 at every layer, after normalization and for
    a large batch.

    Args:
        depth: int. The number of layers, >= 1.
        activation: str, callable or Activation. The activation phi, as in
            `correlation_map`. Defaults to "relu".
        initial_correlation: float. rho_0 in [-1, 1], between the
            pre-activations of two samples at layer 0; 0 for white-noise
            inputs. A negative correlation is possible for a single pair of
            samples only. It has no effect with batch normalization. Defaults
            to 0.
        batch_norm: bool. Whether every layer is batch-normalized. Defaults to
            False.
        **parameters: Parameters of the activation, as in `correlation_map`.

    Returns:
        A `VarianceProfile` of `depth` layers "layer 0", "layer 1", ... of
        infinitely many units. The relative accuracy of `sample_variance` is
        1e-12 for the activations whose c has a closed form in
        `correlation_map`, and about 1e-12 per layer for the others.

    Raises:
        ValueError: If an argument is outside its range, or `correlation_map`
            refuses the activation.

    Example:

    >>> profile = sample_variance_decay(51)
    >>> print(profile.sample_fraction[-1].round(5))
    0.01214

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942, for the recursion of relu and for batch normalization.
    The argument of c is rho = m^2 / (m^2 + v^2). The other activations are
    derived here.
    """
    depth = check_int("depth", depth, 1)
    batch_norm = check_bool("batch_norm", batch_norm)
    initial_correlation = check_real(
        "initial_correlation", initial_correlation, "[-1, 1]"
    )
    step = decorrelation(resolve(activation, parameters))
    eps = np.ones(depth)
    if not batch_norm:
        eps[0] = 1 - initial_correlation
        for layer in range(depth - 1):
            eps[layer + 1] = step(eps[layer])
    return VarianceProfile(
        layers=[f"layer {layer}" for layer in range(depth)],
        sample_variance=eps,
        squared_mean=1 - eps,
        units=np.full(depth, np.inf),
    )


def asymptotic_sample_variance(
    layer: Any,
    activation: ActivationLike = "relu",
    **parameters: Any,
) -> float | np.ndarray:
    """Returns the limit form of the sample variance in deep layers.

        relu        v_l^2 ~ (9 pi^2 / 2) / l^2
        leaky_relu  v_l^2 ~ (9 pi^2 / 2) ((1+a^2) / (1-a)^2)^2 / l^2

    at total variance 1, for every rho_0, with l the layer and a the negative
    slope. The relative error is of order log(l) / l: for relu the recursion of
    `sample_variance_decay` is at 29% of this at l = 10, at 81% at 100, and at
    97% at 1000.

    Args:
        layer: array-like of any shape. l, finite and > 0.
        activation: str or Activation. "relu" or "leaky_relu". Defaults to
            "relu".
        **parameters: Parameters of the activation: `negative_slope` of
            "leaky_relu" (0.2 by default), any number except 1.

    Returns:
        v_l^2, a float64 array of the shape of `layer`, or a float for a
        scalar.

    Raises:
        ValueError: If `layer` is not positive, or the activation is another
            one.

    Example:

    >>> round(asymptotic_sample_variance(1000), 9)
    4.4413e-05

    Reference: derived here, from 1 - c = eps - k eps^(3/2) + ... for eps -> 0
    with k = 2 sqrt(2) / (3 pi) (1-a)^2 / (1+a^2), so v_l^2 ~ (2 / (k l))^2.
    """
    phi = resolve(activation, parameters)
    if phi.negative_slope is None:
        refuse(
            "The asymptotic sample variance is known for relu and leaky_relu.",
            activation=phi.name,
        )
    if phi.negative_slope == 1:
        refuse(
            "The sample variance does not decay in a linear network, whose "
            "slope is 1 on both sides of 0.",
            activation=phi.name,
        )
    layers = check_array("layer", layer, "(0, inf)")
    variance = 4.5 * (math.pi / (bend(phi.negative_slope) * layers)) ** 2
    return float(variance) if variance.ndim == 0 else variance
