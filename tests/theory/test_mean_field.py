"""theory.mean_field: tables, integrals, exact limits and random networks."""

import functools
import math
from decimal import Decimal, localcontext

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from keras_initx import VarianceProfile, theory
from keras_initx.theory.mean_field.activations import resolve

LAYERS = (1, 2, 5, 10, 20, 50, 100)
RELU = {
    -0.5: "0.89100222 0.62529850 0.30256072 0.14037123 0.054404295 "
    "0.012444907 0.0036249160",
    0.0: "0.68169011 0.50626891 0.26405365 0.12846448 0.051571521 "
    "0.012138055 0.0035768533",
    0.1: "0.63009723 0.47470270 0.25289688 0.12483013 0.050674198 "
    "0.012037966 0.0035609907",
    0.5: "0.39100222 0.31609435 0.18954580 0.10235327 0.044739815 "
    "0.011337387 0.0034472891",
    0.75: "0.21199789 0.18238276 0.12387195 0.074884504 0.036386668 "
    "0.010216195 0.0032547960",
    0.99: "0.0096997443 0.0094129139 0.0086253280 0.0075174124 0.0058602903 "
    "0.0032160536 0.0015724691",
}
LEAKY_LAYERS = (1, 5, 10, 50)
LEAKY = {
    0.01: "0.68805567 0.27006953 0.13214823 0.012592964",
    0.1: "0.74472177 0.33206249 0.17250014 0.018045784",
    0.2: "0.80411699 0.41771236 0.23589131 0.028550416",
    0.5: "0.93633802 0.73641184 0.56775130 0.15056076",
}
# activation, parameters, the function from its definition
QUADRATURE = [
    ("tanh", {}, np.tanh),
    ("gelu", {}, lambda z: z * (1 + special.erf(z / math.sqrt(2))) / 2),
    (
        "gelu",
        {"approximate": True},
        lambda z: (
            z
            / 2
            * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
        ),
    ),
    ("silu", {}, lambda z: z / (1 + np.exp(-z))),
    ("swish", {}, lambda z: z / (1 + np.exp(-z))),
    ("elu", {}, lambda z: np.where(z > 0, z, np.exp(z) - 1)),
    ("elu", {"alpha": 2.0}, lambda z: np.where(z > 0, z, 2 * np.exp(z) - 2)),
    (
        "selu",
        {},
        lambda z: (
            1.0507009873554805
            * np.where(z > 0, z, 1.6732632423543772 * (np.exp(z) - 1))
        ),
    ),
    ("softplus", {}, lambda z: np.log1p(np.exp(z))),
    ("arctan", {}, np.arctan),
]
CLOSED = [
    ("linear", {}, lambda z: z),
    ("relu", {}, lambda z: np.maximum(z, 0)),
    ("leaky_relu", {}, lambda z: np.maximum(z, 0.2 * z)),
    (
        "leaky_relu",
        {"negative_slope": -0.5},
        lambda z: np.where(z > 0, z, -0.5 * z),
    ),
    ("erf", {}, special.erf),
    ("sine", {}, np.sin),
]
# Without a counterpart in `keras.activations`.
OURS = {"erf", "arctan", "sine"}
RHO = np.array([-0.95, -0.5, -0.1, 0.0, 0.3, 0.5, 0.8, 0.95])


def names(cases):
    return [
        f"{name}{list(parameters.values()) or ''}"
        for name, parameters, _ in cases
    ]


def hard_tanh(z):
    return np.clip(z, -1, 1)


# Eigenvalues of a matrix of this order, each time.
legendre = functools.cache(np.polynomial.legendre.leggauss)


def rule(edges):
    """Returns points and weights of a Gauss-Legendre rule between edges."""
    points, weights = legendre(100)
    edges = np.array(edges, dtype=float)
    half = np.diff(edges)[:, None] / 2
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    return (middle + half * points).ravel(), (half * weights).ravel()


def map_by_definition(phi, rho, edges=(-10, 0, 10)):
    """Returns c(rho) by its definition, as integrals over u and v."""
    z, weight = rule(edges)
    density = normal_density(rho, tuple(edges))
    values = phi(z) * weight
    return values @ density @ values / mean(lambda z: phi(z) ** 2, edges)


