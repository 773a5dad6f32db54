"""Tests of processes over depth, of their sampler and of who owns the paths."""

import copy
import gc
import json
import pickle
import threading
import tracemalloc
import weakref

import keras
import numpy as np
import pytest
from scipy import fft, linalg

import keras_initx as kx
from keras_initx.initializers.depth_paths import DepthPaths
from keras_initx.theory import (
    fractional_noise_covariance,
    fractional_process,
    smooth_covariance,
    smooth_process,
)

HURSTS = (0.01, 0.2, 0.5, 0.7, 0.9, 0.97, 0.999, 1.0)


def covariance(process):
    """Returns the covariance of layers at each distance, from the spectrum."""
    # sum_j variance_j cos(2 pi j m / M)
    return fft.fft(process.variance, process.period).real[: process.depth]


# ---- The covariance --------------------------------------------------------


def test_fractional_noise_covariance_is_that_of_tables():
    table = {
        (0.2, 1): -0.3402,
        (0.7, 1): 0.3195,
        (0.7, 2): 0.1888,
        (0.9, 1): 0.7411,
        (0.9, 2): 0.6301,
        (0.97, 1): 0.9185,
    }
    for (hurst, lag), expected in table.items():
        found = fractional_noise_covariance(lag, hurst)
        assert found == pytest.approx(expected, abs=5e-5)
        assert fractional_noise_covariance(-lag, hurst) == found


@pytest.mark.parametrize("hurst", HURSTS)
def test_steps_of_fractional_noise_add_up(hurst):
    # Var(x_1 + ... + x_L) = L^(2 H), which depends on every lag.
    for depth in (1, 2, 7, 8, 9, 1000, 100_000):
        lag = np.arange(1, depth)
        g = fractional_noise_covariance(lag, hurst)
        total = depth + 2 * np.sum((depth - lag) * g)
        assert total == pytest.approx(depth ** (2 * hurst), rel=1e-8)


@pytest.mark.parametrize("depth", [1, 2, 3, 10, 1000, 10_000])
@pytest.mark.parametrize("hurst", HURSTS)
def test_fractional_noise_is_exact(hurst, depth):
    process = fractional_process(depth, hurst)
    expected = fractional_noise_covariance(np.arange(depth), hurst)
    np.testing.assert_allclose(covariance(process), expected, atol=1e-12)
    assert (process.variance >= 0).all()


@pytest.mark.parametrize("depth", [1, 2, 10, 1000, 10_000])
@pytest.mark.parametrize("length_scale", [1e-4, 0.01, 0.1, 0.3, 1, 10])
def test_smooth_noise_is_exact(length_scale, depth):
    process = smooth_process(depth, length_scale)
    expected = smooth_covariance(np.arange(depth), depth, length_scale)
    np.testing.assert_allclose(covariance(process), expected, atol=1e-11)
    if depth >= 1000 and length_scale >= 0.1:
        assert len(process.variance) < 30


def test_no_eigenvalue_is_negative():
    """No variance was set to 0, apart from rounding at H = 1."""
    for hurst in HURSTS:
        for depth in (1, 2, 5, 100, 10_000):
            g = fractional_noise_covariance(np.arange(depth + 1), hurst)
            eigenvalues = fft.rfft(np.concatenate([g, g[-2:0:-1]])).real
            assert eigenvalues.min() > -1e-13 * eigenvalues.max()


# ---- The sampler -----------------------------------------------------------


def published_sampler(depth, hurst, paths, rng):
    """The sampler of Davies and Harte with two errors of the published code.

    The middle of the circulant is 0, and the last eigenvalue is replaced by
    the first.
    """
    g = fractional_noise_covariance(np.arange(depth + 1), hurst)
    g[depth] = 0
    eigenvalues = fft.rfft(np.concatenate([g, g[-2:0:-1]])).real
    eigenvalues = np.sqrt(np.maximum(eigenvalues, 0))
    eigenvalues[-1] = eigenvalues[0]
    z = rng.standard_normal((paths, depth + 1, 2)) @ [1, 1j]
    z[:, [0, -1]] = z[:, [0, -1]].real * np.sqrt(2)
    z *= eigenvalues * np.sqrt(depth)
    return fft.irfft(z, 2 * depth)[:, :depth].T


# In units of the standard deviation. The probability that one of the 2
# statistics of the 8 tests is beyond is 16 * 2e-9.
BAND = 6
PATHS = 20_000


