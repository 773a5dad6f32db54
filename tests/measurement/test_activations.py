"""Dead and saturated units, compared with the outputs of activations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.measurement.moments import (
    activation_outputs,
    dead_fractions,
    layer_moments,
    merged,
    of_all_layers,
)

L = keras.layers
X = np.random.default_rng(1).normal(size=(24, 4, 6)).astype("float32")


def dead(output):
    """The share of constant units, by NumPy."""
    y = np.asarray(output)
    y = y.reshape(len(y), -1)
    return (y == y[0]).all(axis=0).mean()


def set_biases(layer):
    """Sets biases so that some units are off, some on, and some change."""
    for weight in layer.weights:
        if weight.name == "bias":
            weight.assign(np.resize([-50, 0, 50, 0, -50], weight.shape))


class Positions(L.Layer):
    """Adds an embedding of the positions."""

    def __init__(self, name):
        super().__init__(name=name)
        self.table = L.Embedding(4, 6, name="a")

    def call(self, x):
        return x + self.table(keras.ops.arange(4))


class Sub(keras.Model):
    """A model that calls functions of TensorFlow between its layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.norm = L.Dense(5), L.BatchNormalization()
        self.last = L.Dense(2, name="last")

    def call(self, x):
        return self.last(self.function(self.norm(self.first(x))))


def dense(x, units=5, activation=None, name=None):
    layer = L.Dense(units, activation, name=name)
    return layer(x)


def fused(activation):
    def build(x):
        y = dense(x, 5, activation, "a")
        return dense(y, name="b"), {"a": y, "b": None}

    return build


def behind(*between, activation=None):
    """A dense layer, other layers, and an activation of its own."""

    def build(x):
        h = dense(x, 6, name="a")
        for layer in between:
            h = layer()(h)
        y = (activation or L.ReLU)()(h)
        return dense(y, name="b"), {"a": y, "b": None}

    return build


def residual(x):
    h = dense(x, 6, "relu", "a")
    branch = dense(dense(h, 5, "relu", "b"), 6, name="c")
    y = L.ReLU()(L.Add()([h, branch]))
    return dense(y, name="d"), {"c": y, "d": None}


def projection(x):
    skip, branch = dense(x, 6, name="a"), dense(x, 6, name="b")
    y = L.Activation("relu")(skip + L.BatchNormalization()(branch))
    return dense(y, name="c"), {"a": y, "b": y, "c": None}


def pre_activation(x):
    """Two residual blocks whose activations stand before the kernels."""
    h = dense(x, 6, name="a")
    first = L.ReLU()(h)
    h = L.Add()([h, dense(first, 6, name="b")])
    second = L.ReLU()(h)
    h = L.Add()([h, dense(second, 6, name="c")])
    return h, {"a": first, "b": second, "c": None}


def two_ways(x):
    h = dense(x, 6, name="a")
    y = L.ReLU()(h)
    return L.Concatenate()([y, L.Dropout(0.2)(h)]), {"a": y}


def shared_row(x):
    layer = L.Dense(6, "relu", name="a")
    first = layer(x)
    second = layer(first)
    return second, {"a": first, "a:2": second}


def conv(x):
    y = L.Conv1D(5, 2, activation="relu", name="a")(x)
    z = L.ReLU()(L.MaxPooling1D(2)(L.Conv1D(5, 1, name="b")(y)))
    return z, {"a": y, "b": z}


def squeeze(x):
    """A gate, whose own activation is not that of what it multiplies."""
    h = dense(x, 6, name="a")
    gate = dense(L.GlobalAveragePooling1D()(h), 6, "sigmoid", "b")
    y = L.ReLU()(h * L.Reshape((1, 6))(gate))
    return y, {"a": y, "b": gate}


def recurrent(x):
    y = L.SimpleRNN(5, "relu", return_sequences=True, name="a")(x)
    z = L.SimpleRNN(5, "relu", name="b")(y)
    return z, {"a": y, "b": z}


def attention(x):
    y = L.MultiHeadAttention(2, 3, name="a")(x, x)
    rows = ("query", "key", "value", "attention_output")
    return y, {f"a/{name}": None for name in rows}


def embedded(x):
    """A row that no sample reaches has no activation of its own."""
    y = L.ReLU()(Positions(name="p")(dense(x, 6, name="b")))
    return y, {"p/a": None, "b": y}


