"""Keras models of every kind, against signals computed with NumPy.

Weights and inputs are small integers and there are eight samples, so that
float32 holds signals and their means exactly; the tolerance is for the square
root that a deviation goes through. Models with a sigmoid, a tanh or a softmax
run in float64. The integers are drawn from the seed; the tests hold for any.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_initx as kx
from keras_initx.hooks.forward_hooks import forward_hooks
from tests.helpers.stat_checks import assert_same_profile, profile_of

SAMPLES = 8


@dataclass
class Known:
    """A model, data for it, and the signals that are expected."""

    model: keras.Model
    data: Any
    signals: dict[str, np.ndarray]


@dataclass
class Case:
    """A model in the table, its dtype policy and tolerance."""

    build: Callable[[np.random.Generator], Known]
    dtype: str = "float32"
    rtol: float = 1e-6


CASES: dict[str, Case] = {}


def exact(build):
    """Adds a model whose signals are integers to the table."""
    CASES[build.__name__] = Case(build)
    return build


def in_float64(build):
    """Adds a model whose signals are not integers to the table."""
    CASES[build.__name__] = Case(build, "float64", 1e-12)
    return build


# Computations of the expected signals.


def integers(rng, *shape, low=-3, high=4):
    values = rng.integers(low, high, shape)
    return values.astype(keras.config.dtype_policy().variable_dtype)


def inputs(rng, *shape, **bounds):
    return integers(rng, SAMPLES, *shape, **bounds)


def filled(model, rng):
    """Sets the weights of a model to small integers and returns it."""
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(integers(rng, *weight.shape))
    return model


def sequential(rng, shape, *stack, dtype=None):
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *stack])
    return filled(model, rng)


def dense(layer, x):
    kernel, *bias = layer.get_weights()
    return x @ kernel + (bias[0] if bias else 0)


def relu(y):
    return np.maximum(y, 0)


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


def softmax(y):
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def convolved(x, kernel, pad=0):
    """Cross-correlation over the axes between samples and channels."""
    rank = kernel.ndim - 2
    x = np.pad(x, [(0, 0), *[(pad, pad)] * rank, (0, 0)])
    space = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[:rank], axis=space
    )
    # (samples, *space, channels, *window) by (*window, channels, filters)
    window = tuple(range(-rank, 0))
    return np.tensordot(
        windows, kernel, ((*window, -rank - 1), (*range(rank), rank))
    )


def each_channel(x, kernel):
    """Each channel convolved with filters of its own."""
    return np.concatenate(
        [
            convolved(x[..., [c]], kernel[..., [c], :])
            for c in range(x.shape[-1])
        ],
        axis=-1,
    )


def spread(x, stride):
    """Puts zeros between the entries along the axes of the convolution."""
    shape = [(n - 1) * stride + 1 for n in x.shape[1:-1]]
    wide = np.zeros((len(x), *shape, x.shape[-1]), x.dtype)
    wide[(slice(None), *[slice(None, None, stride)] * len(shape))] = x
    return wide


# A recurrent step is (input, states) -> (signal, output, new states).


def simple_step(layer):
    kernel, recurrent, bias = layer.get_weights()

    def step(x, states):
        signal = x @ kernel + states[0] @ recurrent + bias
        output = np.tanh(signal)
        return signal, output, [output]

    return step, [recurrent.shape[0]]


def lstm_step(layer, times=np.matmul, recurrent_times=np.matmul):
    kernel, recurrent, bias = layer.get_weights()

    def step(x, states):
        h, c = states
        z = times(x, kernel) + recurrent_times(h, recurrent) + bias
        i, f, signal, o = np.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(signal)
        output = sigmoid(o) * np.tanh(c)
        return signal, output, [output, c]

    return step, [recurrent.shape[-2]] * 2


def gru_step(layer):
    kernel, recurrent, bias = layer.get_weights()

    def step(x, states):
        (h,) = states
        x_z, x_r, x_h = np.split(x @ kernel + bias[0], 3, axis=-1)
        h_z, h_r, h_h = np.split(h @ recurrent + bias[1], 3, axis=-1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        signal = x_h + r * h_h
        output = z * h + (1 - z) * np.tanh(signal)
        return signal, output, [output]

    return step, [recurrent.shape[0]]


def over_time(
    stepping, x, mask=None, backwards=False, zeroed=False, states=None
):
    """Signals and outputs, time along the second axis, and last states.

    Where a sample is masked, Keras repeats the previous output, or a zero.
    """
    step, sizes = stepping
    if states is None:
        states = [np.zeros((*x.shape[:1], *x.shape[2:-1], n)) for n in sizes]
    rows = []
    order = range(x.shape[1])
    for t in reversed(order) if backwards else order:
        signal, output, new = step(x[:, t], states)
        if mask is not None:
            keep = mask[:, t, None]
            before = rows[-1] if rows and not zeroed else (0, 0)
            signal = np.where(keep, signal, before[0])
            output = np.where(keep, output, before[1])
            pairs = zip(new, states, strict=True)
            new = [np.where(keep, a, b) for a, b in pairs]
        states = new
        rows.append((signal, output))
    signals, outputs = zip(*rows, strict=True)
    return np.stack(signals, 1), np.stack(outputs, 1), states


# Models of every kind.


@exact
def sequential_model(rng):
    model = sequential(
        rng,
        (3,),
        layers.Dense(4, "relu"),
        layers.Dense(5),
        layers.Activation("relu"),
        layers.Dense(2),
    )
    x = inputs(rng, 3)
    first, second, _, third = model.layers
    a = dense(first, x)
    b = dense(second, relu(a))
    c = dense(third, relu(b))
    return Known(model, x, {"dense": a, "dense_1": b, "dense_2": c})


@exact
def sequential_model_without_input(rng):
    model = keras.Sequential(
        [
            layers.Dense(4, "relu", kernel_initializer="ones"),
            layers.Dense(2, kernel_initializer="ones"),
        ]
    )
    x = inputs(rng, 3)
    a = x @ np.ones((3, 4))
    b = relu(a) @ np.ones((4, 2))
    return Known(model, x, {"dense": a, "dense_1": b})


@exact
def functional_model_with_a_residual_branch(rng):
    entry = keras.Input((3,))
    stem = layers.Dense(4, name="stem")(entry)
    branch = layers.Dense(6, "relu", name="up")(stem)
    branch = layers.Dense(4, name="down")(branch)
    head = layers.Dense(2, name="head")(layers.add([stem, branch]))
    model = filled(keras.Model(entry, head), rng)
    x = inputs(rng, 3)
    get = model.get_layer
    a = dense(get("stem"), x)
    b = dense(get("up"), a)
    c = dense(get("down"), relu(b))
    d = dense(get("head"), a + c)
    return Known(model, x, {"stem": a, "up": b, "down": c, "head": d})


@exact
def models_in_a_model(rng):
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, "relu", name="d")], name="inner"
    )
    outer = keras.Sequential(
        [keras.Input((4,)), inner, layers.Dense(4, name="d")], name="outer"
    )
    model = sequential(rng, (4,), outer, layers.Dense(2, name="d"))
    x = inputs(rng, 4)
    a = dense(inner.layers[0], x)
    b = dense(outer.layers[1], relu(a))
    c = dense(model.layers[1], b)
    return Known(model, x, {"outer/inner/d": a, "outer/d": b, "d": c})


class Block(layers.Layer):
    """A layer that holds other layers and is not a model."""

    def __init__(self, units, initializer="ones", **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(
            units, "relu", kernel_initializer=initializer, name="inner"
        )
        self.outer = layers.Dense(
            units, kernel_initializer=initializer, name="outer"
        )

    def call(self, x):
        return self.outer(self.inner(x))


class Subclassed(keras.Model):
    """A model that runs its layers in another order than they were made."""

    def __init__(self):
        super().__init__()
        self.second = layers.Dense(2, kernel_initializer="ones", name="second")
        self.first = Block(3, name="first")

    def call(self, x):
        return self.second(relu_of(self.first(x)))


def relu_of(tensor):
    return ops.relu(tensor)


@exact
def subclassed_model(rng):
    model = Subclassed()
    x = inputs(rng, 4)
    model(x)
    filled(model, rng)
    a = dense(model.first.inner, x)
    b = dense(model.first.outer, relu(a))
    c = dense(model.second, relu(b))
    signals = {"first/inner": a, "first/outer": b, "second": c}
    return Known(model, x, signals)


@exact
def subclassed_model_not_yet_built(rng):
    x = inputs(rng, 4)
    a = x @ np.ones((4, 3))
    b = relu(a) @ np.ones((3, 3))
    c = relu(b) @ np.ones((3, 2))
    signals = {"first/inner": a, "first/outer": b, "second": c}
    return Known(Subclassed(), x, signals)


@exact
def subclassed_model_with_training_in_its_call(rng):
    class Noisy(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, kernel_initializer="ones")

        def call(self, x, training=False):
            return self.dense(x) + (100 if training else 0)

    x = inputs(rng, 4)
    return Known(Noisy(), x, {"dense": x @ np.ones((4, 3))})


@exact
def shared_layer(rng):
    entry = keras.Input((3,))
    shared = layers.Dense(3, name="shared")
    model = filled(keras.Model(entry, shared(shared(shared(entry)))), rng)
    x = inputs(rng, 3)
    a = dense(shared, x)
    b = dense(shared, a)
    c = dense(shared, b)
    return Known(model, x, {"shared": a, "shared:2": b, "shared:3": c})


@exact
def shared_model(rng):
    block = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, "relu", name="in"),
            layers.Dense(3, name="out"),
        ],
        name="block",
    )
    model = sequential(rng, (3,), block, layers.ReLU(), block)
    x = inputs(rng, 3)
    a = dense(block.layers[0], x)
    b = dense(block.layers[1], relu(a))
    c = dense(block.layers[0], relu(b))
    d = dense(block.layers[1], relu(c))
    signals = {
        "block/in": a, "block/out": b, "block/in:2": c, "block/out:2": d,
    }  # fmt: skip
    return Known(model, x, signals)


def two_inputs(rng, data):
    left, right = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    one = layers.Dense(4, name="one")(left)
    two = layers.Dense(4, name="two")(right)
    out = {
        "sum": layers.Dense(2, name="sum")(layers.add([one, two])),
        "two": two,
    }
    given = keras.tree.map_structure(
        lambda name: {"a": left, "b": right}[name], data
    )
    model = filled(keras.Model(given, out), rng)
    arrays = {"a": inputs(rng, 3), "b": inputs(rng, 2)}
    x = keras.tree.map_structure(lambda name: arrays[name], data)
    a = dense(model.get_layer("one"), arrays["a"])
    b = dense(model.get_layer("two"), arrays["b"])
    c = dense(model.get_layer("sum"), a + b)
    return Known(model, x, {"one": a, "two": b, "sum": c})


@exact
def inputs_in_a_list(rng):
    return two_inputs(rng, ["a", "b"])


@exact
def inputs_in_a_tuple(rng):
    return two_inputs(rng, ("b", "a"))


@exact
def inputs_in_a_dict(rng):
    return two_inputs(rng, {"a": "a", "b": "b"})


@exact
def subclassed_model_of_a_dict(rng):
    class OfDict(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, kernel_initializer="ones")

        def call(self, data):
            return self.dense(data["x"]), data["y"]

    data = {"x": inputs(rng, 4), "y": inputs(rng, 2)}
    return Known(OfDict(), data, {"dense": data["x"] @ np.ones((4, 3))})


# Layers of every kind that hold a kernel.


def one_layer(rng, layer, shape, signal, dtype=None, **bounds):
    """A model of one layer, whose signal is `signal(layer, x)`."""
    model = sequential(rng, shape, layer, dtype=dtype)
    x = inputs(rng, *shape, **bounds)
    return Known(model, x, {layer.name: signal(layer, x)})


def add_convolutions(rank):
    shape = (*(5, 6, 4)[:rank], 2)
    convolution = getattr(layers, f"Conv{rank}D")
    transposed = getattr(layers, f"Conv{rank}DTranspose")

    def plain(layer, x):
        kernel, bias = layer.get_weights()
        return convolved(x, kernel) + bias

    def transpose(layer, x):
        kernel, bias = layer.get_weights()
        kernel = np.flip(kernel, range(rank)).swapaxes(-1, -2)
        return convolved(spread(x, 2), kernel, pad=1) + bias

    CASES[f"conv{rank}d"] = Case(
        lambda rng: one_layer(
            rng, convolution(3, 2, activation="relu"), shape, plain
        )
    )
    CASES[f"conv{rank}d_transpose"] = Case(
        lambda rng: one_layer(
            rng, transposed(3, 2, 2, activation="relu"), shape, transpose
        )
    )
    if rank == 3:
        return
    depthwise = getattr(layers, f"DepthwiseConv{rank}D")
    separable = getattr(layers, f"SeparableConv{rank}D")

    def by_channel(layer, x):
        kernel, bias = layer.get_weights()
        return each_channel(x, kernel) + bias

    def separate(layer, x):
        depth, point, bias = layer.get_weights()
        return convolved(each_channel(x, depth), point) + bias

    CASES[f"depthwise_conv{rank}d"] = Case(
        lambda rng: one_layer(
            rng,
            depthwise(2, depth_multiplier=2, activation="relu"),
            shape,
            by_channel,
        )
    )
    CASES[f"separable_conv{rank}d"] = Case(
        lambda rng: one_layer(
            rng, separable(3, 2, activation="relu"), shape, separate
        )
    )


for rank in (1, 2, 3):
    add_convolutions(rank)


@exact
def einsum_dense(rng):
    def signal(layer, x):
        kernel, bias = layer.get_weights()
        return np.einsum("btd,dhk->bthk", x, kernel) + bias

    layer = layers.EinsumDense(
        "btd,dhk->bthk", (None, 2, 3), activation="relu", bias_axes="hk"
    )
    return one_layer(rng, layer, (5, 4), signal)


@exact
def embedding(rng):
    def signal(layer, tokens):
        return layer.get_weights()[0][tokens.astype(int)]

    layer = layers.Embedding(7, 3)
    known = one_layer(rng, layer, (5,), signal, "int32", low=0, high=7)
    known.data = known.data.astype("int32")
    return known


@exact
def dense_over_several_axes(rng):
    return one_layer(rng, layers.Dense(3, "relu"), (2, 5, 4), dense)


@exact
def dense_whose_activation_is_a_layer(rng):
    first = layers.Dense(4, activation=layers.LeakyReLU(negative_slope=0.5))
    model = sequential(rng, (3,), first, layers.Dense(2))
    x = inputs(rng, 3)
    a = dense(first, x)
    b = dense(model.layers[1], np.where(a < 0, a / 2, a))
    return Known(model, x, {"dense": a, "dense_1": b})


@in_float64
def dense_whose_activation_is_softmax(rng):
    model = sequential(rng, (3,), layers.Dense(4, "softmax"), layers.Dense(2))
    x = inputs(rng, 3)
    a = dense(model.layers[0], x)
    b = dense(model.layers[1], softmax(a))
    return Known(model, x, {"dense": a, "dense_1": b})


class OwnKernel(layers.Layer):
    """A layer without `activation`, whose relu is part of its call."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return ops.relu(x @ self.kernel)


