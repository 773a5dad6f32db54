"""Batch Normalization in training: each channel has statistics of its own."""

import keras
import numpy as np
import pytest
from scipy import integrate, stats

import keras_initx as kx
from keras_initx.prediction import moments
from keras_initx.prediction.elementwise import from_activation
from keras_initx.prediction.engine import Weight
from keras_initx.prediction.moments import Moments
from keras_initx.prediction.weights import weight_entries
from keras_initx.prediction.wide import STATISTICS, WideEngine
from tests.prediction.networks import assert_predicted

L = keras.layers
# A normal variable is beyond by chance with a probability below 1e-9.
SIGMAS = 6.1
DRAWS = 65536


@pytest.fixture(autouse=True)
def all_draws(monkeypatch):
    """Draws all `DRAWS` channels; `test_draws.py` tests how many are drawn."""
    monkeypatch.setattr(moments, "_BATCH_ERROR", 1e-9)
    monkeypatch.setattr(moments, "_BATCH_DRAWS", 2**40)


def row_gradient(x, epsilon, activation=None, taps=False, positions=1, seed=0):
    """Returns the second moments of the gradient before a normalization.

    Behind it stand an activation and one linear map with weights of variance 1,
    so that the gradient of the activation is white. With `taps`, a map of each
    channel by itself stands before the normalization, and else the `positions`
    of each sample become channels.
    """
    engine = WideEngine(Moments(8192, 3072, seed))
    u = engine.given(x.T, "data")
    u = engine.linear(u, Weight("first", 1.0, x.shape[1], 9), None, len(x), 9)
    start = u
    if taps:
        weight = engine.new_vector("tap", 1.0, len(x), 9, np.linspace(-1, 1))
        u = start = engine.multiply(u, weight)
    y = engine.normalize_channels(engine.flatten(u, positions), epsilon)
    if activation:
        y = engine.map(from_activation(activation), [y])
    weight = Weight("last", 1.0, y.width, 1)
    last = engine.linear(y, weight, None, y.size, 1)
    (gradient,) = engine.gradients(last, [start])
    return engine.second(gradient)


@pytest.mark.parametrize("n", [6, 16])
def test_independent_values_without_activation(n, pytestconfig):
    """The limits n / (n - 3) and (n - 2) / n of a uniform direction.

    dh = (1/s) (g - <g> - y <g y>) loses two of n equal directions, and does not
    depend on s: the mean square is (n - 2) / n E 1/s^2 = (n - 2) / (n - 3).
    """
    second = row_gradient(np.eye(n), 1e-9, seed=pytestconfig.seed)
    # 1/s^2 of chi-square has the second moment n^2 / ((n - 3) (n - 5)), and
    # the square of the gradient 2 / (n - 2) beyond its own.
    fourth = n / (n - 2) * (n - 3) / (n - 5)
    error = np.sqrt((fourth - 1) / DRAWS)
    expected = (n - 2) / (n - 3)
    found = np.diagonal(second).mean()
    assert abs(found / expected - 1) < SIGMAS * error
    # It is orthogonal to a constant.
    assert abs(second.sum()) < 1e-9


def test_two_values_have_a_gradient_by_epsilon_alone(pytestconfig):
    """Y = d / sqrt(d^2 + eps) and -y, with 2 d the difference of two values.

    dh = (g_1 - g_2) / 2 eps / (d^2 + eps)^(3/2), and the opposite.
    """
    x, epsilon = np.array([[1.0, 0.3], [0.1, 1.0]]), 0.5
    variance = np.sum((x[0] - x[1]) ** 2) / 4

    def moment(power):
        return integrate.quad(
            lambda z: (
                stats.norm.pdf(z)
                * (epsilon**2 / (variance * z**2 + epsilon) ** 3) ** power
            ),
            *(-9, 9),
        )[0]

    expected = moment(1) / 2
    error = np.sqrt((3 * moment(2) / moment(1) ** 2 - 1) / DRAWS)
    second = row_gradient(x, epsilon, seed=pytestconfig.seed)
    signs = np.array([[1, -1], [-1, 1]])
    np.testing.assert_allclose(
        second, expected * signs, rtol=SIGMAS * error, atol=0
    )


