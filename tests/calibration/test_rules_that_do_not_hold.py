"""Tests that calibrate refuses a rule that a layer does not follow."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.inspection import layer_rule

L = keras.layers
Geometry = kx.inspection.Geometry
LayerRule = kx.inspection.LayerRule
LinearUnits = kx.inspection.LinearUnits
BATCH_SIZES = [None, 50]


@pytest.fixture(autouse=True)
def no_rule_stays():
    before = dict(layer_rule._RULES)
    yield
    layer_rule._RULES.clear()
    layer_rule._RULES.update(before)


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


class Linear(L.Layer):
    """Subclasses say what the layer does with its pre-activation."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 8), name="w")
        self.b = self.add_weight(shape=(8,), name="b", initializer="normal")

    def call(self, x):
        return self.after(x @ self.w + self.b)

    def after(self, y):
        return y


class UnderAnotherName(Linear):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.act = keras.activations.get("relu")

    def after(self, y):
        return self.act(y)


class InsideTheCall(Linear):
    def after(self, y):
        return keras.ops.relu(y)


class Squared(Linear):
    def after(self, y):
        return y**2


class AttributeNotUsed(Linear):
    activation = staticmethod(keras.ops.tanh)

    def after(self, y):
        return keras.ops.tanh(y)


class OfTheClass(Linear):
    activation = staticmethod(keras.ops.relu)

    def after(self, y):
        return self.activation(y)


class Method(Linear):
    def activation(self, y):
        return keras.ops.relu(y)

    def after(self, y):
        return self.activation(y)


def rule(layer):
    return LayerRule(
        {
            "w": Geometry("kernel", (8, 8), (), (0,), (1,)),
            "b": Geometry("bias"),
        },
        LinearUnits(layer.w, (1,), bias=layer.b),
    )


def net(cls):
    """A net in which the layer of the class is not the last to be corrected."""
    kx.inspection.register_layer(cls)(rule)
    layers = [L.Dense(8, "relu"), cls(name="mine"), L.Dense(8), L.Dense(2)]
    return keras.Sequential([keras.Input((8,)), *layers])


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize(
    "cls", [UnderAnotherName, InsideTheCall, Squared, AttributeNotUsed]
)
def test_an_output_that_is_not_linear_is_refused(cls, batch_size, rng):
    model = net(cls)
    before = model.get_weights()
    message = (
        f"rule of {cls.__name__} says .* linear in 'w'.* that of 'mine' is "
        "otherwise.* through its attribute `activation`.* scaled to a variance"
    )
    with pytest.raises(ValueError, match=message):
        kx.calibrate(
            model, rng.standard_normal((100, 8)), batch_size=batch_size
        )
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("cls", [OfTheClass, Method])
def test_an_activation_of_the_class_is_seen(cls, batch_size, rng):
    model, x = net(cls), rng.standard_normal((100, 8), np.float32)
    done = kx.calibrate(model, x, batch_size=batch_size)
    assert not done.skipped
    assert not any(done.notes)
    first, mine, *_ = model.layers
    signal = np.asarray(first(x)) @ np.asarray(mine.w) + np.asarray(mine.b)
    assert np.allclose(signal.var(axis=0), 1, atol=1e-4)
    assert np.allclose(signal.mean(axis=0), 0, atol=1e-4)
    assert np.allclose(kx.measure(model, x).sample_variance, 1, atol=1e-4)
    assert "activation" not in vars(mine)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_a_subclass_of_a_layer_of_keras_is_refused(batch_size, rng):
    """Keras offers `convolution_op` to be overridden, under the same `call`."""

    class Standardized(L.Conv2D):
        def convolution_op(self, inputs, kernel):
            kernel = kernel / keras.ops.std(
                kernel, axis=(0, 1, 2), keepdims=True
            )
            return super().convolution_op(inputs, kernel)

    model = keras.Sequential([keras.Input((9, 9, 4)), Standardized(5, 3)])
    x = rng.standard_normal((100, 9, 9, 4), np.float32)
    with pytest.raises(ValueError, match=r"rule of Standardized .*'kernel'"):
        kx.calibrate(model, x, batch_size=batch_size)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_a_bias_that_the_units_do_not_name(batch_size, rng):
    model, x = net(Linear), rng.standard_normal((100, 8), np.float32)
    kx.inspection.register_layer(Linear)(
        lambda la: LayerRule(rule(la).weights, LinearUnits(la.w, (1,)))
    )
    model.layers[1].b.assign(np.full(8, 0.2))
    with pytest.raises(ValueError, match="no bias but that of its LinearUnits"):
        kx.calibrate(model, x, batch_size=batch_size)
    model.layers[1].b.assign(np.zeros(8))
    done = kx.calibrate(model, x, batch_size=batch_size)
    note = "its LinearUnits name no bias, so scaled only"
    assert done["mine"].note == note
    measured = kx.measure(model, x)
    assert np.allclose(done.squared_mean, measured.squared_mean, atol=1e-4)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize(
    ("dtype", "mean"),
    [("float32", 1e6), ("bfloat16", 300), ("mixed_bfloat16", 3000)],
)
def test_rounding_is_no_reason_to_refuse(dtype, mean, batch_size, policy, rng):
    """Inputs with a large mean, of which rounding leaves little."""
    policy(dtype)
    layers = [L.Dense(64), L.Dense(64, "relu"), L.Dense(8)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    x = (mean + rng.standard_normal((100, 64))).astype(np.float32)
    done = kx.calibrate(model, x, batch_size=batch_size)
    assert not done.skipped


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_random_layers_are_not_refused(batch_size, rng):
    """Other random numbers at each run say nothing of a rule."""

    class Noisy(Linear):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.drop = L.Dropout(0.5)

        def call(self, x, training=None):
            return self.drop(x, training=training) @ self.w + self.b

    model = net(Noisy)
    x = rng.standard_normal((100, 8), np.float32)
    done = kx.calibrate(model, x, training=True, batch_size=batch_size)
    assert not done.skipped