@exact
def own_layer_is_measured_at_its_output(rng):
    model = sequential(rng, (3,), OwnKernel(4), OwnKernel(5))
    x = inputs(rng, 3)
    a = relu(dense(model.layers[0], x))
    b = relu(dense(model.layers[1], a))
    return Known(model, x, {"own_kernel": a, "own_kernel_1": b})


class Manifold(OwnKernel):
    """A layer of several outputs, of which the first floating one counts."""

    def call(self, x):
        y = x @ self.kernel
        return {"a_index": ops.argmax(y, -1), "b": 2 * y, "c": 3 * y}


@exact
def layer_of_several_outputs(rng):
    entry = keras.Input((3,))
    layer = Manifold(4)
    model = filled(keras.Model(entry, layer(entry)), rng)
    x = inputs(rng, 3)
    return Known(model, x, {"manifold": 2 * dense(layer, x)})


@exact
def dense_with_a_low_rank_adaptor(rng):
    layer = layers.Dense(4, "relu", name="dense")
    model = sequential(rng, (3,), layer)
    layer.enable_lora(2)
    filled(model, rng)
    x = inputs(rng, 3)
    kernel = ops.convert_to_numpy(layer.kernel)
    bias = ops.convert_to_numpy(layer.bias)
    a, b = (ops.convert_to_numpy(v) for v in layer.trainable_variables[1:])
    assert a.shape == (3, 2)
    stored = kernel - a @ b
    assert stored.any() and (a @ b).any()
    return Known(model, x, {"dense": x @ (stored + a @ b) + bias})