@functools.lru_cache(maxsize=16)
def normal_density(rho, edges):
    """Returns the density of u and v at the points of `rule`, as a table."""
    z, _ = rule(edges)
    u, v = z[:, None], z[None, :]
    density = np.exp(-(u * u - 2 * rho * u * v + v * v) / (2 - 2 * rho**2))
    return density / (2 * math.pi * math.sqrt(1 - rho**2))


def mean(function, edges=(-10, 0, 10)):
    z, weight = rule(edges)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return (function(z) * density) @ weight


# The recursion


@pytest.mark.parametrize("rho", RELU)
def test_table_of_relu(rho):
    expected = [float(number) for number in RELU[rho].split()]
    profile = theory.sample_variance_decay(101, initial_correlation=rho)
    np.testing.assert_allclose(
        profile.sample_variance[list(LAYERS)], expected, rtol=5.5e-8
    )


@pytest.mark.parametrize("slope", LEAKY)
def test_table_of_leaky_relu(slope):
    expected = [float(number) for number in LEAKY[slope].split()]
    profile = theory.sample_variance_decay(
        51, "leaky_relu", negative_slope=slope
    )
    np.testing.assert_allclose(
        profile.sample_variance[list(LEAKY_LAYERS)], expected, rtol=5.5e-8
    )


def test_leaky_relu_slope_is_that_of_keras():
    ours = theory.sample_variance_decay(10, "leaky_relu")
    expected = theory.sample_variance_decay(
        10, "leaky_relu", negative_slope=0.2
    )
    assert ours == expected


def test_ratio_of_mean_to_deviation():
    profile = theory.sample_variance_decay(101)
    layers = [1, 5, 10, 20, 49, 50, 100]
    ratio = np.sqrt(profile.squared_mean / profile.sample_variance)[layers]
    np.testing.assert_allclose(
        ratio,
        [0.683332, 1.669464, 2.604660, 4.288420, 8.866386, 9.021392, 16.690577],
        rtol=8e-7,
    )


def test_profile_of_the_recursion():
    profile = theory.sample_variance_decay(3, initial_correlation=-0.5)
    assert isinstance(profile, VarianceProfile)
    assert profile.layers == ("layer 0", "layer 1", "layer 2")
    assert profile.sample_variance[0] == 1.5
    assert profile.squared_mean[0] == -0.5
    assert np.isinf(profile.units).all()
    np.testing.assert_allclose(profile.total, 1, rtol=1e-15)
    assert len(theory.sample_variance_decay(1)) == 1


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "erf", "tanh", "elu"])
def test_recursion_is_the_map_repeated(name):
    result = theory.sample_variance_decay(4, name, 0.3).squared_mean
    assert result[0] == pytest.approx(0.3, rel=1e-15)
    np.testing.assert_allclose(
        result[1:],
        theory.correlation_map(result[:-1], name),
        rtol=0,
        atol=1e-13,
    )


def decimal_relu(eps, layers):
    """Returns eps of the relu recursion in 40 digits, for eps <= 1/2."""
    pi = Decimal("3.14159265358979323846264338327950288419716939937510")
    result = [eps]
    for _ in range(layers):
        x = (eps / 2).sqrt()
        term, theta = x, 2 * x
        for k in range(1, 80):
            term *= x * x * (2 * k - 1) / (2 * k)
            theta += 2 * term / (2 * k + 1)
        term, bracket = theta, Decimal(0)
        for k in range(1, 30):
            term *= -theta * theta / (2 * k * (2 * k + 1))
            bracket -= 2 * k * term
        eps -= bracket / pi
        result.append(eps)
    return result


@pytest.mark.parametrize("power", [1, 20, 52])
def test_recursion_of_relu_against_forty_digits(power):
    with localcontext() as context:
        context.prec = 40
        expected = decimal_relu(Decimal(2) ** -power, 300)
    profile = theory.sample_variance_decay(
        301, initial_correlation=1 - 2.0**-power
    )
    np.testing.assert_allclose(
        profile.sample_variance, [float(eps) for eps in expected], rtol=5e-15
    )


