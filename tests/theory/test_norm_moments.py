"""theory.norm_moments of Gaussian weights: tables, limits, random networks."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from keras_initx import theory
from keras_initx.theory import (
    fractional_moment_std,
    log_norm_drift_and_variance,
)
from tests.helpers.stat_checks import DEVIATIONS

# Given to 9 digits: s = 0.5, 1, 1.5 for linear, then 0.5, 0.8, 1, 1.5, 2
# for relu.
COLUMNS = [("linear", s) for s in (0.5, 1.0, 1.5)]
COLUMNS += [("relu", s) for s in (0.5, 0.8, 1.0, 1.5, 2.0)]
TABLE = {
    16: "0.255988001 0.253934356 0.251939363 0.376668241 0.371481007 "
    "0.368203323 0.360549784 0.353553391",
    32: "0.178871138 0.178162946 0.177464887 0.257713880 0.256086425 "
    "0.255026472 0.252458718 0.250000000",
    64: "0.125736468 0.125489216 0.125243735 0.179432591 0.178887458 "
    "0.178528029 0.177643013 0.176776695",
    256: "0.062591679 0.062561065 0.062530505 0.088714057 0.088648500 "
    "0.088604912 0.088496344 0.088388348",
    1024: "0.031261448 0.031257630 0.031253814 0.044234698 0.044226580 "
    "0.044221172 0.044207664 0.044194174",
}
# The same for s = 0.5, 1, 1.5, and 2 where there is a fourth number.
OTHERS = [
    (
        64,
        "leaky_relu",
        {"negative_slope": 0.01},
        "0.179422929 0.178518656 0.177633915",
    ),
    (
        64,
        "leaky_relu",
        {"negative_slope": 0.2},
        "0.175700169 0.174900438 0.174115148",
    ),
    (
        64,
        "leaky_relu",
        {"negative_slope": 0.5},
        "0.159543909 0.159062866 0.158586209",
    ),
    (
        256,
        "leaky_relu",
        {"negative_slope": 0.01},
        "0.088709542 0.088600429 0.088491893",
    ),
    (
        256,
        "leaky_relu",
        {"negative_slope": 0.2},
        "0.086962461 0.086865173 0.086768323",
    ),
    (16, "rrelu", {}, "0.362860064 0.356157057 0.349896086 0.344029307"),
    (64, "rrelu", {}, "0.174268048 0.173504106 0.172753108 0.172014654"),
    (256, "rrelu", {}, "0.086285640 0.086192476 0.086099706 0.086007327"),
    (
        64,
        "relu",
        {"dropout_rate": 0.1},
        "0.170572748 0.169592939 0.168637461 0.167705098",
    ),
    (
        64,
        "relu",
        {"dropout_rate": 0.2},
        "0.161231579 0.160162039 0.159123407 0.158113883",
    ),
    (
        64,
        "relu",
        {"dropout_rate": 0.5},
        "0.129294816 0.127787892 0.126359002 0.125000000",
    ),
]
DEFAULT = {"negative_slope_range": (0.125, 1 / 3)}
UNIT = {"negative_slope_range": (0.0, 1.0)}
MIXED = {"negative_slope_range": (-0.5, 0.25)}
FIXED = {"negative_slope_range": (0.3, 0.3)}
# s, width, activation, parameters, sigma by mpmath with 30 digits: Gamma
# functions for linear, the binomial sum for relu and dropout, a binomial sum
# of hypergeometric functions 2F1 for leaky_relu; for rrelu E |a|^s at width 1,
# else p / Gamma(1-p) int (1 - l(t)^width) t^(-p-1) dt with p = s / 2.
DIGITS = [
    (0.01, 1, "linear", {}, 1.8758234348972442),
    (0.01, 1, "relu", {}, 2.3778887031696707e30),
    (1.0, 1, "linear", {}, 1.2533141373155003),
    (1.0, 1, "relu", {}, 2.5066282746310007),
    (1.999999, 1, "linear", {}, 1.000000182409338),
    (1.999999, 1, "relu", {}, 1.414214065403579),
    (0.01, 5, "linear", {}, 0.49719928058064156),
    (0.01, 5, "relu", {}, 20.60396984708857),
    (1.0, 5, "linear", {}, 0.4699928014933126),
    (1.0, 5, "relu", {}, 0.7271437652647837),
    (0.01, 64, "linear", {}, 0.12598051426799461),
    (0.01, 64, "relu", {}, 0.18033890725583732),
    (1.999999, 64, "linear", {}, 0.12500000048573837),
    (1.999999, 64, "relu", {}, 0.17677669701111187),
    (1.0, 1000, "linear", {}, 0.03163068328281039),
    (1.0, 1000, "relu", {}, 0.04474933593000222),
    (0.01, 1000000, "linear", {}, 0.001000000497500288),
    (0.01, 1000000, "relu", {}, 0.0014142153213051619),
    (1.5, 1000000, "linear", {}, 0.001000000124999987),
    (1.5, 1000000, "relu", {}, 0.0014142140043149393),
    (1.999999, 1000000, "linear", {}, 0.00100000000000025),
    (1.999999, 1000000, "relu", {}, 0.0014142135623739789),
    (0.01, 1, "relu", {"dropout_rate": 0.1}, 8.05718042905038e34),
    (1.0, 1, "relu", {"dropout_rate": 0.9}, 2.5066282746310007),
    (0.01, 64, "relu", {"dropout_rate": 0.5}, 0.1308569606111473),
    (1.0, 64, "relu", {"dropout_rate": 0.9}, 0.06393268720978179),
    (1.999999, 4096, "relu", {"dropout_rate": 0.1}, 0.020963137292685334),
    (0.01, 1, "leaky_relu", {"negative_slope": 0.01}, 18.267539242900046),
    (1.0, 2, "leaky_relu", {"negative_slope": 3.0}, 0.3866573246238805),
    (1.0, 16, "leaky_relu", {"negative_slope": 0.01}, 0.3681799408194891),
    (1.999999, 16, "leaky_relu", {"negative_slope": 0.5}, 0.31622777328652585),
    (0.01, 64, "leaky_relu", {"negative_slope": 0.2}, 0.17649841242830802),
    (1.0, 64, "leaky_relu", {"negative_slope": -0.7}, 0.14548520051185304),
    (0.01, 1, "rrelu", DEFAULT, 3.9791368757382934),
    (1.0, 1, "rrelu", DEFAULT, 2.039290799699797),
    (0.01, 1, "rrelu", UNIT, 3.0812232046424293),
    (1.0, 1, "rrelu", UNIT, 1.671085516420667),
    (0.01, 1, "rrelu", MIXED, 4.873410534331565),
    (1.0, 1, "rrelu", MIXED, 2.0744509859015174),
    (0.01, 1, "rrelu", FIXED, 3.418569549710519),
    (1.0, 1, "rrelu", FIXED, 1.9281755958700004),
    (1.0, 2, "rrelu", DEFAULT, 1.2337424249949793),
    (1.0, 2, "rrelu", UNIT, 1.0313932570353204),
    (1.0, 2, "rrelu", MIXED, 1.2393790288447624),
    (0.5, 64, "rrelu", DEFAULT, 0.17426804760233827),
    (1.0, 64, "rrelu", DEFAULT, 0.17350410589832063),
    (0.5, 64, "rrelu", UNIT, 0.15447181821440228),
    (1.0, 64, "rrelu", UNIT, 0.15400729275910174),
    (0.5, 64, "rrelu", MIXED, 0.17372513114338328),
    (1.0, 64, "rrelu", MIXED, 0.17297034605992445),
    (1.0, 100000, "rrelu", DEFAULT, 0.004351688709106228),
    (1.0, 100000, "rrelu", UNIT, 0.0038729981119803693),
    (1.0, 100000, "rrelu", MIXED, 0.00433863280491456),
]
ACTIVATIONS = [
    ("linear", {}),
    ("relu", {}),
    ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": -3.0}),
    ("rrelu", {}),
    ("rrelu", {"negative_slope_range": (-0.5, 1.0)}),
    ("relu", {"dropout_rate": 0.3}),
    ("rrelu", {"dropout_rate": 0.7, "negative_slope_range": (0.5, 0.75)}),
]
NAMES = [f"{name}{list(values.values()) or ''}" for name, values in ACTIVATIONS]


def numbers(text):
    return [float(number) for number in text.split()]


# Tables


@pytest.mark.parametrize("width", TABLE)
def test_table_of_standard_deviations(width):
    result = [fractional_moment_std(s, width, name) for name, s in COLUMNS]
    np.testing.assert_allclose(
        result, numbers(TABLE[width]), rtol=0, atol=5.1e-10
    )


@pytest.mark.parametrize(("width", "name", "parameters", "expected"), OTHERS)
def test_table_of_other_activations(width, name, parameters, expected):
    expected = numbers(expected)
    result = [
        fractional_moment_std(s, width, name, **parameters)
        for s in (0.5, 1.0, 1.5, 2.0)[: len(expected)]
    ]
    np.testing.assert_allclose(result, expected, rtol=0, atol=5.1e-10)


@pytest.mark.parametrize(
    ("s", "width", "name", "parameters", "expected"), DIGITS
)
def test_values_of_thirty_digits(s, width, name, parameters, expected):
    result = fractional_moment_std(s, width, name, **parameters)
    assert result == pytest.approx(expected, rel=1e-12, abs=0)


def mean_square(
    name,
    dropout_rate=0.0,
    negative_slope=0.2,
    negative_slope_range=(1 / 8, 1 / 3),
):
    """Returns E phi(z)^2, as the mean over both slopes."""
    low, high = negative_slope_range
    negative = {
        "linear": 1,
        "relu": 0,
        "leaky_relu": negative_slope**2,
        "rrelu": (low * low + low * high + high * high) / 3,
    }
    return (1 + negative[name]) / 2 / (1 - dropout_rate)


@pytest.mark.parametrize("width", [1, 2, 17, 1000, 10**6])
@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS, ids=NAMES)
def test_order_two_is_he_initialization_to_the_last_digits(
    name, parameters, width
):
    result = fractional_moment_std(2, width, name, **parameters)
    expected = 1 / math.sqrt(width * mean_square(name, **parameters))
    assert result == pytest.approx(expected, rel=1e-15, abs=0)
    near = fractional_moment_std(2 - 1e-9, width, name, **parameters)
    assert -1e-15 <= near / expected - 1 < 1e-8 / math.sqrt(width)


DRIFTS = [
    ("linear", 64, 1.0, -0.0039471, 0.0079358),
    ("linear", 64, 2.0, -0.0078532, 0.0079358),
    ("relu", 64, 0.5, -0.0051420, 0.0207493),
    ("relu", 64, 0.8, -0.0081847, 0.0207493),
    ("relu", 64, 1.0, -0.0101960, 0.0207493),
    ("relu", 64, 1.5, -0.0151656, 0.0207493),
    ("relu", 64, 2.0, -0.0200543, 0.0207493),
    ("relu", 256, 1.0, -0.0024672, 0.0049547),
    ("relu", 256, 2.0, -0.0049143, 0.0049547),
]


@pytest.mark.parametrize(("name", "width", "s", "drift", "variance"), DRIFTS)
def test_table_of_drifts(name, width, s, drift, variance):
    std = fractional_moment_std(s, width, name)
    result = log_norm_drift_and_variance(std, width, name)
    np.testing.assert_allclose(result, (drift, variance), rtol=0, atol=5.1e-8)


def test_small_outputs_are_rarer_at_lower_order():
    # relu, width 64, 100 layers: log(sigma_s / sigma_2) and the chance that
    # |x_100| < |x_0| / 10 in the limit distribution.
    kaiming = fractional_moment_std(2, 64)
    shifts, chances = [], []
    for s in (2, 1.5, 1, 0.8, 0.5):
        std = fractional_moment_std(s, 64)
        drift, variance = log_norm_drift_and_variance(std, 64)
        shifts.append(100 * math.log(std / kaiming))
        deviation = math.sqrt(100 * variance)
        chances.append(
            stats.norm.cdf((math.log(0.1) - 100 * drift) / deviation)
        )
    np.testing.assert_allclose(
        shifts, [0, 0.489, 0.986, 1.187, 1.491], rtol=0, atol=6e-4
    )
    np.testing.assert_allclose(
        chances, [0.418, 0.293, 0.187, 0.151, 0.107], rtol=0, atol=6e-4
    )


def test_no_order_at_all_keeps_the_logarithm():
    expected = 0.180357614
    drift, _ = log_norm_drift_and_variance(expected, 64)
    assert drift == pytest.approx(0, abs=3e-9)
    exact = math.exp(-log_norm_drift_and_variance(1, 64)[0])
    assert exact == pytest.approx(expected, abs=5.1e-10)
    for s in (1e-7, 1e-12, 1e-17):
        # All units are 0 with probability 2^-64.
        limit = exact * math.exp(2.0**-64 / s - s * 0.0207493 / 2)
        result = fractional_moment_std(s, 64)
        assert result == pytest.approx(limit, rel=1e-13)
    # Not the random walk's, exp(1.2 / 61.6) sqrt(2 / 64).
    assert math.exp(1.2 / 61.6) * math.sqrt(2 / 64) == pytest.approx(
        0.180254158
    )


# Twins


def binomial_std(s, width, alive, keep_rate):
    """The sum over how many units are alive, each with probability alive."""
    count = np.arange(1, width + 1)
    logs = stats.binom.logpmf(count, width, alive)
    logs += special.gammaln((count + s) / 2) - special.gammaln(count / 2)
    log_moment = s / 2 * math.log(2) + special.logsumexp(logs)
    return keep_rate * math.exp(-log_moment / s)


@given(
    s=st.floats(0.05, 2),
    width=st.integers(1, 3000),
    keep_rate=st.floats(0.05, 1),
)
def test_binomial_sum(s, width, keep_rate):
    for name, alive in (("relu", keep_rate / 2), ("linear", keep_rate)):
        result = fractional_moment_std(
            s, width, name, dropout_rate=1 - keep_rate
        )
        expected = binomial_std(s, width, alive, keep_rate)
        # The expected value is exact to 1e-12 / s, since gammaln of thousands
        # is rounded.
        assert result == pytest.approx(expected, rel=2e-10)


@pytest.mark.parametrize("width", [1, 2, 7, 64, 1000])
def test_drift_and_variance_of_linear_and_relu(width):
    result = log_norm_drift_and_variance(0.3, width, "linear")
    psi = special.digamma(width / 2)
    expected = (
        math.log(0.3) + (math.log(2) + psi) / 2,
        special.polygamma(1, width / 2) / 4,
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13)
    # relu: the same, given how many units are alive, and that some are.
    alive = np.arange(1, width + 1)
    chance = stats.binom.pmf(alive, width, 0.5)
    chance /= chance.sum()
    psi = special.digamma(alive / 2)
    mean = chance @ psi
    variance = chance @ special.polygamma(1, alive / 2)
    variance += chance @ (psi - mean) ** 2
    result = log_norm_drift_and_variance(1.0, width)
    np.testing.assert_allclose(
        result, ((math.log(2) + mean) / 2, variance / 4), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS, ids=NAMES)
def test_drift_and_variance_are_derivatives(name, parameters):
    # log E |phi(g)|^s = s drift + s^2 / 2 variance + ..., and -s log(sigma).
    width, step = 200, 1e-3
    first, second = (
        math.log(fractional_moment_std(s, width, name, **parameters))
        for s in (step, 2 * step)
    )
    drift, variance = log_norm_drift_and_variance(1, width, name, **parameters)
    assert -2 * first + second == pytest.approx(drift, abs=1e-7)
    assert 2 * (first - second) / step == pytest.approx(variance, rel=2e-3)


def kappa(name, negative_slope=0.2, negative_slope_range=(1 / 8, 1 / 3)):
    """Var[phi^2] / E[phi^2]^2 of a standard normal."""
    if name == "rrelu":
        low, high = negative_slope_range
        second = (high**3 - low**3) / (high - low) / 3
        fourth = (high**5 - low**5) / (high - low) / 5
    else:
        slope = {"linear": 1, "relu": 0}.get(name, negative_slope)
        second, fourth = slope**2, slope**4
    return 6 * (1 + fourth) / (1 + second) ** 2 - 1


@pytest.mark.parametrize(
    ("name", "parameters"),
    [case for case in ACTIVATIONS if "dropout" not in str(case)],
)
@pytest.mark.parametrize("s", [0.1, 1.0, 1.9])
def test_expansion_in_the_width(name, parameters, s):
    assert kappa("rrelu") == pytest.approx(4.400235, abs=5.1e-7)
    k = kappa(name, **parameters)
    errors = []
    for width in (1000, 2000):
        std = fractional_moment_std(s, width, name, **parameters)
        expected = 1 + (2 - s) * k / (4 * width)
        square = std**2 * width * mean_square(name, **parameters)
        errors.append(square - expected)
        drift, variance = log_norm_drift_and_variance(
            std, width, name, **parameters
        )
        assert variance * 4 * width == pytest.approx(k, rel=20 / width)
        assert drift * 8 * width == pytest.approx(-s * k, rel=20 / width)
    # The remainder is of the second order, so a quarter at twice the width.
    assert abs(errors[0]) < 20 / 1000**2
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize(
    ("name", "s", "width", "error"),
    [
        ("relu", 1.0, 10, -7.6e-3),
        ("relu", 1.0, 64, -1.9e-4),
        ("relu", 1.0, 256, -1.2e-5),
        ("relu", 0.5, 10, -2.1e-2),
        ("relu", 0.5, 64, -4.7e-4),
        ("relu", 0.5, 256, -2.9e-5),
        ("linear", 1.0, 10, -5.6e-4),
        ("linear", 1.0, 64, -1.5e-5),
        ("linear", 1.0, 256, -9.5e-7),
    ],
)
def test_error_of_the_authors_approximation(name, s, width, error):
    # Gürbüzbalaban & Hu's code: 2/d + 5 (2-s) / (2 d^2) for relu, and
    # 1/d + (2-s) / (2 d^2) for linear.
    scale, k = (2, 5) if name == "relu" else (1, 2)
    square = scale / width + scale * k * (2 - s) / (4 * width**2)
    exact = fractional_moment_std(s, width, name)
    assert math.sqrt(square) / exact - 1 == pytest.approx(error, rel=0.03)


# Exact limits


@given(
    s=st.floats(0.01, 2),
    width=st.integers(1, 10**6),
    slope=st.floats(1e-6, 1e6),
    keep_rate=st.floats(0.1, 1),
)
@settings(max_examples=40)
def test_limits_of_the_slope(s, width, slope, keep_rate):
    def std(name, **parameters):
        return fractional_moment_std(
            s, width, name, dropout_rate=1 - keep_rate, **parameters
        )

    same = {"rel": 1e-12, "abs": 0}
    leaky = std("leaky_relu", negative_slope=slope)
    assert leaky == pytest.approx(
        std("leaky_relu", negative_slope=-slope), **same
    )
    assert leaky == pytest.approx(
        std("rrelu", negative_slope_range=(slope, slope)), **same
    )
    # With z -> -z it is a leaky relu of slope 1 / a, times a.
    turned = std("leaky_relu", negative_slope=1 / slope)
    assert leaky * slope == pytest.approx(turned, **same)
    relu = std("leaky_relu", negative_slope=0)
    assert relu == pytest.approx(std("relu"), **same)
    linear = std("leaky_relu", negative_slope=-1)
    assert linear == pytest.approx(std("linear"), **same)
    narrow = std("rrelu", negative_slope_range=[slope, slope * (1 + 1e-9)])
    assert narrow == pytest.approx(leaky, rel=1e-9)


@given(
    s=st.floats(0.02, 1.85),  # At 2 the std is Kaiming's itself.
    width=st.integers(1, 10**5),
    case=st.sampled_from(ACTIVATIONS),
)
@settings(max_examples=40)
def test_std_falls_as_the_order_grows(s, width, case):
    name, parameters = case
    low, high = (
        fractional_moment_std(order, width, name, **parameters)
        for order in (s, s + 0.1)
    )
    kaiming = 1 / math.sqrt(width * mean_square(name, **parameters))
    assert low > high > kaiming
    std = fractional_moment_std(s, width, name, **parameters)
    drift, variance = log_norm_drift_and_variance(
        std, width, name, **parameters
    )
    assert variance > 0
    # Jensen's inequality, except for the event that all units are 0, which
    # counts in E.
    if width > 200:
        assert drift < 0


def test_slopes_of_any_size():
    for slope in (1e-200, 1e150):
        size = max(slope, 1)
        for s in (0.01, 1.0, 2.0):
            result = fractional_moment_std(
                s, 64, "leaky_relu", negative_slope=slope
            )
            # The smaller slope has no effect on the moment.
            expected = fractional_moment_std(s, 64) / size
            assert result == pytest.approx(expected, rel=1e-12, abs=0)


def test_units_of_which_none_is_ever_zero():
    # Rounding must not give this event a probability, which would change the
    # result at a small order.
    for bounds in ((0.0, 1.0), (-0.5, 0.25), (1 / 8, 1 / 3), (-1.0, 1.0)):
        drift, _ = log_norm_drift_and_variance(
            1, 1, "rrelu", negative_slope_range=bounds
        )
        result = fractional_moment_std(
            1e-14, 1, "rrelu", negative_slope_range=bounds
        )
        assert result == pytest.approx(math.exp(-drift), rel=1e-12)


@pytest.mark.parametrize("slope", [1e-100, 1e-3, 1e100])
@pytest.mark.parametrize("s", [0.01, 1.0, 2.0])
def test_one_unit_of_any_slope(slope, s):
    # E |phi(z)|^s = E |z|^s (1 + a^s) / 2
    expected = fractional_moment_std(s, 1, "linear")
    expected *= ((1 + slope**s) / 2) ** (-1 / s)
    result = fractional_moment_std(s, 1, "leaky_relu", negative_slope=slope)
    assert result == pytest.approx(expected, rel=1e-12, abs=0)


def test_results_are_python_floats():
    expected = fractional_moment_std(1.0, 64)
    for s, width in ((1, 64), (np.float32(1), np.int32(64))):
        result = fractional_moment_std(s, width)
        assert type(result) is float
        assert result == expected
    pair = log_norm_drift_and_variance(np.float32(0.5), np.int64(3))
    assert [type(number) for number in pair] == [float, float]


# Random networks


def activate(
    rng,
    z,
    name,
    dropout_rate=0.0,
    negative_slope=0.2,
    negative_slope_range=(1 / 8, 1 / 3),
):
    """Returns phi(z) by its definition, with slopes and dropout per unit."""
    slope = {
        "linear": 1.0,
        "relu": 0.0,
        "leaky_relu": negative_slope,
        "rrelu": rng.uniform(*negative_slope_range, z.shape),
    }[name]
    kept = rng.random(z.shape) >= dropout_rate
    return np.where(z > 0, z, slope * z) * kept / (1 - dropout_rate)


def assert_mean_is(expected, values):
    """Asserts that the mean of iid values is within 6 standard errors.

    False alarms: below 1e-8 for a normal mean; the means here are of 20000
    values or more and nearly normal.
    """
    error = values.mean() - expected
    chance = DEVIATIONS * values.std() / math.sqrt(len(values))
    assert abs(error) <= chance, f"off by {error}, where {chance} is chance"


@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS, ids=NAMES)
def test_moment_of_a_random_layer(rng, name, parameters):
    width, draws, s = 16, 40000, 0.8
    x = rng.standard_normal(5)
    x /= np.linalg.norm(x)
    kernels = rng.standard_normal((draws, width, 5))
    y = activate(rng, kernels @ x, name, **parameters)
    norm = np.linalg.norm(y, axis=1)
    std = fractional_moment_std(s, width, name, **parameters)
    assert_mean_is(1, (std * norm) ** s)
    # An error of 4% is detected, hence the std of He et al. for relu.
    others = [std * 1.04, std / 1.04]
    if name == "relu":
        others.append(fractional_moment_std(2, width, name, **parameters))
    for wrong in others:
        with pytest.raises(AssertionError, match="off by"):
            assert_mean_is(1, (wrong * norm) ** s)
    drift, variance = log_norm_drift_and_variance(
        0.5, width, name, **parameters
    )
    logs = np.log(0.5 * norm[norm > 0])
    assert_mean_is(drift, logs)
    assert_mean_is(variance, (logs - drift) ** 2)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean_is(variance * 1.25, (logs - drift) ** 2)


def test_formula_of_another_activation_is_detected(rng):
    norm = np.linalg.norm(rng.standard_normal((20000, 16)), axis=1)
    for name in ("relu", "leaky_relu", "rrelu"):
        std = fractional_moment_std(1, 16, name)
        with pytest.raises(AssertionError, match="off by"):
            assert_mean_is(1, std * norm)


def test_fan_out_keeps_the_moment_and_fan_in_its_ratio(rng):
    # From 6 units to 12, 4 and 9. With the fan-out E |x|^s is kept; with the
    # fan-in, its ratio to the value for as many normal units is.
    widths, nets, s = (6, 12, 4, 9), 40000, 1.0
    norms = {}
    for fan in ("fan_in", "fan_out"):
        x = np.tile(np.eye(1, widths[0]), (nets, 1))
        for fan_in, fan_out in itertools.pairwise(widths):
            width = fan_in if fan == "fan_in" else fan_out
            kernel = rng.standard_normal((nets, fan_in, fan_out))
            kernel *= fractional_moment_std(s, width)
            x = activate(rng, np.einsum("ni,nij->nj", x, kernel), "relu")
        norms[fan] = np.linalg.norm(x, axis=1)
    first, last = (fractional_moment_std(s, w) for w in (6, 9))
    assert_mean_is(1, norms["fan_out"])
    assert_mean_is(first / last, norms["fan_in"])
    with pytest.raises(AssertionError, match="off by"):
        assert_mean_is(1, norms["fan_in"])


@pytest.mark.slow
def test_log_norm_of_deep_networks(rng):
    width, depth, nets = 16, 10, 20000
    std = fractional_moment_std(1.0, width)
    x = np.tile(np.eye(1, width), (nets, 1))
    for _ in range(depth):
        kernel = rng.standard_normal((nets, width, width))
        x = np.maximum(np.einsum("ni,nij->nj", x, std * kernel), 0)
    # All units of a net are 0 with probability 1e-4 here.
    logs = np.log(np.linalg.norm(x, axis=1)[x.any(axis=1)])
    drift, variance = log_norm_drift_and_variance(std, width)
    assert_mean_is(depth * drift, logs)
    assert_mean_is(depth * variance, (logs - depth * drift) ** 2)
    linear, _ = log_norm_drift_and_variance(std, width, "linear")
    with pytest.raises(AssertionError, match="off by"):
        assert_mean_is(depth * linear, logs)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 64), r"in \(0, 2\]. Received: order=0"),
        ((-1.0, 64), "Received: order=-1.0"),
        ((2.0000001, 64), "Received: order=2.0000001"),
        ((np.nan, 64), "Received: order=nan"),
        ((True, 64), "Received: order=True"),
        (("1", 64), "Received: order='1'"),
        (([1.0], 64), r"Received: order=\[1.0\]"),
        ((1.0, 0), ">= 1. Received: width=0"),
        ((1.0, -3), ">= 1. Received: width=-3"),
        ((1.0, 10**400), r"from 1 to 2\^53. Received: width=1000"),
        ((1.0, 64.0), "an int >= 1. Received: width=64.0"),
        ((1.0, True), "an int >= 1. Received: width=True"),
        ((1.0, None), "an int >= 1. Received: width=None"),
        ((1.0, 64, "tanh"), "'rrelu'.*Received: activation='tanh'"),
        ((1.0, 64, "swoosh"), "one of.*Received: activation='swoosh'"),
        ((1.0, 64, np.tanh), "'rrelu'.*Received: activation=<ufunc 'tanh'>"),
        ((1.0, 64, None), "Received: activation=None"),
        ((1e-4, 1), r"range of float64. Received: order=0.0001, width=1"),
    ],
)
def test_fractional_moment_std_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        fractional_moment_std(*arguments)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("relu", {"negative_slope": 0.2}, "accepts none. Received: negative"),
        (
            "linear",
            {"negative_slope_range": (0, 1)},
            "accepts none. Received: negative_slope_range",
        ),
        (
            "rrelu",
            {"negative_slope": 0.2},
            "accepts only negative_slope_range. Received",
        ),
        (
            "leaky_relu",
            {"negative_slope_range": (0, 1)},
            "accepts only negative_slope",
        ),
        ("leaky_relu", {"negative_slope": np.inf}, "Received: negative.*inf"),
        ("leaky_relu", {"negative_slope": 1e200}, r"a slope of 1e\+200"),
        (
            "rrelu",
            {"negative_slope_range": (-1e200, 0)},
            "mean square. Received: activ.*rrel",
        ),
        (
            "rrelu",
            {"negative_slope_range": (0.4, 0.2)},
            r"Received: negative_slope_range=\(0.4, 0.2\)",
        ),
        (
            "rrelu",
            {"negative_slope_range": (0.4,)},
            r"Received: negative_slope_range=\(0.4,\)",
        ),
        (
            "rrelu",
            {"negative_slope_range": 0.4},
            "Received: negative_slope_range=0.4",
        ),
        (
            "rrelu",
            {"negative_slope_range": (0, np.nan)},
            "Received: negative_slope_range=",
        ),
        (
            "rrelu",
            {"negative_slope_range": (False, True)},
            "Received: negative_slope_range=",
        ),
        ("relu", {"dropout_rate": 1}, r"in \[0, 1\). Received: dropout_rate=1"),
        ("relu", {"dropout_rate": -0.1}, "Received: dropout_rate=-0.1"),
        ("relu", {"dropout_rate": True}, "Received: dropout_rate=True"),
        ("relu", {"dropout_rate": None}, "Received: dropout_rate=None"),
    ],
)
def test_parameters_are_refused(name, parameters, message):
    for function in (
        fractional_moment_std,
        log_norm_drift_and_variance,
        theory.stable_weight_scale,
    ):
        with pytest.raises(ValueError, match=message):
            function(1.0, 64, name, **parameters)


@pytest.mark.parametrize("std", [0, -0.1, np.inf, np.nan, None, True, "1"])
def test_log_norm_drift_and_variance_refuses(std):
    with pytest.raises(ValueError, match=f"> 0. Received: std={std!r}"):
        log_norm_drift_and_variance(std, 64)
