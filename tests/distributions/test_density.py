"""Tests of density, distribution function, quantiles and mode."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from keras_initx.distributions.alpha_stable import density as stable
from keras_initx.distributions.alpha_stable import quantile as quantile_module
from keras_initx.distributions.alpha_stable.quantile import mode, quantile
from keras_initx.distributions.alpha_stable.small_stability import (
    centered_values,
)

HERE = Path(__file__).parent
# The promised accuracy of densities and probabilities.
ABSOLUTE, RELATIVE = 1e-8, 1e-6
TABLE_COLUMNS = [
    (stable.log_density, "log_density"),
    (stable.log_survival, "log_sf"),
    (stable.log_cdf, "log_cdf"),
]


def columns_of(name):
    """The columns of a table that `make_stable_reference.py` writes."""
    with open(HERE / name, newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: np.array([float(row[name]) for row in rows]) for name in rows[0]
    }


@pytest.fixture(scope="module")
def reference():
    return columns_of("stable_reference.csv")


def arguments_of(table):
    return table["z"], table["stability"], table["skewness"]


def random_arguments(rng, size, lowest=0.3):
    """Returns random z, stability and skewness, many of them hard cases."""
    near_one = 1 + rng.choice([-1, 1], size) * 10 ** rng.uniform(-12, -1, size)
    stability = np.where(
        rng.uniform(size=size) < 0.3, near_one, rng.uniform(lowest, 2, size)
    )
    skewness = np.where(
        rng.uniform(size=size) < 0.3,
        rng.choice([-1.0, -0.999999, 0, 1e-6, 1], size),
        rng.uniform(-1, 1, size),
    )
    z = rng.choice([-1, 1], size) * 10 ** rng.uniform(-3, 6, size)
    return z, stability, skewness


def finite_difference(function, values, which, step):
    """Returns the central difference of fourth order."""

    def value_at(steps):
        moved = list(values)
        moved[which] = moved[which] + steps * step
        return function(*moved).numpy()

    near = value_at(1) - value_at(-1)
    far = value_at(2) - value_at(-2)
    return (8 * near - far) / (12 * step)


# Accuracy


@pytest.mark.slow
@pytest.mark.parametrize(("function", "column"), TABLE_COLUMNS)
def test_error_against_reference_table(reference, function, column):
    expected = np.exp(reference[column])
    error = np.abs(np.exp(function(*arguments_of(reference))) - expected)
    assert (error <= np.maximum(ABSOLUTE, RELATIVE * expected)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("function", "column"), TABLE_COLUMNS)
def test_error_of_logarithm_against_reference_table(
    reference, function, column
):
    """The error is below 1e-6, or 1e-11 times a logarithm that is large.

    Logarithms are large in the light tails. At the edge of a support no code
    can be better than the last digit of z allows: the logarithm varies there
    as (z - edge)^(-a / (1 - a)).
    """
    z, stability, skewness = arguments_of(reference)
    actual, expected = (
        function(z, stability, skewness).numpy(),
        reference[column],
    )
    relative = np.full(len(z), 1e-11)
    edge = -skewness * np.tan(math.pi / 2 * stability)
    near = (np.abs(skewness) == 1) & (stability < 1)
    near &= (np.abs(z - edge) < 1e-3) & (expected < -1)
    a = stability[near]
    digit = np.spacing(np.abs(z[near])) / np.abs(z[near] - edge[near])
    relative[near] = np.maximum(1e-11, a / (1 - a) * digit)
    in_range = expected > -1e140
    assert (actual[~in_range] <= -1e140).all()
    assert relative[in_range].max() < 1e-7
    allowed = np.maximum(RELATIVE, relative * np.abs(expected))
    error = np.abs(actual[in_range] - expected[in_range])
    assert (error <= allowed[in_range]).all()


def test_log_density_is_minus_infinity_only_outside_the_support():
    stability = np.array([0.3, 0.5, 0.7, 0.95, 0.999])
    edge = -np.tan(np.pi / 2 * stability)
    for distance, inside in [(-1e-9, False), (-3.0, False), (1e-9, True)]:
        z = edge + distance * np.abs(edge)
        for function in (stable.log_density, stable.log_cdf):
            assert (np.isfinite(function(z, stability, 1.0)) == inside).all()
        assert (stable.log_survival(z, stability, 1.0) == 0).numpy().all()


def test_reference_table_has_the_hard_cases(reference):
    z, stability, skewness = arguments_of(reference)
    assert len(z) >= 300
    for a in (0.3, 1 - 1e-6, 1.0, 1 + 1e-6, 1.001, 1.9999, 2.0):
        assert (stability == a).sum() >= 10
    assert (np.abs(z) == 1e6).sum() >= 20
    assert ((skewness == 1) & (reference["log_density"] < -1e3)).sum() >= 20
    assert (reference["log_density"] == -np.inf).any()


def test_normal_distribution():
    z = np.array([-30.0, -3.0, -0.5, 0.0, 1e-3, 2.0, 9.0, 40.0])
    np.testing.assert_allclose(
        stable.log_density(z, 2.0, 0.7),
        -(z**2) / 4 - math.log(4 * math.pi) / 2,
        rtol=1e-14,
    )
    np.testing.assert_allclose(
        stable.log_cdf(z, 2.0, 0.7),
        special.log_ndtr(z / math.sqrt(2)),
        rtol=1e-12,
    )


def test_cauchy_distribution():
    z = np.array([-1e6, -3.0, 0.0, 1e-3, 2.0, 9.0, 1e4, 1e9])
    np.testing.assert_allclose(
        stable.density(z, 1.0, 0.0), 1 / (math.pi * (1 + z**2)), rtol=1e-12
    )
    np.testing.assert_allclose(
        stable.survival(z, 1.0, 0.0), np.arctan2(1, z) / math.pi, rtol=1e-12
    )


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_levy_distribution(side):
    z = side * (np.array([-1.0, 0.0, 1e-3, 0.1, 0.5, 3.0, 1e6]) - 1)
    y = side * z + 1
    inside, outside = (stable.cdf, stable.survival)[:: int(side)]
    density = stable.log_density(z, 0.5, side).numpy()
    below, above = (f(z, 0.5, side).numpy() for f in (inside, outside))
    beyond = y <= 0
    assert beyond.sum() == 2
    assert (density[beyond] == -np.inf).all()
    assert (below[beyond] == 0).all() and (above[beyond] == 1).all()
    y = y[~beyond]
    expected = -np.log(2 * np.pi * y**3) / 2 - 1 / (2 * y)
    np.testing.assert_allclose(
        density[~beyond], expected, rtol=1e-10, atol=1e-10
    )
    root = 1 / np.sqrt(2 * y)
    for actual, function in ((below, special.erfc), (above, special.erf)):
        np.testing.assert_allclose(actual[~beyond], function(root), rtol=1e-10)


@pytest.mark.parametrize(
    ("known", "close"),
    [
        ((2.0, 0.0), (2.0 - 1e-13, 0.0)),
        ((1.0, 0.0), (1.0, 1e-14)),
        ((1.0, 0.0), (1.0 - 1e-14, 0.0)),
        ((1.0, 0.7), (1.0 + 1e-14, 0.7)),
        ((0.5, 1.0), (0.5 + 1e-14, 1.0)),
    ],
)
def test_closed_forms_are_limits_of_the_integral(known, close):
    z = np.array([-0.9, -0.3, 0.0, 0.1, 1.0, 4.0, 6.0])
    for function in (stable.log_density, stable.log_survival):
        np.testing.assert_allclose(
            function(z, *known), function(z, *close), rtol=1e-9, atol=1e-9
        )


def test_log_density_is_smooth_through_stability_one():
    """SciPy, which rounds a stability near 1, has a jump of 1e-3 here."""
    stability = 1 + np.linspace(-1e-3, 1e-3, 401)
    values = stable.log_density(-2.0, stability, np.float64(0.6)).numpy()
    assert np.abs(np.diff(values, 4)).max() < 1e-11


def test_pareto_tail_of_very_large_values():
    """P(Z > z) ~ C z^-a and f(z) ~ a C z^(-a-1), up to z = inf."""
    z = np.array([1e40, 1e49, 1e51, 1e300])
    a, b = 0.8, 0.5
    constant = math.gamma(a) * math.sin(math.pi * a / 2) / math.pi * (1 + b)
    tail = math.log(constant) - a * np.log(z)
    np.testing.assert_allclose(stable.log_survival(z, a, b), tail, rtol=1e-12)
    np.testing.assert_allclose(
        stable.log_density(z, a, b), tail + np.log(a / z), rtol=1e-12
    )
    assert stable.log_density(np.inf, a, b) == -np.inf
    assert stable.survival(np.inf, a, b) == 0
    assert stable.cdf(np.inf, a, b) == 1


# A stability below 0.3

SMALL = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.299])


@pytest.mark.slow
@pytest.mark.parametrize(("function", "column"), TABLE_COLUMNS)
def test_small_stability_against_reference_table(function, column):
    table = columns_of("small_stability_reference.csv")
    stability, skewness = table["stability"], table["skewness"]
    z = table["y"] - skewness * np.tan(math.pi / 2 * stability)
    # The last digit of z is more than 1e-8 of the smallest y.
    kept = (np.abs(table["y"]) > 1e-8) | (skewness == 0)
    actual = function(z, stability, skewness).numpy()[kept]
    expected = table[column][kept]
    # Most errors are below 1e-11; that of a skewness of 1 - 1e-9 is 1.5e-8.
    np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-7)
    assert np.median(np.abs(actual - expected)) < 1e-12
    assert kept.sum() > 80


@pytest.mark.slow
def test_density_at_the_center_of_a_small_stability():
    """It is Gamma(1 + 1/a) cos(t) cos(a t)^(1/a) / pi with tan(a t) = b T."""
    skewness = np.array([[0.0], [0.3], [-0.9]])
    bias = skewness * np.tan(math.pi / 2 * SMALL)
    angle = np.arctan(bias) / SMALL
    expected = special.gammaln(1 + 1 / SMALL) - math.log(math.pi)
    expected = expected + np.log(np.cos(angle))
    expected -= np.log1p(bias**2) / (2 * SMALL)
    values = centered_values(
        tf.zeros(expected.size, tf.float64),
        *(tf.constant(v.ravel()) for v in np.broadcast_arrays(SMALL, skewness)),
    )
    np.testing.assert_allclose(
        values.log_density, expected.ravel(), rtol=1e-9, atol=1e-9
    )
    probability = 0.5 + angle / math.pi
    np.testing.assert_allclose(
        values.log_above, np.log(probability).ravel(), atol=1e-12
    )
    # Without skewness the center is z = 0.
    np.testing.assert_allclose(
        stable.log_density(np.float64(0), SMALL, 0.0), expected[0], rtol=1e-9
    )


@pytest.mark.slow
def test_small_stability_continues_the_other_integral():
    """The integral along the path is used from a stability of 0.3 on."""
    z = np.array([-1e60, -40.0, -0.6, 0.0, 1e-3, 0.2, 3.0, 1e9, 1e300])
    z, skewness = grid(z, [0.0, 0.7, -0.999, 1.0])
    step = 1e-9
    for function in (stable.log_density, stable.log_survival):
        above, higher = (
            function(z, 0.3 + k * step, skewness).numpy() for k in (0, 1)
        )
        below = function(z, 0.3 - step, skewness).numpy()
        inside = np.isfinite(above)
        assert (np.isfinite(below) == inside).all()
        error = below[inside] - 2 * above[inside] + higher[inside]
        assert (np.abs(error) <= 2e-9 * (1 + np.abs(above[inside]))).all()


@pytest.mark.slow
def test_gradients_of_a_small_stability():
    z, stability, skewness = grid(
        [-1e30, -50.0, -0.9, -0.3, 0.5, 2.0, 1e4, 1e200],
        [0.05, 0.1, 0.2, 0.29],
        [-1.0, -0.6, 0.0, 0.95],
    )
    values = [tf.constant(v) for v in (z, stability, skewness)]
    for function in (stable.log_density, stable.log_survival):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(*values)
        inside = np.isfinite(result) & (result.numpy() < 0)
        for which, actual in enumerate(tape.gradient(result, values)):
            assert np.isfinite(actual).all()
            size = [np.abs(z), stability, np.ones_like(z)][which]
            kept = inside & ((which != 2) | (np.abs(skewness) < 1))
            step = np.where(kept, 1e-4 * size, 0)
            with np.errstate(invalid="ignore"):
                expected = finite_difference(function, values, which, step)
            np.testing.assert_allclose(
                (actual * size)[kept],
                (expected * size)[kept],
                rtol=1e-6,
                atol=1e-8,
            )


@pytest.mark.slow
def test_functions_of_a_stability_below_the_least_are_nan():
    with tf.GradientTape() as tape:
        z = tf.constant([0.0, 1.0], tf.float64)
        tape.watch(z)
        value = stable.log_density(z, 0.049, 0.3)
    assert np.isnan(value).all()
    for function in (stable.log_survival, stable.cdf):
        assert np.isnan(function(np.float64(0.3), 0.049, 0.0))
        assert np.isfinite(function(np.float64(0.3), 0.05, 0.0))
    assert np.isnan(quantile(np.float64(0.3), 0.049, 0.0))
    assert np.isnan(mode(np.float64(0.049), 0.1))


# Relations between the functions


def test_negative_values_have_the_opposite_skewness(rng):
    z, stability, skewness = random_arguments(rng, 500)
    np.testing.assert_array_equal(
        stable.log_density(z, stability, skewness),
        stable.log_density(-z, stability, -skewness),
    )
    np.testing.assert_array_equal(
        stable.log_cdf(z, stability, skewness),
        stable.log_survival(-z, stability, -skewness),
    )


def test_cdf_and_survival_add_to_one(rng):
    arguments = random_arguments(rng, 500)
    total = stable.cdf(*arguments) + stable.survival(*arguments)
    np.testing.assert_allclose(total, 1, rtol=1e-14)


@pytest.mark.parametrize("stability", [0.4, 0.97, 1.0, 1.03, 1.6, 1.98])
@pytest.mark.parametrize("skewness", [0.0, -0.8, 1.0])
def test_cdf_is_the_integral_of_the_density(stability, skewness):
    """Gauss-Legendre quadrature, in panels that narrow toward the center.

    For a stability below 1 the density is hardly smooth there, or its support
    ends there.
    """
    points, weights = np.polynomial.legendre.leggauss(40)
    center = -skewness * math.tan(math.pi / 2 * stability)
    edges = 1e-4 * np.sinh(np.linspace(-11, 11, 41))
    edges += center if abs(center) < 3 else 0
    half = np.diff(edges)[:, None] / 2
    z = edges[:-1, None] + half * (1 + points)
    density = stable.density(z, stability, skewness).numpy()
    mass = (half * weights * density).sum(axis=1)
    cdf = stable.cdf(edges, stability, skewness).numpy()
    np.testing.assert_allclose(mass, np.diff(cdf), atol=1e-9)


def test_cdf_is_monotone():
    z = np.sinh(np.linspace(-12, 12, 4001))
    for stability, skewness in [
        (0.3, 0.9),
        (0.5, 1.0),
        (1.0, -1.0),
        (1.0, 0.3),
        (1.9, -0.5),
    ]:
        log_cdf = stable.log_cdf(z, stability, skewness).numpy()
        inside = np.isfinite(log_cdf)
        assert (np.diff(log_cdf[inside]) >= -1e-9).all()
        assert not inside[: np.argmax(inside)].any()


@pytest.mark.slow
def test_quantile_inverts_the_cdf(rng):
    _, stability, skewness = random_arguments(rng, 300)
    p = special.expit(rng.uniform(-12, 12, 300))
    z = quantile(p, stability, skewness)
    np.testing.assert_allclose(stable.cdf(z, stability, skewness), p, rtol=1e-9)


# Quantiles in S0, of Nolan's program and, without skewness, of others.
PUBLISHED = [
    ((0.5, 0.0), (0.75, 0.99), (1.283833, 1559.726)),
    ((0.8, 0.0), (0.9, 0.95), (4.343949, 10.956246)),
    ((1.2, 0.0), (0.75, 0.99), (0.981537, 16.160066)),
    ((1.8, 0.0), (0.9, 0.95), (1.880297, 2.504881)),
    ((0.5, 1.0), (0.05, 0.5, 0.95), (-0.73968, 1.19811, 253.314)),
    ((1.0, 0.5), (0.05, 0.5, 0.95), (-2.94046, 0.22349, 10.06463)),
    ((1.0, 1.0), (0.05, 0.5, 0.95), (-1.24130, 0.57563, 14.00480)),
    ((1.0 + 1e-8, 1.0), (0.5,), (0.57563,)),
    ((1.5, 0.5), (0.05, 0.5, 0.95), (-2.25419, 0.13385, 3.93366)),
    ((1.8, 1.0), (0.05, 0.5, 0.95), (-2.04775, 0.12339, 3.04830)),
]


@pytest.fixture(scope="module")
def published_again():
    """Returns the quantiles of all rows, which one call computes."""
    parameters = np.concatenate([[row] * len(p) for row, p, _ in PUBLISHED]).T
    p = np.concatenate([p for _, p, _ in PUBLISHED])
    ends = np.cumsum([len(p) for _, p, _ in PUBLISHED])
    return np.split(quantile(p, *parameters).numpy(), ends)


@pytest.mark.slow
@pytest.mark.parametrize(
    "index", range(len(PUBLISHED)), ids=lambda i: str(PUBLISHED[i][0])
)
def test_published_quantiles(index, published_again):
    np.testing.assert_allclose(
        published_again[index], PUBLISHED[index][2], rtol=1e-5, atol=5e-6
    )


@pytest.mark.slow
def test_quantile_in_the_tails_and_of_a_small_stability():
    """Relative to the smaller tail. A z of float64 resolves some of them."""
    p = 10.0 ** -np.array([14.0, 9.0, 5.0, 1.5, 0.6, 0.35])
    p, stability, skewness = grid(
        np.concatenate([p, 1 - p[1:]]),
        [0.05, 0.1, 0.29, 0.35, 0.8, 1.0, 1.4, 1.999, 2.0],
        [0.0, 0.8, -0.999, 1.0],
    )
    z = quantile(p, stability, skewness).numpy()
    with np.errstate(divide="ignore"):
        finite = np.abs(np.log(np.abs(z))) < 700
    lower = p < 0.5
    error = np.where(
        lower,
        stable.log_cdf(z, stability, skewness) - np.log(p),
        stable.log_survival(z, stability, skewness) - np.log1p(-p),
    )
    density = stable.density(z, stability, skewness).numpy()
    digit = np.spacing(np.abs(z)) * density
    allowed = 1e-9 + digit / np.minimum(p, 1 - p)
    # Near the edge of a support one digit of z changes the tail by much more.
    edge = (skewness == 1) & (stability < 1)
    checked = finite & ((stability >= 0.3) | (skewness == 0)) & ~(edge & lower)
    assert (np.abs(error)[checked] <= allowed[checked]).all()
    # Monotone in p, also where a z of float64 does not resolve the quantile.
    order = np.argsort(p, kind="stable").reshape(11, -1)
    for column in z[order].reshape(11, -1).T:
        assert not np.isnan(column).any()
    assert checked.mean() > 0.6


@pytest.mark.slow
def test_median_without_skewness_is_zero():
    assert (np.abs(quantile(np.full(6, 0.5), SMALL, 0.0)) < 1e-16).all()


@pytest.mark.slow
def test_roots_take_few_evaluations(monkeypatch, rng):
    """One of them is a value of cdf: so time is measured without a clock."""
    counts = []

    def counted(function):
        def count(*arguments, **options):
            number = options.get("count", arguments[-1])
            counts.append(int(number))
            return function(*arguments, **options)

        return count

    for name in ("log_tail_and_slope", "density_slopes"):
        function = getattr(quantile_module, name)
        monkeypatch.setattr(quantile_module, name, counted(function))
    size = 2000
    stability = rng.uniform(0.3, 2, size)
    skewness = rng.uniform(-1, 1, size)
    quantile(rng.uniform(size=size), stability, skewness)
    assert sum(counts) <= 3.2 * size
    # A chunk has 256 points, and few chunks have a point that takes longer.
    assert len(counts) <= 30
    counts.clear()
    mode(stability, skewness)
    assert sum(counts) <= 2.8 * size


def test_quantile_of_zero_one_and_invalid_probabilities():
    z = quantile(np.array([0.0, 1.0, -0.1, 1.1, np.nan]), 1.5, 0.3).numpy()
    assert z[0] == -np.inf and z[1] == np.inf and np.isnan(z[2:]).all()


@pytest.mark.slow
def test_density_is_highest_at_the_mode():
    stability = np.array([0.3, 0.5, 0.9, 1.0, 1.1, 1.7, 2.0])[:, None, None]
    skewness = np.array([0.0, 0.4, -1.0])[:, None]
    top = mode(stability, skewness).numpy()
    around = top + np.linspace(-0.01, 0.01, 201)
    values = stable.log_density(around, stability, skewness).numpy()
    assert (np.abs(np.argmax(values, axis=-1) - 100) <= 1).all()
    everywhere = stable.log_density(
        np.linspace(-3, 3, 601), stability, skewness
    )
    highest = everywhere.numpy().max(axis=-1)
    assert (highest <= values.max(axis=-1) + 1e-12).all()
    assert (mode(stability, -skewness) == -top).numpy().all()


def test_mode_of_levy_distribution():
    np.testing.assert_allclose(mode(np.float64(0.5), 1.0), 1 / 3 - 1, rtol=1e-9)


# Gradients


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1, 2], ids=["z", "stability", "skewness"])
@pytest.mark.parametrize(
    "function",
    [stable.log_density, stable.log_survival, stable.log_cdf],
    ids=lambda f: f.__name__,
)
def test_gradients_equal_finite_differences(function, which, rng):
    size = 200
    z, stability, skewness = random_arguments(rng, size)
    stability = np.clip(stability, 0.35, 1.9)
    skewness = np.clip(skewness, -0.9, 0.9)
    z = np.clip(z, -300, 300)
    values = [tf.constant(v) for v in (z, stability, skewness)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(*values)
    actual = tape.gradient(result, values)[which].numpy()
    # A step of 1e-3 is too coarse for the narrow peaks at low stability.
    step = 5e-5 * (1 + np.abs(z)) if which == 0 else 5e-5
    expected = finite_difference(function, values, which, step)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-7)


def grid(*columns):
    return [axis.ravel() for axis in np.meshgrid(*columns)]


@pytest.mark.slow
def test_slopes_equal_finite_differences_up_to_the_largest_numbers():
    """Both of the logarithm of z, from the center over each path's end."""
    decades = [-2, 0, 1, 1.29, 1.31, 2, 3, 8, 14, 30, 49, 51, 120, 300]
    z, stability, skewness = grid(
        np.outer([1, -1], 10.0 ** np.array(decades)).ravel(),
        [0.3, 0.6, 0.99, 1.0, 1.01, 1.2, 1.5, 1.9, 1.9999, 2.0],
        [-1.0, -0.999, -0.4, 0.0, 1.0],
    )
    log_z = np.log(np.abs(z))
    for function in (stable.log_density, stable.log_survival):

        def along(log_z, function=function):
            return function(np.sign(z) * np.exp(log_z), stability, skewness)

        variable = tf.constant(log_z)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            value = function(np.sign(z) * tf.exp(variable), stability, skewness)
        actual = tape.gradient(value, variable).numpy()
        # Outside the support and where the logarithm is clipped.
        with np.errstate(invalid="ignore"):
            expected = finite_difference(along, [log_z], 0, 1e-4)
            inside = value.numpy() > -1e140
        # A derivative in z below the least number is 0. A tail below 1e-250 is
        # so steep that differences are inaccurate.
        least = np.maximum(np.finfo(float).tiny * np.abs(z[inside]), 1e-250)
        rounding = 1e-11 * np.abs(value.numpy()[inside]) + least
        error = np.abs(actual - expected)[inside]
        assert (error <= 1e-6 * np.abs(expected[inside]) + rounding).all()
        assert inside.mean() > 0.85