def around(there, back):
    """An activation of another first axis, and one of as many units."""

    def build(x):
        h = L.ReLU()(there(dense(x, 2, name="a")))
        y = dense(back(h), 2, "elu", "b")
        return y, {"a": None, "b": y}

    return build


CASES = {
    **{
        f"Dense({activation})": fused(activation)
        for activation in ("relu", "relu6", "tanh", "sigmoid", "gelu", "elu")
    },
    "Dense(linear)": lambda x: (dense(x, 6, "linear", "a"), {"a": None}),
    "Dense(a layer)": fused(L.LeakyReLU(0.0)),
    "Dense(a function)": fused(lambda x: keras.ops.maximum(x, 1.0)),
    "Dense -> ReLU": behind(),
    "Dense -> Activation": behind(activation=lambda: L.Activation("relu6")),
    "Dense -> PReLU": behind(activation=L.PReLU),
    "Dense -> ShapedReLU": behind(
        activation=lambda: kx.layers.ShapedReLU(c_minus=-2.0, width=4)
    ),
    "Dense -> BatchNormalization -> ReLU": behind(L.BatchNormalization),
    "Dense -> LayerNormalization -> Dropout -> ReLU": behind(
        L.LayerNormalization, lambda: L.Dropout(0.5)
    ),
    "Dense -> Flatten -> ReLU": behind(L.Flatten),
    "Dense -> Activation(linear) -> ReLU": behind(
        lambda: L.Activation("linear")
    ),
    "Dense -> Lambda(relu)": behind(
        activation=lambda: L.Lambda(lambda x: tf.nn.relu(x))
    ),
    "sum with a skip": residual,
    "sum of two rows": projection,
    "activation before the kernel": pre_activation,
    "two ways on": two_ways,
    "a layer called twice": shared_row,
    "convolutions and pooling": conv,
    "a gate": squeeze,
    "recurrent": recurrent,
    "attention": attention,
    "positions": embedded,
    "halves of samples": around(
        lambda x: keras.ops.reshape(x, (-1, 2, 2)),
        lambda x: keras.ops.reshape(x, (-1, 2, 4)),
    ),
    "two views": around(
        lambda x: keras.ops.concatenate([x, -x], axis=0),
        lambda x: sum(keras.ops.split(x, 2, axis=0)) / 100,
    ),
}


def built(build):
    keras.utils.set_random_seed(7)
    x = keras.Input(X.shape[1:])
    output, rows = build(x)
    model = keras.Model(x, output)
    set_biases(model)
    expected = {
        name: np.nan if y is None else dead(keras.Model(x, y)(X))
        for name, y in rows.items()
    }
    return model, expected


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_dead_units_are_those_of_numpy(build):
    model, expected = built(build)
    meter = kx.Meter(model)
    for size in (24, 7):
        profile = meter(X, batch_size=size)
        shares = dict(zip(profile.layers, profile.dead_fraction, strict=True))
        for name, share in expected.items():
            np.testing.assert_allclose(shares[name], share, err_msg=name)


def test_the_table_has_dead_units():
    found = [built(CASES[name])[1] for name in ("Dense(relu)", "recurrent")]
    assert all(0 < shares["a"] < 1 for shares in found)


@pytest.mark.parametrize("function", [tf.nn.relu, keras.ops.relu, tf.nn.elu])
def test_functions_between_the_layers(function):
    model = Sub(function)
    model(X)
    set_biases(model.first)
    profile = kx.measure(model, X)
    y = function(model.norm(model.first(X)))
    np.testing.assert_allclose(profile.dead_fraction, [dead(y), np.nan])
    assert profile.dead_fraction[0] > 0 or function is tf.nn.elu


def test_time_distributed():
    keras.utils.set_random_seed(7)
    first, second, third = (L.Dense(5, name=f"d{i}") for i in range(3))
    first.activation = keras.activations.relu
    parts = [
        L.TimeDistributed(first, name="a"),
        L.TimeDistributed(second, name="b"),
        L.TimeDistributed(L.ReLU()),
        L.TimeDistributed(third, name="c"),
        L.ReLU(),
    ]
    model = keras.Sequential([keras.Input(X.shape[1:]), *parts])
    for layer in (first, second, third):
        set_biases(layer)
    expected, h = [], X
    for part in parts:
        h = part(h)
        expected.append(dead(h))
    profile = kx.measure(model, X)
    assert profile.layers == ("a/d0", "b/d1", "c/d2")
    np.testing.assert_allclose(
        profile.dead_fraction, np.take(expected, [0, 2, 4])
    )
    assert profile.dead_fraction[0] > 0


