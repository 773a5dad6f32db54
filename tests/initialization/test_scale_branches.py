"""Tests of the scale of the residual branches of models that exist."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx

L = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 8)).astype("float32")
IMAGES = RANDOM.normal(size=(12, 8, 8, 4)).astype("float32")
TOKENS = RANDOM.integers(0, 20, (12, 6))


def same(tensor):
    return tensor


# Each function builds a model from `scale`, which is applied to every branch:
# either nothing, or a `BranchScale`. It returns the model and its data.


def dense(scale, add=None, last=None):
    x = inputs = keras.Input((8,))
    for i in range(4):
        y = L.Dense(16, "relu", name=f"up{i}")(x)
        y = last(i)(y) if last else L.Dense(8, name=f"down{i}")(y)
        x = add(x, scale(y)) if add else L.Add()([x, scale(y)])
    return keras.Model(inputs, L.Dense(3, name="head")(x)), X


def plus(scale):
    return dense(scale, lambda x, y: x + y)


def the_branch_first(scale):
    return dense(scale, lambda x, y: y + x)


def minus(scale):
    return dense(scale, lambda x, y: x - y)


def average(scale):
    return dense(scale, lambda x, y: L.Average()([x, y]))


def subtract(scale):
    return dense(scale, lambda x, y: L.Subtract()([y, x]))


def a_lambda_adds(scale):
    return dense(scale, lambda x, y: L.Lambda(lambda t: t[1] + t[0])([x, y]))


def a_subclass_of_add(scale):
    class Plus(L.Add):
        pass

    return dense(scale, lambda x, y: Plus()([y, x]))


def broadcast(scale):
    """The branch has one number for each channel."""
    x = inputs = keras.Input((None, 8, 4))
    for i in range(2):
        y = L.GlobalAveragePooling2D(keepdims=True)(L.ReLU()(x))
        x = x + scale(L.Dense(4, name=f"d{i}")(y))
    return keras.Model(inputs, x), IMAGES


def three_are_added(scale):
    """A sum of a skip and two parts of a branch."""
    x = inputs = keras.Input((8,))
    for i in range(2):
        y = [L.Dense(8, n, name=f"{n}{i}")(x) for n in ("relu", "linear")]
        x = L.Add()([scale(y[0]), x, scale(y[1])])
    return keras.Model(inputs, x), X


def relu_after_the_sum(scale):
    return dense(scale, lambda x, y: L.ReLU()(L.Add()([x, y])))


def norm_after_the_sum(scale):
    return dense(scale, lambda x, y: L.LayerNormalization()(x + y))


def relu_ends_the_branch(scale):
    return dense(
        scale, last=lambda i: L.Dense(8, "relu", use_bias=False, name=f"d{i}")
    )


def leaky_and_dropout_end_the_branch(scale):
    return dense(
        scale,
        last=lambda i: keras.Sequential(
            [L.Dense(8), L.LeakyReLU(0.3), L.PReLU(), L.Dropout(0.5)]
        ),
    )


def one_relu_for_all(scale):
    relu = L.ReLU()
    x = inputs = keras.Input((8,))
    for i in range(3):
        x = x + scale(relu(L.Dense(8, name=f"d{i}")(relu(x))))
    return keras.Model(inputs, x), X


def einsum_and_reshape(scale):
    x = inputs = keras.Input((2, 4))
    for _ in range(3):
        y = L.EinsumDense("bij,jk->bki", (6, 2), bias_axes="k")(x)
        y = L.EinsumDense("bki,km->bim", (2, 4), bias_axes="m")(y)
        x = x + scale(keras.ops.reshape(y, (-1, 2, 4)))
    return keras.Model(inputs, x), X.reshape(12, 2, 4)


def convolution(scale, norm=None, projection=True, strides=2):
    """Residual blocks, one of which has another width and resolution."""
    x = inputs = keras.Input((8, 8, 4))
    for i, filters in enumerate(
        (4, 8 if projection else 4, 8)[: 2 + projection]
    ):
        reduce = strides if filters != x.shape[-1] else 1
        y = L.Conv2D(filters, 3, reduce, "same", name=f"a{i}")(x)
        y = L.ReLU()(norm()(y) if norm else y)
        y = L.Conv2D(filters, 3, padding="same", name=f"b{i}")(y)
        y = norm()(y) if norm else y
        skip = x
        if filters != x.shape[-1]:
            skip = L.Conv2D(filters, 1, reduce, name=f"skip{i}")(x)
            skip = norm()(skip) if norm else skip
        x = L.ReLU()(L.Add()([skip, scale(y)]))
    return keras.Model(inputs, L.GlobalAveragePooling2D()(x)), IMAGES


def batch_norm(scale):
    return convolution(scale, L.BatchNormalization)


def group_norm(scale):
    return convolution(scale, lambda: L.GroupNormalization(2), False)


def norm_without_offset(scale):
    return convolution(scale, lambda: L.BatchNormalization(center=False), False)


def pooling_ends_the_branch(scale):
    x = inputs = keras.Input((8, 8, 4))
    for i in range(2):
        y = L.SeparableConv2D(8, 3, padding="same", name=f"s{i}")(L.ReLU()(x))
        y = L.MaxPooling2D(3, 2, "same")(L.BatchNormalization()(y))
        x = L.Conv2D(8, 1, 2, name=f"p{i}")(x) + scale(y)
    return keras.Model(inputs, x), IMAGES


def padded_skip(scale):
    """The skip of a wider block has more channels, which are zero."""
    x = inputs = keras.Input((8, 8, 4))
    for i in range(2):
        y = L.Conv2D(4 + 4 * i, 3, 2, "same", activation="relu")(x)
        y = L.Conv2DTranspose(4 + 4 * i, 3, padding="same")(y)
        skip = L.AveragePooling2D(2)(x)
        skip = keras.ops.pad(skip, [[0, 0]] * 3 + [[0, 4 * i]])
        x = skip + scale(y)
    return keras.Model(inputs, x), IMAGES


def parts_that_are_joined(scale):
    x = inputs = keras.Input((8,))
    for i in range(2):
        y = [L.Dense(4, n, name=f"{n}{i}")(x) for n in ("relu", "linear")]
        x = x + scale(L.Concatenate()(y))
    return keras.Model(inputs, x), X


def parts_that_are_added(scale):
    x = inputs = keras.Input((8,))
    for i in range(2):
        y = [L.Dense(8, n, name=f"{n}{i}")(x) for n in ("relu", "linear")]
        x = x + scale(y[0] + y[1])
    return keras.Model(inputs, x), X


def parallel_branches(scale):
    """Two branches from one place, whose sums follow one another."""
    x = inputs = keras.Input((8,))
    for i in range(2):
        norm = L.LayerNormalization()(x)
        x = x + scale(L.Dense(8, "relu", name=f"a{i}")(norm))
        x = x + scale(L.Dense(8, name=f"b{i}")(keras.ops.gelu(norm)))
    return keras.Model(inputs, x), X


def encoder(scale, after=False, attention=None):
    tokens = keras.Input((6,), dtype="int32")
    x = L.Embedding(20, 16, name="tokens")(tokens)
    # A constant of the model.
    start = keras.initializers.RandomNormal(seed=1)
    x = x + L.Embedding(6, 16, start)(keras.ops.arange(6))
    for i in range(2):
        attend = (
            attention(f"attend{i}")
            if attention
            else L.MultiHeadAttention(2, 8, name=f"attend{i}")
        )
        y = x if after else L.LayerNormalization()(x)
        x = x + scale(L.Dropout(0.1)(attend(y, y)))
        x = L.LayerNormalization()(x) if after else x
        y = x if after else L.LayerNormalization()(x)
        y = L.Dense(16, name=f"down{i}")(L.Dense(32, "gelu", name=f"up{i}")(y))
        x = L.Add()([x, scale(y)])
        x = L.LayerNormalization()(x) if after else x
    x = L.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, L.Dense(3, name="head")(x)), TOKENS


def encoder_with_norm_after(scale):
    return encoder(scale, after=True)


def encoder_with_grouped_queries(scale):
    return encoder(
        scale, attention=lambda n: L.GroupQueryAttention(8, 2, 1, name=n)
    )


def separate_embeddings(scale):
    """A sum of two inputs is no branch."""
    inputs = [keras.Input((6,), dtype="int32", name=n) for n in "ab"]
    x = L.Add()([L.Embedding(20, 8)(one) for one in inputs])
    x = x + scale(L.Dense(8, name="d")(L.Dense(8, "relu", name="u")(x)))
    return keras.Model(inputs, x), [TOKENS, TOKENS[::-1]]


def nested(scale):
    """Branches in a model, whose branches are models."""
    inner = inputs = keras.Input((8,))
    for i in range(2):
        layers = [L.Dense(8, "relu", name=f"u{i}"), L.Dense(8, name=f"d{i}")]
        inner = inner + scale(keras.Sequential(layers)(inner))
    inner = keras.Model(inputs, inner, name="inner")
    x = inputs = keras.Input((8,))
    x = inner(L.Dense(8, "relu", name="first")(x))
    x = x + scale(L.Dense(8, name="last")(L.ReLU()(x)))
    return keras.Sequential([inputs, keras.Model(inputs, x, name="outer")]), X


def over_time(scale):
    """`TimeDistributed` runs a model with branches, and ends one."""
    x = inputs = keras.Input((8,))
    x = x + scale(L.Dense(8, name="d")(L.Dense(8, "relu", name="u")(x)))
    inner = keras.Model(inputs, x, name="inner")
    x = inputs = keras.Input((3, 8))
    x = L.TimeDistributed(inner, name="over")(x)
    y = L.TimeDistributed(L.Dense(8, name="end"), name="ends")(L.ReLU()(x))
    x = x + scale(y)
    block = kx.layers.Residual(
        [L.Conv1D(2, 3, padding="same"), L.PReLU(), L.Dense(8, name="e")],
        None if scale is same else scale,
    )
    x = L.TimeDistributed(block)(keras.ops.reshape(x, (-1, 1, 3, 8)))
    return keras.Model(inputs, x), X[:, None] * np.ones((1, 3, 1))


def residual_layers(scale):
    scaled = None if scale is same else scale
    return (
        keras.Sequential(
            [keras.Input((8,))]
            + [
                kx.layers.Residual(
                    [L.Dense(4, "relu", name="u"), L.Dense(8, name="d")],
                    scale=scaled,
                    skip_weight=0.9,
                )
                for _ in range(3)
            ]
            + [
                kx.layers.Residual(
                    L.Dense(5, "relu"), scaled, projection=L.Dense(5)
                )
            ]
        ),
        X,
    )


def several_inputs_and_outputs(scale):
    inputs = {n: keras.Input((8,), name=n) for n in "ba"}
    x = L.Concatenate()([inputs["a"], inputs["b"]])
    first = x + scale(L.Dense(16, name="one")(L.ReLU()(x)))
    second = first + scale(L.Dense(16, name="two")(L.ReLU()(first)))
    model = keras.Model(inputs, {"x": first, "y": second, "z": L.ReLU()(x)})
    return model, {"a": X, "b": X[::-1]}


def a_subclass_with_a_graph(scale):
    class Mine(keras.Model):
        def __init__(self):
            x = inputs = keras.Input((8,))
            x = x + scale(L.Dense(8, name="one")(L.ReLU()(x)))
            x = x + scale(L.Dense(8, name="two")(L.ReLU()(x)))
            super().__init__(inputs, x)

    return Mine(), X


def layers_of_another_model(scale):
    """The first calls of the layers were in another model."""
    layers = [L.Dense(8, name=f"d{i}") for i in range(2)]
    for layer in layers:
        layer(keras.Input((8,)))
    x = inputs = keras.Input((8,))
    x = L.Dense(8, name="first")(x)
    for layer in layers:
        x = x + scale(layer(L.ReLU()(x)))
    outer = keras.Model(inputs, x)
    # A model that starts in the middle of another one.
    return keras.Model(outer.layers[1].output, outer.output), X


def a_registered_block(scale):
    class Registered(Block):
        call = Block.call

    @kx.inspection.register_layer(Registered)
    def rule(layer):
        return kx.inspection.LayerRule(symbolic=True)

    blocks = [Registered(scale, name=f"block{i}") for i in range(3)]
    return keras.Sequential([keras.Input((8,)), *blocks]), X


class Block(L.Layer):
    """A block with a call of its own, as in many examples of Keras."""

    def __init__(self, scale=same, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.up, self.down = L.Dense(16, "relu"), L.Dense(8, name="down")

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 16))

    def call(self, x):
        return x + self.scale(self.down(self.up(x)))

    def compute_output_shape(self, shape):
        return shape


MODELS = {
    function.__name__: (function, depth)
    for function, depth in (
        (dense, 4),
        (plus, 4),
        (the_branch_first, 4),
        (minus, 4),
        (average, 4),
        (subtract, 4),
        (a_lambda_adds, 4),
        (a_subclass_of_add, 4),
        (broadcast, 2),
        (three_are_added, 2),
        (relu_after_the_sum, 4),
        (norm_after_the_sum, 4),
        (relu_ends_the_branch, 4),
        (leaky_and_dropout_end_the_branch, 4),
        (one_relu_for_all, 3),
        (einsum_and_reshape, 3),
        (convolution, 3),
        (batch_norm, 3),
        (group_norm, 2),
        (norm_without_offset, 2),
        (pooling_ends_the_branch, 2),
        (padded_skip, 2),
        (parts_that_are_joined, 2),
        (parts_that_are_added, 2),
        (parallel_branches, 4),
        (encoder, 4),
        (encoder_with_norm_after, 4),
        (encoder_with_grouped_queries, 4),
        (separate_embeddings, 1),
        (nested, 3),
        (over_time, 3),
        (residual_layers, 4),
        (several_inputs_and_outputs, 2),
        (a_subclass_with_a_graph, 2),
        (layers_of_another_model, 2),
        (a_registered_block, 3),
    )
}


def weights_of(model):
    """The weights in the order in which the layers were made.

    Keras numbers the layers of a kind in that order.
    """

    def key(weight):
        names = [
            re.fullmatch(r"(.*?)_?(\d*)", n) for n in weight.path.split("/")
        ]
        return [(name[1], int(name[2] or 0)) for name in names]

    return sorted(model.weights, key=key)


def set_random(model):
    """Gives every weight random values, biases and scales included."""
    random = np.random.default_rng(1)
    for weight in weights_of(model):
        values = random.normal(size=weight.shape)
        if len(weight.shape) == 1:
            # Moving variances must be positive.
            weight.assign(0.3 + np.abs(values))
        else:
            weight.assign(values / np.sqrt(values.size / weight.shape[-1]))


def copies(model):
    """The weights, in memory of their own."""
    return [weight.copy() for weight in model.get_weights()]


def assert_close(found, expected):
    for a, b in zip(
        keras.tree.flatten(found), keras.tree.flatten(expected), strict=True
    ):
        size = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, size))


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_branch_scale_computes(name):
    build, depth = MODELS[name]
    exponent = 0.7
    model, x = build(same)
    set_random(model)
    before = keras.tree.flatten(model(x))
    expected, _ = build(kx.layers.BranchScale(depth=depth, exponent=exponent))
    set_random(expected)
    done = kx.scale_branches(model, exponent)
    assert len(done) == len(done.scaled) == done.depth == depth
    assert done.factor == pytest.approx(depth**-exponent)
    after = model(x)
    assert_close(after, expected(x))
    if depth > 1:
        changed = zip(before, keras.tree.flatten(after), strict=True)
        assert any(np.abs(a - b).max() > 0.01 for a, b in changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["norm_after_the_sum", "batch_norm", "encoder"]
)
def test_the_measured_profile_is_that_of_branch_scale(name):
    build, depth = MODELS[name]
    model, x = build(same)
    expected, _ = build(kx.layers.BranchScale(depth=depth))
    for each in (model, expected):
        set_random(each)
    kx.scale_branches(model)
    ours, theirs = kx.measure(model, x), kx.measure(expected, x)
    # The layers that end a branch have other outputs, the rest the same.
    skips = [n for n in ours.layers if re.match(r"(up|a)\d|head", n)]
    assert len(skips) >= 3
    for layer in skips:
        assert ours[layer].sample_fraction == pytest.approx(
            theirs[layer].sample_fraction, rel=1e-5
        )
        assert ours[layer].sample_variance == pytest.approx(
            theirs[layer].sample_variance, rel=1e-5
        )


# ---- Refusals ----------------------------------------------------------------


def residual(last, before=lambda x: x):
    """A model of one good branch, and one that ends in `last`."""
    x = inputs = keras.Input((8,))
    x = L.Add(name="good")([x, L.Dense(8, "relu", name="one")(x)])
    x = L.Add(name="bad")([before(x), last(x)])
    return keras.Model(inputs, L.Dense(2, name="head")(x))


def frozen():
    layer = L.Dense(8, name="last")
    model = residual(layer)
    layer.trainable = False
    return model


def quantized():
    model = residual(L.Dense(8, name="last"))
    model.get_layer("last").quantize("int8")
    return model


def lora():
    model = residual(L.Dense(8, name="last"))
    model.get_layer("last").enable_lora(2)
    return model


def called_twice():
    layer = L.Dense(8, name="last")
    return residual(lambda x: layer(L.ReLU()(layer(x))))


def model_called_twice():
    x = inputs = keras.Input((8,))
    inner = keras.Model(inputs, x + L.Dense(8, name="last")(x), name="inner")
    x = inputs = keras.Input((8,))
    return keras.Model(inputs, inner(inner(x)))


def tied():
    class Tied(L.Layer):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel

        def call(self, x):
            return x @ keras.ops.transpose(self.kernel[:, :2])

    model = residual(L.Dense(8, name="last"))
    tied = Tied(model.get_layer("last").kernel)
    return keras.Model(model.input, tied(model.output))


def used_elsewhere():
    x = inputs = keras.Input((8,))
    y = L.Dense(8, name="last")(L.ReLU()(x))
    x = L.Add(name="bad")([x, y])
    return keras.Model(inputs, [x, y])


def two_networks():
    def network(x):
        return L.Dense(8)(L.Dense(8, "relu")(x))

    return residual(network, before=network)


def two_maps():
    """Either one may be the projection."""
    return residual(L.Dense(8), before=L.Dense(8))


def pyramid():
    """The deeper of two networks is used by itself too."""
    x = inputs = keras.Input((8,))
    deep = L.Dense(8, "relu", name="a")(L.Dense(8, "relu", name="b")(x))
    both = L.Add(name="bad")([L.Dense(8)(x), L.Dense(8)(deep)])
    return keras.Model(inputs, [both, deep])


def gated():
    """A highway network."""

    def gate(x):
        return L.Dense(8, "sigmoid", name="gate")(x)

    x = inputs = keras.Input((8,))
    carry = gate(x)
    kept = L.Multiply()([x, 1 - carry])
    new = L.Multiply()([L.Dense(8, "relu", name="new")(x), carry])
    return keras.Model(inputs, L.Add(name="bad")([kept, new]))


def squeezed():
    """Channels are weighted at the end of the branch, as in SE-ResNet."""

    def branch(x):
        y = L.Dense(8)(L.ReLU()(x))
        return L.Multiply(name="last")([y, L.Dense(8, "sigmoid")(y)])

    return residual(branch)


def norm_without_scale():
    return residual(
        lambda x: L.BatchNormalization(scale=False, name="last")(L.Dense(8)(x))
    )


def constrained():
    return residual(
        L.Dense(8, kernel_constraint=keras.constraints.UnitNorm(), name="last")
    )


def stream_added_to_itself():
    def blocks(x):
        return L.Add()([x, L.Dense(8, name="last")(L.ReLU()(x))])

    return residual(blocks)


class Unknown(L.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(8,))

    def call(self, x):
        return x * self.w


def hidden():
    x = inputs = keras.Input((8,))
    x = x + L.Dense(8)(L.ReLU()(x))
    return keras.Model(inputs, Block(name="bad")(x))


class AddScaled(L.Layer):
    """Adds a branch with a trained factor, as ReZero."""

    def build(self, shape):
        self.alpha = self.add_weight(shape=())

    def call(self, x, y):
        return x + self.alpha * y


def hidden_factor():
    x = inputs = keras.Input((8,))
    x = x + L.Dense(8)(L.ReLU()(x))
    x = AddScaled(name="bad")(x, L.Dense(8)(L.ReLU()(x)))
    return keras.Model(inputs, x)


def hidden_over_time():
    x = inputs = keras.Input((3, 8))
    x = x + L.Dense(8)(L.ReLU()(x))
    return keras.Model(inputs, L.TimeDistributed(Block(), name="bad")(x))


def dense_net():
    x = inputs = keras.Input((8,))
    for _ in range(3):
        x = L.Concatenate()([x, L.Dense(4, "relu")(x)])
    return keras.Model(inputs, x, name="dense_net")


class Subclass(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.layer = L.Dense(8)

    def build(self, shape):
        self.layer.build(shape)

    def call(self, x):
        return x + self.layer(x)


def subclass():
    model = Subclass()
    model.build((None, 8))
    model.built = True
    return model


def subclass_inside():
    x = inputs = keras.Input((8,))
    x = x + L.Dense(8)(L.ReLU()(x))
    return keras.Model(inputs, Subclass()(x))


class OwnCall(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return inputs + super().call(inputs)


def sequential_with_a_call():
    return OwnCall([keras.Input((8,)), L.Dense(8)], name="mine")


def ends(last):
    return lambda: residual(lambda x: last(L.Dense(8, name="inner")(x)))


REFUSED = {
    "frozen": (frozen, "'bad', where 'last' ends its branch: frozen"),
    "quantized": (quantized, "'bad', where 'last' .*: quantized"),
    "lora": (lora, "'bad', where 'last' .*: LoRA"),
    "called twice": (called_twice, "'bad', where 'last' .* called 2 times"),
    "model called twice": (model_called_twice, "'inner/last' .* 2 times"),
    "tied": (tied, "'bad', where 'last' .*: shares its weights"),
    "used elsewhere": (used_elsewhere, "output of 'last' goes to other"),
    "two networks": (two_networks, "'bad', where both of its inputs"),
    "two maps": (two_maps, "'bad', where both of its inputs"),
    "pyramid": (pyramid, "'bad', where both of its inputs are networks"),
    "gated": (gated, "'bad', where"),
    "squeezed": (squeezed, "'bad', where .*'last', which passes no factor"),
    "no scale": (norm_without_scale, "'last', a normalization without"),
    "constrained": (constrained, "'last/kernel' with UnitNorm"),
    "stream": (stream_added_to_itself, "'bad', where"),
    "unknown": (ends(Unknown(name="last")), "'last'.* of a Unknown .*regist"),
    "tanh": (
        lambda: residual(L.Dense(8, "tanh", name="last")),
        "'last', whose activation tanh passes no factor",
    ),
    "softmax": (ends(L.Softmax(name="last")), "'last', which passes no"),
    "relu6": (ends(L.ReLU(6.0, name="last")), "'last', which passes no"),
    "unit norm": (ends(L.UnitNormalization(name="last")), "'last', which"),
    "offset": (ends(L.Rescaling(1, 0.5, name="last")), "'last', which"),
    "lstm": (
        lambda: residual(lambda x: L.LSTM(8, name="last")(x[:, None])),
        "'last'.* of a LSTM",
    ),
    "spectral": (
        lambda: residual(L.SpectralNormalization(L.Dense(8), name="last")),
        "'last'.* of a SpectralNormalization",
    ),
    "hidden": (hidden, "not seen.* Received: 'bad'"),
    "hidden factor": (hidden_factor, "not seen.* Received: 'bad'"),
    "hidden over time": (hidden_over_time, "not seen.* Received: 'bad'"),
    "DenseNet": (dense_net, "a concatenation is not.*'dense_net'"),
    "subclass": (subclass, "call of its own.*'mine', a Subclass"),
    "own call": (sequential_with_a_call, "call of its own.*'mine', a OwnCall"),
    "subclass inside": (subclass_inside, "not seen.*'subclass'|'mine'"),
    "unbuilt": (lambda: keras.Sequential([L.Dense(3)]), "no weights before"),
    "ConstNet": (
        lambda: kx.models.ConstNet(7, 1, input_shape=(8, 8, 3)),
        "'group2_block1_add', where both",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_is_refused_by_name_and_nothing_is_changed(name):
    build, message = REFUSED[name]
    model = build()
    before = copies(model)
    with pytest.raises(ValueError, match=message):
        kx.scale_branches(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent": -1}, "exponent must be"),
        ({"depth": 0}, "depth must be an int >= 1"),
        ({"overwrite": 1}, "overwrite must be True or False"),
        ({"layers": "added"}, "must pick a sum"),
        ({"layers": "one"}, "must pick a sum"),
    ],
)
def test_bad_arguments_change_nothing(arguments, message):
    model = residual(L.Dense(8, name="last"))
    before = copies(model)
    with pytest.raises(ValueError, match=message):
        kx.scale_branches(model, **arguments)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="Keras layer or model"):
        kx.scale_branches("model")
    with pytest.raises(ValueError, match="a Dense"):
        layer = L.Dense(3)
        layer.build((None, 3))
        kx.scale_branches(layer)


# ---- What is skipped, picked and done twice ----------------------------------


@pytest.mark.parametrize(
    ("scale", "name"),
    [
        (lambda: kx.layers.BranchScale(depth=2, name="scale"), "scale"),
        (
            lambda: kx.layers.BranchScale(initial_value=1.0, name="scale"),
            "scale",
        ),
        (lambda: L.Rescaling(0.1, name="scale"), "scale"),
        (lambda: L.Lambda(lambda x: 0.1 * x, name="scale"), "scale"),
        (lambda: lambda x: x * 0.1, "multiply"),
        (lambda: lambda x: L.Dropout(0.1)(x / 10), "true_divide"),
    ],
)
def test_branches_that_have_a_factor_are_skipped_and_counted(scale, name):
    scale = scale()
    model = residual(lambda x: scale(L.Dense(8, name="last")(x)))
    before = copies(model)
    done = kx.scale_branches(model)
    assert done.depth == 2
    assert [row.name for row in done.scaled] == ["good"]
    assert list(done.skipped) == ["bad"]
    assert done.skipped["bad"].startswith(f"scaled by '{name}")
    changed = [
        weight.path
        for weight, old in zip(model.weights, before, strict=True)
        if not np.array_equal(weight, old)
    ]
    assert changed == ["one/kernel"]


@pytest.mark.parametrize(
    ("add", "skipped"),
    [
        (lambda t: t[0] + 0.2 * t[1], True),
        (lambda t: 0.5 * t[1] + t[0], True),
        (lambda t: 0.7 * (t[0] + t[1]), False),
        (lambda t: t[0] - t[1], False),
    ],
)
def test_a_layer_that_adds_may_have_the_factor(add, skipped):
    x = inputs = keras.Input((8,))
    for i in range(2):
        y = L.Dense(8, name=f"d{i}")(L.ReLU()(x))
        x = L.Lambda(add, name=f"add{i}")([x, y])
    done = kx.scale_branches(keras.Model(inputs, x))
    assert done.depth == 2
    assert [row.skipped for row in done.rows] == [
        f"scaled by 'add{i}'" if skipped else "" for i in range(2)
    ]


@pytest.mark.parametrize(
    "merge",
    [
        lambda t: keras.ops.maximum(t[0], t[1]),
        lambda t: t[0] * t[1],
        lambda t: t[0] + t[1] ** 2,
        lambda t: keras.ops.relu(t[0] + t[1]),
    ],
)
def test_a_layer_that_does_not_add_is_no_sum(merge):
    x = inputs = keras.Input((8,))
    x = L.Lambda(merge)([x, L.Dense(8)(x)])
    with pytest.raises(ValueError, match="with 0 sums"):
        kx.scale_branches(keras.Model(inputs, x))


def test_residual_layers_say_that_they_scale_already():
    model, _ = residual_layers(kx.layers.BranchScale(depth=4, name="scale"))
    done = kx.scale_branches(model)
    assert not done.scaled
    assert done.skipped == {
        row.name: f"scaled by '{layer.name}/scale'"
        for row, layer in zip(done.rows, model.layers, strict=True)
    }
    assert len(done.skipped) == len(done)


def test_layers_pick_sums():
    for pick, depth in (
        ("good", 1),
        (lambda layer: layer.name == "good", 1),
        (["good"], 1),
    ):
        model = two_networks()
        before = np.asarray(model.get_layer("one").kernel)
        done = kx.scale_branches(model, layers=pick, depth=4)
        assert [row.name for row in done.rows] == ["good"]
        assert done.depth == 4
        assert np.allclose(model.get_layer("one").kernel, before / 2)
        assert done.depth == 4 and len(done) == depth
    model, _ = nested(same)
    assert len(kx.scale_branches(model, layers=model.get_layer("outer"))) == 3
    model, _ = nested(same)
    inner = model.get_layer("outer").get_layer("inner")
    done = kx.scale_branches(model, layers=inner)
    assert done.depth == len(done) == 2
    # What is not looked at may be ambiguous.
    model = hidden()
    assert len(kx.scale_branches(model, layers=lambda layer: True)) == 1


def test_a_second_call_is_refused():
    model = residual(L.Dense(8, name="last"))
    kx.scale_branches(model)
    before = copies(model)
    with pytest.raises(ValueError, match="twice: say overwrite=True"):
        kx.scale_branches(model)
    # Nor is another model of the same layers, or a part of the branches.
    with pytest.raises(ValueError, match="twice: say overwrite=True"):
        kx.scale_branches(keras.Model(model.input, model.output), layers="bad")
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(old, new)
    kx.scale_branches(model, overwrite=True)
    kernel = model.get_layer("last").kernel
    assert np.allclose(kernel, before[2] / 2**0.5)
    # New weights have no factor.
    kx.initialize(model, "he_normal", seed=1)
    kx.scale_branches(model)


def test_trained_models_need_overwrite():
    model = residual(L.Dense(8, name="last"))
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], verbose=0)
    with pytest.raises(ValueError, match="overwrite=True"):
        kx.scale_branches(model)
    kx.scale_branches(model, overwrite=True)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16", "float64"])
def test_dtypes(dtype):
    def block(scaled):
        x = inputs = keras.Input((8,))
        for i in range(2):
            y = L.Dense(8, "relu", name=f"a{i}", dtype=dtype)(x)
            y = L.Dropout(0.1, dtype=dtype)(y)
            x = L.Add(dtype=dtype)([x, y if scaled is None else scaled(y)])
        return keras.Model(inputs, x)

    model = block(None)
    before = copies(model)
    done = kx.scale_branches(model, 1)
    assert done.factor == 0.5
    for old, new in zip(before, model.get_weights(), strict=True):
        # Halves are exact.
        assert np.array_equal(new, old / 2) and new.dtype == old.dtype
    scale = L.Rescaling(0.1, dtype=dtype)
    assert not kx.scale_branches(block(scale)).scaled


def test_the_model_is_as_it_was_but_for_the_weights():
    model, _ = nested(same)
    model.compile("sgd", "mse")

    def described():
        lines = []
        model.summary(print_fn=lambda line, **_: lines.append(line))
        return model.get_config(), lines, model.compiled

    before = described()
    kx.scale_branches(model)
    assert described() == before


@pytest.mark.slow
def test_inside_a_function_of_tensorflow_it_is_refused():
    model = residual(L.Dense(8, name="last"))

    @tf.function
    def scale():
        kx.scale_branches(model)

    with pytest.raises(RuntimeError, match="scale_branches changes the model"):
        scale()


def test_under_a_strategy():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model, _ = dense(same)
    alone, _ = dense(same)
    for each in (model, alone):
        set_random(each)
        kx.scale_branches(each)
    for a, b in zip(weights_of(model), weights_of(alone), strict=True):
        assert np.array_equal(a, b)


def test_the_record():
    model = residual(L.Dense(8, name="last"))
    done = kx.scale_branches(model)
    assert repr(done) == (
        "<BranchScaling of 2 branches by 0.7071: 2 scaled, 0 skipped>"
    )
    lines = str(done).splitlines()
    assert lines[0].split() == ["branch", "weights", "factor", "skipped"]
    assert lines[-2].split() == ["bad", "last/kernel,", "last/bias", "0.7071"]
    assert lines[-1] == "Factor: 2^(-0.5) = 0.7071"
    assert "<table>" in done._repr_html_()
    assert done.rows[1] == kx.ScaledBranch(
        "bad", ("last",), ("last/kernel", "last/bias"), 2**-0.5
    )


APPLICATIONS = {
    # Name, input size, branches, the weights that end the first one.
    "ResNet50": (64, 16, "conv2_block1_3_bn/gamma"),
    "ResNet50V2": (64, 16, "conv2_block1_3_conv/kernel"),
    "MobileNetV2": (64, 10, "block_2_project_BN/gamma"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name, application):
    size, depth, weight = APPLICATIONS[name]
    model = application(name, input_shape=(size, size, 3), classes=3)
    done = kx.scale_branches(model)
    assert len(done.scaled) == done.depth == depth
    assert done.rows[0].weights[0] == weight


@pytest.mark.slow
def test_inception_resnet_scales_already(application):
    model = application("InceptionResNetV2", input_shape=(75, 75, 3), classes=3)
    done = kx.scale_branches(model)
    # The last of its 40 blocks has the factor 1.
    assert done.depth == 40
    assert [row.skipped == "" for row in done.rows] == 39 * [False] + [True]


@pytest.mark.slow
def test_conv_next_scales_already(application):
    model = application("ConvNeXtTiny", input_shape=(32, 32, 3), classes=3)
    done = kx.scale_branches(model)
    assert len(done.skipped) == len(done) == 18
    assert all("layer_scale" in row.skipped for row in done.rows)
