"""models.SinusoidalNetwork: the start has the frequencies of the theory."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.models import SinusoidalNetwork


def mean_squares(model, x):
    """The mean square of the pre-activations of each layer."""
    profile = kx.measure(model, x)
    return profile.sample_variance + profile.squared_mean


def test_variances_of_the_signal(rng):
    x = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    model = SinusoidalNetwork(512, 4, 512, frequency=20.0)
    # 512 units of independent weights: a few percent, and less than 10%.
    expected = [1, 0.864665, 0.822597, 0.807025, 0.800920]
    np.testing.assert_allclose(mean_squares(model, x)[1:], expected, rtol=0.2)
    first = model.get_layer("first")
    assert np.std(first.kernel) == pytest.approx(20, rel=0.15)
    bias = np.asarray(first.bias)
    assert np.abs(bias).max() <= math.pi
    assert np.std(bias) == pytest.approx(math.pi / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize(("inputs", "std"), [(1, 17.32), (2, 8.66), (3, 5.77)])
def test_siren_has_the_weights_of_its_code(inputs, std):
    model = SinusoidalNetwork(
        256, 2, 2, 30.0, (inputs,), initialization="siren"
    )
    first, hidden, last = (
        model.get_layer(name) for name in ("first", "hidden1", "last")
    )
    # Uniform numbers, 256 at least.
    assert np.std(first.kernel) == pytest.approx(std, rel=0.2)
    assert np.abs(first.kernel).max() <= 30 / inputs
    limit = math.sqrt(6 / 256)
    assert 0.99 * limit < np.abs(hidden.kernel).max() <= limit
    assert 0.9 * limit / 30 < np.abs(last.kernel).max() <= limit / 30
    for layer, fan_in, factor in (
        (first, inputs, 30),
        (hidden, 256, 30),
        (last, 256, 1),
    ):
        assert np.abs(layer.bias).max() <= factor / math.sqrt(fan_in)
        assert np.ptp(layer.bias) > 0
    x = np.linspace(-1, 1, 200 * inputs, dtype=np.float32).reshape(200, inputs)
    point = kx.theory.signal_fixed_point("sine", 2.0, 900 / (3 * 256))
    assert point.variance == pytest.approx(1.469**2, rel=2e-3)
    second = mean_squares(model, x)[1]
    assert second == pytest.approx(point.variance, rel=0.25)


def test_the_bandwidth_is_that_of_theory(rng):
    """Derivatives by differences, of 256 functions of one network."""
    frequency, step = 6.0, 1e-3
    model = SinusoidalNetwork(512, 2, 256, frequency, (2,))
    x = rng.uniform(-1, 1, (300, 2))
    values = model.predict_on_batch(x)
    squares = 0
    for direction in np.eye(2):
        ahead, behind = (
            model.predict_on_batch(x + sign * step * direction)
            for sign in (1, -1)
        )
        squares += np.mean(((ahead - behind) / (2 * step)) ** 2)
    bandwidth = math.sqrt(squares / 2 / np.mean(np.var(values, axis=0)))
    expected = kx.theory.sine_bandwidth(frequency, 2)
    assert bandwidth == pytest.approx(expected, rel=0.15)


def test_the_model_is_saved_and_takes_any_shape(tmp_path, rng):
    model = SinusoidalNetwork(8, 1, 3, 5.0, (None, 2), name="field")
    x = rng.normal(size=(2, 7, 2)).astype(np.float32)
    assert model.name == "field"
    assert model(x).shape == (2, 7, 3)
    model.save(tmp_path / "field.keras")
    loaded = keras.models.load_model(tmp_path / "field.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert [layer.name for layer in model.layers if layer.weights] == [
        "first",
        "hidden1",
        "last",
    ]


def test_mixed_precision_and_xla(rng):
    x = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = SinusoidalNetwork(8, 1, 3, 2.0)
    finally:
        keras.config.set_dtype_policy("float32")
    model = SinusoidalNetwork(8, 1, 3, 2.0)
    model.set_weights(half.get_weights())
    assert half(x).dtype == tf.bfloat16
    assert {w.dtype for w in half.weights} == {"float32"}
    # 0.1 is the largest difference of 2000 draws.
    np.testing.assert_allclose(tf.cast(half(x), tf.float32), model(x), atol=0.3)
    compiled = tf.function(model, jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(x), model(x), atol=1e-5)


def test_two_replicas(rng):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = SinusoidalNetwork(8, 1, 3, 2.0)
    twin = SinusoidalNetwork(8, 1, 3, 2.0)
    twin.set_weights(model.get_weights())
    x = tf.constant(rng.uniform(-1, 1, (5, 2)), tf.float32)
    outputs = strategy.run(lambda: model(x))
    for y in strategy.experimental_local_results(outputs):
        np.testing.assert_allclose(y, twin(x), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"units": 0}, "units"),
        ({"hidden_layers": -1}, "hidden_layers"),
        ({"outputs": 1.5}, "outputs"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": math.nan}, "frequency"),
        ({"initialization": "he"}, "initialization"),
        ({"input_shape": ()}, "input_shape"),
        ({"input_shape": (2, None)}, "input_shape"),
        ({"input_shape": 2}, "input_shape"),
        ({"input_shape": (0,)}, "input_shape"),
    ],
)
def test_bad_arguments(given, name):
    with pytest.raises(ValueError, match=f"Received: .*{name}="):
        SinusoidalNetwork(**{"units": 4, "hidden_layers": 1} | given)