@pytest.mark.parametrize(
    ("activation", "parameters", "mean_square_slope"),
    [
        ("tanh", {}, mean(lambda z: np.cosh(z) ** -4.0)),
        ("softplus", {}, mean(lambda z: special.expit(z) ** 2)),
        (
            "elu",
            {"alpha": 2.0},
            mean(lambda z: np.where(z > 0, 1, 2 * np.exp(z)) ** 2),
        ),
        ("erf", {}, mean(lambda z: 4 / math.pi * np.exp(-2 * z * z))),
        (
            hard_tanh,
            {"breakpoints": (-1, 1)},
            mean(lambda z: 1.0 * (abs(z) < 1), (-10, -1, 1, 10)),
        ),
    ],
)
def test_slope_at_one_holds_to_the_last_digit(
    activation, parameters, mean_square_slope
):
    # c'(1) = E[phi'^2] / E[phi^2]; terms of eps^(3/2) are 1e-8 of eps here.
    profile = theory.sample_variance_decay(
        2, activation, initial_correlation=1 - 2.0**-53, **parameters
    )
    first, second = profile.sample_variance
    assert first == 2.0**-53
    scale = theory.critical_scale(activation, **parameters)
    assert second / first == pytest.approx(mean_square_slope * scale, rel=3e-8)


def test_indistinguishable_samples_decay_far_below_rounding():
    # For softplus c'(1) = 0.318 < 1, the factor of eps per layer.
    eps = theory.sample_variance_decay(201, "softplus").sample_variance
    slope = theory.critical_scale("softplus") * mean(
        lambda z: special.expit(z) ** 2
    )
    assert eps[200] < 1e-90
    np.testing.assert_allclose(eps[101:] / eps[100:-1], slope, rtol=1e-12)


def test_asymptotic_sample_variance():
    assert theory.asymptotic_sample_variance(1) == pytest.approx(44.413220)
    result = theory.sample_variance_decay(10001).sample_variance
    assert result[1000] * 1000**2 == pytest.approx(43.1297, abs=5e-5)
    assert result[10000] * 10000**2 == pytest.approx(44.25193, abs=5e-6)
    layers = np.array([[10.0, 100.0]])
    np.testing.assert_allclose(
        theory.asymptotic_sample_variance(layers), 4.5 * np.pi**2 / layers**2
    )


@pytest.mark.parametrize("slope", [-1.0, 0.1, 0.5])
@pytest.mark.parametrize("rho", [-0.5, 0.9])
def test_asymptotic_sample_variance_of_leaky_relu(slope, rho):
    result = theory.sample_variance_decay(
        30001, "leaky_relu", rho, negative_slope=slope
    ).sample_variance
    expected = theory.asymptotic_sample_variance(
        30000, "leaky_relu", negative_slope=slope
    )
    assert expected == pytest.approx(
        4.5 * math.pi**2 * ((1 + slope**2) / (1 - slope) ** 2) ** 2 / 30000**2
    )
    assert result[-1] / expected == pytest.approx(1, abs=0.02)


# The map


@pytest.mark.parametrize(
    ("name", "parameters", "phi"), QUADRATURE, ids=names(QUADRATURE)
)
def test_quadrature_against_the_definition(name, parameters, phi):
    result = theory.correlation_map(RHO, name, **parameters)
    expected = [map_by_definition(phi, rho) for rho in RHO]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-13)


@pytest.mark.parametrize(
    ("name", "parameters", "phi"), CLOSED, ids=names(CLOSED)
)
def test_closed_forms_against_quadrature_of_a_callable(name, parameters, phi):
    rho = np.concatenate([[-1, -0.9999], RHO, [0.9999, 1]])
    np.testing.assert_allclose(
        theory.correlation_map(rho, name, **parameters),
        theory.correlation_map(rho, phi),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("phi", "breakpoints"),
    [
        (hard_tanh, (-1, 1)),
        (lambda z: np.clip(z, 0, 6), [0, 6]),
        (lambda z: z * np.clip(z / 6 + 0.5, 0, 1), np.array([3, -3])),
        (lambda z: np.abs(z - 0.5), (0.5,)),
        (np.sin, ()),
    ],
)
def test_breakpoints_of_a_callable(phi, breakpoints):
    result = theory.correlation_map(RHO, phi, breakpoints=breakpoints)
    edges = sorted({-10, 10, 0, *breakpoints})
    expected = [map_by_definition(phi, rho, edges) for rho in RHO]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-11)