def deviations(x, factor):
    """How far the path's whitened mean squares are from 1, in deviations.

    With C = F F' the values F^-1 x are white: the mean square of all of them,
    and of the last (what is new in the last layer), have the deviation
    sqrt(2 / n).
    """
    white = linalg.solve_triangular(factor, x, lower=True) ** 2
    return np.array(
        [
            (white.mean() - 1) * np.sqrt(white.size / 2),
            (white[-1].mean() - 1) * np.sqrt(white[-1].size / 2),
        ]
    )


@pytest.mark.parametrize("hurst", [0.05, 0.3, 0.7, 0.9, 0.97])
def test_fractional_paths_have_their_covariance(hurst, rng):
    """False alarms have probability 1e-7; an error of 0.03 is detected."""
    depth = 64
    lags = np.arange(depth)
    x = fractional_process(depth, hurst).sample(PATHS, rng)
    assert x.dtype == np.float32
    assert x.shape == (depth, PATHS)

    def factor(h):
        g = fractional_noise_covariance(lags, h)
        return linalg.cholesky(linalg.toeplitz(g), lower=True)

    assert (np.abs(deviations(x, factor(hurst))) < BAND).all()
    wrong = hurst + 0.03 if hurst < 0.95 else hurst - 0.03
    assert np.abs(deviations(x, factor(wrong))).max() > BAND


@pytest.mark.slow
def test_the_errors_of_the_published_sampler_are_detected(rng):
    depth = 256
    g = fractional_noise_covariance(np.arange(depth), 0.97)
    factor = linalg.cholesky(linalg.toeplitz(g), lower=True)
    wrong = published_sampler(depth, 0.97, PATHS, rng)
    assert np.abs(deviations(wrong, factor)).max() > 100 * BAND
    assert np.mean(wrong[0] * wrong[1]) < 0.5
    ours = fractional_process(depth, 0.97).sample(PATHS, rng)
    assert (np.abs(deviations(ours, factor)) < BAND).all()


@pytest.mark.parametrize("length_scale", [0.01, 0.1])
def test_smooth_paths_have_their_covariance(length_scale, rng):
    """False alarms have probability 1e-7; an error of 5% is detected.

    The layers are so far apart that their matrix can be factorized.
    """
    depth, apart = 100, max(1, int(100 * length_scale))
    x = smooth_process(depth, length_scale).sample(PATHS, rng)[::apart]

    def factor(scale):
        g = smooth_covariance(np.arange(0, depth, apart), depth, scale)
        return linalg.cholesky(linalg.toeplitz(g), lower=True)

    assert (np.abs(deviations(x, factor(length_scale))) < BAND).all()
    assert np.abs(deviations(x, factor(1.05 * length_scale))).max() > BAND


@pytest.mark.parametrize(
    "process",
    [
        fractional_process(300, 0.7),
        smooth_process(300, 1.0),
        smooth_process(300, 1e-4),
    ],
    ids=["fractional", "smooth", "rough"],
)
def test_both_ways_to_sum_the_series_agree(process, seed):
    """Some layers equal those of all layers, and both the definition."""
    x = process.sample(50, np.random.default_rng(seed))
    some = process.sample(50, np.random.default_rng(seed), slice(100, 103))
    np.testing.assert_allclose(some, x[100:103], rtol=1e-6, atol=1e-6)
    numbers = len(process.variance)
    a, b = np.moveaxis(
        np.random.default_rng(seed).standard_normal((50, numbers, 2)), -1, 0
    )
    turn = np.outer(np.arange(300), np.arange(numbers)) % process.period
    angle = 2 * np.pi / process.period * turn
    size = np.sqrt(process.variance)[:, None]
    slow = np.cos(angle) @ (size * a.T) - np.sin(angle) @ (size * b.T)
    np.testing.assert_allclose(x, slow, atol=2e-6)


def test_more_paths_do_not_change_the_first_ones(seed):
    """More than 2^21 numbers are drawn in several pieces."""
    process = fractional_process(2000, 0.7)
    few, many = (
        process.sample(paths, np.random.default_rng(seed), slice(0, 2))
        for paths in (3, 1500)
    )
    np.testing.assert_array_equal(many[:, :3], few)


# ---- One path for all layers -----------------------------------------------


def process_of(kind, depth=7, **parameters):
    if kind == "fractional":
        parameters = {"hurst": 0.7, **parameters}
    return kx.initializers.DepthProcess(depth, kind, seed=11, **parameters)