def test_lstm_candidates():
    """The activation of the candidate counts, not the output."""
    layer = L.LSTM(5, unit_forget_bias=False, return_sequences=True)
    model = keras.Sequential([keras.Input(X.shape[1:]), layer])
    layer.cell.bias.assign(np.r_[np.zeros(10), [99, 0, 0, -99, 0], np.zeros(5)])
    profile = kx.measure(model, X)
    np.testing.assert_allclose(profile.dead_fraction, 0.4)
    assert 0.4 <= profile.saturated_fraction[0] < 0.7


def test_constant_over_all_samples_is_more_than_over_each_batch():
    model = keras.Sequential(
        [keras.Input((1,)), L.Dense(3, "relu", kernel_initializer="ones")]
    )
    model.layers[0].bias.assign([0, -2, -9])
    x = np.repeat([1.0, 3.0], 8)[:, None]
    assert kx.measure(model, x[:8]).dead_fraction == 1
    profile = kx.measure(model, x, batch_size=8)
    np.testing.assert_allclose(profile.dead_fraction, 1 / 3)


def test_a_net_whose_output_is_zero_shows_it():
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(8, "relu"), L.Dense(1, "relu")]
    )
    model.layers[1].bias.assign([-100])
    profile = kx.measure(model, X[:, 0])
    assert profile.dead_fraction[1] == 1
    assert "dead" in str(profile)


# ---- Saturation ------------------------------------------------------------

BOUNDED = {
    "tanh": (-0.97, 0.97),
    "sigmoid": (0.015, 0.985),
    "hard_sigmoid": (0.015, 0.985),
    "softsign": (-0.97, 0.97),
    "hard_tanh": (-0.97, 0.97),
}


@pytest.mark.slow
@pytest.mark.parametrize("own_layer", [False, True])
@pytest.mark.parametrize(("name", "limits"), BOUNDED.items())
def test_saturated_units_are_those_of_numpy(name, limits, own_layer):
    layers = (
        [L.Dense(7), L.Activation(name)] if own_layer else [L.Dense(7, name)]
    )
    model = keras.Sequential([keras.Input((6,)), *layers])
    kernel = model.layers[0].kernel
    kernel.assign(5 * kernel)
    x = X.reshape(-1, 6)
    y = model(x).numpy()
    expected = ((y < limits[0]) | (y > limits[1])).mean()
    assert 0 < expected < 1 or name == "softsign"
    for size in (len(x), 11):
        profile = kx.measure(model, x, batch_size=size)
        np.testing.assert_allclose(
            profile.saturated_fraction, [expected], atol=1e-6
        )


@pytest.mark.parametrize("function", [tf.nn.tanh, tf.math.tanh, keras.ops.tanh])
def test_functions_of_tensorflow_have_the_bounds_of_keras(function):
    model = keras.Sequential([keras.Input((6,)), L.Dense(7, function)])
    kernel = model.layers[0].kernel
    kernel.assign(1e4 * kernel)
    assert kx.measure(model, X[:, 0]).saturated_fraction[0] > 0.99


@pytest.mark.parametrize(
    "name", ["relu", "gelu", "softplus", "softmax", "linear"]
)
def test_other_activations_do_not_saturate(name):
    model = keras.Sequential([keras.Input((6,)), L.Dense(7, name)])
    assert np.isnan(kx.measure(model, X[:, 0]).saturated_fraction).all()


# ---- Rows for the outputs of activations -----------------------------------


