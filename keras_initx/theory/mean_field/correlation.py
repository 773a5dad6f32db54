"""The correlation of two samples through an infinitely wide random network.

Let u, v be one unit's pre-activations for two samples. Over random weights
they are a Gaussian pair; at the critical gain both keep variance 1, and their
correlation rho is all that changes from layer to layer:

    rho' = c(rho) = E[phi(u) phi(v)] / E[phi(z)^2]

Everything here is computed from eps = 1 - rho instead, because

    1 - c = E[(phi(u) - phi(v))^2] / (2 E[phi(z)^2])

keeps its relative accuracy as samples become indistinguishable, where rho is
one to the last digit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_initx.profile import VarianceProfile
from keras_initx.theory.mean_field.activations import (
    ArrayFunction,
    bend,
    resolve,
)
from keras_initx.theory.mean_field.quadrature import (
    decorrelation,
    second_moment,
)
from keras_initx.validation import check_int, is_real


def correlation_map(
    correlation: Any,
    activation: str | ArrayFunction = "relu",
    **parameters: Any,
) -> float | np.ndarray:
    """Correlation of two pre-activations after one more critical layer.

        c(rho) = E[phi(u) phi(v)] / E[phi(z)^2]

    for standard normal u, v of correlation rho and z ~ N(0, 1). With
    theta = arccos(rho) and leaky slope a,

        relu        rho + (sin theta - theta cos theta) / pi
        leaky_relu  rho + (1-a)^2/(1+a^2) (sin theta - theta cos theta) / pi
        erf         arcsin(2 rho / 3) / arcsin(2/3)

    and all others by quadrature, to about 1e-12 for the named ones.

    Args:
        correlation: rho, array-like of any shape, in [-1, 1]. In terms of a
            profile, m^2 / (m^2 + v^2), not its square root.
        activation: "linear", "relu", "leaky_relu", "erf", "tanh", "gelu",
            "silu" or "swish", "elu", "selu", "softplus"; or a callable from a
            float64 array to a float64 array of the same shape that acts on
            each entry alone and is continuous.
        **parameters: `negative_slope` of "leaky_relu" (0.2), `alpha` of "elu"
            (1.0), `approximate` of "gelu" (False), as in Keras. Of a callable,
            `breakpoints`: where it has kinks, `(0.0,)` by default.

    Returns:
        c(rho), float64, of the shape of `correlation`; a float for a scalar.

    Raises:
        ValueError: `correlation` is outside [-1, 1] or NaN; `activation` or
            its parameters are not known; a callable returns another shape or
            dtype, grows too fast, is zero everywhere, or is too steep, kinked
            or broken for the quadrature to settle to 1e-6.

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
    NeurIPS 22 (2009), degree 1, and the erf kernel that of Williams, NeurIPS 9
    (1997). The leaky_relu map and the quadrature are derived here.
    """
    rho = _correlations(correlation)
    eps = 1 - rho
    # Adding the change to rho, not taking 1 - eps', leaves linear exact.
    mapped = rho + (eps - decorrelation(resolve(activation, parameters))(eps))
    mapped = np.clip(mapped, -1, 1)
    return float(mapped) if mapped.ndim == 0 else mapped


def sample_variance_decay(
    depth: int,
    activation: str | ArrayFunction = "relu",
    initial_correlation: float = 0.0,
    batch_norm: bool = False,
    **parameters: Any,
) -> VarianceProfile:
    """Sample variance at every layer of an infinitely wide critical network.

    Zero biases, weights of variance `critical_scale() / fan_in`, every two
    samples equally correlated. At total variance m^2 + v^2 = 1,

        m_l^2 = rho_l,    v_l^2 = 1 - rho_l,    rho_(l+1) = c(rho_l).

    With batch normalisation before each activation, m_l = 0 and v_l = 1 at
    every layer, after normalisation and for a large batch.

    Args:
        depth: Last layer, an int >= 0.
        activation: As in `correlation_map`.
        initial_correlation: rho_0 in [-1, 1], between the pre-activations of
            two samples at layer 0; 0 for white-noise inputs. Below 0 it can
            only be one pair's. Batch normalisation makes it irrelevant.
        batch_norm: Whether every layer is batch-normalised.
        **parameters: As in `correlation_map`.

    Returns:
        A `VarianceProfile` of `depth + 1` layers "layer 0", "layer 1", ... of
        infinitely many units. The relative accuracy of `sample_variance` is
        1e-12 where `correlation_map` prints c, about 1e-12 a layer elsewhere.

    Raises:
        ValueError: An argument is outside its range, or as `correlation_map`.

    Example:

    >>> profile = sample_variance_decay(50)
    >>> print(profile.sample_fraction[-1].round(5))
    0.01214

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942: the recursion for relu, and batch normalisation. The
    argument of c is rho = m^2 / (m^2 + v^2). Other activations derived here.
    """
    check_int("depth", depth, 0)
    if not isinstance(batch_norm, bool | np.bool_):
        raise ValueError(
            f"batch_norm must be True or False. "
            f"Received: batch_norm={batch_norm!r}"
        )
    if not is_real(initial_correlation) or abs(initial_correlation) > 1:
        raise ValueError(
            f"initial_correlation must be a number in [-1, 1]. "
            f"Received: initial_correlation={initial_correlation!r}"
        )
    step = decorrelation(resolve(activation, parameters))
    eps = np.ones(depth + 1)
    if not batch_norm:
        eps[0] = 1 - float(initial_correlation)
        for layer in range(depth):
            eps[layer + 1] = step(eps[layer])
    return VarianceProfile(
        layers=[f"layer {layer}" for layer in range(depth + 1)],
        sample_variance=eps,
        squared_mean=1 - eps,
        units=np.full(depth + 1, np.inf),
    )


def asymptotic_sample_variance(
    layer: Any,
    activation: str | ArrayFunction = "relu",
    **parameters: Any,
) -> float | np.ndarray:
    """What the sample variance tends to in deep layers, at total variance 1.

        relu        v_l^2 ~ (9 pi^2 / 2) / l^2
        leaky_relu  v_l^2 ~ (9 pi^2 / 2) ((1+a^2) / (1-a)^2)^2 / l^2

    whatever rho_0. The approach is slow, of relative order log(l) / l: for
    relu the recursion is at 29% of this at l = 10, 81% at 100, 97% at 1000.

    Args:
        layer: l, array-like of any shape, finite and > 0.
        activation: "relu" or "leaky_relu".
        **parameters: `negative_slope` of "leaky_relu" (0.2), any but 1.

    Returns:
        v_l^2, float64, of the shape of `layer`; a float for a scalar.

    Raises:
        ValueError: `layer` is not positive, or the activation another one.

    Example:

    >>> round(asymptotic_sample_variance(1000), 9)
    4.4413e-05

    Reference: derived here, from 1 - c = eps - k eps^(3/2) + ... for eps -> 0
    with k = 2 sqrt(2) / (3 pi) (1-a)^2 / (1+a^2), so v_l^2 ~ (2 / (k l))^2.
    """
    phi = resolve(activation, parameters)
    if phi.negative_slope is None:
        raise ValueError(
            f"The asymptotic sample variance is known for relu and "
            f"leaky_relu. Received: activation={phi.name!r}"
        )
    if phi.negative_slope == 1:
        raise ValueError(
            f"The sample variance does not decay in a linear network. "
            f"Received: activation={phi.name!r} with slope 1 on both sides"
        )
    layers = _numbers("layer", layer)
    if not (np.isfinite(layers) & (layers > 0)).all():
        raise ValueError(f"layer must be > 0. Received: layer={layer!r}")
    variance = 4.5 * (math.pi / (bend(phi.negative_slope) * layers)) ** 2
    return float(variance) if variance.ndim == 0 else variance


def critical_scale(
    activation: str | ArrayFunction = "relu", **parameters: Any
) -> float:
    """Gain that keeps the variance of pre-activations at 1.

        gain = 1 / E[phi(z)^2],    weights of variance gain / fan_in

    It is the `scale` of `keras.initializers.VarianceScaling` in mode "fan_in":
    1 for linear, 2 for relu, 2 / (1 + a^2) for leaky_relu.

    Args:
        activation: As in `correlation_map`.
        **parameters: As in `correlation_map`.

    Returns:
        The gain, > 0.

    Raises:
        ValueError: As `correlation_map`.

    Example:

    >>> critical_scale("relu"), round(critical_scale("tanh"), 6)
    (2.0, 2.536175)

    Reference: He et al., ICCV (2015), arXiv:1502.01852, for relu and
    leaky_relu. There, and for linear, the gain keeps any variance; for the
    other activations it keeps variance 1 only.
    """
    return 1 / second_moment(resolve(activation, parameters))


def _numbers(name: str, value: Any) -> np.ndarray:
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} must be a real number or an array of them. "
            f"Received: {name}={value!r}"
        )
    return numbers.astype(np.float64)


def _correlations(value: Any) -> np.ndarray:
    rho = _numbers("correlation", value)
    inside = np.abs(rho) <= 1
    if not inside.all():
        raise ValueError(
            f"correlation must lie in [-1, 1]. "
            f"Received: correlation={rho[~inside].flat[0]}"
        )
    return rho