@in_float64
def dense_in_eight_bits(rng):
    first, second = layers.Dense(4, "relu"), layers.Dense(2)
    model = sequential(rng, (3,), first, second)
    first.quantize("int8")
    # The output of the same quantized layer without activation.
    linear = layers.Dense(4)
    expected = sequential(rng, (3,), linear)
    linear.quantize("int8")
    for new, old in zip(linear.variables, first.variables, strict=True):
        new.assign(old)
    x = inputs(rng, 3)
    a = ops.convert_to_numpy(expected(x))
    b = ops.convert_to_numpy(second(relu(a)))
    return Known(model, x, {"dense": a, "dense_1": b})


@exact
def spectral_normalization(rng):
    inner = layers.Dense(4, "relu")
    model = sequential(
        rng, (3,), layers.SpectralNormalization(inner), layers.Dense(2)
    )
    x = inputs(rng, 3)
    a = x @ ops.convert_to_numpy(inner.kernel)
    a = a + ops.convert_to_numpy(inner.bias)
    b = dense(model.layers[1], relu(a))
    return Known(model, x, {"spectral_normalization/dense": a, "dense_1": b})


@in_float64
def batch_normalization_at_inference(rng):
    first, second = layers.Dense(4), layers.Dense(2)
    norm = layers.BatchNormalization(epsilon=0.5)
    model = sequential(rng, (3,), first, norm, layers.ReLU(), second)
    norm.moving_variance.assign([3.5, 0.5, 8.5, 15.5])
    gamma, beta, mean, variance = norm.get_weights()
    x = inputs(rng, 3)
    a = dense(first, x)
    b = (a - mean) / np.sqrt(variance + 0.5) * gamma + beta
    return Known(model, x, {"dense": a, "dense_1": dense(second, relu(b))})


