"""Tests of the tail index of weights and of its standard error."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.distributions.alpha_stable.sampling import standard_stable

tail_index = kx.theory.tail_index

# A test fails if an error is larger than this number of standard errors.
DEVIATIONS = 7.0


def sample(a, seed, count):
    """Returns symmetric stable values with location 3 and scale 2."""
    options = {"loc": 3.0, "scale": 2.0, "dtype": tf.float64}
    return standard_stable([count], a, seed=[seed, 11], **options).numpy()


@pytest.mark.parametrize("a", [0.4, 0.8, 1.0, 1.3, 1.6, 1.9, 2.0])
def test_tail_index_of_stable_weights_is_their_stability(a, seed):
    x = sample(a, seed, 1 << 18).reshape(512, 512)
    errors = []
    for block in (None, 8):
        result = tail_index(x, block)
        assert abs(result.value - a) < DEVIATIONS * result.standard_error
        errors.append(result.standard_error)
    assert errors[1] < errors[0] < 0.02 * (1 + a)
    if a < 2:
        other = tail_index(sample(a + 0.1, seed, 1 << 18), 8)
        assert abs(other.value - a) > DEVIATIONS * other.standard_error


@pytest.mark.slow
def test_errors_agree_with_standard_errors(seed):
    """Fails by chance with a probability below 1e-6, by chi squared."""
    for a, block in ((0.7, 20), (1.5, 100), (2.0, 20)):
        deviations = []
        for i in range(60):
            result = tail_index(sample(a, seed + i, 20_000), block)
            deviations.append((result.value - a) / result.standard_error)
        assert 17 < np.square(deviations).sum() < 141, (a, deviations)
        assert abs(np.mean(deviations)) < 6 / math.sqrt(60) + 0.1


# The mean of log|x| over weights x of mean 0 and variance 1.
@pytest.mark.parametrize(
    ("draw", "mean_log"),
    [
        (
            lambda rng, n: rng.uniform(-1, 1, n) * math.sqrt(3),
            math.log(3) / 2 - 1,
        ),
        (
            lambda rng, n: rng.laplace(size=n) / math.sqrt(2),
            -np.euler_gamma - math.log(2) / 2,
        ),
        (lambda rng, n: rng.standard_normal(n), -0.635181),
    ],
    ids=["uniform", "laplace", "normal"],
)
def test_bias_for_weights_of_finite_variance(draw, mean_log, rng):
    """Sums of blocks are normal, so the mean of log|x| gives the bias."""
    normal_mean_log = -(np.euler_gamma + math.log(2)) / 2
    weights = 0.5 + draw(rng, 1 << 18)
    for block in (32, 512):
        bias = (normal_mean_log - mean_log) / math.log(block)
        result = tail_index(weights, block)
        error = abs(result.value - 1 / (0.5 + bias))
        assert error < DEVIATIONS * result.standard_error + 0.01


def test_larger_blocks_lessen_the_bias_for_student_weights(rng):
    """The estimates are 1.18 and 1.25 for 1.3 degrees of freedom."""
    weights = rng.standard_t(1.3, 1 << 20)
    small, large = (tail_index(weights, m).value for m in (8, 1024))
    assert abs(small - 1.18) < 0.03
    assert abs(large - 1.25) < 0.07


def test_scale_sign_location_and_type_have_no_effect(rng):
    x = rng.standard_cauchy((101, 101))
    expected = tail_index(x).value
    for same in (1e-20 * x, -x, x + 3, x.tolist(), tf.constant(x)):
        assert abs(tail_index(same).value - expected) < 1e-9


@pytest.mark.parametrize(
    ("weights", "block", "message"),
    [
        (np.arange(99.0), None, "Received: 99 weights"),
        (np.full(200, math.inf), None, "Received: 200 weights, 200 "),
        (np.zeros(200), None, "Received: 200 weights of which 200"),
        (np.arange(200.0), 1, "Received: block=1"),
        (np.arange(200.0), 21, "Received: block=21"),
        (np.arange(200.0), 2.5, "Received: block=2.5"),
    ],
)
def test_unsuitable_weights_and_blocks_are_refused(weights, block, message):
    with pytest.raises(ValueError, match=message):
        tail_index(weights, block)
