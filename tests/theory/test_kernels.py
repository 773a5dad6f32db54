"""Kernels of infinitely wide networks, against values and a quadrature."""

import math

import numpy as np
import pytest

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


def test_the_diagonal_follows_the_fixed_point():
    point = theory.signal_fixed_point("tanh", 1.6, 0.1)
    kernel = theory.nngp_kernel(X, 60, "tanh", 1.6, 0.1)
    np.testing.assert_allclose(np.diag(kernel), point.variance, rtol=1e-8)


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
        ((X, 1, "elu"), "activation"),
        ((X, 1, "hard_tanh"), "activation"),
        ((X, 1, "relu", 0), "weight_variance"),
        ((X, 1, "relu", 2.0, -1), "bias_variance"),
        ((np.zeros((2, 3)), 1), "bias_variance"),
        ((X, 1, "relu", 2.0, 0.0, np.ones((2, 2))), "x"),
    ],
)
def test_bad_arguments(function, arguments, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        function(*arguments)