@pytest.mark.parametrize("taps", [False, True])
def test_second_moments_are_those_of_normalized_values(taps, pytestconfig):
    """Correlated values, of which one direction is large."""
    rng = np.random.default_rng([pytestconfig.seed, 2])
    x = np.eye(5) + 3 * np.linspace(-1, 1, 5)[:, None]
    engine = WideEngine(Moments(8192, 3072, pytestconfig.seed))
    u = engine.linear(
        engine.given(x.T, "x"), Weight("w", 1.0, 5, 9), None, 5, 9
    )
    count = 100000
    values = rng.standard_normal((count, 5)) @ x.T
    if taps:
        entries = np.linspace(-1, 1)
        weight = engine.new_vector("tap", 1 / 3, 5, 9, entries)
        u = engine.multiply(u, weight)
        values *= np.sqrt(1 / 3 / np.mean(entries**2))
        values *= rng.choice(entries, (count, 1))
    found = engine.second(engine.normalize_channels(u, 0.3).value)
    values -= values.mean(axis=1, keepdims=True)
    y = values / np.sqrt(values.var(axis=1, keepdims=True) + 0.3)
    products = y[:, :, None] * y[:, None, :]
    error = products.std(axis=0) * np.sqrt(1 / count + taps / DRAWS)
    assert (np.abs(found - products.mean(axis=0)) < SIGMAS * error).all()
    # The statistics of all channels would be 14% off or more.
    assert error.max() < 0.02


def slow_gradients(x, epsilon, activation, taps, seed, count=60000):
    """Gradients of `row_gradient` channel by channel, by the full Jacobian."""
    rng = np.random.default_rng([seed, 1])
    n = len(x)
    u = rng.standard_normal((count, x.shape[1])) @ x.T
    if taps:
        entries = np.linspace(-1, 1)
        scale = np.sqrt(np.mean(entries**2))
        u *= rng.choice(entries, (count, 1)) / scale
    variance = u.var(axis=1)[:, None, None] + epsilon
    centering = np.eye(n) - 1 / n
    centered = u @ centering
    y = centered / np.sqrt(variance[:, 0])
    outer = centered[:, :, None] * centered[:, None, :]
    # dy_i / du_j
    jacobian = centering / variance**0.5 - outer / (n * variance**1.5)
    slope = {
        keras.activations.relu: lambda: y > 0,
        keras.activations.tanh: lambda: 1 / np.cosh(y) ** 2,
        None: lambda: 1.0,
    }[activation]()
    g = rng.standard_normal((count, n)) * slope
    return np.einsum("cij,ci->cj", jacobian, g)