@pytest.mark.slow
def test_steep_callables_use_every_refinement():
    def steep(z):
        return np.tanh(3 * z)

    edges = (-10, -5, -2, -1, 0, 1, 2, 5, 10)
    expected = [map_by_definition(steep, rho, edges) for rho in RHO]
    np.testing.assert_allclose(
        theory.correlation_map(RHO, steep), expected, rtol=0, atol=2e-13
    )


def test_argument_is_the_correlation_and_not_its_square_root():
    assert theory.correlation_map(0.5) == pytest.approx(0.60899778, abs=5e-9)


def test_map_of_relu_and_erf_as_published():
    theta = np.arccos(RHO)
    np.testing.assert_allclose(
        theory.correlation_map(RHO),
        (np.sin(theta) + RHO * (np.pi - theta)) / np.pi,
        rtol=0,
        atol=1e-15,
    )
    np.testing.assert_allclose(
        theory.correlation_map(RHO, "erf"),
        np.arcsin(2 * RHO / 3) / np.arcsin(2 / 3),
        rtol=0,
        atol=1e-15,
    )


def test_shapes():
    assert type(theory.correlation_map(0)) is float
    assert type(theory.correlation_map(np.float32(0.5), "tanh")) is float
    assert theory.correlation_map([[0.5], [1]], "tanh").shape == (2, 1)
    assert theory.correlation_map([]).shape == (0,)
    assert theory.correlation_map([], "gelu").shape == (0,)
    assert theory.correlation_map([1, 0]).dtype == np.float64
    assert type(theory.asymptotic_sample_variance(3)) is float


@pytest.mark.parametrize(
    ("name", "parameters"),
    [case[:2] for case in QUADRATURE + CLOSED],
    ids=names(QUADRATURE + CLOSED),
)
def test_properties_of_every_map(name, parameters):
    rho = np.linspace(-1, 1, 201)
    c = theory.correlation_map(rho, name, **parameters)
    assert c[-1] == 1
    assert (np.abs(c) <= 1).all()
    # c is a power series with non-negative coefficients.
    positive = c[100:]
    assert positive[0] >= -1e-13
    assert (np.diff(positive) > 0).all()
    assert (np.diff(positive, 2) > -1e-13).all()
    assert (np.abs(c[100::-1]) <= positive + 1e-13).all()


def test_limits():
    linear = theory.correlation_map(RHO, "linear")
    assert np.array_equal(linear, RHO)
    leaky = theory.correlation_map(RHO, "leaky_relu", negative_slope=1)
    assert np.array_equal(leaky, RHO)
    leaky = theory.correlation_map(RHO, "leaky_relu", negative_slope=0)
    assert np.array_equal(leaky, theory.correlation_map(RHO))
    np.testing.assert_allclose(
        theory.correlation_map(RHO, "elu", alpha=0),
        theory.correlation_map(RHO),
        rtol=0,
        atol=1e-13,
    )
    for odd in ("tanh", "erf"):
        np.testing.assert_allclose(
            theory.correlation_map(-RHO, odd),
            -theory.correlation_map(RHO, odd),
            rtol=0,
            atol=1e-13,
        )
    huge = theory.correlation_map(RHO, "leaky_relu", negative_slope=1e9)
    np.testing.assert_allclose(
        huge, theory.correlation_map(RHO), rtol=0, atol=1e-8
    )


