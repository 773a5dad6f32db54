"""Predictions are the mean over freshly drawn networks."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from tests.prediction.networks import assert_predicted

L = keras.layers
ops = keras.ops
WIDTH = 256


def scaled(gain):
    return keras.initializers.VarianceScaling(
        gain, "fan_in", "untruncated_normal"
    )


def dense(activation=None, gain=1.0, units=WIDTH):
    return L.Dense(units, activation, kernel_initializer=scaled(gain))


class Halves(keras.layers.Layer):
    """A layer with a call of its own, on a layer that holds weights."""

    def __init__(self):
        super().__init__()
        self.inner = dense("relu", 2.0)

    def call(self, x):
        return x + 0.5 * self.inner(x)


class Places(keras.layers.Layer):
    """Adds an embedding of positions."""

    def __init__(self):
        super().__init__(name="places")
        self.place = L.Embedding(
            9, WIDTH, embeddings_initializer="normal", name="p"
        )

    def build(self, shape):
        self.place.build((9,))

    def call(self, x):
        return x + self.place(ops.arange(9))


def branches(inputs):
    """Merges of every kind, which meet in one last layer."""
    x = dense()(inputs)
    ends = []
    # What branches have in common counts.
    ends.append(dense()(x + ops.relu(x)))
    gate, value = ops.split(x, 2, axis=-1)
    ends.append(dense()(value * ops.sigmoid(gate)))
    ends.append(dense()(x * ops.sigmoid(x)))
    ends.append(Halves()(x))
    # Residual branches before and after an activation, and normalized.
    stream = x
    for _ in range(2):
        branch = dense("gelu", 2.0)(L.LayerNormalization()(stream))
        stream = stream + dense()(branch)
    ends.append(stream)
    stream = L.ReLU()(x)
    for _ in range(3):
        stream = L.ReLU()(L.Add()([stream, dense()(stream)]))
    ends.append(stream)
    # One layer at several places.
    shared = dense("tanh", 2.0)
    ends.append(shared(shared(shared(x))))
    twin = keras.Sequential([dense("relu", 2.0)], name="twin")
    ends.append(L.Subtract()([twin(x), twin(0.5 * x - 0.2)]))
    # Products, maxima and channels that differ in distribution.
    other = dense("tanh", 2.0)(x)
    ends.append(L.Multiply()([ops.relu(x), other]))
    ends.append(L.Maximum()([x, other]))
    mixed = L.Concatenate()([dense("relu", 2.0, 128)(x), other])
    ends.append(dense("elu", 2.0)(mixed))
    return dense()(L.Concatenate()(ends))


@pytest.mark.slow
def test_graphs_of_dense_layers(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    x = rng.normal(size=(3, 16)) + 0.5 * rng.normal(size=(1, 16))
    inputs = keras.Input((16,))
    model = keras.Model(inputs, branches(inputs))
    found = kx.predict(model, x, samples=3)
    assert_predicted(found, model, x, pytestconfig.seed, wide=0.02)
    assert {"exact", "wide", "sampled"} == set(found.exactness)


def convolution(filters=32, size=3, **options):
    options = {"padding": "same", "activation": "relu"} | options
    kind = options.pop("kind", L.Conv2D)
    return kind(filters, size, kernel_initializer=scaled(2.0), **options)


def windows(inputs):
    """Windows of every kind, which meet in one last layer."""
    x = convolution()(inputs)
    ends = [
        convolution(strides=2)(x),
        convolution(dilation_rate=2, groups=2)(x),
        convolution(kind=L.Conv2DTranspose, strides=2)(x),
        convolution(activation=None)(L.MaxPooling2D(2, 1)(x)),
        L.MaxPooling2D(2)(x),
        L.AveragePooling2D(3, 1, "same")(x),
        convolution(padding="valid")(L.ZeroPadding2D(((2, 0), (0, 1)))(x)),
        convolution(size=2)(L.UpSampling2D(2)(x)),
        L.SeparableConv2D(
            32,
            3,
            activation="relu",
            depthwise_initializer=scaled(1.0),
            pointwise_initializer=scaled(2.0),
        )(x),
        L.LayerNormalization()(x),
        L.GroupNormalization(2)(x),
    ]
    pooled = [L.GlobalAveragePooling2D()(end) for end in ends]
    pooled.append(L.GlobalMaxPooling2D()(x))
    pooled.append(dense("relu", 2.0, 64)(L.Flatten()(L.Cropping2D(1)(x))))
    # A gate for each channel, as in a squeeze-and-excite block.
    gate = dense("sigmoid", 1.0, 32)(L.GlobalAveragePooling2D(keepdims=True)(x))
    pooled.append(L.GlobalAveragePooling2D()(convolution()(x * gate)))
    return dense(units=64)(L.Concatenate()(pooled))


@pytest.mark.slow
def test_windows(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    x = rng.normal(size=(2, 4, 4, 3)) + rng.normal(size=(1, 1, 1, 3))
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, windows(inputs))
    found = kx.predict(model, x)
    assert_predicted(found, model, x, pytestconfig.seed, wide=0.1)


def sequence(tokens):
    x = L.Embedding(20, WIDTH, embeddings_initializer="normal", name="e")(
        tokens
    )
    x = L.LayerNormalization(epsilon=1e-3)(Places()(x))
    x = x + dense()(dense("gelu", 2.0)(L.RMSNormalization()(x)))
    first = dense("relu", 2.0)(x[:, 0])
    steps = L.TimeDistributed(dense("tanh", 2.0))(x)
    heads = L.EinsumDense(
        "abc,cde->abde", (None, 4, 8), kernel_initializer="lecun_normal"
    )(steps)
    joined = ops.reshape(ops.gelu(heads), (-1, 9, 32))
    means = ops.mean(dense("relu", 2.0)(joined), axis=1)
    return dense()(L.Concatenate()([first, means]))


@pytest.mark.slow
def test_sequences(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    tokens = rng.integers(0, 20, (3, 9))
    inputs = keras.Input((9,))
    model = keras.Model(inputs, sequence(inputs))
    found = kx.predict(model, tokens)
    # The projection to 32 channels is narrow.
    assert_predicted(found, model, tokens, pytestconfig.seed, wide=0.1)
    # No sample reaches the embedding of positions.
    assert found["places/p"].sample_variance == 0


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal, pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    tokens = rng.integers(0, 20, (2, 8))
    inputs = keras.Input((8,))
    x = L.Embedding(20, WIDTH, embeddings_initializer=scaled(20.0))(inputs)
    normalized = L.LayerNormalization()(x)
    attend = L.MultiHeadAttention(8, 32, kernel_initializer="lecun_normal")
    x = x + attend(normalized, normalized, use_causal_mask=causal)
    x = x + dense()(dense("gelu", 2.0)(L.LayerNormalization()(x)))
    model = keras.Model(inputs, dense()(L.GlobalAveragePooling1D()(x)))
    found = kx.predict(model, tokens)
    assert_predicted(found, model, tokens, pytestconfig.seed, wide=0.1)
    assert {"exact", "sampled"} >= set(found.exactness)
    with pytest.raises(ValueError, match="no rule for this width"):
        kx.predict(model, tokens, width="actual", networks=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "dropout"])
def test_training_mode(kind, pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    x = rng.normal(size=(24, 16))
    model = keras.Sequential([keras.Input((16,))])
    for _ in range(3):
        model.add(dense(gain=2.0))
        if kind == "batch":
            model.add(L.BatchNormalization())
        model.add(L.ReLU())
        if kind == "dropout":
            model.add(L.Dropout(0.3))
    model.add(dense())
    found = kx.predict(model, x, training=True, samples=24)
    assert_predicted(found, model, x, pytestconfig.seed, 0.05, training=True)
    known = {"batch": {"approximated"}, "dropout": {"exact", "wide"}}
    assert set(found.exactness) <= known[kind]
