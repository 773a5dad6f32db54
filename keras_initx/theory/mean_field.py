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
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import fft

from keras_initx.profile import VarianceProfile
from keras_initx.theory.activations import (
    Activation,
    ArrayFunction,
    angle,
    bend,
    is_real,
    resolve,
)

# Panels of the Gauss-Legendre rule: exp(-12^2 / 2) = 5e-32 is left out.
_PANELS = np.array([-12.0, -6.0, -3.0, 0.0, 3.0, 6.0, 12.0])
# (nodes a panel, angles): each row must agree with the one before.
_REFINEMENTS = ((16, 48), (24, 64), (48, 128))
# Where phi is analytic between breakpoints the error falls exponentially in
# the nodes, and agreement of two rows to 1e-9 leaves far less in the second.
# Elsewhere the agreement itself is the accuracy.
_AGREED, _TOLERATED = 1e-9, 1e-6


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
    mapped = rho + (eps - _decorrelation(resolve(activation, parameters))(eps))
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

    Zero biases, weights of variance `critical_gain() / fan_in`, every two
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
    >>> profile
    <VarianceProfile of 51 layers: decay 1 at 'layer 0', 0.01214 at 'layer 50'>

    Reference: Luther & Seung, Physical Review Research 2, 033135 (2020),
    arXiv:1902.04942: the recursion for relu, and batch normalisation. The
    argument of c is rho = m^2 / (m^2 + v^2). Other activations derived here.
    """
    if isinstance(depth, bool) or not isinstance(depth, int | np.integer):
        raise ValueError(f"depth must be an int. Received: depth={depth!r}")
    if depth < 0:
        raise ValueError(f"depth must be >= 0. Received: depth={depth!r}")
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
    step = _decorrelation(resolve(activation, parameters))
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

    Source: derived here, from 1 - c = eps - k eps^(3/2) + ... for eps -> 0 with
    k = 2 sqrt(2) / (3 pi) (1-a)^2 / (1+a^2), so that v_l^2 ~ (2 / (k l))^2.
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
    step = _decorrelation(resolve(activation, parameters))
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


def critical_gain(
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

    >>> critical_gain("relu"), round(critical_gain("tanh"), 6)
    (2.0, 2.536175)

    Reference: He et al., ICCV (2015), arXiv:1502.01852, for relu and
    leaky_relu. There, and for linear, the gain keeps any variance; for the
    other activations it keeps variance 1 only.
    """
    return 1 / _second_moment(resolve(activation, parameters))


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


def _decorrelation(phi: Activation) -> Callable[[np.ndarray], np.ndarray]:
    """The map from eps = 1 - rho in [0, 2] to 1 - c(rho)."""
    exact = phi.decorrelation or _interpolated(phi)
    # Not np.clip, which is slow on the scalars of a recursion.
    return lambda eps: np.minimum(np.maximum(exact(eps), 0), 2)


def _interpolated(phi: Activation) -> ArrayFunction:
    """1 - c as eps g(theta), with g a Chebyshev series.

    At theta = 0, where phi(u) - phi(v) would have no digits left, g has the
    finite limit E[phi'^2] / E[phi^2]. A kink leaves odd powers of theta in c,
    so g is smooth on [0, pi] for kinked activations too.
    """
    moment = _second_moment(phi)
    coarse = _ratio_series(phi, *_REFINEMENTS[0]) / moment
    for nodes, angles in _REFINEMENTS[1:]:
        fine = _ratio_series(phi, nodes, angles) / moment
        change = np.abs(fine - np.pad(coarse, (0, angles - len(coarse)))).sum()
        size = np.abs(fine).sum()
        if change <= _AGREED * size:
            break
        coarse = fine
    if not change <= _TOLERATED * size:
        raise _does_not_settle(phi)
    return lambda eps: eps * _cosine_series(fine, angle(eps))


def _does_not_settle(phi: Activation) -> ValueError:
    return ValueError(
        f"activation must be continuous, smooth but for its breakpoints, and "
        f"not much steeper than tanh(5 z): the quadrature does not settle to "
        f"{_TOLERATED}. Name the kinks, for example breakpoints=(-1, 1). "
        f"Received: activation={phi.name!r}, breakpoints={phi.breakpoints}"
    )


