"""Paired activations, fixed points and the Jacobian at infinite width."""

import math
import warnings

import keras
import numpy as np
import pytest
from scipy import special

import keras_initx as kx
from keras_initx import theory


@pytest.mark.parametrize(
    ("activation", "parameters", "slope"),
    [
        ("relu", {}, 1),
        ("linear", {}, 2),
        ("leaky_relu", {"negative_slope": 0.25}, 1.25),
        ("leaky_relu", {"negative_slope": -3.0}, -2),
        ("gelu", {}, 1),
        ("gelu", {"approximate": True}, 1),
        ("swish", {}, 1),
        ("hard_swish", {}, 1),
        ("softplus", {}, 1),
        ("squareplus", {"b": 0.3}, 1),
        ("sparse_plus", {}, 1),
        ("log_sigmoid", {}, 1),
        (keras.activations.leaky_relu, {}, 1.2),
        (keras.layers.ReLU(negative_slope=0.5), {}, 1.5),
        # An even function may be added.
        (lambda z: 3 * z + np.cosh(z / 4), {}, 6),
        (lambda z: -np.maximum(z, 0) + z**2, {}, -1),
        (lambda z: z * special.expit(5 * z), {}, 1),
    ],
)
def test_paired_scale(activation, parameters, slope):
    scale = theory.paired_scale(activation, **parameters)
    assert scale == pytest.approx(1 / slope**2, rel=1e-11)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        *[
            (name, {})
            for name in [
                "relu6",
                "elu",
                "celu",
                "selu",
                "mish",
                "exponential",
                "sigmoid",
                "hard_sigmoid",
                "sparse_sigmoid",
                "tanh",
                "hard_tanh",
                "erf",
                "softsign",
                "tanh_shrink",
                "soft_shrink",
                "hard_shrink",
                "softmax",
                "rrelu",
                "nonsense",
            ]
        ],
        ("leaky_relu", {"negative_slope": -1.0}),
        (abs, {}),
        (np.square, {}),
        (np.cbrt, {}),
        (lambda z: np.clip(z, -16.9, 16.9), {}),
        (lambda z: z + 1e-7 * np.sin(z), {}),
        (lambda z: z.astype(np.float32), {}),
    ],
)
def test_paired_scale_refuses(activation, parameters):
    with pytest.raises(ValueError, match="Received: activation="):
        theory.paired_scale(activation, **parameters)


# ---- Fixed points and the edge of chaos ------------------------------------


def clip(bound):
    return theory.Activation(
        lambda z: np.clip(z, -bound, bound), breakpoints=(-bound, bound)
    )


def erf_edge(q):
    weight = math.pi / 4 * math.sqrt(1 + 4 * q)
    bias = q - weight * 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
    spread = (1 + 4 * q) / math.sqrt(1 + 8 * q)
    return weight, bias, 1 / (1 + 2 * q), spread


def sine_edge(q):
    spread = (3 + 4 * math.exp(-2 * q) + math.exp(-8 * q)) / (
        2 * (1 + math.exp(-2 * q)) ** 2
    )
    return 1 + math.tanh(q), q - math.tanh(q), 1 - math.tanh(q), spread


def clip_edge(bound):
    def edge(q):
        s = bound / math.sqrt(q)
        inside = math.erf(s / math.sqrt(2))
        tail = math.sqrt(2 / math.pi) * s * math.exp(-(s**2) / 2)
        bias = q * (tail - s**2 * math.erfc(s / math.sqrt(2))) / inside
        # d/dq E phi^2 is the mean of phi phi' z / sqrt(q) = z^2 inside.
        return 1 / inside, bias, 1 - tail / inside, 1 / inside

    return edge


def relu_edge(slope):
    def edge(q):
        spread = 2 * (1 + slope**4) / (1 + slope**2) ** 2
        return 2 / (1 + slope**2), 0, 1, spread

    return edge


CLOSED_EDGES = {
    "erf": ("erf", erf_edge),
    "sine": ("sine", sine_edge),
    "a callable": (lambda z: np.sin(z), sine_edge),
    "hard_tanh": ("hard_tanh", clip_edge(1)),
    "clip 4": (clip(4.0), clip_edge(4)),
    "clip 0.3": (clip(0.3), clip_edge(0.3)),
    "relu": ("relu", relu_edge(0)),
    "leaky_relu": ("leaky_relu", relu_edge(0.2)),
    "linear": ("linear", relu_edge(1)),
    "a relu": (lambda z: np.maximum(z, 0), relu_edge(0)),
}