@pytest.mark.slow
@given(
    rho=st.floats(-1, 1),
    slope=st.floats(-1e3, 1e3),
)
def test_leaky_relu_of_any_slope(rho, slope):
    c = theory.correlation_map(rho, "leaky_relu", negative_slope=slope)
    assert max(rho, -1) - 1e-15 <= c <= 1
    scale = theory.critical_scale("leaky_relu", negative_slope=slope)
    assert scale * (1 + slope**2) == pytest.approx(2)
    # z -> -z exchanges the two slopes, and keeps the map.
    if slope > 1e-3:
        turned = theory.correlation_map(
            rho, "leaky_relu", negative_slope=1 / slope
        )
        assert c == pytest.approx(turned, abs=1e-12)


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(slope=st.floats(-3, 3), scale=st.floats(0.1, 10))
def test_scaling_a_callable_changes_nothing(slope, scale):
    def phi(z):
        return scale * np.where(z > 0, z, slope * z)

    np.testing.assert_allclose(
        theory.correlation_map(RHO, phi),
        theory.correlation_map(RHO, "leaky_relu", negative_slope=slope),
        rtol=0,
        atol=1e-12,
    )


@settings(max_examples=30)
@given(rho=st.floats(-1, 1), depth=st.integers(1, 60))
def test_relu_never_increases_the_sample_variance(rho, depth):
    profile = theory.sample_variance_decay(depth, initial_correlation=rho)
    assert (np.diff(profile.sample_variance) <= 0).all()
    assert (profile.sample_variance >= 0).all()


# The critical scale, and batch normalization


@pytest.mark.filterwarnings("ignore:The variance 1 that critical_scale")
def test_critical_scale():
    with pytest.raises(ValueError, match=r"mean square.*which has inf"):
        theory.critical_scale("leaky_relu", negative_slope=1e200)
    assert theory.critical_scale() == 2
    assert theory.critical_scale("linear") == 1
    assert theory.critical_scale("leaky_relu") == pytest.approx(2 / 1.04)
    for name, parameters, phi in QUADRATURE + CLOSED:
        assert theory.critical_scale(name, **parameters) == pytest.approx(
            1 / mean(lambda z, phi=phi: phi(z) ** 2), rel=1e-13
        )
        assert theory.critical_scale(phi) == pytest.approx(
            theory.critical_scale(name, **parameters), rel=1e-13
        )


def test_batch_norm():
    for rho in (0.0, 0.7, -1.0):
        profile = theory.sample_variance_decay(
            5, "gelu", initial_correlation=rho, batch_norm=True
        )
        assert np.array_equal(profile.sample_variance, np.ones(5))
        assert np.array_equal(profile.squared_mean, np.zeros(5))
    raw = theory.batch_norm_raw_variance()
    assert raw == pytest.approx((math.pi - 1) / math.pi, rel=1e-15)
    growth = theory.batch_norm_gradient_growth()
    assert growth == pytest.approx(math.pi / (math.pi - 1), rel=1e-15)
    assert math.sqrt(growth) == pytest.approx(1.211174, abs=5e-7)
    assert theory.batch_norm_raw_variance("linear") == 1
    assert theory.batch_norm_gradient_growth("linear") == 1
    slope = 0.3
    expected = 1 - (1 - slope) ** 2 / (1 + slope**2) / math.pi
    assert theory.batch_norm_raw_variance(
        "leaky_relu", negative_slope=slope
    ) == pytest.approx(expected, rel=1e-14)
    assert theory.batch_norm_gradient_growth(
        "leaky_relu", negative_slope=slope
    ) == pytest.approx(1 / expected, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "parameters", "phi"), QUADRATURE, ids=names(QUADRATURE)
)
def test_batch_norm_raw_variance_is_a_variance(name, parameters, phi):
    square = mean(lambda z: phi(z) ** 2)
    expected = 1 - mean(phi) ** 2 / square
    result = theory.batch_norm_raw_variance(name, **parameters)
    assert result == pytest.approx(expected, abs=1e-13)
    assert result <= 1


# Against random networks