def _ratio_series(phi: Activation, nodes: int, angles: int) -> np.ndarray:
    """E[phi^2] (1 - c) / eps as a Chebyshev series in theta."""
    t = (np.arange(angles) + 0.5) * np.pi / angles
    theta = np.pi * np.sin(t / 2) ** 2
    squares = [_mean_square_difference(phi, a, nodes) for a in theta]
    ratio = np.array(squares) / (4 * np.sin(theta / 2) ** 2)
    series = fft.dct(ratio) / angles
    series[0] /= 2
    return series


def _cosine_series(series: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """sum_k series[k] cos(k t), where theta = pi sin^2(t/2)."""
    t = 2 * np.arcsin(np.sqrt(theta / np.pi))
    return np.cos(np.multiply.outer(t, np.arange(len(series)))) @ series


def _mean_square_difference(phi: Activation, theta: float, nodes: int) -> float:
    """E[(phi(u) - phi(v))^2] for standard normal u, v at angle theta.

    With independent standard normal x, y and c, s = cos, sin of theta / 2,

        u = c x - s y,  v = c x + s y     or     u = s y - c x,  v = s y + c x.

    phi has a kink b on the lines u = b and v = b, so each line of constant y
    is cut there. A Gauss-Hermite product rule cannot be cut, and converges
    only algebraically for relu and its kin. What is left is a smooth function
    of y, but where two cuts pass through each other.
    """
    kinks = np.array(phi.breakpoints)
    c, s, sign = math.cos(theta / 2), math.sin(theta / 2), 1.0
    if c < s:
        # The cuts must not move faster than y does.
        c, s, sign = s, c, -1.0
    crossings = np.subtract.outer(kinks, sign * kinks).ravel() / (2 * s)
    y, weight_y = _gaussian_rule(crossings, nodes)
    y = y[:, None]
    cuts = np.hstack([(sign * kinks + s * y) / c, (kinks - s * y) / c])
    x, weight_x = _gaussian_rule(cuts, nodes)
    difference = phi.function(sign * (c * x - s * y)) - phi.function(
        c * x + s * y
    )
    return float(weight_y @ np.sum(weight_x * difference**2, axis=1))


def _gaussian_rule(
    cuts: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of E[f(z)], z ~ N(0, 1), cut along the last axis."""
    panels = np.broadcast_to(_PANELS, (*cuts.shape[:-1], len(_PANELS)))
    edges = np.concatenate([panels, cuts], axis=-1)
    edges = np.sort(np.clip(edges, _PANELS[0], _PANELS[-1]), axis=-1)
    points, weights = leggauss(nodes)
    middle = (edges[..., 1:, None] + edges[..., :-1, None]) / 2
    half = (edges[..., 1:, None] - edges[..., :-1, None]) / 2
    z = middle + half * points
    weights = half * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    shape = (*cuts.shape[:-1], -1)
    return z.reshape(shape), weights.reshape(shape)


def _second_moment(phi: Activation) -> float:
    """E[phi(z)^2], z ~ N(0, 1)."""
    moment = phi.second_moment
    if moment is None:
        coarse, moment = (_mean_square(phi, nodes) for nodes in (64, 128))
        if abs(moment - coarse) > _TOLERATED * moment:
            raise _does_not_settle(phi)
    if not 0 < moment < math.inf:
        raise ValueError(
            f"activation must have a finite, positive mean square under a "
            f"standard normal. Received: activation={phi.name!r}, "
            f"which has {moment}"
        )
    return moment


def _mean_square(phi: Activation, nodes: int) -> float:
    z, weights = _gaussian_rule(np.array(phi.breakpoints), nodes)
    with np.errstate(over="ignore"):
        squares = phi.function(z) ** 2
    tails = squares[[0, -1]] * np.exp(-(z[[0, -1]] ** 2) / 2)
    moment = float(weights @ squares)
    return moment if (tails <= 1e-12 * moment).all() else math.inf
