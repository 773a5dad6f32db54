"""Meter: equal to measure, compiled once, Python values fixed."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx

X = np.linspace(-1, 1, 160, dtype="float32").reshape(40, 4)


class Counted(keras.layers.Layer):
    """Counts how often it is traced, and multiplies by a Python value."""

    def __init__(self):
        super().__init__()
        self.traces, self.factor = 0, 1.0

    def call(self, x):
        self.traces += 1
        return x * self.factor


def counted_net(*layers):
    counted = Counted()
    model = keras.Sequential(
        [keras.Input((4,)), counted, *layers, keras.layers.Dense(3)]
    )
    counted.traces = 0
    return model, counted


def test_one_structure_of_data_is_traced_once():
    model, counted = counted_net()
    meter = kx.Meter(model)
    first = meter(X)
    assert counted.traces == 1
    for again in (
        meter(X),
        meter(X, batch_size=7),
        meter(tf.data.Dataset.from_tensor_slices(X).batch(10)),
    ):
        np.testing.assert_allclose(again.total, first.total, rtol=1e-5)
    meter(X[:20], steps=1)
    assert counted.traces == 1


def test_each_structure_of_data_is_traced_once():
    model = keras.Sequential([keras.Input((None, 4)), Counted()])
    counted = model.layers[0]
    counted.traces = 0
    meter = kx.Meter(model, layers=Counted)
    short, long = X.reshape(20, 2, 4), X.reshape(10, 4, 4)
    for data in (short, long, short, long, short.astype("float64")):
        profile = meter(data)
        assert profile.units == (data[0].size,)
        np.testing.assert_allclose(
            profile.sample_variance, data.var(axis=0).mean(), rtol=1e-5
        )
    assert counted.traces == 3


def test_states_are_traced_twice_at_most():
    # The second batch takes what the first one has written as arguments.
    model, counted = counted_net(keras.layers.BatchNormalization())
    meter = kx.Meter(model, training=True)
    meter(X, batch_size=8)
    assert counted.traces == 2
    meter(X, batch_size=8)
    assert counted.traces == 2


@pytest.mark.slow
def test_nothing_that_keras_does_with_a_model_is_traced_again():
    model, counted = counted_net()
    model.compile("sgd", "mse")
    meter = kx.Meter(model)
    meter(X)
    options = {"verbose": 0, "batch_size": 40}
    y = X[:, :3]
    for use in (
        lambda: model.predict(X, **options),
        lambda: model.evaluate(X, y, **options),
        lambda: model.compile("adam", "mae", metrics=["mse"]),
        lambda: model.fit(X, y, validation_data=(X, y), **options),
        lambda: model.train_on_batch(X, y),
        lambda: model.summary(print_fn=lambda *args, **kwargs: None),
    ):
        use()
        counted.traces = 0
        after = meter(X)
        assert counted.traces == 0
        assert after == kx.measure(model, X)


def test_changed_variables_are_seen():
    norm = keras.layers.BatchNormalization()
    model, _ = counted_net(norm)
    meter = kx.Meter(model)
    before = meter(X)
    kernel = model.layers[-1].kernel
    kernel.assign(2 * kernel)
    after = meter(X)
    np.testing.assert_allclose(after.total, 4 * before.total, rtol=1e-5)
    norm.moving_variance.assign(4 * norm.moving_variance)
    norm.moving_mean.assign(norm.moving_mean + 1)
    assert meter(X) == kx.measure(model, X)
    assert meter(X) != after
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    assert meter(X) == kx.measure(model, X)


def test_python_values_are_fixed_at_the_first_call():
    model, counted = counted_net()
    meter = kx.Meter(model)
    before = meter(X)
    counted.factor = 10.0
    assert meter(X) == before
    fresh = kx.Meter(model)(X)
    np.testing.assert_allclose(fresh.total, 100 * before.total, rtol=1e-4)


@pytest.mark.slow
def test_the_last_eight_structures_are_kept():
    model = keras.Sequential([keras.Input((None, 4)), Counted()])
    counted = model.layers[0]
    counted.traces = 0
    meter = kx.Meter(model, layers=Counted)
    lengths = range(1, 10)
    for length in lengths:
        meter(np.tile(X[:5, None], (1, length, 1)))
    assert counted.traces == 9
    meter(np.tile(X[:5, None], (1, 2, 1)))
    assert counted.traces == 9
    meter(np.tile(X[:5, None], (1, 1, 1)))
    assert counted.traces == 10


@pytest.mark.parametrize("training", [False, True])
def test_random_layers_repeat_as_they_do_in_measure(training):
    drop = keras.layers.Dropout(0.5, seed=1)
    model = keras.Sequential([keras.Input((4,)), drop, keras.layers.Dense(3)])
    meter = kx.Meter(model, training=training)
    first = meter(X, batch_size=8)
    # What the pass would write to the seed is dropped, so it repeats.
    assert meter(X, batch_size=8) == first
    assert kx.measure(model, X, training=training, batch_size=8) == first


def test_threads_may_share_a_meter():
    model, counted = counted_net()
    meter, profiles = kx.Meter(model), []
    threads = [
        threading.Thread(target=lambda: profiles.append(meter(X)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.traces == 1
    assert profiles == [meter(X)] * 4


def test_an_unbuilt_model_is_built_at_the_first_call():
    model = keras.Sequential([keras.layers.Dense(3)])
    meter = kx.Meter(model)
    assert not model.built
    assert meter(X) == kx.measure(model, X)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {}, "keras.Model. Received: model=3 of type int"),
        ((None,), {"layers": 3}, "layers=3"),
        ((None,), {"training": "yes"}, "training='yes'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    model = counted_net()[0] if arguments == (None,) else arguments[0]
    with pytest.raises(ValueError, match=message):
        kx.Meter(model, **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (X[:0], {}, "must hold samples"),
        (X[:1], {}, "data of one sample"),
        (X * np.nan, {}, "NaN or inf in data"),
        (X, {"steps": 0}, "steps=0"),
        (X, {"batch_size": 2.5}, r"batch_size=2\.5"),
        (X, {"verbose": 2}, "verbose must be 0 or 1.*verbose=2"),
        (X, {"verbose": "auto"}, "verbose='auto'"),
    ],
)
def test_wrong_arguments_of_a_call_are_refused(data, options, message):
    meter = kx.Meter(counted_net()[0])
    with pytest.raises(ValueError, match=message):
        meter(data, **options)


def test_an_error_in_one_call_leaves_the_meter_usable():
    model, _ = counted_net()
    meter = kx.Meter(model)
    expected = kx.measure(model, X)
    with pytest.raises(ValueError, match="NaN or inf in data"):
        meter(X * np.nan)
    with pytest.raises(ValueError):
        meter(X[:, :2])
    assert meter(X) == expected


@pytest.mark.slow
def test_a_pass_for_many_samples_takes_few_and_not_the_other_way():
    # Few samples are reduced in one go, which takes memory for many.
    model, counted = counted_net()
    meter = kx.Meter(model)
    x = np.concatenate([X, X])
    profiles = []
    for size, traces in ((20, 1), (70, 2), (40, 2), (10, 2)):
        profiles.append(meter(x, batch_size=size))
        assert counted.traces == traces
    for profile in profiles[1:]:
        np.testing.assert_allclose(profile.total, profiles[0].total, rtol=1e-5)
    model, counted = counted_net()
    kx.Meter(model)(x, batch_size=70)
    assert counted.traces == 1
