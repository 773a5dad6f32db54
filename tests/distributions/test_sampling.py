"""Tests of samples: the transform's values and the samples' distribution."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_initx.distributions.alpha_stable import sampling as stable_sampling
from keras_initx.distributions.alpha_stable.sampling import (
    chambers_mallows_stuck,
    standard_stable,
)
from tests.helpers.stable_values import INPUTS, VALUES
from tests.helpers.stat_checks import assert_stable, bernstein

ROWS = [
    (a, b, gap, w, x)
    for a, rows in VALUES.items()
    for b, values in rows.items()
    for (gap, w), x in zip(INPUTS, values, strict=True)
]
A, B, GAP, W, X = np.transpose(ROWS)


def transform(dtype, *inputs):
    return chambers_mallows_stuck(*(tf.constant(v, dtype) for v in inputs))


def test_transform_equals_values_of_80_digits():
    x = transform(tf.float64, GAP, W, A, B).numpy()
    np.testing.assert_allclose(x, X, rtol=5e-14, atol=5e-15)
    symmetric = B == 0
    x = transform(tf.float64, GAP, W, A).numpy()[symmetric]
    np.testing.assert_allclose(x, X[symmetric], rtol=5e-14)


def test_transform_in_float32_differs_by_rounding():
    inputs = [np.float32(v) for v in (GAP, W, A, B)]
    x, exact = transform(tf.float32, *inputs), transform(tf.float64, *inputs)
    np.testing.assert_allclose(x, exact, rtol=1e-5, atol=1e-6)


def test_transform_in_float32_is_accurate_in_the_far_tails(rng):
    # The cosine of a rounded angle would have no digits: gaps are down to
    # 2^-31.
    gap = np.float32(2.0 ** -rng.uniform(1, 31, 10_000))
    w = np.float32(rng.exponential(size=10_000) + 1e-7)
    for a in (0.4, 1.0, 1.7, 2.0):
        for b in (-1.0, 0.0, 0.5, 1.0):
            inputs = gap, w, np.float32(a), np.float32(b)
            x = transform(tf.float32, *inputs)
            exact = transform(tf.float64, *inputs)
            np.testing.assert_allclose(x, exact, rtol=2e-5, atol=2e-6)


def test_transform_of_normal_cauchy_and_levy_distributions(rng):
    gap = rng.uniform(0.01, 1.5, 1000) * rng.choice([-1, 1], 1000)
    w = rng.exponential(size=1000)
    v = np.sign(gap) * (np.pi / 2 - np.abs(gap))
    cauchy = transform(tf.float64, gap, w, 1.0)
    np.testing.assert_allclose(cauchy, np.tan(v), rtol=1e-12)
    for skewness in (-1.0, 0.0, 0.6):
        normal = transform(tf.float64, gap, w, 2.0, skewness)
        np.testing.assert_allclose(
            normal, 2 * np.sqrt(w) * np.sin(v), rtol=1e-12
        )
    levy = transform(tf.float64, gap, w, 0.5, 1.0) + 1
    expected = 1 / (2 * w * np.sin((np.pi / 2 - v) / 2) ** 2)
    np.testing.assert_allclose(levy, expected, rtol=1e-9)


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_equal_finite_differences(symmetric, rng):
    a = np.repeat([0.3, 0.5, 1 - 1e-8, 1.0, 1 + 1e-8, 1.5, 1.99], 150)
    b = np.resize([0.0, -0.7, 1.0], a.shape)
    gap = rng.uniform(0.2, 1.5, a.shape) * rng.choice([-1, 1], a.shape)
    w = rng.exponential(size=a.shape) + 0.1
    inputs = [tf.constant(v) for v in (gap, w, a, b)[: 3 if symmetric else 4]]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        x = chambers_mallows_stuck(*inputs)
    for i, actual in enumerate(tape.gradient(x, inputs)):
        above, below = list(inputs), list(inputs)
        above[i], below[i] = inputs[i] + 1e-5, inputs[i] - 1e-5
        above, below = (chambers_mallows_stuck(*v) for v in (above, below))
        expected = (above - below) / 2e-5
        scale = np.maximum(1, np.abs(expected))
        np.testing.assert_allclose(actual / scale, expected / scale, atol=2e-6)


@pytest.mark.slow
def test_gradients_are_finite_at_stability_two_and_of_clipped_values():
    for dtype in (tf.float32, tf.float64):
        a = tf.constant([0.01, 0.05, 1.0, 2.0], dtype)
        b = tf.constant([[0.0], [1.0], [-0.3]], dtype)
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            x = standard_stable([20_000, 3, 4], a, b, seed=[1, 2], dtype=dtype)
            y = tf.tanh(x)
        for gradient in tape.gradient(y, [a, b]):
            assert np.isfinite(gradient).all()


GRID = [
    (a, b)
    for a in (0.3, 0.5, 0.8, 1 - 1e-8, 1.0, 1 + 1e-8, 1.003, 1.2, 1.5, 1.9, 2.0)
    for b in (0.0, 0.6, -1.0)
]
COUNT = 1 << 18


@pytest.mark.parametrize(("a", "b"), GRID)
def test_samples_follow_the_distribution(a, b, seed):
    double = abs(a - 1) < 1e-6
    dtype = tf.float64 if double else tf.float32
    x = standard_stable([COUNT], a, b, seed=[seed, 1], dtype=dtype)
    assert_stable(x, a, b)


@pytest.mark.parametrize(("a", "b"), GRID)
def test_statistical_test_rejects_another_stability(a, b, seed):
    for wrong in (a - 0.05, a + 0.05):
        if wrong <= 2:
            x = standard_stable([COUNT], wrong, b, seed=[seed, 2])
            with pytest.raises(AssertionError, match="off by"):
                assert_stable(x, a, b)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 1.1 * x,
        lambda x: -x,
        lambda x: x + 0.05,
        lambda x: np.clip(x, -100, 100),
    ],
    ids=["scale", "sign", "location", "tail"],
)
def test_statistical_test_rejects_another_distribution(wrong, seed):
    x = standard_stable([COUNT], 0.8, 0.5, seed=[seed, 3]).numpy()
    assert_stable(x, 0.8, 0.5)
    with pytest.raises(AssertionError, match="off by"):
        assert_stable(wrong(x), 0.8, 0.5)


# Quantiles of the standard S0 distribution, from SciPy and from a Fourier
# integral.
P = [0.75, 0.9, 0.95, 0.99]
SYMMETRIC = {
    0.5: [1.283833, 12.741343, 57.304028, 1559.726],
    0.8: [1.045535, 4.343949, 10.956246, 85.1393],
    1.0: [1.0, 3.077684, 6.313752, 31.820516],
    1.2: [0.981537, 2.479628, 4.368675, 16.160066],
    1.5: [0.968933, 2.061463, 3.051941, 7.736446],
    1.8: [0.959756, 1.880297, 2.504881, 4.276792],
    2.0: [0.953873, 1.812388, 2.326174, 3.289953],
}
SKEWED_P = [0.05, 0.25, 0.5, 0.75, 0.95]
SKEWED = {
    (0.5, 1.0): [-0.73968, -0.24432, 1.19811, 8.84920, 253.314],
    (1.0, 0.5): [-2.94046, -0.62869, 0.22349, 1.67916, 10.06463],
    (1.0, 1.0): [-1.24130, -0.41776, 0.57563, 2.55082, 14.00480],
    (1.5, 0.5): [-2.25419, -0.78331, 0.13385, 1.20341, 3.93366],
    (1.5, 1.0): [-1.71174, -0.63281, 0.28329, 1.48151, 4.82424],
    (1.8, 1.0): [-2.04775, -0.80333, 0.12339, 1.14265, 3.04830],
    # These equal those at stability 1, because S0 is continuous.
    (1 - 1e-8, 1.0): [-1.24130, -0.41776, 0.57563, 2.55082, 14.00480],
    (1 + 1e-8, 1.0): [-1.24130, -0.41776, 0.57563, 2.55082, 14.00480],
}


@pytest.mark.parametrize(
    ("a", "b", "p", "quantiles"),
    [(a, 0.0, P, q) for a, q in SYMMETRIC.items()]
    + [(a, b, SKEWED_P, q) for (a, b), q in SKEWED.items()],
)
def test_samples_have_the_known_quantiles(a, b, p, quantiles, seed):
    """Fails by chance with a probability below 5e-7.

    It detects an error of 0.006 in a probability.
    """
    dtype = tf.float64
    x = standard_stable([COUNT], a, b, seed=[seed, 4], dtype=dtype).numpy()
    below = np.array([np.mean(x <= quantile) for quantile in quantiles])
    band = bernstein(np.multiply(p, np.subtract(1, p)), 1, COUNT, 1e-7)
    assert (np.abs(below - p) <= band).all(), (below - p, band)
    assert (band < 0.006).all()


@pytest.mark.slow
def test_chunks_of_a_large_sample_are_independent(seed):
    """The signs in any two of 17 chunks agree half of the time.

    The test fails by chance with a probability below 2e-7.
    """
    rest = 4096
    size = stable_sampling.CHUNKED_FROM + rest
    x = standard_stable([size], 1.3, seed=[seed, 9]).numpy()
    signs = np.sign(x)
    starts = range(0, size, stable_sampling.CHUNK)
    chunks = np.array([signs[i : i + rest] for i in starts])
    agreement = chunks @ chunks.T / rest
    band = bernstein(1, 1, rest, 1e-9)
    assert (np.abs(agreement - np.eye(len(chunks))) <= band).all()


@pytest.mark.slow
def test_large_samples_follow_the_distribution(seed):
    shape = (stable_sampling.CHUNKED_FROM // 1024, 1027)
    for skewness in (0.0, 0.7):
        x = standard_stable(shape, 1.3, skewness, seed=[seed, 5])
        assert x.shape == shape
        assert len(np.unique(x)) > 0.9 * x.numpy().size
        assert_stable(x, 1.3, skewness)
        # The last chunk is smaller than the others.
        rest = x.numpy().ravel()[-(x.numpy().size % stable_sampling.CHUNK) :]
        assert_stable(rest, 1.3, skewness)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "skewness"),
    [
        ((7, 5), "float16", 0.7),
        ((7, 5), "bfloat16", 0.0),
        ((7, 5), "float64", 0.7),
        ((1025, 1024), "float32", 0.0),
        ((1025, 1024), "float16", 0.7),
    ],
)
def test_eager_graph_and_xla_modes_differ_by_rounding(shape, dtype, skewness):
    def draw(seed):
        return standard_stable(shape, 1.4, skewness, seed=seed, dtype=dtype)

    seed = tf.constant([3, 4])
    eager = tf.cast(draw(seed), tf.float64)
    assert eager.shape == shape
    eps = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-7, "float64": 2e-16}
    rounding = 30 * eps[dtype]
    for compiled in (False, True):
        other = tf.function(draw, jit_compile=compiled)(seed)
        assert other.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(other, tf.float64), eager, rtol=rounding, atol=rounding
        )


def test_shapes_that_are_unknown_in_the_graph():
    @tf.function
    def draw(n):
        return standard_stable([n, 3], 1.5, seed=[1, 2])

    expected = standard_stable([4, 3], 1.5, seed=[1, 2])
    np.testing.assert_allclose(draw(tf.constant(4)), expected, rtol=1e-6)
    assert standard_stable([], 1.5, seed=[1, 2]).shape == ()
    assert standard_stable([0, 3], 1.5, seed=[1, 2]).shape == (0, 3)
    shape = tf.TensorShape([2, 3])
    assert standard_stable(shape, 1.5, seed=[1, 2]).shape == shape


def test_samples_depend_on_the_seed_alone():
    first, again, other = (
        standard_stable([1000], 1.5, seed=seed).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert (first == again).all()
    assert not np.isin(first, other).any()


def test_parameters_broadcast():
    a = tf.constant([0.5, 1.0, 2.0])
    b = tf.constant([[0.0], [0.5]])
    x = standard_stable([4, 2, 3], a, b, loc=1.0, scale=2.0, seed=[1, 2])
    plain = standard_stable([4, 2, 3], a, b, seed=[1, 2])
    np.testing.assert_allclose(x, 1 + 2 * plain, rtol=1e-6)


@pytest.mark.parametrize("working", [tf.float32, tf.float64])
def test_extreme_bits_give_finite_values(working):
    """The smallest, middle and largest integers, which are too rare to draw."""
    integer = tf.int64 if working == tf.float64 else tf.int32
    ends = [integer.min, integer.min + 1, -1, 0, 1, integer.max]
    pairs = np.stack(np.meshgrid(ends, ends)).reshape(2, -1, 1, 1)
    a = tf.constant([0.01, 0.1, 0.5, 1.0, 1.5, 2.0], working)[:, None]
    b = tf.constant([0.0, -1.0, 1.0, 0.3], working)
    one, zero = tf.ones([], working), tf.zeros([], working)
    for skewness in (b, None):
        x = stable_sampling._from_bits(
            tf.constant(pairs, integer), a, skewness, zero, one, working
        )
        assert np.isfinite(x).all()
        normal = x.numpy()[:, -1]
        assert (np.abs(normal) < 2 * math.sqrt(0.7 * working.size * 8)).all()


@pytest.mark.parametrize("shape", [(3, 4), (1024, 1025)])
def test_samples_in_a_stateless_scope(shape):
    expected = standard_stable(shape, 1.5, seed=[1, 2])
    with keras.StatelessScope():
        x = standard_stable(shape, 1.5, seed=[1, 2])
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_samples_are_finite_in_every_dtype(dtype, seed):
    a = tf.constant([0.01, 0.1, 0.3, 1.0, 2.0])
    b = tf.constant([[0.0], [-1.0], [0.3]])
    x = standard_stable(
        [20_000, 3, 5], a, b, seed=[seed, 6], loc=-9.0, scale=3.0, dtype=dtype
    )
    assert np.isfinite(x.numpy().astype(np.float64)).all()


def test_samples_are_clipped_as_often_as_stated(seed):
    """Fails by chance with a probability below 1e-7."""
    x = standard_stable([COUNT], 0.5, seed=[seed, 7], dtype="float16").numpy()
    tail = 2 / math.pi * math.gamma(0.5) * math.sin(math.pi / 4)
    expected = tail / 65504**0.5
    assert round(expected, 3) == 0.003
    clipped = np.mean(np.abs(x) == 65504)
    # A value above half a unit in the last place is rounded to it.
    band = bernstein(expected, 1, COUNT, 1e-7)
    assert abs(clipped - expected) <= band


@pytest.mark.parametrize(
    ("a", "b"), [(0.0, 0.0), (-1.0, 0.5), (2.001, 0.0), (1.5, 1.1), (1.5, -2)]
)
def test_invalid_parameters_give_nan(a, b):
    assert np.isnan(standard_stable([100], a, b, seed=[1, 2])).all()


@pytest.mark.slow
def test_gradients_of_large_samples():
    def mean(a, loc, scale):
        x = standard_stable(
            (stable_sampling.CHUNKED_FROM + 5,),
            a,
            loc=loc,
            scale=scale,
            seed=[1, 2],
        )
        return tf.reduce_mean(tf.cast(tf.tanh(x), tf.float64))

    parameters = [tf.constant(v) for v in (1.5, 0.1, 2.0)]
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        y = mean(*parameters)
    actual = tape.gradient(y, parameters)
    step, here = 1e-2 * np.eye(3), np.array([1.5, 0.1, 2.0])
    expected = [(mean(*(here + h)) - mean(*(here - h))) / 2e-2 for h in step]
    np.testing.assert_allclose(actual, expected, atol=1e-4)