@pytest.mark.parametrize("name", CLOSED_EDGES)
@pytest.mark.parametrize("q", [0.02, 0.5, 1.0, 7.0, 60.0])
def test_the_edge_of_chaos_has_closed_forms(name, q):
    activation, closed = CLOSED_EDGES[name]
    weight, bias, stability, spread = closed(q)
    point = theory.edge_of_chaos(activation, q)
    assert point.variance == q
    assert point.gradient_growth == pytest.approx(1, rel=1e-12)
    assert point.weight_variance == pytest.approx(weight, rel=1e-12)
    assert point.bias_variance == pytest.approx(bias, rel=1e-12, abs=1e-12 * q)
    assert point.isometry == pytest.approx(spread, rel=1e-12)
    # The difference of two numbers of size 1.
    assert point.stability == pytest.approx(stability, abs=1e-12)
    assert point.stable == (point.stability < 1)


@pytest.mark.parametrize(
    ("activation", "q", "weight", "bias", "stability", "spread"),
    [
        ("tanh", 0.25, 1.393962, 0.008125, 0.69583, 1.13698),
        ("tanh", 2.0, 2.861162, 0.512265, 0.25315, 2.04052),
        ("elu", 1.0, 1.496777, 0.034660, 0.86009, 1.33168),
        ("selu", 1.0, 0.933206, 0.066794, 0.73037, 1.31620),
        ("softsign", 1.0, 4.392296, 0.196148, 0.38321, 2.13645),
        ("arctan", 1.0, 2.0, 0.100598, 0.5044, None),
        (kx.layers.HardTanh(4.0), 5.0, 1.079492, 0.283498, 0.68893, 1.07949),
    ],
)
def test_values_at_the_edge_of_chaos(
    activation, q, weight, bias, stability, spread
):
    point = theory.edge_of_chaos(activation, variance=q)
    assert point.weight_variance == pytest.approx(weight, abs=1e-6)
    assert point.bias_variance == pytest.approx(bias, abs=1e-6)
    assert point.stability == pytest.approx(stability, abs=2e-5)
    if spread is not None:
        assert point.isometry == pytest.approx(spread, abs=1e-5)
    again = theory.edge_of_chaos(activation, bias_variance=point.bias_variance)
    np.testing.assert_allclose(again[:6], point[:6], rtol=1e-9)


@pytest.mark.parametrize(
    ("activation", "bias", "q", "weight"),
    [
        ("tanh", 0.01, 0.273301, 1.424205),
        ("tanh", 1.0, 3.036396, 3.443211),
        ("sine", 0.25, 1.019775, 1.769775),
        ("elu", 0.04, 1.106931, 1.511058),
        ("hard_tanh", 1.0, 2.387810, 2.072709),
        ("hard_tanh", 1e-4, 0.0954602, 1.001211),
        # It depends on bias / bound^2 only.
        (kx.layers.HardTanh(10.0), 1.0, 25.914622, 1.052061),
        ("gelu", 0.173, 3.564007, 1.983013),
        ("relu", 0.0, 1.0, 2.0),
        (lambda z: np.maximum(z, 0), 0.0, 1.0, 2.0),
    ],
)
def test_the_edge_of_chaos_at_a_bias_variance(activation, bias, q, weight):
    point = theory.edge_of_chaos(activation, bias_variance=bias)
    assert point.bias_variance == bias
    assert point.variance == pytest.approx(q, abs=1e-6 * max(1, q))
    assert point.weight_variance == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize(
    ("activation", "growth"), [("gelu", 1.0672), ("silu", 1.0993)]
)
def test_an_unstable_edge_says_so(activation, growth):
    with pytest.warns(UserWarning, match=f"{growth:.4g} in every layer") as w:
        point = theory.edge_of_chaos(activation)
    assert w[0].filename == __file__
    assert point.stability == pytest.approx(growth, abs=5e-5)
    assert not point.stable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theory.edge_of_chaos("relu")
        theory.edge_of_chaos("gelu", 4.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softplus",), r"softplus has an edge.*negative\. Received: variance"),
        (("softplus", 9.0), "Received: variance=9.0"),
        (("softplus", None, 0.1), "Received: bias_variance=0.1"),
        (("relu", None, 0.1), "Received: bias_variance=0.1"),
        (("tanh", None, 0.0), "Received: bias_variance=0.0"),
        (("tanh", 1.0, 0.1), "Only one of"),
        (("tanh", 0.0), "Received: variance=0.0"),
        (("tanh", -1), "Received: variance=-1"),
        (("tanh", math.inf), "Received: variance=inf"),
        (("tanh", None, -0.1), "Received: bias_variance=-0.1"),
        (("tanh", None, "1"), "Received: bias_variance='1'"),
        (("hard_shrink",), "jumps at"),
        ((lambda z: np.sign(z),), "jumps at 0"),
        ((lambda z: np.clip(z, -0.3, 1),), "Name the kinks"),
        ((lambda z: np.exp(z * z / 8),), "does not settle"),
        (("nonsense",), "activation must be"),
    ],
)
def test_edges_of_chaos_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.edge_of_chaos(*arguments)


