"""Small networks with a known fault, and without one."""

import keras
import numpy as np

L = keras.layers
WIDTH = 32


def chain(depth, activation, initializer, width=WIDTH, **options):
    """Dense layers; `initializer` is a name, or makes an instance for each."""
    layers = [
        L.Dense(
            width,
            activation,
            kernel_initializer=(
                initializer if isinstance(initializer, str) else initializer()
            ),
            **options,
        )
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((WIDTH,)), *layers, L.Dense(3)])


def normal(stddev):
    return lambda: keras.initializers.RandomNormal(stddev=stddev)


def shared_initializer():
    one = keras.initializers.HeNormal()
    return chain(4, "relu", lambda: one)


def tower(blocks, factor=None, initializer="he_normal"):
    x = inputs = keras.Input((WIDTH,))
    for _ in range(blocks):
        y = L.Dense(WIDTH, "relu", kernel_initializer=initializer)(x)
        y = L.Dense(WIDTH, kernel_initializer=initializer)(y)
        if factor is not None:
            y = L.Rescaling(factor)(y)
        x = L.Add()([x, y])
    return keras.Model(inputs, L.Dense(3)(x))


def depthwise(blocks=5, channels=32, batch_norm=False):
    layers = [keras.Input((2, 2, channels))]
    for _ in range(blocks):
        layers.append(L.DepthwiseConv2D(3, padding="same"))
        if batch_norm:
            layers.append(L.BatchNormalization())
        layers += [L.ReLU(), L.Conv2D(channels, 1, activation="relu")]
    return keras.Sequential([*layers, L.Flatten(), L.Dense(3)])


def batch_normalized(depth=30):
    layers = [keras.Input((WIDTH,))]
    for _ in range(depth):
        layers += [L.Dense(WIDTH), L.BatchNormalization(), L.ReLU()]
    return keras.Sequential([*layers, L.Dense(3)])


def dead_head():
    model = chain(3, "relu", "he_normal")
    bias = model.layers[2].bias
    bias.assign(np.full(WIDTH, -30.0))
    return model


def transformer(
    blocks=1,
    norm_first=True,
    epsilon=1e-6,
    query_gain=1.0,
    skips=True,
    tokens=3,
    channels=16,
):
    x = inputs = keras.Input((tokens,), dtype="int32")
    x = L.Embedding(20, channels)(x)

    def branch(x, layer):
        norm = L.LayerNormalization(epsilon=epsilon)
        y = layer(norm(x) if norm_first else x)
        y = L.Add()([x, y]) if skips else y
        return y if norm_first else norm(y)

    for i in range(blocks):
        attention = L.MultiHeadAttention(2, channels // 2, name=f"attention{i}")
        x = branch(x, lambda y, attention=attention: attention(y, y))
        for part in (attention.query_dense, attention.key_dense):
            part.kernel.assign(query_gain * part.kernel)
        x = branch(
            x,
            lambda y: L.Dense(channels)(L.Dense(2 * channels, "gelu")(y)),
        )
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


class Written(keras.Model):
    """A network with a `call` of its own."""

    def __init__(self, depth, initializer):
        super().__init__()
        self.initializer = initializer
        self.inner = [
            L.Dense(WIDTH, "relu", kernel_initializer=initializer())
            for _ in range(depth)
        ]

    def call(self, x):
        for layer in self.inner:
            x = layer(x)
        return x