def test_layers_picks_the_output_of_a_fused_activation():
    model, _ = built(fused("relu"))
    y = keras.Model(model.input, model.get_layer("a").output)(X).numpy()
    profile = kx.measure(model, X, layers="a/activation")
    assert profile.layers == ("a/activation",)
    flat = y.reshape(len(y), -1)
    np.testing.assert_allclose(
        profile.sample_variance, flat.var(axis=0).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(profile.dead_fraction, dead(y))
    both = kx.measure(model, X, layers=["b", "a/activation", "a"])
    assert both.layers == ("a", "a/activation", "b")
    np.testing.assert_allclose(both.dead_fraction, [dead(y), dead(y), np.nan])


def test_calls_of_a_shared_activation_are_counted():
    model, _ = built(shared_row)
    profile = kx.measure(model, X, layers=["a", "a/activation"])
    assert profile.layers == (
        "a",
        "a/activation",
        "a:2",
        "a/activation:2",
    )


def test_names_inside_of_models():
    inside = keras.Sequential([L.Dense(5, "relu", name="a")], name="inside")
    model = keras.Sequential([keras.Input((6,)), inside, L.Dense(2)])
    for name in ("a/activation", "inside/a/activation"):
        profile = kx.measure(model, X[:, 0], layers=name)
        assert profile.layers == ("inside/a/activation",)


def test_a_picked_activation_layer_is_its_own_row():
    model, expected = built(behind())
    relu = next(each for each in model.layers if isinstance(each, L.ReLU))
    profile = kx.measure(model, X, layers=["a", relu])
    np.testing.assert_allclose(profile.dead_fraction, [expected["a"]] * 2)
    profile = kx.measure(model, X, layers=relu)
    np.testing.assert_allclose(profile.dead_fraction, [expected["a"]])


def test_an_activation_that_there_is_not_is_refused():
    model = keras.Sequential(
        [keras.Input((6,)), L.Dense(2, name="a"), L.ReLU()]
    )
    with pytest.raises(ValueError, match="b/activation"):
        kx.measure(model, X[:, 0], layers=["a", "b/activation"])


# ---- Dtypes, states, merging -----------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16", "float64"])
def test_dtypes(dtype):
    layer = L.Dense(10, "relu", dtype=dtype)
    model = keras.Sequential([keras.Input((6,), dtype="float32"), layer])
    set_biases(layer)
    x = X.reshape(-1, 6)
    expected = dead(model(x))
    assert 0 < expected < 1
    profile = kx.measure(model, x, batch_size=10)
    np.testing.assert_allclose(profile.dead_fraction, [expected])


def test_training_mode():
    model, expected = built(behind(L.BatchNormalization))
    profile = kx.measure(model, X, training=True, batch_size=8)
    # The statistics of a batch take the biases away, with what they switch.
    assert expected["a"] > 0
    assert profile.dead_fraction[0] == 0


@pytest.mark.slow
def test_merging_is_exact(rng):
    parts = [np.round(rng.normal(size=(n, 9))) * [0] * 1 for n in (3, 1, 5)]
    parts = [part + np.r_[np.zeros(4), rng.normal(size=5)] for part in parts]
    for part in parts:
        part[:, 2:4] += np.arange(len(part))[:, None]

    def moments(x):
        x = tf.constant(x, "float32")
        outputs = activation_outputs([x], (-1.0, 1.0), fuse=False)
        return of_all_layers([layer_moments([x], fuse=False)], [outputs])

    one, *others = map(moments, parts)
    for other in others:
        one = merged(one, other)
    whole = moments(np.concatenate(parts))
    np.testing.assert_array_equal(one.constants[0], whole.constants[0])
    np.testing.assert_allclose(one.saturated, whole.saturated, rtol=1e-6)
    np.testing.assert_allclose(dead_fractions(one), [2 / 9])


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 40])
def test_layers_of_many_widths_are_in_the_order_of_their_calls(size, rng):
    """Layers of equal width are reduced together, and wide ones alone."""
    widths = [3, 700, 5, 3, 2100, 3, 700, 5] + [700] * 5
    layers = [L.Dense(n, "relu", True, "he_normal") for n in widths]
    model = keras.Sequential([keras.Input((6,)), *layers])
    for layer in layers:
        layer.bias.assign(rng.normal(size=layer.units))
    x = rng.normal(size=(80, 6)).astype("float32")
    profile = kx.measure(model, x, batch_size=size)
    assert profile.units.tolist() == widths
    h = x
    for i, layer in enumerate(layers):
        before = h @ layer.kernel.numpy() + layer.bias.numpy()
        h = layer(h).numpy()
        variance = before.var(axis=0, dtype=np.float64).mean()
        square = (before.mean(axis=0, dtype=np.float64) ** 2).mean()
        row = profile[i]
        atol = 1e-5 * (variance + square)
        np.testing.assert_allclose(row.sample_variance, variance, atol=atol)
        np.testing.assert_allclose(row.squared_mean, square, atol=atol)
        np.testing.assert_allclose(row.dead_fraction, dead(h), atol=0.01)
    assert (profile.dead_fraction > 0).any()
