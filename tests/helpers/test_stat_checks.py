"""Random networks decay as published, and as a twin of ours says.

Every comparison is of a mean over nets, with a false-alarm rate below 1e-6 and
the error it can see stated in `stat_checks`; each is shown to fail on a network
that is wrong.
"""

import keras
import numpy as np
import pytest

import keras_initx as kx
from tests.helpers.stat_checks import assert_mean, smallest_detectable

LAYERS = [1, 5, 10, 20, 30, 49]

# m/v at LAYERS in He-ReLU nets on 1000 samples of white noise: the mean over
# nets and the standard deviation from net to net, of a twin in plain NumPy.
TWIN = {
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
# The same as other people's runs have it, at layer 49.
PUBLISHED = {100: (3.03, 0.35, 100), 1000: (6.77, 0.51, 8)}
NETS = {100: 60, 1000: 8}


def network(width, depth=49, activation="relu"):
    layers = [keras.layers.Dense(width, activation) for _ in range(depth + 1)]
    return keras.Sequential([keras.Input((width,)), *layers])


def draw(model, rng, gain=2.0):
    """New normal weights: 1/N in the first layer, gain/N in the others."""
    dense = [la for la in model.layers if isinstance(la, keras.layers.Dense)]
    for i, layer in enumerate(dense):
        shape = layer.kernel.shape
        scale = np.float32(np.sqrt((gain if i else 1) / shape[0]))
        layer.kernel.assign(scale * rng.standard_normal(shape, np.float32))


def mean_over_deviation(model, width, nets, rng):
    """m/v of every layer, a row for each net."""
    rows = []
    for _ in range(nets):
        draw(model, rng)
        noise = rng.standard_normal((1000, width), np.float32)
        profile = kx.measure(model, noise, batch_size=500)
        rows.append(np.sqrt(profile.squared_mean / profile.sample_variance))
    return np.array(rows)


@pytest.mark.parametrize("width", [100, 1000])
def test_he_relu_nets_decay_as_published(width, rng):
    found = mean_over_deviation(network(width), width, NETS[width], rng)
    twin = TWIN[width]
    assert_mean(
        found[:, LAYERS], twin["mean"], np.array(twin["spread"]), twin["nets"]
    )
    mean, spread, nets = PUBLISHED[width]
    assert_mean(found[:, 49], mean, spread, nets)
    # Enough to see that 1000 is not infinity.
    theory = kx.theory.sample_variance_decay(49).sample_fraction[-1]
    infinite = np.sqrt(1 / theory - 1)
    assert infinite - mean > smallest_detectable(spread, NETS[width], nets)
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(found[:, 49], infinite, spread, nets)


def wrong_layer(rng):
    return mean_over_deviation(network(100), 100, 60, rng)[:, 1:]


def wrong_slope(rng):
    leaky = lambda z: keras.ops.leaky_relu(z, negative_slope=0.1)  # noqa: E731
    return mean_over_deviation(network(100, activation=leaky), 100, 60, rng)


def wrong_width(rng):
    return mean_over_deviation(network(50), 50, 60, rng)


def wrong_square(rng):
    return mean_over_deviation(network(100), 100, 60, rng) ** 2


@pytest.mark.parametrize(
    "wrong", [wrong_layer, wrong_slope, wrong_width, wrong_square]
)
def test_a_wrong_network_is_seen(wrong, rng):
    found = wrong(rng)
    at = [layer for layer in LAYERS if layer < found.shape[1]]
    twin = {
        k: np.array(v)[: len(at)] for k, v in TWIN[100].items() if k != "nets"
    }
    with pytest.raises(AssertionError, match="off by"):
        assert_mean(found[:, at], twin["mean"], twin["spread"], 1500)


def batch_norm_network(width, depth, normalize=True):
    stack = []
    for _ in range(depth + 1):
        stack += [
            keras.layers.Dense(width, use_bias=False),
            *([keras.layers.BatchNormalization(epsilon=1e-7)] * normalize),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([keras.Input((width,)), *stack])


# v^2 / (m^2 + v^2) before normalisation, mean over layers 1 to 10: at width 300
# the twin's mean over 120 nets is 0.005 above the theory for infinite width.
RAW, RAW_SPREAD, RAW_NETS = 0.68657, 0.00576, 120


@pytest.mark.parametrize("normalize", [True, False])
def test_batch_normalization_removes_the_decay(normalize, rng):
    model = batch_norm_network(300, 10, normalize)
    options = {"training": True, "batch_size": 1000}
    raw = []
    for _ in range(6):
        draw(model, rng)
        noise = rng.standard_normal((1000, 300), np.float32)
        raw.append(
            kx.measure(model, noise, **options).sample_fraction[1:].mean()
        )
        if normalize:
            after = kx.measure(
                model,
                noise,
                layers=keras.layers.BatchNormalization,
                **options,
            )
            np.testing.assert_allclose(after.sample_variance, 1, atol=1e-4)
            np.testing.assert_allclose(after.squared_mean, 0, atol=1e-8)
    if normalize:
        assert_mean(raw, RAW, RAW_SPREAD, RAW_NETS)
        theory = kx.theory.batch_norm_raw_variance()
        assert abs(np.mean(raw) - theory) < 0.02
    else:
        with pytest.raises(AssertionError, match="off by"):
            assert_mean(raw, RAW, RAW_SPREAD, RAW_NETS)
