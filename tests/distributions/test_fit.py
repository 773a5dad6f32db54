"""Tests of the fit of stable distributions and of its standard errors."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.distributions.alpha_stable import fit as stable_fit
from keras_initx.distributions.alpha_stable.fit import (
    characteristic_function,
    empirical_characteristic_function,
    fit,
)
from keras_initx.distributions.alpha_stable.sampling import standard_stable

AlphaStable = kx.distributions.AlphaStable

# A test fails if an error is larger than this number of standard errors. One
# of 40 normal errors is by chance with probability 1e-10. The estimates are
# not exactly normal, so a test may fail by chance somewhat more often.
DEVIATIONS = 7.0
COUNT = 20_000


def sample(a, b, seed, count=COUNT, loc=3.0, scale=2.0):
    options = {"loc": loc, "scale": scale, "dtype": tf.float64}
    return standard_stable([count], a, b, seed=[seed, 11], **options).numpy()


# Stability and skewness.
SHAPES = [
    (0.3, 0.5),
    (0.5, 0.0),
    (0.8, -0.9),
    (1.0, 0.5),
    (1.2, 0.0),
    (1.5, -0.5),
    (1.7, 0.0),
]


@pytest.mark.slow
def test_errors_agree_with_standard_errors(seed):
    """Fails by chance with a probability below 1e-6.

    It detects errors that are 1.7 times the standard errors.
    """
    deviations = []
    for i, (a, b) in enumerate(SHAPES):
        result = fit(sample(a, b, seed + i))
        error = result.parameters - [a, b, 3.0, 2.0]
        deviations.append(error / result.standard_errors)
    deviations = np.abs(deviations)
    assert (deviations < DEVIATIONS).all(), deviations
    # The 1e-7 quantiles of chi squared with 28 degrees of freedom: 4 and 87.
    total = (deviations**2).sum()
    assert 4 < total < 87, deviations


@pytest.mark.parametrize("wrong", ["stability", "skewness", "loc", "scale"])
def test_statistical_test_rejects_another_parameter(wrong, seed):
    expected = {"stability": 1.5, "skewness": -0.5, "loc": 3.0, "scale": 2.0}
    change = {"stability": 0.15, "skewness": 0.35, "loc": 0.3, "scale": 0.2}
    actual = expected | {wrong: expected[wrong] + change[wrong]}
    a, b = actual.pop("stability"), actual.pop("skewness")
    result = fit(sample(a, b, seed, **actual))
    index = list(expected).index(wrong)
    error = result.parameters[index] - expected[wrong]
    assert abs(error) > DEVIATIONS * result.standard_errors[index]


# Standard errors of maximum likelihood from one value, of stability, skewness,
# loc and log scale: from the Fisher information, by quadrature.
MAXIMUM_LIKELIHOOD = {
    (0.5, 0.0): [0.484, 1.110, 0.769, 2.390],
    (0.8, 0.0): [0.854, 1.436, 1.214, 1.684],
    (1.2, 0.0): [1.325, 2.117, 1.610, 1.276],
    (1.5, 0.5): [1.503, 2.695, 1.749, 1.052],
    (1.8, 0.0): [1.383, 5.671, 1.742, 0.904],
}
STATED_RATIO = {0.5: 1.4, 0.8: 1.06, 1.2: 1.02, 1.5: 1.02, 1.8: 1.02}


@pytest.mark.parametrize(("a", "b"), MAXIMUM_LIKELIHOOD)
def test_variance_over_that_of_maximum_likelihood_is_as_stated(a, b):
    theta = np.array([a, b, 0, 0])
    exact = characteristic_function(stable_fit._POINTS, theta)
    estimate, jacobian = stable_fit._solve(exact, theta)
    np.testing.assert_allclose(estimate, theta, atol=1e-6)
    variances = np.diag(np.linalg.inv(jacobian.T @ jacobian))
    ratio = variances / np.square(MAXIMUM_LIKELIHOOD[a, b])
    assert (ratio > 1 - 2e-3).all(), ratio
    assert (ratio < STATED_RATIO[a] + 2e-3).all(), ratio


def test_fit_of_normal_data():
    x = np.random.default_rng(3).normal(5, 2, 50_000)
    result = fit(x)
    a, _, loc, scale = result.parameters
    assert abs(a - 2) < 0.01
    assert abs(loc - 5) < 0.06
    assert abs(scale * math.sqrt(2) - 2) < 0.06
    assert np.isfinite(result.standard_errors[[0, 2, 3]]).all()


def test_estimates_follow_location_scale_and_sign_of_the_data(seed):
    x = sample(1.3, 0.4, seed, 3000)
    a, b, loc, scale = fit(x).parameters
    moved = fit(1e6 + 1e-3 * x)
    expected = [a, b, 1e6 + 1e-3 * loc, 1e-3 * scale]
    np.testing.assert_allclose(moved.parameters, expected, rtol=1e-3)
    mirrored = fit(-x)
    expected = [a, -b, -loc, scale]
    np.testing.assert_allclose(mirrored.parameters, expected, rtol=1e-2)


def test_exact_and_empirical_characteristic_functions(rng):
    t = np.array([-2.0, -0.3, 0.0, 0.1, 1.7])
    for a in (0.4, 1.0, 1 + 1e-7, 1.6, 2.0):
        distribution = AlphaStable(np.float64(a), -0.6, 0.5, 3.0)
        theta = np.array([a, -0.6, 0.5, np.log(3.0)])
        np.testing.assert_allclose(
            characteristic_function(t, theta),
            distribution.characteristic_function(t),
            atol=2e-7 if abs(a - 1) < 1e-6 else 1e-13,
        )
    x = rng.standard_cauchy(100_001)
    expected = np.exp(1j * t[:, None] * x).mean(axis=1)
    np.testing.assert_allclose(
        empirical_characteristic_function(t, x), expected, atol=1e-13
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fit_returns_a_distribution(dtype, seed):
    x = AlphaStable(1.4, 0.3, 1.0, 2.0).sample((50, 60), seed=[1, 2])
    x = tf.cast(x, dtype)
    distribution = AlphaStable.fit(x)
    assert isinstance(distribution, AlphaStable)
    assert (distribution.dtype, distribution.batch_shape) == (dtype, ())
    assert distribution.parameterization == "S0"
    parameters = [
        distribution.stability,
        distribution.skewness,
        distribution.loc,
        distribution.scale,
    ]
    np.testing.assert_allclose(parameters, fit(x).parameters, rtol=1e-6)
    assert AlphaStable.fit(list(range(50))).dtype == tf.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.arange(19), "Received: 19 values, 0 non-finite"),
        ([*range(30), math.nan], "Received: 31 values, 1 non-finite"),
        ([*range(30), math.inf], "Received: 31 values, 1 non-finite"),
        ([1.0] * 30, "Received: 30 values with quartiles 1.0 and 1.0"),
    ],
)
def test_unsuitable_data_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        fit(values)
    with pytest.raises(ValueError, match=message):
        AlphaStable.fit(np.array(values))