@pytest.mark.filterwarnings("ignore:The variance 1 that critical_scale")
@pytest.mark.parametrize("name", ["relu", "tanh", "elu", "gelu"])
def test_map_of_a_wide_random_network(name):
    random = np.random.default_rng(5)
    width, depth, rho = 1000, 4, 0.3
    phi = resolve(name, {}).function
    scale = math.sqrt(theory.critical_scale(name) / width)
    result = []
    for _ in range(4):
        y = random.standard_normal((width, 2))
        y[:, 1] = rho * y[:, 0] + math.sqrt(1 - rho**2) * y[:, 1]
        for _ in range(depth):
            y = scale * random.standard_normal((width, width)) @ phi(y)
        result.append(cosine(y))
    expected = theory.sample_variance_decay(depth + 1, name, rho).squared_mean[
        -1
    ]
    # The standard deviation of the mean is below 0.02.
    assert np.mean(result) == pytest.approx(expected, abs=0.06)


def cosine(y):
    return y[:, 0] @ y[:, 1] / np.linalg.norm(y[:, 0]) / np.linalg.norm(y[:, 1])


def test_batch_norm_of_a_wide_random_network():
    random = np.random.default_rng(6)
    width, samples, depth = 400, 1000, 6
    x = random.standard_normal((width, samples))
    saved, raw = [], []
    for layer in range(depth):
        scale = 2.0 if layer else 1.0
        kernel = random.standard_normal((width, width)) * math.sqrt(
            scale / width
        )
        y = kernel @ x
        deviation = y.std(axis=1, keepdims=True)
        raw.append(np.mean(deviation**2) / np.mean(y**2))
        y = (y - y.mean(axis=1, keepdims=True)) / deviation
        saved.append((kernel, deviation, y > 0))
        x = np.maximum(y, 0)
    assert np.mean(raw[1:]) == pytest.approx(
        theory.batch_norm_raw_variance(), abs=0.02
    )
    # The statistics are constants in the backward pass.
    gradient = random.standard_normal((width, samples))
    squares = []
    for kernel, deviation, alive in reversed(saved[1:]):
        gradient = kernel.T @ (gradient * alive / deviation)
        squares.append(np.mean(gradient**2))
    growth = (squares[-1] / squares[0]) ** (1 / (len(squares) - 1))
    assert growth == pytest.approx(theory.batch_norm_gradient_growth(), rel=0.1)


# The activations


@pytest.mark.parametrize(
    ("name", "parameters"),
    [case[:2] for case in QUADRATURE + CLOSED if case[0] not in OURS],
    ids=names([case for case in QUADRATURE + CLOSED if case[0] not in OURS]),
)
def test_activations_are_those_of_keras(name, parameters):
    z = np.linspace(-6, 6, 101)
    function = getattr(keras.activations, "silu" if name == "swish" else name)
    expected = np.asarray(function(z, **parameters))
    result = resolve(name, parameters).function(z)
    # Keras keeps some of its constants in float32.
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-13)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5,), r"\[-1, 1\]. Received: correlation=1.5"),
        (([0.0, -1.1],), r"\[-1, 1\]. Received: correlation=\[0.0, -1.1\]"),
        ((np.nan,), "Received: correlation=nan"),
        (("half",), "numbers in .* Received: correlation='half'"),
        ((0.5j,), "numbers in .* Received: correlation=0.5j"),
        ((True,), "numbers in .* Received: correlation=True"),
        (
            (0.5, "gelo"),
            "'elu', .*Did you mean 'gelu'.* Received: activation='gelo'",
        ),
        ((0.5, 3), "a name or a callable. Received: activation=3"),
        ((0.5, None), "a name or a callable. Received: activation=None"),
    ],
)
def test_correlation_map_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.correlation_map(*arguments)


