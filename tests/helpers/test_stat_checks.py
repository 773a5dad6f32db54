"""Tests that random networks decay as published, and as in NumPy.

Each comparison is of a mean over nets. It fails by chance with a probability
below 1e-6; `stat_checks` states the error that it detects. Each is shown to
fail for a network that is wrong.
"""

import keras
import numpy as np
import pytest

import keras_initx as kx
from tests.helpers.stat_checks import assert_mean, smallest_detectable

LAYERS = [1, 5, 10, 20, 30, 49]

# m/v at LAYERS in relu nets with He weights, on 1000 samples of white noise:
# the mean over nets, and the standard deviation from net to net, of an
# implementation in NumPy.
NUMPY = {
    100: {
        "nets": 1500,
        "mean": [0.6813, 1.5737, 2.1827, 2.7337, 2.9380, 3.0629],
        "spread": [0.0465, 0.1894, 0.3017, 0.3679, 0.3808, 0.3816],
    },
    1000: {
        "nets": 60,
        "mean": [0.6831, 1.6515, 2.5590, 4.0849, 5.2270, 6.8610],
        "spread": [0.0164, 0.0749, 0.1570, 0.2830, 0.4210, 0.5492],
    },
}
# Published mean, standard deviation and number of nets, at layer 49.
PUBLISHED = {100: (3.03, 0.35, 100), 1000: (6.77, 0.51, 8)}
# 5 wide nets tell a width of 1000 from an infinite one: `smallest_detectable`
# is 1.74 for them and the published ones, of 2.10 between the two.
NETS = {100: 60, 1000: 5}
# Half of the samples make the spread from net to net 4% wider at width 1000 and
# m/v less than 0.3% larger. The false alarms stay below 1e-6.
SAMPLES = {100: 1000, 1000: 500}


def network(width, depth=50, activation="relu"):
    # `draw` gives them their weights.
    layers = [
        keras.layers.Dense(width, activation, kernel_initializer="zeros")
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


def draw(model, rng, scale=2.0):
    """Draws normal weights of variance 1/N in the first layer, else scale/N."""
    dense = [la for la in model.layers if isinstance(la, keras.layers.Dense)]
    weights = np.empty(dense[0].kernel.shape, np.float32)
    for i, layer in enumerate(dense):
        # Into the same memory, since that of a new array takes time.
        rng.standard_normal(out=weights, dtype=np.float32)
        weights *= np.float32(np.sqrt((scale if i else 1) / len(weights)))
        layer.kernel.assign(weights)


def mean_over_deviation(model, width, nets, rng, samples=1000):
    """Returns m/v of every layer, with a row for each net."""
    rows = []
    meter = kx.Meter(model)
    for _ in range(nets):
        draw(model, rng)
        noise = rng.standard_normal((samples, width), np.float32)
        profile = meter(noise, batch_size=500)
        rows.append(np.sqrt(profile.squared_mean / profile.sample_variance))
    return np.array(rows)


@pytest.fixture(scope="module", params=[100, 1000])
def he_relu(request):
    """Returns a width, and m/v of each layer of nets of this width."""
    width = request.param
    rng = np.random.default_rng([request.config.seed, width])
    return width, mean_over_deviation(
        network(width), width, NETS[width], rng, SAMPLES[width]
    )


@pytest.mark.slow
def test_he_relu_nets_decay_as_published(he_relu):
    width, measured = he_relu
    reference = NUMPY[width]
    assert_mean(
        measured[:, LAYERS],
        reference["mean"],
        np.array(reference["spread"]),
        reference["nets"],
    )
    mean, spread, nets = PUBLISHED[width]
    assert_mean(measured[:, 49], mean, spread, nets)
    # The test can tell a width of 1000 from an infinite one.
    theory = kx.theory.sample_variance_decay(50).sample_fraction[-1]
    infinite = np.sqrt(1 / theory - 1)
    assert infinite - mean > smallest_detectable(spread, NETS[width], nets)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(measured[:, 49], infinite, spread, nets)


# Fewer layers, and half of the samples, show that a network is wrong: a slope
# at layer 1, a width at layer 20.
def wrong_slope(rng):
    leaky = lambda z: keras.ops.leaky_relu(z, negative_slope=0.1)  # noqa: E731
    return mean_over_deviation(network(100, 6, leaky), 100, 60, rng, 500)


def wrong_width(rng):
    return mean_over_deviation(network(50, 21), 50, 60, rng, 500)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [wrong_slope, wrong_width])
def test_wrong_network_is_rejected(wrong, rng):
    assert_rejected(wrong(rng))


@pytest.mark.slow
@pytest.mark.parametrize("he_relu", [100], indirect=True)
def test_wrong_layer_and_wrong_square_are_rejected(he_relu):
    _, measured = he_relu
    assert_rejected(measured[:, 1:])
    assert_rejected(measured**2)


def assert_rejected(measured):
    at = [layer for layer in LAYERS if layer < measured.shape[1]]
    reference = {
        k: np.array(v)[: len(at)] for k, v in NUMPY[100].items() if k != "nets"
    }
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(
            measured[:, at], reference["mean"], reference["spread"], 1500
        )


def batch_norm_network(width, depth, normalize=True):
    stack = []
    for _ in range(depth):
        stack += [
            keras.layers.Dense(width, use_bias=False),
            *([keras.layers.BatchNormalization(epsilon=1e-7)] * normalize),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([keras.Input((width,)), *stack])


# v^2 / (m^2 + v^2) before normalization, mean over layers 1 to 10. At width 300
# the mean over 120 nets in NumPy is 0.005 above the theory for infinite width.
RAW, RAW_SPREAD, RAW_NETS = 0.68657, 0.00576, 120


@pytest.mark.slow
@pytest.mark.parametrize("normalize", [True, False])
def test_batch_normalization_removes_the_decay(normalize, rng):
    model = batch_norm_network(300, 11, normalize)
    before = kx.Meter(model, training=True)
    after = kx.Meter(
        model, layers=keras.layers.BatchNormalization, training=True
    )
    raw = []
    for _ in range(6):
        draw(model, rng)
        noise = rng.standard_normal((1000, 300), np.float32)
        profile = before(noise, batch_size=1000)
        raw.append(profile.sample_fraction[1:].mean())
        if normalize:
            profile = after(noise, batch_size=1000)
            np.testing.assert_allclose(profile.sample_variance, 1, atol=1e-4)
            np.testing.assert_allclose(profile.squared_mean, 0, atol=1e-8)
    if normalize:
        assert_mean(raw, RAW, RAW_SPREAD, RAW_NETS)
        theory = kx.theory.batch_norm_raw_variance()
        assert abs(np.mean(raw) - theory) < 0.02
    else:
        with pytest.raises(AssertionError, match="off by"):
            assert_mean(raw, RAW, RAW_SPREAD, RAW_NETS)
