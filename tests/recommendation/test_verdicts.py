"""The verdict of a prediction is that of a measurement of the same model."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.measurement.data import is_white_noise
from tests.recommendation import networks

L = keras.layers
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(64, networks.WIDTH)).astype("float32")
IMAGES = RNG.normal(size=(64, 8, 8, 3)).astype("float32")
TOKENS = RNG.integers(0, 20, (64, 3))


def body(model):
    """A network without its head of three units, whose fraction is random."""
    return keras.Model(model.inputs[0], model.layers[-2].output)


def dead(bias=0.0):
    """A network whose third layer is off, and the biases of the next one."""
    model = networks.chain(4, "relu", "he_normal")
    model.layers[2].bias.assign(np.full(networks.WIDTH, -30.0))
    model.layers[3].bias.assign(np.full(networks.WIDTH, bias))
    return model


def images(initializer=keras.initializers.HeNormal, skips=False):
    x = inputs = keras.Input(IMAGES.shape[1:])
    for i in range(4):
        layer = L.Conv2D(
            16,
            3,
            padding="same",
            activation="relu",
            kernel_initializer=initializer(),
        )
        x = x + layer(x) if skips and i else layer(x)
    x = L.GlobalAveragePooling2D()(L.AveragePooling2D(2)(x))
    return keras.Model(inputs, L.Dense(8)(x))


def zero_head():
    model = body(networks.chain(3, "relu", "he_normal"))
    head = L.Dense(3, kernel_initializer="zeros")
    return keras.Model(model.inputs[0], head(model.output))


def zeros_behind(join):
    """A network that ends in two kernels of zeros."""
    model = body(networks.chain(2, "relu", "he_normal"))
    x = model.output
    for _ in range(2):
        layer = L.Dense(networks.WIDTH, kernel_initializer="zeros")
        x = join(x, layer(x))
    return keras.Model(model.inputs[0], x)


def small_embedding():
    layers = [
        L.Embedding(20, 32, embeddings_initializer=networks.normal(1e-4)()),
        L.LayerNormalization(epsilon=1e-12),
        L.Dense(32, "relu"),
        L.Dense(32),
    ]
    return keras.Sequential([keras.Input((3,), dtype="int32"), *layers])


MODELS = {
    "he": (
        lambda: body(networks.chain(3, "relu", "he_normal")),
        NOISE,
        "lives",
    ),
    "small": (
        lambda: networks.chain(8, "relu", networks.normal(0.05)),
        NOISE,
        "vanishes",
    ),
    "large": (
        lambda: networks.chain(6, "relu", networks.normal(1.5)),
        NOISE,
        "explodes",
    ),
    "dead": (dead, NOISE, "dies"),
    "dead with biases behind it": (lambda: dead(0.1), NOISE, "dies"),
    "saturated": (
        lambda: networks.chain(3, "tanh", networks.normal(1.5)),
        NOISE,
        "lives",
    ),
    "tanh": (
        lambda: body(networks.chain(2, "tanh", "glorot_uniform")),
        NOISE,
        "lives",
    ),
    "residual": (
        lambda: body(networks.tower(4, factor=0.5)),
        NOISE,
        "lives",
    ),
    # The fraction of white noise is here 0.01 behind the pooling.
    "images": (images, IMAGES, "lives"),
    "residual images": (lambda: images(skips=True), IMAGES, "lives"),
    "images that vanish": (
        lambda: images(networks.normal(0.01)),
        IMAGES,
        "vanishes",
    ),
    "a head of zeros": (zero_head, NOISE, "lives"),
    "branches of zeros": (
        lambda: zeros_behind(lambda x, y: x + y),
        NOISE,
        "lives",
    ),
    "zeros in series": (
        lambda: zeros_behind(lambda x, y: keras.ops.relu(y)),
        NOISE,
        "vanishes",
    ),
    "a small embedding": (small_embedding, TOKENS, "lives"),
}


@pytest.mark.parametrize("name", MODELS)
def test_prediction_and_measurement_agree(name):
    make, data, state = MODELS[name]
    model = make()
    measured = kx.measure(model, data, gradient=True)
    predicted = [kx.predict(model, data, samples=2)]
    if data is IMAGES:
        predicted.append(kx.predict(model))
    for profile in (measured, *predicted):
        assert profile.verdict.state == state, f"{profile}"
        assert profile.roles == measured.roles
        has_positions = data is IMAGES
        assert profile.is_noise_of_positions is has_positions
        sentence = str(profile.verdict)
        assert ("starts at zero" in sentence) == name.endswith("of zeros")


def test_what_each_row_is():
    inputs = keras.Input((3,), dtype="int32")
    table = L.ReversibleEmbedding(9, 8, name="table")
    x = table(inputs)
    x = L.MultiHeadAttention(2, 4, name="a")(x, x)
    x = L.GroupQueryAttention(4, 2, 1, name="b")(x, x)
    # A projection of this name that is no part of attention.
    x = L.Dense(8, name="query")(x)
    zeros = L.Dense(2, kernel_initializer="zeros", name="zeros")(x)
    model = keras.Model(inputs, [table(x, reverse=True), zeros])
    roles = {
        "table": "table",
        "a/query": "scores",
        "a/key": "scores",
        "b/query": "scores",
        "b/key": "scores",
        "zeros": "zeros",
    }
    profile = kx.measure(model, TOKENS % 9)
    assert len(profile) == 12
    for name, role in zip(profile.layers, profile.roles, strict=True):
        assert role == roles.get(name, "signal"), name


def one_hot(samples, steps, size):
    symbols = RNG.integers(0, size, (samples, steps))
    return (symbols[..., None] == np.arange(size)).astype("float32")


def test_white_noise_of_positions_is_no_data():
    smooth = np.cumsum(IMAGES, axis=1)
    # Neighbors have the correlation 0.03, which many numbers show: z is 13,
    # and below 5 with a probability below 1e-15.
    many = RNG.normal(size=(2, 100_000, 1))
    many[:, 1:] += 0.03 * many[:, :-1]
    # Few numbers show no correlation that is not large.
    few = np.array([[[1.0], [0.9], [-0.9], [-1.0]]] * 2)
    sparse = (RNG.random((64, 100, 3)) < 0.01).astype("float32")
    for data, expected in [
        (IMAGES, True),
        (IMAGES[:2], True),
        (1e3 * RNG.uniform(-1, 1, IMAGES.shape).astype("float16"), True),
        ([IMAGES, NOISE], True),
        # Numbers without positions have none that become alike.
        (NOISE, False),
        (1 + IMAGES, False),
        (smooth, False),
        (np.cumsum(IMAGES, axis=2), False),
        (np.repeat(IMAGES, 2, axis=1), False),
        ([IMAGES, smooth], False),
        (many, False),
        (few, False),
        # What is never negative has no mean of 0.
        (np.eye(4, dtype="float32")[TOKENS % 4], False),
        *((one_hot(16, 16, size), False) for size in (50, 1000, 20_000)),
        (one_hot(1, 5, 1000), False),
        (-one_hot(1, 5, 1000), False),
        (sparse, False),
        ([IMAGES, sparse], False),
        # Most numbers are 0, and a few more are positive than negative.
        (sparse - 0.3 * sparse[::-1], False),
        # An axis of length 1 has no positions that become alike.
        (np.ones((8, 1, 5)), False),
        (NOISE[:, None], False),
        (NOISE[:, None, None], False),
        ([IMAGES, NOISE[:, None]], True),
        (IMAGES.reshape(64, 1, 64, 3), True),
        (TOKENS[..., None], False),
        (np.zeros_like(IMAGES), False),
        (np.array([["a", "b"]]), False),
    ]:
        assert is_white_noise(data) is expected
    # In a model without rows at positions they do not count.
    flat = keras.Sequential([keras.Input((8, 8, 3)), L.Flatten(), L.Dense(4)])
    assert not kx.measure(flat, IMAGES).is_noise_of_positions
    findings = kx.recommend(images(), IMAGES)
    assert not findings, str(findings)
    assert "other data" in str(findings)