@pytest.mark.parametrize(
    ("activation", "parameters", "message"),
    [
        ("relu", {"negative_slope": 0.1}, "'relu' accepts none. Received: neg"),
        ("elu", {"slope": 1}, "'elu' accepts only alpha. Received: slope=1"),
        ("elu", {"alpha": "1"}, "finite number. Received: alpha='1'"),
        ("elu", {"alpha": True}, "finite number. Received: alpha=True"),
        ("elu", {"alpha": 10**400}, "finite number. Received: alpha=1000"),
        (
            "leaky_relu",
            {"negative_slope": np.inf},
            "Received: negative_sl.*inf",
        ),
        (
            "leaky_relu",
            {"negative_slope": np.nan},
            "Received: negative_sl.*nan",
        ),
        ("gelu", {"approximate": 1}, "True or False. Received: approximate=1"),
        (np.tanh, {"alpha": 1}, "'tanh' accepts only breakpoints"),
        (np.tanh, {"breakpoints": 1}, "finite numbers. Received: breakpoi.*=1"),
        (np.tanh, {"breakpoints": [np.nan]}, "finite numbers. Received"),
        (np.zeros_like, {}, "positive mean square.*which has 0.0"),
        (lambda z: np.exp(z * z / 3), {}, "finite, .*which has inf"),
        (lambda z: np.expm1(z**4), {}, r"\[-17, 17\].*is not at -12"),
        (lambda z: z[:1], {}, r"same shape.*into shape \(1,\)"),
        (lambda z: z.astype("float32"), {}, "and dtype float32"),
        (lambda z: z > 0, {}, "and dtype bool"),
        (np.sum, {}, r"into shape \(\)"),
    ],
)
def test_activations_are_refused(activation, parameters, message):
    for function in (
        functools.partial(theory.correlation_map, 0.5),
        functools.partial(theory.sample_variance_decay, 2),
        theory.batch_norm_raw_variance,
        theory.critical_scale,
    ):
        with pytest.raises(ValueError, match=message):
            function(activation, **parameters)


@pytest.mark.slow
@pytest.mark.parametrize(
    "phi",
    [
        hard_tanh,
        np.sign,
        lambda z: np.floor(z) + 0.0,
        lambda z: np.tanh(100 * z),
    ],
    ids=["kinks elsewhere", "jump at 0", "jumps", "steep"],
)
def test_map_that_does_not_settle_is_refused(phi):
    with pytest.raises(ValueError, match=r"does not settle.*breakpoints="):
        theory.correlation_map(0.5, phi)


@pytest.mark.parametrize("phi", [hard_tanh, lambda z: np.floor(z) + 0.0])
def test_scale_that_does_not_settle_is_refused(phi):
    with pytest.raises(ValueError, match=r"does not settle.*breakpoints="):
        theory.critical_scale(phi)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, ">= 1. Received: depth=0"),
        ({"depth": True}, "an int >= 1. Received: depth=True"),
        ({"depth": 2.0}, "an int >= 1. Received: depth=2.0"),
        ({"initial_correlation": 1.01}, "Received: initial_correlation=1.01"),
        ({"initial_correlation": np.nan}, "Received: initial_correlation=nan"),
        ({"initial_correlation": [0.1]}, r"Received: initial_corr.*=\[0.1\]"),
        ({"initial_correlation": True}, "Received: initial_correlation=True"),
        ({"batch_norm": 1}, "True or False. Received: batch_norm=1"),
    ],
)
def test_sample_variance_decay_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.sample_variance_decay(**{"depth": 3, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "> 0. Received: layer=0"),
        (([1, -2],), r"> 0. Received: layer=\[1, -2\]"),
        ((np.inf,), "> 0. Received: layer=inf"),
        ((np.nan,), "> 0. Received: layer=nan"),
        (("ten",), "numbers > 0. Received: layer='ten'"),
        ((5, "tanh"), "known for relu and leaky_relu. Received: activ.*'tanh'"),
        ((5, np.tanh), "known for relu and leaky_relu. Received"),
        ((5, "linear"), "does not decay in a linear network"),
    ],
)
def test_asymptotic_sample_variance_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.asymptotic_sample_variance(*arguments)
    with pytest.raises(ValueError, match="does not decay"):
        theory.asymptotic_sample_variance(5, "leaky_relu", negative_slope=1)


@pytest.mark.parametrize("activation", ["tanh", "erf", "elu", np.tanh])
def test_batch_norm_gradient_growth_refuses(activation):
    with pytest.raises(ValueError, match=r"positive-homogeneous.*Received"):
        theory.batch_norm_gradient_growth(activation)
