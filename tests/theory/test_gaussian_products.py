"""Means of products of functions of two Gaussian variables."""

import math

import numpy as np
import pytest
from scipy import integrate, special

from keras_initx.theory.mean_field import gaussian_products
from keras_initx.theory.mean_field.batch_norm import (
    mean_inverse_variance,
    normalized_spectrum,
)
from keras_initx.theory.mean_field.gaussian_products import (
    Function,
    ProductsOfPoints,
    UnresolvedError,
    gaussian_mean,
    gaussian_product,
    gaussian_products_of_pairs,
)

RELU = Function(lambda z: np.maximum(z, 0), (0.0,))
LEAKY = Function(lambda z: np.where(z > 0, z, -0.3 * z), (0.0,))
STEP = Function(lambda z: np.where(z > 0, 1.0, -0.3), (0.0,))
TANH = Function(np.tanh)
HARD = Function(lambda z: np.clip(z, -1, 1), (-1.0, 1.0))
EXP = Function(np.exp)
SQUARE = Function(np.square)


def pair(f, g, mean_u, mean_v, variance_u, variance_v, covariance):
    return gaussian_product(
        f,
        g,
        np.array([mean_u]),
        np.array([mean_v]),
        np.array([variance_u]),
        np.array([variance_v]),
        np.array([[covariance]]),
    )[0, 0]


@pytest.mark.parametrize("mean", [(0.0, 0.0), (0.7, -1.3)])
@pytest.mark.parametrize(
    ("q", "r", "k"),
    [(1.0, 1.0, 0.3), (2.0, 0.4, -0.85), (3.0, 2.0, 2.449), (1.0, 1.0, 1.0)],
)
def test_closed_forms_that_hold_for_any_mean(mean, q, r, k):
    a, b = mean
    exponential = math.exp(a + b + (q + r + 2 * k) / 2)
    assert pair(EXP, EXP, a, b, q, r, k) == pytest.approx(exponential, rel=1e-9)
    # E u^2 v^2 = (a^2 + q)(b^2 + r) + 4 a b k + 2 k^2
    square = (a * a + q) * (b * b + r) + 4 * a * b * k + 2 * k * k
    assert pair(SQUARE, SQUARE, a, b, q, r, k) == pytest.approx(
        square, rel=1e-9
    )


@pytest.mark.parametrize(
    ("q", "r", "k"),
    [(1.0, 1.0, 0.0), (2.0, 0.5, 0.9999), (2.0, 0.5, -0.9), (3.0, 3.0, 3.0)],
)
def test_closed_forms_are_the_quadrature(q, r, k):
    for f, slopes in ((RELU, (1.0, 0.0)), (LEAKY, (1.0, -0.3))):
        closed = Function(f.values, f.kinks, slopes=slopes)
        line = Function(lambda z: z, (), slopes=(1.0, 1.0))
        for g, h in ((closed, f), (line, Function(lambda z: z))):
            found = pair(closed, g, 0, 0, q, r, k)
            assert found == pytest.approx(pair(f, h, 0, 0, q, r, k), abs=1e-9)
    closed = Function(STEP.values, STEP.kinks, steps=(1.0, -0.3))
    found = pair(closed, closed, 0, 0, q, r, k)
    assert found == pytest.approx(pair(STEP, STEP, 0, 0, q, r, k), abs=1e-8)


def test_erf():
    # Williams, NeurIPS 9 (1997).
    f = Function(special.erf)
    for q, r, k in ((1.0, 2.0, 0.5), (9.0, 0.2, -1.0)):
        expected = (
            2
            / math.pi
            * math.asin(2 * k / math.sqrt((1 + 2 * q) * (1 + 2 * r)))
        )
        assert pair(f, f, 0, 0, q, r, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("f", [TANH, HARD, RELU])
def test_a_variance_of_zero_is_a_constant(f):
    value = f.values(np.array([0.4]))[0]
    mean = gaussian_mean(f, np.array([1.0]), np.array([2.0]))[0]
    assert pair(f, f, 0.4, 1.0, 0.0, 2.0, 0.0) == pytest.approx(
        value * mean, abs=1e-12
    )


def test_many_pairs_are_a_series_that_agrees(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 12))
    covariance = x @ x.T / 12
    variances, zero = np.diag(covariance), np.zeros(9)
    for f, tolerance in ((TANH, 1e-9), (HARD, 1e-5)):
        arguments = (f, f, zero, zero, variances, variances, covariance)
        exact = gaussian_product(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(gaussian_products, "_MANY_PAIRS", 3)
            series = gaussian_product(*arguments)
        np.testing.assert_allclose(series, exact, atol=tolerance)


LINEAR = Function(lambda z: np.where(z > 0, z, -0.3 * z), (0.0,), (-0.3, 1.0))


@pytest.mark.parametrize(
    ("f", "g", "shift"),
    [
        (TANH, TANH, 0.0),
        (TANH, SQUARE, 0.7),
        (HARD, TANH, 0.4),
        (LINEAR, LINEAR, 0.0),
        (LINEAR, LINEAR, 0.6),
    ],
)
def test_products_of_points_are_those_of_all_pairs(f, g, shift):
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(9, 6))
    matrix = factors @ factors.T / 6
    means = shift * rng.normal(size=9)
    u, v = slice(0, 4), slice(4, 9)
    arguments = means[u], means[v], np.diag(matrix)[u], np.diag(matrix)[v]
    i, j = np.indices((4, 5))
    found = ProductsOfPoints(f, g, *arguments).at(i, j, matrix[u, v])
    exact = gaussian_product(f, g, *arguments, matrix[u, v])
    # The terms that are left out are at most this share of the mean squares.
    own = [
        gaussian_product(h, h, m, m, q, q, np.minimum.outer(q, q)).diagonal()
        for h, m, q in (
            (f, means[u], arguments[2]),
            (g, means[v], arguments[3]),
        )
    ]
    most = 1e-3 * np.sqrt(np.multiply.outer(*own))
    assert (np.abs(found - exact) <= most).all()


