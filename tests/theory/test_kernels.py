"""Kernels of infinitely wide networks, against values and a quadrature."""

import math

import numpy as np
import pytest
from scipy import stats

import keras_initx as kx
from keras_initx import theory

X = np.array([[1.0, 0, 1], [0, 1, 1], [1, 1, -1]])


@pytest.mark.parametrize(
    ("activation", "weight", "bias", "kernel", "tangent"),
    [
        (
            "relu",
            2.0,
            0.1,
            (1.633333, 1.200902, 1.079604),
            (4.6, 2.312916, 1.551522),
        ),
        (
            "erf",
            1.5,
            0.05,
            (0.668559, 0.355431, 0.105855),
            (2.226433, 0.960915, 0.181286),
        ),
        (
            "sine",
            2.0,
            0.0,
            (0.844488, 0.305348, 0.0),
            (3.567446, 0.990895, 0.0),
        ),
    ],
)
def test_kernels(activation, weight, bias, kernel, tangent):
    arguments = (X, 2, activation, weight, bias)
    for function, values in (
        (theory.nngp_kernel, kernel),
        (theory.tangent_kernel, tangent),
    ):
        result = function(*arguments)
        np.testing.assert_allclose(result, result.T, rtol=1e-12, atol=1e-15)
        chosen = result[[0, 0, 1], [0, 1, 2]]
        np.testing.assert_allclose(chosen, values, atol=1e-6)
        # Another set of inputs, and a part of the first.
        part = function(X[:1], *arguments[1:], y=X[1:])
        np.testing.assert_allclose(part, result[:1, 1:], rtol=1e-12, atol=1e-15)


def test_without_hidden_layers_both_are_linear():
    expected = 3 * X @ X.T / 3 + 0.5
    for function in (theory.nngp_kernel, theory.tangent_kernel):
        np.testing.assert_allclose(function(X, 0, "tanh", 3.0, 0.5), expected)