POINTS = [
    # activation, variances, q*, chi_1, c*, slope at c*, depths of the
    # correlation and the gradient
    (
        "tanh",
        (1.5, 0.05),
        0.41803720,
        0.93863627,
        1,
        0.93863627,
        15.791,
        15.791,
    ),
    (
        "tanh",
        (3.0, 0.05),
        1.42800846,
        1.20893442,
        0.29931764,
        0.89540472,
        9.0515,
        5.2704,
    ),
    (
        "erf",
        (3.0, 0.05),
        1.75274019,
        1.34955029,
        0.19140233,
        0.85735404,
        -1 / math.log(0.85735404),
        1 / math.log(1.34955029),
    ),
    ("sine", (2.0, 0.0), 0.79681213, 1.20318787, 0, 0.90152730, None, 5.406),
    # All variances shrink to b / (1 - w / 2).
    ("relu", (1.5, 0.1), 0.4, 0.75, 1, 0.75, None, None),
    ("relu", (2.0, 0.0), 1.0, 1.0, 1, 1.0, math.inf, math.inf),
]


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p[0]}-{p[1]}")
def test_fixed_points(point):
    activation, variances, q, growth, correlation, slope, *depths = point
    result = theory.signal_fixed_point(activation, *variances)
    assert result.variance == pytest.approx(q, abs=1e-7)
    assert result.gradient_growth == pytest.approx(growth, abs=1e-7)
    assert result.correlation == pytest.approx(correlation, abs=1e-7)
    assert result.correlation_slope == pytest.approx(slope, abs=1e-7)
    for depth, expected in zip(result[-2:], depths, strict=True):
        if expected is not None:
            assert depth == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "weight", "bias"),
    [("tanh", 4.0, 0.1), ("softsign", 5.5, 0.1), ("arctan", 2.5, 0.0)],
)
def test_the_recursion_ends_at_the_fixed_point(activation, weight, bias):
    """Iterates variance and correlation by a two-dimensional quadrature."""
    phi = theory.mean_field.activations.resolve(activation, {}).function
    x, w = np.polynomial.hermite_e.hermegauss(160)
    w = w / w.sum()
    q = 1.0
    for _ in range(400):
        q = weight * w @ phi(math.sqrt(q) * x) ** 2 + bias
    rho = 0.2
    for _ in range(200):
        v = rho * x[:, None] + math.sqrt(1 - rho**2) * x
        both = phi(math.sqrt(q) * x)[:, None] * phi(math.sqrt(q) * v)
        rho = min((weight * w @ both @ w + bias) / q, 1.0)
    point = theory.signal_fixed_point(activation, weight, bias)
    # The Gauss rule of softsign, which has a kink in its slope, is not exact.
    assert q == pytest.approx(point.variance, rel=2e-3)
    assert rho == pytest.approx(point.correlation, abs=5e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tanh", 0.9), "falls to 0"),
        (("tanh", 1.0), "falls to 0"),
        (("relu", 1.0), "falls to 0"),
        (("relu", 2.0, 0.1), "grows without bound"),
        (("relu", 2.5), "grows without bound"),
        (("gelu", 3.0), "grows without bound"),
        (("gelu", 2.0), "falls to 0"),
        (("exponential", 1.0), "grows without bound"),
        (("tanh", 0.0), "Received: weight_variance=0.0"),
        (("tanh", -1.0), "Received: weight_variance=-1.0"),
        (("tanh", None), "Received: weight_variance=None"),
        (("tanh", 1.0, -0.1), "Received: bias_variance=-0.1"),
        (("tanh", 1.0, math.nan), "Received: bias_variance=nan"),
        (("hard_shrink", 2.0, 0.1), "jumps at"),
    ],
)
def test_fixed_points_that_do_not_exist(arguments, message):
    with pytest.raises(ValueError, match=message):
        theory.signal_fixed_point(*arguments)