@in_float64
def layer_normalization_and_dropout(rng):
    first, second = layers.Dense(4), layers.Dense(2)
    model = sequential(
        rng,
        (3,),
        first,
        layers.LayerNormalization(epsilon=0.5, center=False, scale=False),
        layers.Dropout(0.5),
        second,
    )
    x = inputs(rng, 3)
    a = dense(first, x)
    mean, variance = a.mean(-1, keepdims=True), a.var(-1, keepdims=True)
    b = dense(second, (a - mean) / np.sqrt(variance + 0.5))
    return Known(model, x, {"dense": a, "dense_1": b})


@exact
def frozen_layer(rng):
    model = sequential(rng, (3,), layers.Dense(4, "relu"), layers.Dense(2))
    model.layers[0].trainable = False
    x = inputs(rng, 3)
    a = dense(model.layers[0], x)
    b = dense(model.layers[1], relu(a))
    return Known(model, x, {"dense": a, "dense_1": b})


@exact
def time_folded_into_the_samples(rng):
    fold = layers.Lambda(lambda x: ops.reshape(x, (-1, 3)), output_shape=(3,))
    model = sequential(rng, (4, 3), layers.Dense(3), fold, layers.Dense(2))
    x = inputs(rng, 4, 3)
    a = dense(model.layers[0], x)
    b = dense(model.layers[2], a)
    assert len(model(x)) == 4 * SAMPLES
    return Known(model, x, {"dense": a, "dense_1": b})