CASES = {
    "relu": (keras.activations.relu, False),
    "tanh": (keras.activations.tanh, False),
    "weights of a channel": (None, True),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_jacobian(name, pytestconfig):
    """Correlated values; a wrong trace is found from about 10% on."""
    activation, taps = CASES[name]
    rng = np.random.default_rng(3)
    x = rng.normal(size=(5, 7)) + 0.7 * rng.normal(size=(1, 7))
    epsilon = 0.1
    found = row_gradient(x, epsilon, activation, taps, seed=pytestconfig.seed)
    slow = slow_gradients(x, epsilon, activation, taps, pytestconfig.seed)
    products = slow[:, :, None] * slow[:, None, :]
    expected = products.mean(axis=0)
    error = products.std(axis=0) * np.sqrt(1 / len(slow) + 1 / DRAWS)
    assert (np.abs(found - expected) < SIGMAS * error).all()
    squares = np.sum(slow**2, axis=1)
    error = squares.std() * np.sqrt(1 / len(slow) + 1 / DRAWS)
    assert abs(np.trace(found) - squares.mean()) < SIGMAS * error
    assert SIGMAS * error < 0.1 * squares.mean()


@pytest.mark.parametrize("activation", [None, keras.activations.relu])
def test_batches_behind_a_flatten_are_those_of_each_position(
    activation, pytestconfig
):
    """With k times the values a position has gradients 1 / k as large."""
    n, factors = 6, np.array([1.0, 5.0, 0.2])
    x = np.random.default_rng(0).normal(size=(n, 7))
    several = (factors[:, None] * x[:, None]).reshape(3 * n, 7)
    seed = pytestconfig.seed
    one = row_gradient(x, 1e-12, activation, seed=seed)
    flat = row_gradient(several, 1e-12, activation, positions=3, seed=seed + 1)
    flat = flat.reshape(n, 3, n, 3)
    for position, factor in enumerate(factors):
        found = flat[:, position, :, position] * factor**2
        # With 5 degrees of freedom 1/s^2 has the relative variance 2, and the
        # square of a gradient has less than 3 times its mean square more.
        error = np.sqrt(12 * (1 / DRAWS + 3 / (2**20 / 18)))
        traces = np.trace(found), np.trace(one)
        assert abs(traces[0] / traces[1] - 1) < SIGMAS * error
    # Gradients of two positions are uncorrelated, but for the error of draws.
    apart = flat[:, 0, :, 1] * factors[1]
    assert np.abs(apart).max() < 0.1 * np.diagonal(one).max()


def scaled(gain):
    return keras.initializers.VarianceScaling(
        gain, "fan_in", "untruncated_normal"
    )


def convolution(filters, size=1, strides=1):
    return L.Conv2D(
        filters, size, strides, "same", kernel_initializer=scaled(2.0)
    )


def normalized(x):
    return L.ReLU()(L.BatchNormalization(epsilon=0.05)(x))


def branches(inputs):
    """Residual branches, and depthwise windows down to one position."""
    x = convolution(128)(inputs)
    x = x + convolution(128)(normalized(x))
    x = normalized(x + convolution(128)(normalized(x)))
    x = L.ReLU()(x + L.BatchNormalization()(convolution(128)(x)))
    x = normalized(convolution(128)(x))
    x = depthwise(x, 2)
    x = L.Concatenate()([x, convolution(64)(x)])
    x = L.Flatten()(normalized(x))
    return L.Dense(64, kernel_initializer=scaled(1.0))(x)


def depthwise(x, strides):
    return L.DepthwiseConv2D(
        3, strides, "same", depthwise_initializer=scaled(1.0)
    )(x)


@pytest.mark.slow
def test_networks_with_batches_of_few_values(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    x = rng.normal(size=(8, 2, 2, 16))
    inputs = keras.Input((2, 2, 16))
    model = keras.Model(inputs, branches(inputs))
    found = kx.predict(model, x, samples=8, training=True)
    assert_predicted(found, model, x, pytestconfig.seed, 0.07, training=True)


@pytest.mark.parametrize(
    "initializer", ["he_normal", "glorot_uniform", "lecun_uniform"]
)
def test_entries_have_the_distribution_of_the_initializer(initializer):
    """Those of "initial" against draws of Keras, by quantiles of magnitudes."""
    kernel = keras.Variable(keras.initializers.get(initializer)((3, 3, 400, 1)))
    sizes = []
    for source in ("present", "initial"):
        initial = keras.initializers.get(initializer)
        entries = np.abs(weight_entries(kernel, initial, source))
        entries /= np.sqrt(np.mean(entries**2))
        sizes.append(np.quantile(entries, (0.1, 0.25, 0.5, 0.75, 0.9)))
    # A quantile of 3600 draws has a standard error below 0.012.
    np.testing.assert_allclose(*sizes, atol=6.1 * 0.012)


@pytest.mark.parametrize(("n", "most"), [(6, 0.09), (12, 0.04), (48, 0.01)])
def test_activations_of_few_values_are_off_by_what_the_note_says(n, most):
    """A value of a normal batch is sqrt(n - 1) u, u of a unit vector in n - 1.

    Its density is that of u, proportional to (1 - u^2)^((n - 4) / 2).
    """

    def moments_of(phi, density, limit, scale):
        return [
            integrate.quad(
                lambda z, power=power: density(z) * phi(scale * z) ** power,
                *(-limit, limit),
                points=[0],
            )[0]
            for power in (1, 2)
        ]

    beta = stats.beta((n - 2) / 2, (n - 2) / 2, loc=-1, scale=2)
    errors = []
    for phi in (np.tanh, lambda z: max(z, 0.0)):
        normal = moments_of(phi, stats.norm.pdf, 12, 1.0)
        batch = moments_of(phi, beta.pdf, 1, np.sqrt(n - 1))
        errors.append(normal[1] / batch[1] - 1)
        variance = [m[1] - m[0] ** 2 for m in (normal, batch)]
        errors.append(1 - variance[0] / variance[1])
    assert most / 2 < np.abs(errors).max() < most + 0.005
    # The mean square behind relu is exact.
    assert abs(errors[2]) < 1e-9


def test_the_note_says_how_far_tiny_batches_are_off(rng):
    """The mean square behind tanh, beside normalized draws.

    The figures of the note are rounded up to a percent.
    """
    said = {2: 0.32, 3: 0.20, 4: 0.14, 6: 0.09, 12: 0.04}
    normal = stats.norm.expect(lambda z: np.tanh(z) ** 2)
    for n, off in said.items():
        x = rng.normal(size=(60000, n))
        y = stats.zscore(x, axis=1)
        # Means of 120000 values or more of a deviation below 0.3.
        measured = 1 - normal / np.mean(np.tanh(y) ** 2)
        assert off - 0.015 < measured < off + 0.01
        assert f"{n} " in STATISTICS and f"{off:.0%}" in STATISTICS