@pytest.mark.parametrize("n", [4, 5, 12, 200])
def test_mean_inverse_variance_of_independent_values(n):
    # The variance is chi-square with n - 1 degrees of freedom, over n.
    covariance = 2.5 * (np.eye(n) - 1 / n)
    expected = n / (n - 3) / 2.5
    found = mean_inverse_variance(np.linalg.eigvalsh(covariance))
    assert found == pytest.approx(expected, rel=1e-9)


def test_mean_inverse_variance_of_correlated_values_and_epsilon():
    blocks = np.kron(np.eye(12), 0.5 + 0.5 * np.eye(16))
    centering = np.eye(192) - 1 / 192
    covariance = centering @ blocks @ centering
    found = mean_inverse_variance(np.linalg.eigvalsh(covariance))
    assert found == pytest.approx(1.097088657, abs=1e-8)
    # Too few values have no mean of 1 / s^2, but with epsilon they have one.
    few = np.array([0.0, 1.0])
    assert mean_inverse_variance(few) == math.inf
    # s^2 = z^2 / 2: E 1 / (z^2 / 2 + 1 / 2) = 2 sqrt(pi e / 2) erfc(sqrt(1/2))
    expected = 2 * math.sqrt(math.pi * math.e / 2) * math.erfc(math.sqrt(0.5))
    assert mean_inverse_variance(few, 0.5) == pytest.approx(expected, rel=1e-8)
    assert mean_inverse_variance(np.zeros(3), 0.25) == 4.0


def test_normalized_spectrum_closed_forms():
    # Equal components share the n of sum y^2.
    for n in (2, 5, 300):
        values = np.full(n, 0.3)
        values[0] = 0
        found = normalized_spectrum(values)
        np.testing.assert_allclose(found[1:], n / (n - 1), rtol=1e-12)
        assert found[0] == 0
    # E a z^2 / (a z^2 + b z'^2) = sqrt(a) / (sqrt(a) + sqrt(b))
    for a, b in ((1.0, 4.0), (1e-6, 1e6), (3.0, 3.0)):
        found = normalized_spectrum(np.array([a, 0.0, b]))
        roots = np.sqrt([a, 0.0, b])
        np.testing.assert_allclose(found, 3 * roots / roots.sum(), rtol=1e-9)
    # One component: E l z^2 / (l z^2 / n + eps), by quadrature.
    for value, epsilon in ((1.0, 1e-3), (1e-4, 1e-3), (50.0, 2.0)):
        expected, _ = integrate.quad(
            lambda z, v=value, e=epsilon: (
                2
                * np.exp(-(z**2) / 2)
                / np.sqrt(2 * np.pi)
                * (v * z**2 / (v * z**2 / 2 + e))
            ),
            *(0, 40),
            points=[1e-2, 0.1, 1],
            epsabs=0,
            epsrel=1e-11,
            limit=500,
        )
        found = normalized_spectrum(np.array([0.0, value]), epsilon)
        assert found[1] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(normalized_spectrum(np.zeros(3), 0.1), 0)


