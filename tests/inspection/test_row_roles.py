"""What each row of a profile is, in models with several kernels of zeros."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.inspection.row_roles import row_roles
from keras_initx.inspection.traversal import inspect_model

L = keras.layers


def dense(name, kernel="he_normal", **options):
    return L.Dense(4, kernel_initializer=kernel, name=name, **options)


def zeros(name, **options):
    return dense(name, "zeros", **options)


def block(name):
    """A layer without a graph, which ends in a kernel of zeros."""

    class Block(L.Layer):
        def __init__(self):
            super().__init__(name=name)
            self.inner = zeros("z")

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return x + self.inner(x)

    return Block()


class Chain(keras.Model):
    """Layers in series, without a graph."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = [dense("d"), *parts]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def in_series(x):
    return zeros("b")(zeros("a", activation="relu")(x))


def with_normalization(x):
    x = L.ReLU()(L.BatchNormalization(name="norm")(zeros("a")(x)))
    return zeros("b")(x)


def heads(x):
    return [zeros("a")(x), zeros("b")(x)]


def branches(x):
    for name in "abc":
        x = x + zeros(name)(x)
    return x


def branch_and_head(x):
    return zeros("b")(L.Add()([x, zeros("a")(x)]))


def head_between(x):
    first = zeros("a")(x)
    return [zeros("b")(x), zeros("c")(first)]


def twice(x):
    layer = zeros("a")
    return layer(layer(x))


def on_two(x):
    layer = zeros("a")
    return [layer(x), layer(L.ReLU()(x))]


def nested(x):
    inner = keras.Sequential([keras.Input((3, 4)), zeros("a")], name="inner")
    return zeros("b")(inner(x))


def by_steps(x):
    return zeros("b")(L.TimeDistributed(zeros("a"), name="by")(x))


def residual(x):
    for name in "ab":
        branch = keras.Sequential([zeros("z")], name="in")
        x = kx.layers.Residual(branch, name=name)(x)
    return x


def opaque(x):
    return block("b")(block("a")(x))


def attention(has_skip):
    def build(x):
        layer = L.MultiHeadAttention(1, 4, name="a")
        y = layer(x, x)
        kernel = inspect_model(layer).rule(layer).output_layer.kernel
        kernel.assign(np.zeros(kernel.shape))
        return zeros("b")(x + y if has_skip else y)

    return build


def zero_attention(x):
    layer = L.MultiHeadAttention(1, 4, kernel_initializer="zeros", name="a")
    return x + layer(x, x)


MODELS = {
    # Neither of two kernels of zeros in series is ever trained.
    "in series": (in_series, "a b", "zeros signal"),
    "normalization": (with_normalization, "a b", "zeros signal"),
    "a head between": (head_between, "a b c", "zeros zeros signal"),
    "twice": (twice, "a a:2", "zeros signal"),
    "nested": (nested, "inner/a b", "zeros signal"),
    "by steps": (by_steps, "by/a b", "zeros signal"),
    "attention": (
        attention(has_skip=False),
        "a/attention_output b",
        "zeros signal",
    ),
    "zero attention": (
        zero_attention,
        "a/value a/attention_output",
        "zeros signal",
    ),
    # Each of these is, since something else reaches it.
    "heads": (heads, "a b", "zeros zeros"),
    "branches": (branches, "a b c", "zeros zeros zeros"),
    "branch and head": (branch_and_head, "a b", "zeros zeros"),
    "on two tensors": (on_two, "a a:2", "zeros zeros"),
    "residual": (residual, "a/in/z b/in/z", "zeros zeros"),
    "opaque blocks": (opaque, "a/z b/z", "zeros zeros"),
    "attention with a skip": (
        attention(has_skip=True),
        "a/attention_output b",
        "zeros zeros",
    ),
}


def roles_of(model, names):
    names = ["d", *names.split()]
    variance = np.array([1.0] + [0.0] * (len(names) - 1))
    view = inspect_model(model)
    return row_roles(view, names, [4] * len(names), variance)


@pytest.mark.parametrize("name", MODELS)
def test_kernels_of_zeros_in_series_are_no_heads(name):
    make, rows, roles = MODELS[name]
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, make(dense("d")(inputs)))
    assert roles_of(model, rows) == ("signal", *roles.split())


def chain(*parts):
    model = Chain(*parts)
    model(np.zeros((1, 4), "float32"))
    return model


def test_only_the_last_row_is_a_head_in_a_model_without_a_graph():
    model = chain(zeros("a"), zeros("b"))
    assert roles_of(model, "a b") == ("signal", "zeros", "signal")
    assert roles_of(model, "b") == ("signal", "zeros")


class Empty(L.Dense):
    """A layer that is false as a condition."""

    def __len__(self):
        return 0


def test_a_layer_of_length_0_has_a_role():
    # The name is one that a second call of another layer would have.
    for name in ("a", "a:2"):
        layer = Empty(4, kernel_initializer="zeros", name=name)
        assert roles_of(chain(layer), name) == ("signal", "zeros")
    assert roles_of(chain(zeros("a")), "a:2") == ("signal", "zeros")