KINDS = pytest.mark.parametrize("kind", ["white", "smooth", "fractional"])


@KINDS
def test_weights_do_not_depend_on_the_order_of_calls(kind):
    process = process_of(kind)
    shape = (4, 5)
    forward = [np.asarray(process.at(k)(shape)) for k in range(7)]
    for k in (6, 2, 2, 0, 5):
        np.testing.assert_array_equal(process.at(k)(shape), forward[k])
    config = json.loads(json.dumps(process.get_config()))
    again = kx.initializers.DepthProcess(**config)
    loaded = keras.initializers.deserialize(
        keras.initializers.serialize(process.at(3))
    )
    np.testing.assert_array_equal(again.at(3)(shape), forward[3])
    np.testing.assert_array_equal(loaded(shape), forward[3])


def test_layers_of_an_unseeded_process_share_its_path():
    process = kx.initializers.DepthProcess(50, "fractional", hurst=1.0)
    first, last = process.at(0)((8, 8)), process.at(49)((8, 8))
    np.testing.assert_allclose(first, last, rtol=1e-5)
    other = kx.initializers.DepthProcess(50, "fractional", hurst=1.0)
    assert np.abs(other.at(0)((8, 8)) - first).max() > 1e-2


def test_weights_follow_the_process(rng):
    """The correlation of layers, at a real size: 4096 entries of 1000 layers.

    The mean of x_0 x_m over independent entries has the deviation
    sqrt(1 + rho^2) / 64; within 6 of them, at 4 lags: false alarms below 1e-7.
    """
    process = kx.initializers.DepthProcess(
        1000, "fractional", hurst=0.9, seed=int(rng.integers(2**31))
    )
    x = [np.ravel(process.at(k)((64, 64))) * 8 for k in (500, 501, 502, 999)]
    for k, lag in enumerate([0, 1, 2, 499]):
        rho = float(fractional_noise_covariance(lag, 0.9))
        found = np.mean(x[0] * x[k])
        assert abs(found - rho) < 6 * np.sqrt((1 + rho**2) / 4096)


def test_streams_and_shapes_are_independent():
    process = process_of("smooth", 30)
    kernels = [process.at(3, stream)((64, 64)) for stream in (0, 1, 2)]
    for one in range(3):
        for other in range(one):
            r = np.corrcoef(np.ravel(kernels[one]), np.ravel(kernels[other]))
            assert abs(r[0, 1]) < 6 / 64
    for seed in (-11, 11 + 2**32, 11 - 2**32):
        other = kx.initializers.DepthProcess(30, "smooth", seed=seed)
        assert np.abs(other.at(3)((64, 64)) - kernels[0]).max() > 1e-2
    for kind in ("white", "smooth", "fractional"):
        small, large = (
            np.ravel(process_of(kind, 30).at(3)((n, 64))) for n in (64, 65)
        )
        r = np.corrcoef(small, large[:4096])
        assert abs(r[0, 1]) < 6 / 64


def test_clearing_the_cache_frees_the_paths_and_changes_no_weights():
    process = process_of("smooth", 100)
    first = np.asarray(process.at(3)((16, 16)))
    assert process.at(0).paths.size == 100 * 16 * 16 * 4
    process.clear_cache()
    assert process.at(0).paths.size == 0
    np.testing.assert_array_equal(process.at(3)((16, 16)), first)


class Lazy(keras.Model):
    """A subclassed model that is built by its first call."""

    def __init__(self, process):
        super().__init__()
        self.hidden = [
            keras.layers.Dense(6, "tanh", kernel_initializer=process.at(k))
            for k in range(process.depth)
        ]

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return x


@pytest.mark.slow
@KINDS
def test_the_same_weights_in_every_kind_of_model(kind, tmp_path):
    process = process_of(kind)
    expected = [np.asarray(process.at(k)((6, 6))) for k in range(7)]
    inputs = x = keras.Input((6,))
    for k in reversed(range(7)):
        dense = keras.layers.Dense(6, kernel_initializer=process.at(k))
        x = dense(x)
    functional = keras.Model(inputs, x)
    functional.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    cloned = keras.models.clone_model(functional)
    lazy = Lazy(process)
    lazy.compile(keras.optimizers.SGD(0.0), "mse")
    lazy.fit(np.ones((4, 6)), np.ones((4, 6)), verbose=0)
    for model, kernels in (
        (functional, expected[::-1]),
        (loaded, expected[::-1]),
        (cloned, expected[::-1]),
        (lazy, expected),
    ):
        for ours, kernel in zip(model.get_weights()[::2], kernels, strict=True):
            np.testing.assert_array_equal(ours, kernel)