def test_normalized_spectrum_of_many_components():
    """Where no component is large, s^2 is its mean, and eps is added to it."""
    values = np.r_[0.0, np.linspace(0.5, 1.5, 4000)]
    found = normalized_spectrum(values, 0.25)
    expected = values / (values.mean() + 0.25)
    np.testing.assert_allclose(found, expected, rtol=3e-3)
    # Without eps the mean square of the values is 1.
    spread = np.geomspace(1e-12, 1e12, 50)
    assert normalized_spectrum(spread).mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    "function", [mean_inverse_variance, normalized_spectrum]
)
def test_eigenvalues_out_of_range(function):
    for values, epsilon, expected in (
        ([1.0, -0.5], 0.0, "eigenvalues must be >= 0.*-0.5"),
        ([-1.0], 0.0, "eigenvalues must be >= 0"),
        ([], 0.0, r"of shape \(n,\)"),
        (np.eye(2), 0.0, r"of shape \(n,\)"),
        ([1.0, np.nan], 0.0, "eigenvalues must be .*finite"),
        ([1.0, 0.0], -1e-3, "epsilon must be"),
    ):
        with pytest.raises(ValueError, match=expected):
            function(values, epsilon)
    # What rounding leaves of an eigenvalue 0.
    np.testing.assert_array_equal(
        function([-1e-17, 1.0, 2.0, 3.0]), function([0.0, 1.0, 2.0, 3.0])
    )


SIN = Function(np.sin)


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0, 20.0, 300.0, 1e4])
def test_sines_are_right_or_refused(sigma):
    """E sin u sin v = exp(-q) sinh(k) for variances q and covariance k."""
    variance = np.full(3, sigma**2)
    zero = np.zeros(3)
    covariance = sigma**2 * np.array([[1.0, 0.9, -0.5]] * 3)
    # exp(-q) sinh(k), without an overflow.
    expected = (
        np.exp(covariance - sigma**2) - np.exp(-covariance - sigma**2)
    ) / 2
    arguments = (SIN, SIN, zero, zero, variance, variance, covariance)
    if sigma < 5:
        np.testing.assert_allclose(
            gaussian_product(*arguments), expected, atol=1e-9
        )
    if sigma > 15:
        with pytest.raises(UnresolvedError, match="standard deviation"):
            gaussian_product(*arguments)
    # Between, an answer is right.
    elif sigma >= 5:
        try:
            found = gaussian_product(*arguments)
        except UnresolvedError:
            return
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("variance", [1.0, 100.0])
def test_many_pairs_of_one_variance(variance):
    """More pairs than are integrated, against closed forms at any width."""
    n = 34
    x = np.random.default_rng(0).normal(size=(n, 6))
    x += np.linspace(0, 3, n)[:, None]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    covariance = variance * x @ x.T
    both, zero = np.full(n, variance), np.zeros(n)

    def product(f):
        return gaussian_product(f, f, zero, zero, both, both, covariance)

    # Williams, NeurIPS 9 (1997), for erf and its derivative.
    expected = 2 / np.pi * np.arcsin(2 * covariance / (1 + 2 * variance))
    found = product(Function(special.erf))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    slope = Function(lambda z: 2 / math.sqrt(math.pi) * np.exp(-(z**2)))
    root = np.sqrt((1 + 2 * variance) ** 2 - 4 * covariance**2)
    np.testing.assert_allclose(
        product(slope), 4 / np.pi / root, atol=1e-8 * 4 / np.pi / root.max()
    )
    # A step, whose closed form is not used here.
    angle = np.arccos(np.clip(covariance / variance, -1, 1))
    step = Function(lambda z: (z > 0) * 1.0, (0.0,))
    np.testing.assert_allclose(
        product(step), (np.pi - angle) / (2 * np.pi), atol=1e-7
    )


def test_a_series_that_leaves_much_is_refused():
    """Many variances take a series, which wide functions are too steep for."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6))
    covariance = x @ x.T
    zero = np.zeros(40)
    for scale, fails in ((1.0, False), (1e4, True)):
        arguments = scale * np.diag(covariance), scale * covariance
        variances, whole = arguments
        if fails:
            with pytest.raises(UnresolvedError, match="a series of 160 terms"):
                gaussian_product(
                    *(TANH, TANH, zero, zero, variances, variances, whole)
                )
            continue
        f = Function(special.erf)
        roots = np.sqrt(1 + 2 * variances)
        expected = np.arcsin(2 * whole / np.outer(roots, roots)) * 2 / np.pi
        found = gaussian_product(f, f, zero, zero, variances, variances, whole)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pairs_take_the_series_only_where_it_ends():
    """An indicator of a wide variable has no short series."""
    f = Function(lambda z: ((z > 0) & (z < 0.6)) * 1.0, (0.0, 0.6))
    rng = np.random.default_rng(0)
    variances = 100 * (
        1 + 0.2 * rng.random((2, gaussian_products._MANY_PAIRS + 1))
    )
    zero = np.zeros(variances.shape[1])
    covariance = rng.uniform(-90, 90, len(zero))
    with pytest.raises(UnresolvedError, match="a series of 160 terms"):
        gaussian_products_of_pairs(f, f, zero, zero, *variances, covariance)
