"""The remark that a normalization has seen no data yet."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers
X = np.linspace(-1, 2, 120, dtype="float32").reshape(20, 6)


class Renamed(L.BatchNormalization):
    """A normalization of a user that inherits from Keras's."""


@keras.saving.register_keras_serializable("tests")
class Own(L.Layer):
    """A normalization of a user that inherits from no other."""

    def build(self, shape):
        new = {"shape": (shape[-1],), "trainable": False}
        self.moving_mean = self.add_weight(initializer="zeros", **new)
        self.moving_variance = self.add_weight(initializer="ones", **new)

    def call(self, x, training=False):
        if training:
            mean, variance = keras.ops.moments(x, [0])
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        else:
            mean, variance = self.moving_mean, self.moving_variance
        return (x - mean) / keras.ops.sqrt(variance + 1e-3)


def net(*layers):
    return keras.Sequential(
        [keras.Input((6,)), L.Dense(6), *layers, L.Dense(2)]
    )


WITH_STATISTICS = {
    "BatchNormalization": (lambda: [L.BatchNormalization()], 1),
    "synchronized": (lambda: [L.BatchNormalization(synchronized=True)], 1),
    "a subclass": (lambda: [Renamed()], 1),
    "a layer of its own kind": (lambda: [Own()], 1),
    "in a model in a model": (lambda: [net(net(L.BatchNormalization()))], 1),
    "several": (lambda: [L.BatchNormalization() for _ in range(5)], 5),
    "one layer called twice": (lambda: [L.BatchNormalization()] * 2, 1),
    "without scale": (lambda: [L.BatchNormalization(scale=False)], 1),
    "in an Own, a loop over time": (
        lambda: [
            L.Reshape((2, 3)),
            L.TimeDistributed(L.BatchNormalization()),
            L.Flatten(),
        ],
        1,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "count"), WITH_STATISTICS.values(), ids=WITH_STATISTICS
)
def test_fresh_statistics_are_remarked_once(layers, count):
    model = net(*layers())
    meter = kx.Meter(model)
    (remark,) = meter(X).remarks
    assert f"of {count} normalization layer" in remark
    assert "training=True" in remark
    assert kx.measure(model, X, training=True, batch_size=8).remarks == ()
    model(X, training=True)
    assert meter(X).remarks == ()


@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.LayerNormalization(),
        lambda: L.GroupNormalization(2),
        lambda: L.UnitNormalization(),
        lambda: L.Normalization(mean=0.0, variance=1.0),
        lambda: L.SpectralNormalization(L.Dense(3)),
        lambda: L.Dropout(0.5),
    ],
)
def test_other_layers_have_no_remark(layer):
    assert kx.measure(net(layer()), X).remarks == ()


def test_a_normalization_that_always_uses_the_batch_has_no_remark():
    class Batch(L.BatchNormalization):
        def call(self, x, training=None, mask=None):
            return super().call(x, training=True)

    assert kx.measure(net(Batch()), X).remarks == ()


def test_a_frozen_normalization_is_remarked_in_training_too():
    norm = L.BatchNormalization()
    model = net(norm)
    norm.trainable = False
    (remark,) = kx.measure(model, X, training=True).remarks
    assert "frozen" in remark


def test_a_normalization_that_was_not_adapted_is_remarked():
    layer = L.Normalization()
    model = net(layer)
    (remark,) = kx.measure(model, X).remarks
    assert f"1 normalization layer ({layer.name!r})" in remark
    assert "adapt" in remark
    layer.adapt(X)
    assert kx.measure(model, X).remarks == ()


def test_a_layer_that_does_not_run_is_not_remarked():
    class Unused(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = L.Dense(3), L.BatchNormalization()
            self.norm.build((None, 3))

        def call(self, x):
            return self.dense(x)

    assert kx.measure(Unused(), X).remarks == ()


def test_the_table_shows_the_remark():
    profile = kx.measure(net(L.BatchNormalization(name="norm")), X)
    assert profile.remarks[0] in str(profile)
    assert "'norm'" in profile.remarks[0]