# ---- Memory of the paths ---------------------------------------------------


def paths_of(depth=20, seed=1, **limit):
    return DepthPaths("fractional", depth, 0.7, seed, **limit)


def whole(depth=20, seed=1, entries=10, stream=0):
    """The values at all layers, without a cache."""
    rng = np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(stream, entries))
    )
    return fractional_process(depth, 0.7).sample(entries, rng)


@pytest.fixture
def computed(monkeypatch):
    """The layers of each computation of paths, as they are computed."""
    computed = []
    draw = DepthPaths._draw

    def counted(self, layers, *key):
        computed.append(layers)
        return draw(self, layers, *key)

    monkeypatch.setattr(DepthPaths, "_draw", counted)
    return computed


def test_values_are_freed_when_every_layer_has_asked():
    paths, expected = paths_of(), whole()
    for k in range(20):
        np.testing.assert_array_equal(paths.at_layer(k, 0, 10), expected[k])
        # After the last layer only its own values are kept.
        assert paths.size == (expected[k].nbytes if k == 19 else 20 * 40)


@pytest.mark.parametrize("limit", [1, 80, 500, 10_000])
def test_the_memory_limit_holds_and_changes_no_value(limit):
    paths, expected = paths_of(limit=limit), whole()
    for k in [*range(20), 3, 19, 0]:
        np.testing.assert_allclose(
            paths.at_layer(k, 0, 10), expected[k], rtol=1e-6, atol=1e-6
        )
        paths.at_layer(k, 1, 10)
        assert paths.size <= limit


def test_paths_are_computed_once_for_all_layers(computed):
    paths = paths_of()
    for k in range(20):
        paths.at_layer(k, 0, 10)
        paths.at_layer(k, 1, 10)
    assert len(computed) == 2
    # With room for 5 of 20 layers at a time, in order, 4 draws a stream.
    for streams in (1, 2, 4):
        paths, computed[:] = paths_of(limit=4 * 5 * 40), []
        for k in range(20):
            for stream in range(streams):
                paths.at_layer(k, stream, 10)
        assert len(computed) == 4 * streams


def test_a_layer_that_asks_again_and_again_computes_nothing(computed):
    """As query, key and value of attention do, also in the last layer."""
    paths = paths_of()
    for k in range(20):
        for _ in range(3):
            paths.at_layer(k, 0, 10)
    assert len(computed) == 1
    # A second network is one more computation.
    for k in range(20):
        paths.at_layer(k, 0, 10)
    assert len(computed) == 2
    assert paths.size == 40


def test_changing_returned_values_does_not_change_the_paths():
    paths, expected = paths_of(), whole()
    for k in [*range(20), 19, 19]:
        values = paths.at_layer(k, 0, 10)
        np.testing.assert_array_equal(values, expected[k])
        values *= 2


def test_threads_that_ask_at_once_get_their_own_layers(computed):
    paths = paths_of(200)
    values = {}

    def ask(start):
        for k in range(start, 200, 4):
            values[k] = paths.at_layer(k, 0, 10)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal([values[k] for k in range(200)], whole(200))
    assert len(computed) == 1


# ---- Ownership of the paths ------------------------------------------------


def stack(process, depth=7):
    """A model of dense layers under the process."""
    inputs = x = keras.Input((6,))
    for k in range(depth):
        x = keras.layers.Dense(6, kernel_initializer=process.at(k))(x)
    return keras.Model(inputs, x)


@pytest.mark.usefixtures("frozen_objects")
@pytest.mark.parametrize("kind", ["smooth", "fractional"])
def test_paths_are_freed_with_the_process_and_its_initializers(kind):
    process = process_of(kind, 100)
    first = process.at(0)
    # Most of the layers never ask, so that the values are kept.
    first((64, 64))
    model = stack(process)
    paths = weakref.ref(first.paths)
    values = weakref.ref(next(iter(first.paths._blocks.values())).values)
    assert first.paths.size > 100 * 64 * 64 * 4
    alive = [process, first, model]
    del process, first, model
    for _ in range(2):
        alive.pop(0)
        gc.collect()
        assert paths() is not None and values() is not None
    # The layers of a model hold their initializers.
    alive.pop(0)
    gc.collect()
    assert paths() is None
    assert values() is None