def by_quadrature(phi, slope, covariance):
    """E phi(u) phi(v) and E phi'(u) phi'(v) of a 2 by 2 covariance."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    w = w / w.sum()
    p, c, q = covariance[0, 0], covariance[0, 1], covariance[1, 1]
    u = math.sqrt(p) * z[:, None]
    v = c / p * u + math.sqrt(q - c * c / p) * z
    return w @ (phi(u) * phi(v)) @ w, w @ (slope(u) * slope(v)) @ w


@pytest.mark.parametrize(
    ("activation", "phi", "slope"),
    [
        ("tanh", np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        (
            "softplus",
            lambda z: np.logaddexp(0, z),
            lambda z: 1 / (1 + np.exp(-z)),
        ),
        ("linear", lambda z: z, np.ones_like),
        # A function that has no name here.
        (
            lambda z: np.cos(z) + z,
            lambda z: np.cos(z) + z,
            lambda z: 1 - np.sin(z),
        ),
    ],
)
def test_a_layer_is_an_average(activation, phi, slope):
    x = np.array([[1.0, 0.3], [-0.2, 1.5]])
    before = theory.nngp_kernel(x, 0, activation, 1.3, 0.2)
    product, slopes = by_quadrature(phi, slope, before)
    kernel = theory.nngp_kernel(x, 1, activation, 1.3, 0.2)
    assert kernel[0, 1] == pytest.approx(1.3 * product + 0.2, rel=1e-9)
    tangent = theory.tangent_kernel(x, 1, activation, 1.3, 0.2)
    assert tangent[0, 1] == pytest.approx(
        kernel[0, 1] + 1.3 * before[0, 1] * slopes, rel=1e-8
    )


def test_leaky_relu_lies_between_relu_and_linear():
    at = [
        theory.tangent_kernel(X, 3, "leaky_relu", 1.5, 0.1, negative_slope=a)
        for a in (0, 1)
    ]
    for activation, expected in zip(("relu", "linear"), at, strict=True):
        result = theory.tangent_kernel(X, 3, activation, 1.5, 0.1)
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    # A negative slope of -1 is |z|, a sum of two relus of opposite inputs.
    both = theory.nngp_kernel(X, 1, "leaky_relu", 1.0, negative_slope=-1.0)
    relu = theory.nngp_kernel(X, 1, "relu", 1.0)
    opposite = theory.nngp_kernel(X, 1, "relu", 1.0, y=-X)
    np.testing.assert_allclose(both, 2 * (relu + opposite), rtol=1e-12)


@pytest.mark.parametrize(
    ("activation", "depth", "variances", "rtol"),
    [
        ("tanh", 60, (1.6, 0.1), 1e-8),
        # With fewer layers, each of which costs more, the limit is not as near.
        ("hard_tanh", 25, (1.2, 0.2), 1e-6),
    ],
)
def test_the_diagonal_follows_the_fixed_point(
    activation, depth, variances, rtol
):
    point = theory.signal_fixed_point(activation, *variances)
    kernel = theory.nngp_kernel(X[:2], depth, activation, *variances)
    np.testing.assert_allclose(np.diag(kernel), point.variance, rtol=rtol)


# ---- Activations with kinks ------------------------------------------------


def relu_by_values(z):
    return np.maximum(z, 0)


@pytest.mark.parametrize(
    "function", [theory.nngp_kernel, theory.tangent_kernel]
)
def test_kinks_are_integrated_exactly(function):
    y = np.concatenate([X[:2], -X[:1], 1.001 * X[:1]])
    for given in (None, y):
        expected = function(X, 3, "relu", 1.7, 0.1, given)
        result = function(X, 3, relu_by_values, 1.7, 0.1, given)
        # The angle of equal inputs has an error of 1e-8, the root of rounding.
        np.testing.assert_allclose(result, expected, rtol=1e-7)


def test_slopes_of_a_clip_are_probabilities():
    """E phi'(u) phi'(v) is P(|u| < b, |v| < b)."""
    x = np.array([[1.0, 0.3], [-0.2, 1.5], [-0.9, -0.4]])
    bound = 0.7
    before = theory.nngp_kernel(x, 0, "linear", 1.3, 0.2)
    clip = theory.Activation(
        lambda z: np.clip(z, -bound, bound), breakpoints=(-bound, bound)
    )
    kernel, tangent = (
        function(x, 1, clip, 1.3, 0.2)
        for function in (theory.nngp_kernel, theory.tangent_kernel)
    )
    slopes = (tangent - kernel) / (1.3 * before)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        normal = stats.multivariate_normal(
            np.zeros(2), before[np.ix_([i, j], [i, j])]
        )
        expected = sum(
            a * b * normal.cdf([a * bound, b * bound])
            for a in (1, -1)
            for b in (1, -1)
        )
        assert slopes[i, j] == pytest.approx(expected, abs=1e-7)
    inside = [math.erf(bound / math.sqrt(2 * q)) for q in np.diag(before)]
    np.testing.assert_allclose(np.diag(slopes), inside, rtol=1e-7)


@pytest.mark.parametrize("activation", ["elu", "softsign"])
def test_kinks_against_a_grid(activation):
    """Slopes that are continuous, summed on a fine grid."""
    phi = theory.mean_field.activations.resolve(activation, {}).function
    x = np.array([[1.0, 0.3], [-0.2, 1.5]])
    before = theory.nngp_kernel(x, 0, activation, 1.3, 0.2)
    z = np.linspace(-7, 7, 1201)
    weights = np.exp(-(z**2) / 2)
    weights = weights / weights.sum()
    low = np.linalg.cholesky(before)
    u = low[0, 0] * z[:, None]
    v = low[1, 0] * z[:, None] + low[1, 1] * z
    step = 1e-5
    slopes = [(phi(w + step) - phi(w - step)) / (2 * step) for w in (u, v)]
    kernel = theory.nngp_kernel(x, 1, activation, 1.3, 0.2)[0, 1]
    tangent = theory.tangent_kernel(x, 1, activation, 1.3, 0.2)[0, 1]
    product = weights @ (phi(u) * phi(v)) @ weights
    assert kernel == pytest.approx(1.3 * product + 0.2, abs=1e-5)
    product = weights @ (slopes[0] * slopes[1]) @ weights
    assert tangent == pytest.approx(
        kernel + 1.3 * before[0, 1] * product, abs=1e-4
    )


def test_a_bound_is_a_unit():
    """A clip at twice the bound, of inputs and biases twice as large."""
    one, two = (
        theory.tangent_kernel(b * X, 2, kx.layers.HardTanh(b), 1.5, 0.1 * b**2)
        for b in (1.0, 2.0)
    )
    np.testing.assert_allclose(two, 4 * one, rtol=1e-12)


@pytest.mark.parametrize(
    "function", [theory.nngp_kernel, theory.tangent_kernel]
)
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([1.0, 2.0], 1), "x"),
        (([[1.0, np.nan]], 1), "x"),
        ((np.ones((0, 3)), 1), "x"),
        ((X, -1), "depth"),
        ((X, 1.5), "depth"),
        ((X, 1, "nonsense"), "activation"),
        ((X, 1, "hard_shrink"), "activation"),
        # Kinks that are not named, a slope that is too steep, infinite means.
        ((X, 1, lambda z: np.clip(z, -1, 1)), "activation"),
        ((X, 1, lambda z: np.tanh(99 * z)), "activation"),
        ((X, 3, "exponential"), "activation"),
        ((X, 1, "relu", 0), "weight_variance"),
        ((X, 1, "relu", 2.0, -1), "bias_variance"),
        ((np.zeros((2, 3)), 1), "bias_variance"),
        ((X, 1, "relu", 2.0, 0.0, np.ones((2, 2))), "x"),
    ],
)
def test_bad_arguments(function, arguments, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        function(*arguments)
