"""Tests that calibrate names the place where a signal is not finite."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers
NAN, HUGE = float("nan"), 1e30


class Apply(L.Layer):
    """Applies a function, where no kernel is."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def log(name):
    return Apply(lambda x: keras.ops.log(x - 1e3), name=name)


def dense(name, value=None, **kwargs):
    """A layer, frozen where all entries of its kernel have a value."""
    layer = L.Dense(8, name=name, **kwargs)
    if value is not None:
        layer.build((None, 8))
        layer.kernel.assign(np.full((8, 8), value))
        layer.trainable = False
    return layer


def sequential(*layers):
    return keras.Sequential([keras.Input((8,)), *layers])


def functional(function):
    inputs = keras.Input((8,))
    return keras.Model(inputs, function(inputs))


def normalization():
    layer = L.BatchNormalization(name="norm")
    layer.build((None, 8))
    layer.moving_variance.assign([NAN] + [1.0] * 7)
    return layer


def subclassed():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = dense("a"), dense("b")
            self.log = log("inside")

        def call(self, inputs):
            return self.b(self.log(self.a(inputs)))

    return Model()


def shared():
    twice = dense("twice")
    return functional(lambda x: twice(keras.ops.log(twice(x) - 1e3)))


# A model, and the place that is named.
PLACES = {
    "no kernel": (
        lambda: sequential(dense("a"), log("log"), dense("b")),
        "at layer 'log'",
    ),
    "an operation": (
        lambda: functional(
            lambda x: dense("b")(keras.ops.log(dense("a")(x) - 1e3))
        ),
        "in the input of layer 'b'",
    ),
    "nested": (
        lambda: sequential(
            dense("a"),
            keras.Sequential([log("log"), dense("b")], name="in"),
            dense("c"),
        ),
        "at layer 'in/log'",
    ),
    "subclassed": (subclassed, "at layer 'inside'"),
    "a kernel": (
        lambda: sequential(dense("a"), dense("bad", NAN), dense("b")),
        "at layer 'bad'",
    ),
    "a statistic": (
        lambda: sequential(dense("a"), normalization(), dense("b")),
        "at layer 'norm'",
    ),
    "an activation": (
        lambda: sequential(
            dense("a"), dense("exp", HUGE, activation="exponential"), dense("b")
        ),
        "at layer 'exp'",
    ),
    "the second call": (shared, "in the input of layer 'twice:2'"),
    "too large to be squared": (
        lambda: sequential(
            dense("a"), Apply(lambda x: x * HUGE, name="huge"), dense("b")
        ),
        "at layer 'huge'",
    ),
    "too large a kernel": (
        lambda: sequential(dense("a"), dense("huge", HUGE), dense("b")),
        "at layer 'huge'",
    ),
    "one sample": (
        lambda: sequential(
            dense("a", 1.0), Apply(keras.ops.log, name="log"), dense("b")
        ),
        "at layer 'log'",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_place_is_that_of_measure(name, rng):
    make, place = PLACES[name]
    model = make()
    x = np.abs(rng.standard_normal((20, 8), np.float32))
    x[13] *= -1
    model(x[:1])
    before = model.get_weights()
    with pytest.raises(ValueError, match=place) as error:
        kx.measure(model, x)
    message = str(error.value)
    for batch_size in (None, 7):
        with pytest.raises(ValueError, match=place) as error:
            kx.calibrate(model, x, batch_size=batch_size)
        assert str(error.value) == message
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new, equal_nan=True)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_the_place_is_named_whatever_comes_of_it(batch_size, norm, rng):
    def picky(x):
        if not np.isfinite(x).all():
            raise RuntimeError("not finite")
        return x

    layers = [dense("a"), log("log"), Apply(picky), dense("b")]
    norms = [L.LayerNormalization()] if norm else []
    model = sequential(*layers, *norms)
    with pytest.raises(ValueError, match="NaN or inf at layer 'log'"):
        kx.calibrate(model, rng.standard_normal((20, 8)), batch_size=batch_size)


def test_the_signal_with_the_new_weights_counts(rng):
    """Before its correction the layer overflows the next one, and not after."""
    model = sequential(dense("a"), Apply(lambda x: x**9), dense("b"))
    x = rng.standard_normal((20, 8), np.float32)
    model.layers[0].kernel.assign(np.full((8, 8), 1e4))
    with pytest.raises(ValueError, match="at layer"):
        kx.measure(model, x)
    assert not kx.calibrate(model, x).skipped
    assert kx.measure(model, x).sample_variance[-1] == pytest.approx(
        1, rel=1e-4
    )