@pytest.mark.usefixtures("frozen_objects")
@pytest.mark.slow
def test_the_memory_of_dropped_processes_is_freed():
    """100 processes of 1.6 MB, none of which is used up."""
    tracemalloc.start()
    try:
        for seed in range(100):
            process = kx.initializers.DepthProcess(100, "smooth", seed=seed)
            process.at(0)((64, 64))
        del process
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = 100 * 64 * 64 * 4
    assert peak > size
    assert now < size


@pytest.mark.usefixtures("frozen_objects")
@pytest.mark.parametrize("kind", ["smooth", "fractional"])
def test_models_of_one_process_compute_its_paths_once_each(
    kind, computed, tmp_path
):
    process = process_of(kind)
    model = stack(process)
    assert len(computed) == 1
    keras.models.clone_model(model)
    assert len(computed) == 2
    model.save(tmp_path / "model.keras")
    del process, model
    gc.collect()
    computed.clear()
    # No process is alive when the model is loaded.
    keras.models.load_model(tmp_path / "model.keras")
    assert len(computed) == 1


def test_attention_of_every_layer_computes_the_paths_once(computed):
    process = process_of("smooth", 5)
    for k in range(5):
        attention = keras.layers.MultiHeadAttention(
            2, 4, kernel_initializer=process.at(k), use_bias=False
        )
        attention.build((None, 3, 8), (None, 3, 8))
    # All four kernels have 64 entries.
    assert len(computed) == 1


def test_equal_configs_share_their_paths_and_others_do_not():
    process = process_of("smooth")
    first = process.at(0)
    for other in (
        process.at(3, stream=1),
        first.clone(),
        copy.copy(first),
        copy.deepcopy(first),
        pickle.loads(pickle.dumps(first)),
        keras.initializers.deserialize(keras.initializers.serialize(first)),
        kx.initializers.DepthProcess(**process.get_config()).at(0),
        process_of("smooth", scale=2.0).at(0),
    ):
        assert other.paths is first.paths
    for other in (
        process_of("smooth", 8),
        process_of("smooth", length_scale=0.2),
        process_of("fractional"),
        kx.initializers.DepthProcess(7, "smooth", seed=12),
    ):
        assert other.at(0).paths is not first.paths


# ---- Bad input -------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"depth": 0}, "depth"),
        ({"depth": 2.0}, "depth"),
        ({"depth": True}, "depth"),
        ({"kind": "brownian"}, "kind"),
        ({"kind": "fractional"}, "hurst"),
        ({"kind": "fractional", "hurst": 0}, "hurst"),
        ({"kind": "fractional", "hurst": 1.01}, "hurst"),
        ({"kind": "fractional", "hurst": float("nan")}, "hurst"),
        ({"hurst": 0.7}, "hurst"),
        ({"kind": "smooth", "hurst": 0.7}, "hurst"),
        ({"kind": "smooth", "length_scale": -0.1}, "length_scale"),
        ({"kind": "smooth", "length_scale": 0}, "length_scale"),
        ({"kind": "smooth", "length_scale": 101}, "length_scale"),
        ({"length_scale": 0.1}, "length_scale"),
        ({"scale": 0}, "scale"),
        ({"scale": 1e-100}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"seed": 1.5}, "seed"),
        ({"seed": keras.random.SeedGenerator(1)}, "seed"),
    ],
)
def test_bad_processes_are_refused(given, name):
    with pytest.raises(ValueError, match=rf"{name}.*Received: {name}="):
        kx.initializers.DepthProcess(**{"depth": 10, **given})


def test_fractional_noise_needs_a_hurst_index():
    with pytest.raises(ValueError, match="kind='fractional' needs hurst, a "):
        kx.initializers.DepthProcess(10, "fractional")


@pytest.mark.parametrize("index", [-1, 7, 2.0, None, True])
def test_bad_indices_are_refused(index):
    with pytest.raises(
        ValueError, match=r"index must be an int from 0 to 6.*Received: "
    ):
        process_of("smooth").at(index)


@pytest.mark.parametrize("stream", [-1, 0.5])
def test_bad_streams_are_refused(stream):
    with pytest.raises(ValueError, match=r"stream.*Received: stream="):
        process_of("smooth").at(0, stream)


def test_a_layer_that_is_given_the_process_says_what_to_give():
    process = kx.initializers.DepthProcess(3, seed=1)
    with pytest.raises(ValueError, match=r"index k is process.at\(k\)"):
        keras.layers.Dense(3, kernel_initializer=process)
