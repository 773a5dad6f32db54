"""theory.norm_moments of stable weights: closed forms, digits, random draws."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from keras_initx import theory
from keras_initx.theory import (
    fractional_moment_std,
    stable_log_moments,
    stable_moment,
    stable_scale_recursion,
    stable_tail_constant,
    stable_weight_scale,
)
from tests.helpers.stat_checks import DEVIATIONS

# activation, order, stability, and scales to 5 digits at widths 64, 256, 1024.
TABLE = [
    ("relu", "log", 1.0, "0.0087597 0.0016893 0.00034598"),
    ("relu", "log", 1.5, "0.049830 0.017170 0.0060974"),
    ("relu", "log", 1.8, "0.091957 0.039561 0.017290"),
    ("relu", 0.5, 1.0, "0.0068360 0.0013943 0.00029566"),
    ("relu", 0.5, 1.5, "0.046168 0.016172 0.0057994"),
    ("relu", 0.5, 1.8, "0.089157 0.038610 0.016927"),
    ("linear", "log", 1.5, "0.029013 0.010196 0.0036591"),
    ("linear", "log", 1.0, "0.0037911 0.00075931 0.00015886"),
]
# stability, width, activation, order, scale by mpmath with 25 digits:
#   E Q^p = p / Gamma(1-p) int (1 - l(t)^width) t^(-p-1) dt,
#   E log Q = int (e^-t - l(t)^width) / t dt,
# with l from its Mellin transform on another line. At stability 1.5 that l was
# compared with its double integral over the sampler's variables.
DIGITS = [
    (0.5, 1, "linear", 0.25, 0.16645499046997406),
    (0.5, 1, "linear", "log", 0.5614594835668851),
    (0.5, 2, "relu", 0.25, 0.26014309349998027),
    (0.5, 2, "relu", "log", 0.28202624403990745),
    (0.5, 64, "relu", 0.25, 3.1307784358192325e-05),
    (0.5, 64, "relu", "log", 5.2176119504155286e-05),
    (0.5, 64, "linear", 0.25, 6.24928760073766e-06),
    (0.5, 64, "linear", "log", 9.689512579811737e-06),
    (0.5, 1000000, "relu", 0.25, 2.0055478367464484e-14),
    (0.5, 1000000, "relu", "log", 2.3795568520829124e-14),
    (0.8, 1, "linear", 0.4, 0.3809199233462473),
    (0.8, 1, "linear", "log", 0.8656246307080506),
    (0.8, 2, "relu", 0.4, 0.5013645824763396),
    (0.8, 2, "relu", "log", 0.5520375759502606),
    (0.8, 64, "relu", 0.4, 0.0017707746827184474),
    (0.8, 64, "relu", "log", 0.0024305427148278527),
    (0.8, 64, "linear", 0.4, 0.0006474208920858735),
    (0.8, 64, "linear", "log", 0.0008498354350547866),
    (0.8, 1000000, "relu", 0.4, 3.1970358166339034e-09),
    (0.8, 1000000, "relu", "log", 3.556551489514702e-09),
    (1.0, 1, "linear", 0.5, 0.5),
    (1.0, 1, "linear", "log", 1.0),
    (1.0, 2, "relu", 0.5, 0.6217559628810022),
    (1.0, 2, "relu", "log", 0.6885675458660249),
    (1.0, 64, "relu", 0.5, 0.006836039654506958),
    (1.0, 64, "relu", "log", 0.008759742617577433),
    (1.0, 64, "linear", 0.5, 0.0030626727214957614),
    (1.0, 64, "linear", "log", 0.0037911069987120703),
    (1.0, 1000000, "relu", 0.5, 1.758506412031794e-07),
    (1.0, 1000000, "relu", "log", 1.913810761462961e-07),
    (1.5, 1, "linear", 0.75, 0.7214303338034643),
    (1.5, 1, "linear", "log", 1.2121616115658242),
    (1.5, 2, "relu", 0.75, 0.8339001089061127),
    (1.5, 2, "relu", "log", 0.9199164991602846),
    (1.5, 64, "relu", 0.75, 0.043551406905027776),
    (1.5, 64, "relu", "log", 0.04982977592248069),
    (1.5, 64, "linear", 0.75, 0.02580304336200189),
    (1.5, 64, "linear", "log", 0.02901343585011672),
    (1.5, 1000000, "relu", 0.75, 4.085238403398027e-05),
    (1.5, 1000000, "relu", "log", 4.303934553188878e-05),
    (1.8, 1, "linear", 0.9, 0.8235019716417984),
    (1.8, 1, "linear", "log", 1.2924508447186538),
    (1.8, 2, "relu", 0.9, 0.9313020195796492),
    (1.8, 2, "relu", "log", 1.0110101531221538),
    (1.8, 64, "relu", 0.9, 0.08586168932650456),
    (1.8, 64, "relu", "log", 0.0919572387416761),
    (1.8, 64, "linear", 0.9, 0.056525235447328785),
    (1.8, 64, "linear", "log", 0.05998519092377559),
    (1.8, 1000000, "relu", 0.9, 0.0002957260125652957),
    (1.8, 1000000, "relu", "log", 0.00030574566966069225),
    (1.99, 1, "linear", 0.995, 0.8831329861979847),
    (1.99, 1, "linear", "log", 1.332634142567719),
    (1.99, 2, "relu", 0.995, 0.9896766066128536),
    (1.99, 2, "relu", "log", 1.057027706195074),
    (1.99, 64, "relu", 0.995, 0.1238984415804154),
    (1.99, 64, "relu", "log", 0.12559715606866048),
    (1.99, 64, "linear", 0.995, 0.08679357001227002),
    (1.99, 64, "linear", "log", 0.0874337811139431),
    (1.99, 1000000, "relu", 0.995, 0.0009359452919151601),
    (1.99, 1000000, "relu", "log", 0.000939020142647092),
]


@functools.cache
def sampled_on_a_grid(stability):
    """Returns points and weights of |Z|, by Chambers, Mallows & Stuck.

    Their sampler turns a uniform V and an exponential W into Z; here both are
    the points of a rule that converges exponentially.
    """
    step = 0.2 if stability > 0.5 else 0.1
    u, y = np.arange(-40, 40, step)[:, None], np.arange(-40, 4.5, step)
    v, rest = np.pi / 2 * special.expit(u), np.pi / 2 * special.expit(-u)
    w = np.exp(y)
    log = np.log(np.sin(stability * v)) - np.log(np.sin(rest)) / stability
    log = log + (1 - stability) / stability * (
        np.log(np.cos((1 - stability) * v)) - y
    )
    weight = special.expit(u) * special.expit(-u) * np.exp(y - w) * step**2
    assert weight.sum() == pytest.approx(1, abs=1e-13)
    # The far ends of both integrals have no weight.
    some = weight > 1e-24
    return np.exp(log[some]), weight[some]


def draw(rng, stability, shape):
    """Returns symmetric stable draws of unit scale (Chambers et al., 1976)."""
    v = rng.uniform(-np.pi / 2, np.pi / 2, shape)
    w = rng.exponential(size=shape)
    return (
        np.sin(stability * v)
        / np.cos(v) ** (1 / stability)
        * (np.cos((1 - stability) * v) / w) ** ((1 - stability) / stability)
    )


def assert_mean_is(expected, values):
    """Asserts that the mean of iid values is within 6 standard errors.

    False alarms: below 1e-8 for a normal mean; the means here are of 20000
    values or more with exponential tails at worst.
    """
    error = values.mean() - expected
    chance = DEVIATIONS * values.std() / math.sqrt(len(values))
    assert abs(error) <= chance, f"off by {error}, where {chance} is chance"


# The distribution


@pytest.mark.parametrize(
    ("stability", "p", "expected"),
    [
        (1.5, 0.5, 1.080430),
        (1.2, 0.4, 1.123953),
        (1.0, 0.3, 1.122326),
        (0.8, 0.3, 1.240315),
        (1.9, 0.9, 1.132875),
    ],
)
def test_table_of_moments(stability, p, expected):
    assert stable_moment(p, stability) == pytest.approx(expected, abs=5.1e-7)


@pytest.mark.parametrize(
    ("stability", "expected"),
    [
        (0.8, 0.704896),
        (1.0, 0.636620),
        (1.2, 0.555916),
        (1.5, 0.398942),
        (1.8, 0.183228),
    ],
)
def test_table_of_tail_constants(stability, expected):
    result = stable_tail_constant(stability)
    assert result == pytest.approx(expected, abs=5.1e-7)


@given(stability=st.floats(0.01, 1.999))
def test_tail_constant(stability):
    result = stable_tail_constant(stability)
    sine = math.sin(math.pi * stability / 2)
    expected = 2 / math.pi * math.gamma(stability) * sine
    assert result == pytest.approx(expected, rel=1e-12)
    # E |Z|^p, as p nears the stability a, is that of the tail, a C / (a - p).
    gap = 1e-9
    moment = stable_moment(stability * (1 - gap), stability)
    assert moment * gap == pytest.approx(result, rel=1e-5)


def test_tail_constant_at_the_ends():
    assert stable_tail_constant(2) == 0
    assert stable_tail_constant(2 - 1e-9) == pytest.approx(1e-9, rel=1e-6)
    assert stable_tail_constant(1e-9) == pytest.approx(1, rel=1e-8)
    assert stable_tail_constant(1) == pytest.approx(2 / math.pi, rel=1e-15)


def test_moments_of_the_normal_and_the_cauchy_distribution():
    # Z ~ N(0, 2) at stability 2, so E Z^2 = 2 and E Z^4 = 12.
    for p, expected in ((2, 2), (4, 12), (1, 2 / math.sqrt(math.pi)), (0, 1)):
        assert stable_moment(p, 2) == pytest.approx(expected, rel=1e-14)
    for p in (-0.9, -0.5, 0.0, 0.5, 0.9):
        expected = 1 / math.cos(math.pi * p / 2)
        assert stable_moment(p, 1) == pytest.approx(expected, rel=1e-13)
    for result, expected in zip(
        stable_log_moments(1), (0, math.pi**2 / 4), strict=True
    ):
        assert result == pytest.approx(expected, rel=1e-15)
    normal = (special.digamma(0.5) + math.log(4)) / 2
    result, variance = stable_log_moments(2)
    assert result == pytest.approx(normal, rel=1e-14)
    assert variance == pytest.approx(math.pi**2 / 8, rel=1e-15)


@pytest.mark.parametrize("stability", [0.3, 0.7, 1.0, 1.3, 1.9, 2.0])
def test_moments_of_the_sampler(stability):
    size, weight = sampled_on_a_grid(stability)
    for share in (-0.3, 0.2, 0.5):
        p = share * min(stability, 1)
        expected = weight @ size**p
        assert stable_moment(p, stability) == pytest.approx(expected, rel=1e-8)
    mean, variance = stable_log_moments(stability)
    logs = np.log(size)
    assert mean == pytest.approx(weight @ logs, abs=1e-9)
    assert variance == pytest.approx(weight @ (logs - mean) ** 2, rel=1e-9)


@given(stability=st.floats(0.1, 2))
def test_log_moments_are_derivatives(stability):
    mean, variance = stable_log_moments(stability)
    step = 1e-4 * stability
    up, down = (math.log(stable_moment(p, stability)) for p in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx(mean, abs=1e-6 / stability)
    assert (up + down) / step**2 == pytest.approx(variance, rel=1e-5)


# The scale of weights


@pytest.mark.parametrize(("name", "order", "stability", "scales"), TABLE)
def test_table_of_scales(name, order, stability, scales):
    for width, scale in zip((64, 256, 1024), scales.split(), strict=True):
        result = stable_weight_scale(stability, width, name, order)
        half_a_digit = 0.501 * 10.0 ** -len(scale.split(".")[1])
        assert result == pytest.approx(float(scale), rel=0, abs=half_a_digit)


@pytest.mark.parametrize(
    ("stability", "width", "name", "order", "expected"), DIGITS
)
def test_scales_of_many_digits(stability, width, name, order, expected):
    result = stable_weight_scale(stability, width, name, order)
    assert result == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("stability", [0.7, 1.0, 1.5])
def test_scale_against_direct_integrals(stability):
    # E Q^p = p / Gamma(1-p) int (1 - l(t)^width) t^(-p-1) dt, at t = e^x, with
    # l straight from the sampler, for a leaky relu with dropout.
    slope, keep_rate, p = 0.3, 0.6, 0.4
    size, weight = sampled_on_a_grid(stability)
    size, weight = size[weight > 1e-19], weight[weight > 1e-19]
    step = 0.5
    x = np.arange(-50, 60, step)
    absence = np.zeros_like(x)
    for factor in (1 / keep_rate, slope / keep_rate):
        powers = (factor * size) ** stability
        absence += (keep_rate / 2) * np.array(
            [-np.expm1(-t * powers) @ weight for t in np.exp(x)]
        )
    for width in (1, 8, 300):
        rises = -np.expm1(width * np.log1p(-absence))
        # Beyond the last point 1 - l^width stays.
        rest = rises[-1] * math.exp(-p * x[-1]) / math.expm1(p * step)
        moment = step * (rises @ np.exp(-p * x) + rest)
        moment *= p / special.gamma(1 - p)
        s = p * stability
        result = stable_weight_scale(
            stability,
            width,
            "leaky_relu",
            s,
            dropout_rate=1 - keep_rate,
            negative_slope=slope,
        )
        assert result == pytest.approx(moment ** (-1 / s), rel=1e-7)


@given(
    stability=st.floats(0.1, 2),
    share=st.floats(0.01, 0.9999),
)
@settings(max_examples=40)
def test_one_unit_is_one_variable(stability, share):
    s = share * stability
    result = stable_weight_scale(stability, 1, "linear", s)
    expected = stable_moment(s, stability) ** (-1 / s)
    assert result == pytest.approx(expected, rel=1e-10, abs=0)
    # relu gives 0 with probability 1/2.
    relu = stable_weight_scale(stability, 1, "relu", s)
    assert relu == pytest.approx(expected * 2 ** (1 / s), rel=1e-10, abs=0)
    for name in ("linear", "relu"):
        result = stable_weight_scale(stability, 1, name)
        expected = math.exp(-stable_log_moments(stability)[0])
        assert result == pytest.approx(expected, rel=1e-10, abs=0)


@pytest.mark.parametrize("slope", [1e-100, 1e-3, 1e100])
@pytest.mark.parametrize("s", [0.01, 1.0])
def test_one_unit_of_any_slope(slope, s):
    # E |phi(Z)|^s = E |Z|^s (1 + a^s) / 2
    expected = stable_moment(s, 1.5) ** (-1 / s)
    expected *= ((1 + slope**s) / 2) ** (-1 / s)
    result = stable_weight_scale(1.5, 1, "leaky_relu", s, negative_slope=slope)
    assert result == pytest.approx(expected, rel=1e-11, abs=0)


CASES = [
    ("linear", {}),
    ("relu", {}),
    ("leaky_relu", {"negative_slope": -0.01}),
    ("rrelu", {}),
    ("relu", {"dropout_rate": 0.6}),
]


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("width", [1, 5, 64, 10**6])
def test_stability_two_is_the_gaussian_theory(name, parameters, width):
    for s in (0.01, 0.5, 1, 1.5, 1.99, 1.999999):
        result = stable_weight_scale(2, width, name, s, **parameters)
        std = fractional_moment_std(s, width, name, **parameters)
        assert result * math.sqrt(2) == pytest.approx(std, rel=2e-12, abs=0)
    drift, _ = theory.log_norm_drift_and_variance(1, width, name, **parameters)
    result = stable_weight_scale(2.0, width, name, **parameters)
    expected = math.exp(-drift) / math.sqrt(2)
    assert result == pytest.approx(expected, rel=1e-12, abs=0)


def test_nearly_two_is_nearly_gaussian():
    near = stable_weight_scale(2 - 1e-9, 64, "relu", 1.5)
    exact = stable_weight_scale(2, 64, "relu", 1.5)
    assert near == pytest.approx(exact, rel=1e-7)


def test_limits_of_the_slope():
    def scale(name, order, **parameters):
        return stable_weight_scale(1.3, 20, name, order, **parameters)

    for order in ("log", 0.2, 1.29):
        leaky = scale("leaky_relu", order, negative_slope=4.0)
        same = {"rel": 1e-12}
        for other in (
            scale("leaky_relu", order, negative_slope=-4),
            scale("rrelu", order, negative_slope_range=(4, 4)),
            scale("leaky_relu", order, negative_slope=0.25) / 4,
        ):
            assert leaky == pytest.approx(other, **same)
        assert scale("relu", order) == pytest.approx(
            scale("leaky_relu", order, negative_slope=0), **same
        )
        assert scale("linear", order) == pytest.approx(
            scale("leaky_relu", order, negative_slope=1), **same
        )
        # A tiny slope is close to relu, except that no unit is 0.
        assert scale("relu", order) == pytest.approx(
            scale("leaky_relu", order, negative_slope=1e-100), rel=1e-3
        )


@pytest.mark.parametrize("stability", [0.5, 1.0, 1.5, 1.8])
def test_asymptotic_scale(stability):
    for name, share in (("relu", 0.5), ("linear", 1.0)):
        ratios = []
        for width in (64, 1024, 10**6, 10**12):
            power = share * stable_tail_constant(stability)
            power *= width * math.log(width)
            result = stable_weight_scale(stability, width, name)
            ratios.append(result * power ** (1 / stability))
        assert ratios == sorted(ratios)
        assert 0.5 < ratios[1] < 0.8
        # The approach is slow: of relative order log(log(width)) / log(width).
        assert 1 - ratios[3] < 0.65 * (1 - ratios[1])
        assert ratios[3] < 1


@given(stability=st.floats(0.3, 2), width=st.integers(1, 10**6))
@settings(max_examples=30)
def test_order_and_width(stability, width):
    scales = [
        stable_weight_scale(stability, width, "linear", order)
        for order in ("log", 0.1 * stability, 0.5 * stability)
    ]
    assert scales == sorted(scales, reverse=True)
    wider = stable_weight_scale(stability, 2 * width, "linear")
    assert wider < scales[0] * 2 ** (-1 / stability) * (1 + 1e-12)


# Random networks


def norms_through_layers(rng, stability, width, scale, nets, depth, slope):
    """Returns log |x_k|_a - log |x_0|_a of networks of stable weights."""
    x = np.tile(rng.standard_normal(width), (nets, 1))

    def log_norm():
        with np.errstate(divide="ignore"):
            return np.log((np.abs(x) ** stability).sum(axis=1)) / stability

    first = log_norm()
    for _ in range(depth):
        kernel = scale * draw(rng, stability, (nets, width, width))
        y = np.einsum("ni,nij->nj", x, kernel)
        x = np.where(y > 0, y, slope * y)
    return log_norm() - first


@pytest.mark.parametrize("stability", [0.7, 1.5, 1.9])
@pytest.mark.parametrize(
    ("name", "slope"), [("linear", 1.0), ("leaky_relu", 0.2), ("relu", 0.0)]
)
def test_log_norm_of_random_networks(rng, stability, name, slope):
    width, nets, depth = 12, 10000, 2
    scale = stable_weight_scale(stability, width, name)
    logs = norms_through_layers(
        rng, stability, width, scale, nets, depth, slope
    )
    # With relu all units of a layer are 0 with probability 2e-4.
    logs = logs[np.isfinite(logs)]
    assert_mean_is(0, logs)
    # An error of 12 standard errors is detected: 15% of the scale at stability
    # 0.7 and 4% at 1.9.
    margin = 12 * logs.std() / math.sqrt(nets)
    assert margin < {0.7: 0.4, 1.5: 0.15, 1.9: 0.1}[stability]
    wrong = [scale * math.exp(sign * margin / depth) for sign in (1, -1)]
    if name != "relu":
        wrong.append(stable_weight_scale(stability, width, "relu"))
    if stability < 1.9 or name == "linear":
        wrong.append(width ** (-1 / stability))
    for other in wrong:
        with pytest.raises(AssertionError, match="off by"):
            assert_mean_is(depth * math.log(other / scale), logs)


@pytest.mark.parametrize("stability", [0.7, 1.5])
def test_moment_of_a_random_layer(rng, stability):
    # At an eighth of the stability the averaged values have a seventh moment.
    s, width = stability / 8, 12
    scale = stable_weight_scale(stability, width, "relu", s)
    logs = norms_through_layers(rng, stability, width, scale, 20000, 1, 0.0)
    assert_mean_is(1, np.exp(s * logs))
    # 12 standard errors are detected, hence the scale of another order.
    wrong = stable_weight_scale(stability, width, "relu", 0.9 * stability)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean_is(1, np.exp(s * logs) * (wrong / scale) ** s)


def test_customary_scale_makes_the_norm_grow():
    # relu, stability 1.5, width 256: nats a layer.
    growth = math.log(256 ** (-1 / 1.5) / stable_weight_scale(1.5, 256))
    assert growth == pytest.approx(0.3678, abs=5e-5)
    assert math.exp(growth) == pytest.approx(1.44, abs=0.006)


# Infinite width


def test_table_of_tanh():
    # weight_scale 1, bias_scale 0.3, an input of ones.
    first = (0.3**1.5 + 1) ** (1 / 1.5)
    result = stable_scale_recursion(
        5, 1.5, "tanh", bias_scale=0.3, initial_scale=first
    )
    expected = [1.1067, 0.8480, 0.7891, 0.7723, 0.7673]
    # These are from a coarser quadrature; the next test is exact.
    np.testing.assert_allclose(result, expected, rtol=0, atol=2.1e-4)


@pytest.mark.parametrize("stability", [0.3, 0.7, 1.0, 1.5, 1.97, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 200.0])
def test_recursion_against_the_sampler(stability, scale):
    size, weight = sampled_on_a_grid(stability)
    for name, phi in (("tanh", np.tanh), ("erf", special.erf)):
        power = weight @ np.abs(phi(scale * size)) ** stability
        expected = (0.2**stability + 1.3**stability * power) ** (1 / stability)
        result = stable_scale_recursion(
            2,
            stability,
            name,
            weight_scale=1.3,
            bias_scale=0.2,
            initial_scale=scale,
        )
        assert result[1] == pytest.approx(expected, rel=1e-8)


def test_recursion_of_the_cauchy_distribution():
    def integrand(z):
        return abs(math.tanh(0.7 * z)) * 2 / math.pi / (1 + z * z)

    expected = sum(
        integrate.quad(integrand, *ends, epsabs=1e-13)[0]
        for ends in ((0, 1), (1, 10), (10, math.inf))
    )
    result = stable_scale_recursion(2, 1, initial_scale=0.7)
    assert result[1] == pytest.approx(expected, rel=1e-10)


@pytest.mark.filterwarnings("ignore:The variance 1 that critical_scale")
def test_recursion_at_stability_two_is_the_gaussian_one():
    # Scale c is N(0, 2 c^2); the critical scale keeps variance 1.
    for name in ("tanh", "gelu", "relu", "softplus", "linear"):
        scale = theory.critical_scale(name)
        result = stable_scale_recursion(
            4,
            2,
            name,
            weight_scale=math.sqrt(scale / 2),
            initial_scale=math.sqrt(0.5),
        )
        np.testing.assert_allclose(result, math.sqrt(0.5), rtol=1e-10)


def hard_tanh(z):
    return np.clip(z, -1, 1)


def test_recursion_of_callables():
    for stability in (0.05, 0.1, 0.6, 1.5):
        # The tail of |z|^0.9 matters as far as e^-8 of the probability.
        for growth in (0.5, 0.9):
            result = stable_scale_recursion(
                2,
                stability,
                lambda z, growth=growth: np.abs(z) ** growth,
                initial_scale=4.0,
            )
            expected = stable_moment(growth * stability, stability)
            expected = 4.0**growth * expected ** (1 / stability)
            promised = 1e-9 / min(stability, 1)
            assert result[1] == pytest.approx(expected, rel=promised)
        # The average of a constant is the constant.
        result = stable_scale_recursion(
            3, stability, lambda z: 0 * z + 0.5, weight_scale=3.0
        )
        np.testing.assert_allclose(result, [1, 1.5, 1.5], rtol=promised)
    # The Cauchy distribution, cut where the pre-activation is 1.
    for scale in (0.3, 1.0, 50.0):
        result = stable_scale_recursion(
            2, 1.0, hard_tanh, initial_scale=scale, breakpoints=(-1, 1)
        )
        expected = scale / 2 * math.log1p(scale**-2) + math.atan(scale)
        assert result[1] == pytest.approx(2 / math.pi * expected, rel=1e-10)


def test_recursion_of_a_shrinking_network():
    result = stable_scale_recursion(
        4001, 1.5, np.tanh, weight_scale=1e-3, initial_scale=1e-3
    )
    assert (np.diff(result) <= 0).all()
    assert result[-1] == 0
    result = stable_scale_recursion(1, 1.5)
    assert result.shape == (1,)
    assert result.dtype == np.float64


@pytest.mark.slow
def test_recursion_of_a_wide_random_network(rng):
    stability, width, nets = 1.5, 400, 30
    scale = [1.0]
    expected = stable_scale_recursion(4, stability, bias_scale=0.3)
    y = draw(rng, stability, (nets, width))
    for _ in range(3):
        # A sum of x_i times independent draws is a draw of the scale |x|_a.
        # No kernel is used twice, so that none is drawn.
        norm = np.sum(np.abs(np.tanh(y)) ** stability, axis=1, keepdims=True)
        y = norm ** (1 / stability) * draw(rng, stability, (nets, width))
        y = y * width ** (-1 / stability)
        y = y + 0.3 * draw(rng, stability, y.shape)
        mean, _ = stable_log_moments(stability)
        scale.append(np.exp(np.log(np.abs(y)).mean() - mean))
    # 12000 logs of standard deviation 1.25, and the spread of the scale from
    # net to net, give a standard error below 0.02.
    np.testing.assert_allclose(scale, expected, rtol=0.12)
    other = stable_scale_recursion(4, 1.0, bias_scale=0.3)
    assert abs(scale[-1] / other[-1] - 1) > 0.12


def test_recursion_of_networks_with_real_kernels(rng):
    """Kernels that are drawn, and used by all samples of a network."""
    stability, width, nets = 1.5, 100, 60
    expected = stable_scale_recursion(3, stability, bias_scale=0.3)
    mean, _ = stable_log_moments(stability)
    logs = []
    for _ in range(nets):
        y = draw(rng, stability, width)
        for _ in range(2):
            kernel = width ** (-1 / stability) * draw(
                rng, stability, (width, width)
            )
            y = np.tanh(y) @ kernel + 0.3 * draw(rng, stability, width)
        logs.append(np.log(np.abs(y)).mean() - mean)
    # The 60 networks have a standard error of about 0.02. What a width of 100
    # changes of the limit of wide layers is less than 0.02.
    error = np.mean(logs) - math.log(expected[-1])
    assert abs(error) < 0.02 + DEVIATIONS * np.std(logs) / math.sqrt(nets)


# Bad arguments


@pytest.mark.parametrize(
    "stability", [0, -1.0, 2.1, np.nan, np.inf, True, "1.5", None, [1.5]]
)
def test_stability_is_refused(stability):
    for function in (
        lambda: stable_weight_scale(stability, 64),
        lambda: stable_moment(0.1, stability),
        lambda: stable_log_moments(stability),
        lambda: stable_tail_constant(stability),
        lambda: stable_scale_recursion(2, stability),
    ):
        with pytest.raises(ValueError, match=r"2\]. Received: stability="):
            function()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 0), ">= 1. Received: width=0"),
        ((1.5, 2.0), "an int >= 1. Received: width=2.0"),
        ((1.5, 64, "tanh"), "'rrelu'.*Received: activation='tanh'"),
        ((1.5, 64, "relu", 1.5), "Received: order=1.5, stability=1.5"),
        ((1.5, 64, "relu", 2), "Received: order=2, stability=1.5"),
        ((2, 64, "relu", 2), "Received: order=2, stability=2"),
        ((1.5, 64, "relu", 0), r"'log' or .* in \(0, stability\). Received"),
        ((1.5, 64, "relu", -0.5), "Received: order=-0.5"),
        ((1.5, 64, "relu", np.nan), "Received: order=nan"),
        ((1.5, 64, "relu", "mean"), "Received: order='mean'"),
        ((1.5, 64, "relu", None), "Received: order=None"),
        ((1.5, 64, "relu", True), "Received: order=True"),
        ((1.5, 64, "relu", np.ones(2)), "Received: order=array"),
        ((0.001, 64), "float64. Received: stability=0.001, width=64"),
    ],
)
def test_stable_weight_scale_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        stable_weight_scale(*arguments)


@pytest.mark.parametrize(
    ("p", "stability"),
    [(1.5, 1.5), (2, 1.5), (-1, 1.5), (np.nan, 1.5), (True, 1.5), ("1", 1.5)],
)
def test_stable_moment_refuses(p, stability):
    with pytest.raises(ValueError, match=f"infinite. Received: order={p!r}"):
        stable_moment(p, stability)


def test_stable_moment_beyond_float64():
    with pytest.raises(
        ValueError, match=r"range of float64. Received: order=500"
    ):
        stable_moment(500, 2)


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        "linear",
        "leaky_relu",
        "gelu",
        "silu",
        "elu",
        "selu",
        "softplus",
        "exponential",
        np.abs,
        np.square,
        lambda z: np.maximum(z - 1e6, 0),
    ],
)
@pytest.mark.parametrize("stability", [0.3, 1.5, 1.999])
def test_no_limit_without_a_mean(activation, stability):
    with pytest.raises(ValueError, match=r"more slowly.*see stable_weight"):
        stable_scale_recursion(2, stability, activation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, ">= 1. Received: depth=0"),
        ({"depth": 1.0}, "an int >= 1. Received: depth=1.0"),
        ({"stability": 0.04}, r"\[0.05, 2\]. Received: stability=0.04"),
        ({"weight_scale": 0}, "> 0. Received: weight_scale=0"),
        ({"weight_scale": np.inf}, "Received: weight_scale=inf"),
        ({"bias_scale": -0.1}, ">= 0. Received: bias_scale=-0.1"),
        ({"bias_scale": True}, "Received: bias_scale=True"),
        ({"initial_scale": 0.0}, "> 0. Received: initial_scale=0.0"),
        ({"initial_scale": np.nan}, "Received: initial_scale=nan"),
        ({"activation": "softmax"}, "Received: activation='softmax'"),
        ({"activation": np.sin}, "wavy.*Received: activation='sin'"),
        ({"activation": np.exp}, "finite wherever.*activation='exp'"),
        ({"activation": "tanh", "alpha": 1}, "accepts none. Received: alpha"),
    ],
)
def test_stable_scale_recursion_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        stable_scale_recursion(**{"depth": 3, "stability": 1.5, **arguments})