def test_an_unstable_fixed_point_is_returned_where_the_signal_stays():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scale = theory.critical_scale("gelu")
    point = theory.signal_fixed_point("gelu", scale)
    assert point.variance == 1
    assert point.stability == pytest.approx(1.14406, abs=1e-5)
    assert point.variance_depth == math.inf


@pytest.mark.parametrize(
    ("layer", "same"),
    [
        (kx.layers.HardTanh(), "hard_tanh"),
        (kx.layers.Sine(), "sine"),
        (kx.layers.HardTanh(2.0), clip(2.0)),
        (
            kx.layers.Sine(3.0),
            theory.Activation(lambda z: np.sin(3 * z), breakpoints=()),
        ),
        (keras.ops.arctan, "arctan"),
    ],
)
def test_layers_of_this_package_are_known(layer, same):
    ours, theirs = (theory.edge_of_chaos(each, 0.4) for each in (layer, same))
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert theory.Activation(layer) == theory.Activation(layer)


# ---- The Jacobian ----------------------------------------------------------


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize(
    ("activation", "q", "spread"),
    [
        ("relu", 1.0, 2.0),
        ("relu", 0.1, 2.0),
        ("linear", 3.0, 1.0),
        ("leaky_relu", 1.0, 2 * (1 + 0.2**4) / (1 + 0.2**2) ** 2),
        ("hard_tanh", 0.63215546, 1.26340593),
        ("erf", 2.0, 9 / math.sqrt(17)),
        ("tanh", 0.5, 1.29924413),
    ],
)
def test_moments_of_the_jacobian(activation, q, spread, orthogonal):
    added = spread - 1 + (not orthogonal)
    for depth in (0, 1, 10):
        result = theory.jacobian_moments(depth, activation, q, orthogonal)
        assert result.mean == 1
        assert result.variance == pytest.approx(depth * added, abs=1e-7 * depth)
    slope = 1 / theory.edge_of_chaos(activation, q).weight_variance
    result = theory.jacobian_moments(
        6, activation, q, orthogonal, weight_variance=1.3
    )
    assert result.mean == pytest.approx((1.3 * slope) ** 6, rel=1e-12)
    assert result.variance == pytest.approx(
        6 * added * (1.3 * slope) ** 12, rel=1e-7, abs=1e-12
    )


@pytest.mark.parametrize("orthogonal", [False, True])
def test_wide_networks_have_these_moments(orthogonal, rng):
    """Networks of hard tanh on the edge of chaos, 16 of width 64."""
    n, depth, bias = 64, 4, 0.1
    point = theory.edge_of_chaos("hard_tanh", bias_variance=bias)
    variances = []
    for _ in range(16):
        h = rng.normal(size=n) * math.sqrt(
            (point.variance - bias) / point.weight_variance
        )
        product = np.eye(n)
        for _ in range(depth):
            w = rng.normal(size=(n, n)) / math.sqrt(n)
            if orthogonal:
                q, r = np.linalg.qr(w)
                w = q * np.sign(np.diag(r))
            w = w * math.sqrt(point.weight_variance)
            u = w @ h + math.sqrt(bias) * rng.normal(size=n)
            h = np.clip(u, -1, 1)
            product = (np.abs(u) < 1)[:, None] * (w @ product)
        squares = np.linalg.svd(product, compute_uv=False) ** 2
        variances.append(np.var(squares) / np.mean(squares) ** 2)
    expected = theory.jacobian_moments(
        depth, "hard_tanh", point.variance, orthogonal
    ).variance
    # The mean scatters by 4.5% at most (160 networks); 30% are six times as
    # much. Orthogonal and normal weights differ by a factor of 4.8.
    assert np.mean(variances) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1,), "depth"),
        ((2.5,), "depth"),
        ((3, "tanh", 0.0), "variance"),
        ((3, "tanh", math.nan), "variance"),
        ((3, "tanh", 1.0, 1), "orthogonal"),
        ((3, "tanh", 1.0, True, 0.0), "weight_variance"),
        ((3, "hard_shrink"), "activation"),
        ((3, "nonsense"), "activation"),
    ],
)
def test_jacobian_moments_refuse(arguments, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        theory.jacobian_moments(*arguments)