# Attention.


def attended(attention, heads_to_repeat=1):
    """The signals of the four linear maps of a self-attention."""

    def signals_of(x):
        weights = iter(attention.get_weights())
        signals = {
            name: np.einsum("btd,dhk->bthk", x, next(weights)) + next(weights)
            for name in ("query", "key", "value")
        }
        query = signals["query"]
        key, value = (
            np.repeat(signals[name], heads_to_repeat, axis=2)
            for name in ("key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", query, key)
        shares = softmax(scores / np.sqrt(query.shape[-1]))
        mixed = np.einsum("bhts,bshk->bthk", shares, value)
        out = np.einsum("bthk,hkd->btd", mixed, next(weights)) + next(weights)
        signals["attention_output"] = out
        return {f"{attention.name}/{name}": y for name, y in signals.items()}

    return signals_of


def self_attention(rng, attention, heads_to_repeat=1):
    entry = keras.Input((5, 4))
    model = filled(keras.Model(entry, attention(entry, entry)), rng)
    x = inputs(rng, 5, 4)
    return Known(model, x, attended(attention, heads_to_repeat)(x))


@in_float64
def multi_head_attention(rng):
    return self_attention(rng, layers.MultiHeadAttention(2, 4, name="mha"))


@in_float64
def grouped_query_attention(rng):
    layer = layers.GroupQueryAttention(4, 4, 2, name="gqa")
    return self_attention(rng, layer, heads_to_repeat=2)


# Sequences.

RECURRENT = {
    "simple_rnn": (layers.SimpleRNN, simple_step),
    "lstm": (layers.LSTM, lstm_step),
    "gru": (layers.GRU, gru_step),
}


def recurrent(rng, kind, **options):
    make, stepping = RECURRENT[kind]
    layer = make(3, **options)
    model = sequential(rng, (4, 2), layer, layers.Dense(2))
    x = inputs(rng, 4, 2)
    signals, outputs, _ = over_time(
        stepping(layer), x, backwards=layer.go_backwards
    )
    if not layer.return_sequences:
        signals, outputs = signals[:, -1], outputs[:, -1]
    after = dense(model.layers[1], outputs)
    return Known(model, x, {kind: signals, "dense": after})


def add_recurrent(kind, *options):
    CASES["-".join([kind, *options])] = Case(
        lambda rng: recurrent(rng, kind, **dict.fromkeys(options, True)),
        "float64",
        1e-12,
    )


for kind in RECURRENT:
    add_recurrent(kind)
    add_recurrent(kind, "return_sequences")
    add_recurrent(kind, "return_sequences", "go_backwards")
    add_recurrent(kind, "return_sequences", "unroll")
    add_recurrent(kind, "go_backwards", "unroll")


def masked(rng, kind, **options):
    """A model in which steps are masked at the start, inside and at the end."""
    make, stepping = RECURRENT[kind]
    layer = make(3, **options)
    model = sequential(rng, (4, 2), layers.Masking(-9), layer, layers.Dense(2))
    x = inputs(rng, 4, 2)
    mask = rng.random((SAMPLES, 4)) < 0.6
    mask[:4] = ~np.eye(4, dtype=bool)
    x[~mask] = -9
    signals, outputs, _ = over_time(
        stepping(layer), x, mask, zeroed=layer.zero_output_for_mask
    )
    if not layer.return_sequences:
        signals, outputs = signals[:, -1], outputs[:, -1]
    after = dense(model.layers[2], outputs)
    return Known(model, x, {kind: signals, "dense": after})


def add_masked(kind, *options):
    CASES["-".join(["masked", kind, *options])] = Case(
        lambda rng: masked(rng, kind, **dict.fromkeys(options, True)),
        "float64",
        1e-12,
    )


for kind in RECURRENT:
    add_masked(kind)
    add_masked(kind, "return_sequences")
add_masked("lstm", "return_sequences", "unroll")
add_masked("lstm", "unroll")
add_masked("lstm", "return_sequences", "zero_output_for_mask")
add_masked("gru", "return_sequences", "zero_output_for_mask", "unroll")


@in_float64
def embedding_that_masks(rng):
    model = sequential(
        rng, (4,), layers.Embedding(5, 2, mask_zero=True), layers.LSTM(3),
        dtype="int32",
    )  # fmt: skip
    tokens = rng.integers(0, 5, (SAMPLES, 4))
    a = model.layers[0].get_weights()[0][tokens]
    stepping = lstm_step(model.layers[1])
    signals, _, _ = over_time(stepping, a, tokens != 0)
    return Known(model, tokens, {"embedding": a, "lstm": signals[:, -1]})


@in_float64
def bidirectional(rng):
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    model = sequential(rng, (4, 2), both, layers.Dense(2))
    x = inputs(rng, 4, 2)
    there, ahead, _ = over_time(lstm_step(both.forward_layer), x)
    back, behind, _ = over_time(
        lstm_step(both.backward_layer), x, backwards=True
    )
    joined = np.concatenate([ahead, behind[:, ::-1]], axis=-1)
    signals = {
        "bidirectional/forward_lstm": there,
        "bidirectional/backward_lstm": back,
        "dense": dense(model.layers[1], joined),
    }
    return Known(model, x, signals)


@in_float64
def recurrent_layers_in_a_row(rng):
    first, second = layers.GRU(3, return_sequences=True), layers.LSTM(2)
    model = sequential(rng, (4, 2), first, second)
    x = inputs(rng, 4, 2)
    a, out, _ = over_time(gru_step(first), x)
    b, _, _ = over_time(lstm_step(second), out)
    return Known(model, x, {"gru": a, "lstm": b[:, -1]})


@in_float64
def recurrent_layer_that_returns_its_states(rng):
    entry = keras.Input((4, 2))
    layer = layers.LSTM(3, return_sequences=True, return_state=True)
    model = filled(keras.Model(entry, layer(entry)), rng)
    x = inputs(rng, 4, 2)
    return Known(model, x, {"lstm": over_time(lstm_step(layer), x)[0]})


@in_float64
def encoder_and_decoder(rng):
    entry, answer = keras.Input((4, 2)), keras.Input((3, 2))
    encoder = layers.LSTM(3, return_state=True, name="encoder")
    decoder = layers.LSTM(3, return_sequences=True, name="decoder")
    _, *states = encoder(entry)
    out = decoder(answer, initial_state=states)
    model = filled(keras.Model([entry, answer], out), rng)
    x, y = inputs(rng, 4, 2), inputs(rng, 3, 2)
    a, _, states = over_time(lstm_step(encoder), x)
    b, _, _ = over_time(lstm_step(decoder), y, states=states)
    return Known(model, [x, y], {"encoder": a[:, -1], "decoder": b})


def cells_in_a_stack(rng, return_sequences):
    first, second = layers.LSTMCell(3), layers.GRUCell(2)
    stack = layers.RNN([first, second], return_sequences=return_sequences)
    model = sequential(rng, (4, 2), stack)
    x = inputs(rng, 4, 2)
    a, out, _ = over_time(lstm_step(first), x)
    b, _, _ = over_time(gru_step(second), out)
    if not return_sequences:
        a, b = a[:, -1], b[:, -1]
    return Known(model, x, {"rnn/lstm_cell": a, "rnn/gru_cell": b})


@in_float64
def stacked_cells(rng):
    return cells_in_a_stack(rng, return_sequences=True)


@in_float64
def stacked_cells_of_the_last_step(rng):
    return cells_in_a_stack(rng, return_sequences=False)


class OwnCell(OwnKernel):
    """A cell without an activation, whose state is a single tensor."""

    state_size = property(lambda self: self.units)

    def call(self, x, states):
        output = x @ self.kernel + states[0] / 2
        return output, [output]


@exact
def own_cell(rng):
    layer = layers.RNN(OwnCell(3), return_sequences=True)
    model = sequential(rng, (4, 2), layer)
    x = inputs(rng, 4, 2)
    kernel = layer.get_weights()[0]

    def step(x, states):
        output = x @ kernel + states[0] / 2
        return output, output, [output]

    return Known(model, x, {"rnn": over_time((step, [3]), x)[0]})


class CellWithAnotherInside(layers.Layer):
    """A cell that holds a layer with a kernel."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.state_size = units
        self.inner = layers.Dense(units, "relu", name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x, states):
        output = self.inner(x) + states[0]
        return output, [output]


@exact
def cell_with_a_layer_inside(rng):
    cell = CellWithAnotherInside(3)
    layer = layers.RNN(cell, return_sequences=True)
    model = sequential(rng, (4, 2), layer)
    x = inputs(rng, 4, 2)
    return Known(model, x, {"rnn/inner": dense(cell.inner, x)})


def conv_lstm(rng, rank, **options):
    layer = getattr(layers, f"ConvLSTM{rank}D")(2, 3, **options)
    shape = (3, *(4, 5)[:rank], 2)
    model = sequential(rng, shape, layer)
    x = inputs(rng, *shape)
    step, sizes = lstm_step(
        layer, convolved, lambda h, kernel: convolved(h, kernel, pad=1)
    )
    kept = [n - 2 for n in shape[1:-1]]
    states = [np.zeros((SAMPLES, *kept, n)) for n in sizes]
    signals, _, _ = over_time((step, sizes), x, states=states)
    if not layer.return_sequences:
        signals = signals[:, -1]
    return Known(model, x, {layer.name: signals})


@in_float64
def conv_lstm1d(rng):
    return conv_lstm(rng, 1)


@in_float64
def conv_lstm2d(rng):
    return conv_lstm(rng, 2, return_sequences=True)


@exact
def time_distributed_dense(rng):
    inner = layers.Dense(3, "relu")
    model = sequential(rng, (4, 2), layers.TimeDistributed(inner))
    x = inputs(rng, 4, 2)
    return Known(model, x, {"time_distributed/dense": dense(inner, x)})


@exact
def time_distributed_model(rng):
    inner = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, "relu", name="in"),
            layers.Dense(4, name="out"),
        ],
        name="inner",
    )
    model = sequential(
        rng, (5, 2), layers.TimeDistributed(inner, name="td"), layers.Dense(2)
    )
    x = inputs(rng, 5, 2)
    a = dense(inner.layers[0], x)
    b = dense(inner.layers[1], relu(a))
    c = dense(model.layers[1], b)
    return Known(model, x, {"td/inner/in": a, "td/inner/out": b, "dense": c})


@in_float64
def time_distributed_recurrent(rng):
    inner = layers.LSTM(3, return_sequences=True)
    model = sequential(rng, (2, 4, 2), layers.TimeDistributed(inner))
    x = inputs(rng, 2, 4, 2)
    signals = [over_time(lstm_step(inner), x[:, t])[0] for t in range(2)]
    return Known(model, x, {"time_distributed/lstm": np.stack(signals, axis=1)})


@exact
def time_distributed_behind_a_mask(rng):
    inner = layers.Dense(3)
    model = sequential(
        rng, (4, 2), layers.Masking(0), layers.TimeDistributed(inner)
    )
    x = inputs(rng, 4, 2)
    x[:, 1] = 0
    return Known(model, x, {"time_distributed/dense": dense(inner, x)})


# Precisions. The signal is so far from zero that its precision suffices for
# the signal but not for its square: a reduction in less than float32 fails.


def near(rng, offset, dtype, data_dtype):
    layer = layers.Dense(3, use_bias=False)
    model = sequential(rng, (3,), layer, dtype=layer.variable_dtype)
    layer.kernel.assign(np.eye(3))
    x = offset + inputs(rng, 3, low=-1, high=2).astype(data_dtype)
    assert layer.compute_dtype == dtype
    return Known(model, x.astype(data_dtype), {"dense": x.astype("float64")})


for policy_name, compute, offset, data_dtype, rtol in (
    ("float16", "float16", 1000, "float16", 1e-6),
    ("float16", "float16", 1000, "float32", 1e-6),
    ("mixed_float16", "float16", 1000, "float32", 1e-6),
    ("bfloat16", "bfloat16", 200, "float32", 1e-6),
    ("mixed_bfloat16", "bfloat16", 200, "float32", 1e-6),
    ("float32", "float32", 4000, "float64", 1e-6),
    ("float32", "float32", 4000, "int64", 1e-6),
    ("float64", "float64", 10**9, "float64", 1e-15),
    ("float64", "float64", 4000, "float32", 1e-15),
):
    CASES[f"{policy_name}-of-{data_dtype}"] = Case(
        lambda rng, args=(offset, compute, data_dtype): near(rng, *args),
        policy_name,
        rtol,
    )


@pytest.fixture
def policy():
    """A function that sets the dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", CASES)
def test_meter_of_a_model(name, rng, policy):
    """Tests `measure` too, which calls a `Meter` once."""
    row = CASES[name]
    policy(row.dtype)
    known = row.build(rng)
    policy("float32")
    model, data = known.model, known.data
    before = outputs(model, data) if model.built else None
    meter, expected = kx.Meter(model), profile_of(known.signals)
    for _ in range(2):
        assert_same_profile(meter(data), expected, row.rtol)
    # Neither did it change the model, nor do the hooks change the output.
    after = outputs(model, data) if before is None else before
    with forward_hooks(
        on_pre_activation=lambda layer_call, signal: signal,
        select=lambda layer_call: True,
    ):
        assert_equal(outputs(model, data), after)


def outputs(model, data):
    tensors = keras.tree.flatten(model(data))
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