@pytest.mark.slow
def test_gradients_are_finite_everywhere(reference):
    """They are in far tails, at the ends of ranges, and outside the support."""
    hard = [
        (z, a, b)
        for z in (-1e300, -1e3, -30.0, -5.0, -1.0, 0.0, 1.0, 8.5, 1e3, 1e60)
        for a in (0.3, 0.5, 0.99, 1.0, 1 + 1e-9, 1.5, 1.99999999, 2.0)
        for b in (-1.0, -1 + 1e-9, 0.0, 1.0)
    ]
    values = [
        tf.constant(np.concatenate([column, extra]))
        for column, extra in zip(
            arguments_of(reference), np.transpose(hard), strict=True
        )
    ]
    for function in (stable.log_density, stable.log_survival):
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = function(*values)
        assert not np.isnan(result).any()
        for gradient in tape.gradient(result, values):
            assert np.isfinite(gradient).all()


@pytest.fixture
def eager():
    """Runs functions without compilation, which takes longer than the test."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_second_derivatives_equal_finite_differences(eager):
    values = [tf.constant([0.5, -2.0, 30.0], tf.float64), 1.3, 0.4]
    values = [tf.constant(v, tf.float64) for v in values]

    def slope(*values):
        with tf.GradientTape() as tape:
            tape.watch(values[0])
            result = stable.log_density(*values)
        return tape.gradient(result, values[0])

    with tf.GradientTape() as tape:
        tape.watch(values)
        result = slope(*values)
    actual = tape.gradient(result, values)
    np.testing.assert_allclose(
        actual[0], finite_difference(slope, values, 0, 1e-3), rtol=1e-7
    )
    for which in (1, 2):
        expected = finite_difference(slope, values, which, 1e-3).sum()
        np.testing.assert_allclose(actual[which], expected, rtol=1e-7)


@pytest.mark.slow
def test_quantile_gradients_equal_finite_differences():
    values = [tf.constant(v, tf.float64) for v in (0.9, 1.4, -0.3)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        z = quantile(*values)
    for which, actual in enumerate(tape.gradient(z, values)):
        expected = finite_difference(quantile, values, which, 1e-3)
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


# Tensors


def test_arguments_broadcast():
    z = tf.constant([[-1.0], [2.0]], tf.float64)
    stability = tf.constant([0.7, 1.0, 1.6], tf.float64)
    table = stable.log_density(z, stability, 0.3)
    assert table.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            scalar = stable.log_density(z[i, 0], stability[j], 0.3)
            np.testing.assert_allclose(table[i, j], scalar, rtol=1e-14)
    assert stable.cdf(tf.zeros([0], tf.float64), 1.5, 0.0).shape == (0,)
    assert stable.cdf(np.float64(1.0), 1.5, 0.0).shape == ()


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-7), ("float16", 1e-3), ("bfloat16", 8e-3)],
)
def test_all_dtypes_are_computed_in_float64(dtype, tolerance):
    z = tf.constant([-40.0, -1.0, 0.5, 3.0], dtype)
    actual = stable.log_density(z, 1.7, 0.4)
    assert actual.dtype == dtype
    expected = stable.log_density(tf.cast(z, tf.float64), 1.7, 0.4)
    np.testing.assert_allclose(
        tf.cast(actual, tf.float64), expected, rtol=tolerance
    )


def test_more_points_than_in_a_chunk(rng):
    z = rng.standard_cauchy(1000)
    together = stable.log_density(z, 1.3, -0.6).numpy()
    alone = [stable.log_density(each, 1.3, -0.6).numpy() for each in z[::97]]
    np.testing.assert_allclose(together[::97], alone, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_results_in_a_compiled_function(jit_compile, rng):
    z = tf.constant(rng.standard_cauchy(300))

    def value_and_slope(z):
        # A constant, so that XLA leaves out the integral of a small stability.
        # `test_distribution.py` compiles both.
        stability = tf.constant(1.2, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(stability)
            result = stable.log_density(z, stability, 0.3)
        return result, tape.gradient(result, stability)

    compiled = tf.function(value_and_slope, jit_compile=jit_compile)
    for actual, expected in zip(compiled(z), value_and_slope(z), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.slow
def test_shapes_that_are_unknown_in_the_graph():
    signature = [tf.TensorSpec(None, tf.float64)]
    function = tf.function(
        lambda z: stable.cdf(z, 1.2, 0.1), input_signature=signature
    )
    for shape in [(), (3,), (2, 300)]:
        z = tf.ones(shape, tf.float64)
        assert function(z).shape == shape


def test_invalid_parameters_give_nan():
    # The last row is valid.
    stability, skewness = np.transpose(
        [
            (0.0, 0.0),
            (-1.0, 0.0),
            (2.1, 0.0),
            (1.5, 1.1),
            (1.5, -2.0),
            (np.nan, 0.0),
            (1.5, np.nan),
            (1.5, 0.3),
        ]
    )
    invalid = [True] * 7 + [False]
    for function in (stable.log_density, stable.log_survival, stable.cdf):
        values = function(np.float64(1.0), stability, skewness)
        assert np.isnan(values).tolist() == invalid
    values = quantile(np.float64(0.3), stability, skewness)
    assert np.isnan(values).tolist() == invalid


def test_nan_gives_nan():
    for function in (stable.log_density, stable.log_survival, stable.cdf):
        assert np.isnan(function(np.float64(np.nan), 1.5, 0.0))


def test_shapes_that_do_not_broadcast_are_refused():
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        stable.log_density(np.zeros(2), np.ones(3), 0.0)
