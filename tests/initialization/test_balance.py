"""kx.balance: the same function with the smallest weights, or a refusal."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_initx as kx


def chained(x, layers):
    for layer in layers:
        x = layer(x)
    return x


def plain(shape, *layers):
    inputs = keras.Input(shape)
    return keras.Model(inputs, chained(inputs, layers))


def spread(model, rng):
    """Gives a model weights of very different sizes."""
    for weight in model.trainable_weights:
        size = np.exp(rng.normal(size=weight.shape[-1:]))
        weight.assign(rng.normal(size=weight.shape) * size / 2)
    return model


def twin(weights, units):
    """Minimizes the sum of squares over one unit after the other.

    Args:
        weights: list of arrays.
        units: The places of the weights into each unit, and out of it, as
            pairs of the number of an array and an index.
    """
    weights = [np.array(w, np.float64) for w in weights]
    for _ in range(20000):
        largest = 0
        for into, out in units:
            a, b = (
                sum(np.square(weights[k][i]).sum() for k, i in places)
                for places in (into, out)
            )
            gain = (b / a) ** 0.25
            for places, factor in ((into, gain), (out, 1 / gain)):
                for k, i in places:
                    weights[k][i] *= factor
            largest = max(largest, abs(np.log(gain)))
        if largest < 1e-10:
            return weights
    raise AssertionError("the twin does not converge")


def column(k, j):
    return k, np.s_[..., j]


def row(k, j):
    return k, np.s_[..., j, :]


def dense():
    """Weights: kernel and bias of each layer in turn."""
    model = plain(
        (4,),
        L.Dense(5, "relu"),
        L.Dense(3),
        L.LeakyReLU(0.1),
        L.Dropout(0.5),
        L.Dense(6),
        L.Dense(2, "softmax"),
    )
    units = [
        ([column(k, j), column(k + 1, j)], [row(k + 2, j)])
        for k, size in ((0, 5), (2, 3), (4, 6))
        for j in range(size)
    ]
    return model, units


def convolutions():
    model = plain(
        (6, 6, 2),
        L.Conv2D(4, 3, padding="same", activation="relu"),
        L.MaxPooling2D(2),
        L.Conv2D(6, 2, groups=2, use_bias=False),
        L.PReLU(shared_axes=(1, 2)),
        L.ZeroPadding2D(1),
        L.AveragePooling2D(2),
        L.Flatten(),
        L.Dense(3),
    )
    # Kernel, bias; kernel; slopes; kernel, bias. Each group has 2 inputs.
    first = [
        (
            [column(0, j), column(1, j)],
            [(2, np.s_[:, :, j % 2, 3 * (j // 2) : 3 * (j // 2) + 3])],
        )
        for j in range(4)
    ]
    second = [([column(2, j)], [(4, np.s_[j::6])]) for j in range(6)]
    return model, first + second


def separable():
    """The channels between the kernels of a separable convolution are units."""
    model = plain(
        (7, 2),
        L.SeparableConv1D(4, 2, depth_multiplier=2, activation="relu"),
        L.DepthwiseConv1D(3, depth_multiplier=2, activation="relu"),
        L.Conv1DTranspose(3, 2, strides=2, activation="relu"),
        L.GlobalAveragePooling1D(),
        L.Dense(2),
    )
    # Depthwise, pointwise, bias; depthwise, bias; transposed, bias; dense.
    inner = [([(0, np.s_[:, j // 2, j % 2])], [row(1, j)]) for j in range(4)]
    made = [
        ([column(1, j), column(2, j)], [(3, np.s_[:, j])]) for j in range(4)
    ]
    depth = [
        ([(3, np.s_[:, j // 2, j % 2]), (4, np.s_[j])], [column(5, j)])
        for j in range(8)
    ]
    back = [([row(5, j), column(6, j)], [row(7, j)]) for j in range(3)]
    return model, inner + made + depth + back


def residual():
    """The channels of a sum have one gain; a model in a model is followed."""
    x = inputs = keras.Input((3,))
    x = L.Dense(4)(x)
    inside = plain((4,), L.Dense(5, "relu"), L.Dense(4, use_bias=False))
    x = keras.layers.Add()([x, inside(x)])
    x = kx.layers.Residual([L.Dense(6, "relu"), L.Dense(4)], scale=0.5)(x)
    model = keras.Model(inputs, L.Dense(2)(keras.ops.relu(x)))
    # 0, 1; 2, 3, 4; 5, 6, 7, 8; 9, 10
    stream = [
        (
            [column(k, j) for k in (0, 1, 4, 7, 8)],
            [row(k, j) for k in (2, 5, 9)],
        )
        for j in range(4)
    ]
    hidden = [
        ([column(k, j), column(k + 1, j)], [row(k + 2, j)])
        for k, size in ((2, 5), (5, 6))
        for j in range(size)
    ]
    return model, stream + hidden


def joined():
    """A concatenation, and outputs of the model, which keep their scale."""
    inputs = keras.Input((3,))
    layers = [L.Dense(n, "relu") for n in (2, 3, 2, 2)] + [L.Dense(2, "tanh")]
    one, other = (layer(inputs) for layer in layers[:2])
    fixed, kept = (layer(one) for layer in layers[2:4])
    joint = L.Reshape((9,))(L.Concatenate()([other, one, fixed, kept]))
    model = keras.Model(inputs, [layers[4](joint), L.Softmax()(fixed), kept])
    numbers = {id(w): i for i, w in enumerate(model.weights)}
    (a, b), (c, d), (e, _), (f, _), (last, _) = (
        [numbers[id(w)] for w in layer.weights] for layer in layers
    )
    units = [
        ([column(a, j), column(b, j)], [row(e, j), row(f, j), row(last, 3 + j)])
        for j in range(2)
    ]
    units += [([column(c, j), column(d, j)], [row(last, j)]) for j in range(3)]
    return model, units


def over_time():
    """Dense layers and a maximum along sequences of unknown length."""
    inputs = keras.Input((None, 3))
    x = L.Dense(4, "relu")(inputs)
    y = L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")(x)
    y = L.GlobalMaxPooling1D()(L.Maximum()([y, x]))
    model = keras.Model(inputs, L.Dense(2)(y))
    # A unit's weight to itself has no gain.
    units = [
        (
            [
                *(column(k, j) for k in (0, 1, 3)),
                (2, np.s_[np.arange(4) != j, j]),
            ],
            [(2, np.s_[j, np.arange(4) != j]), row(4, j)],
        )
        for j in range(4)
    ]
    return model, units


def a_model_over_time():
    """A model that only `TimeDistributed` runs, and never a user."""
    inner = keras.Sequential([L.Dense(4, "relu"), L.Dense(3)])
    model = plain((5, 2), L.TimeDistributed(inner), L.ReLU(), L.Dense(2))
    units = [
        ([column(k, j), column(k + 1, j)], [row(k + 2, j)])
        for k, size in ((0, 4), (2, 3))
        for j in range(size)
    ]
    return model, units


MODELS = [
    dense,
    convolutions,
    separable,
    residual,
    joined,
    over_time,
    a_model_over_time,
]


def outputs_of(model, x):
    made = model(x)
    made = made if isinstance(made, list | tuple) else [made]
    return [np.asarray(tf.cast(y, tf.float32)) for y in made]


def inputs_of(model, rng):
    shape = [size or 5 for size in model.input_shape[1:]]
    return rng.normal(size=(8, *shape)).astype(np.float32)


def assert_same(model, x, expected, tolerance=1e-5):
    for y, before in zip(outputs_of(model, x), expected, strict=True):
        np.testing.assert_allclose(
            y, before, rtol=0, atol=tolerance * np.abs(before).max()
        )


@pytest.mark.parametrize("make", MODELS)
def test_the_function_stays_and_the_weights_are_the_smallest(make, rng):
    model, units = make()
    spread(model, rng)
    x = inputs_of(model, rng)
    function, weights = outputs_of(model, x), model.get_weights()
    done = kx.balance(model)
    assert_same(model, x, function)
    expected = twin(weights, units)
    for new, best in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(new, best, rtol=1e-5)
    assert not done.skipped
    slopes = [w for w in model.weights if "alpha" in w.name]
    constant = sum(np.square(w).sum() for w in map(np.asarray, slopes))
    for total, some in ((done.before, weights), (done.after, expected)):
        squares = sum(np.square(w, dtype=np.float64).sum() for w in some)
        np.testing.assert_allclose(total, squares - constant, rtol=1e-6)
    assert done.after < done.before
    # To balance again changes nothing.
    balanced = model.get_weights()
    again = kx.balance(model)
    np.testing.assert_allclose(again.after, done.after, rtol=1e-6)
    for new, old in zip(model.get_weights(), balanced, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-6)


def test_balanced_units_have_no_imbalance(rng):
    model, _ = dense()
    kx.balance(spread(model, rng))
    weights = model.get_weights()
    for k in (0, 2, 4):
        gaps = kx.theory.imbalance(weights[k], weights[k + 2], weights[k + 1])
        scale = kx.theory.imbalance(weights[k], 0 * weights[k + 2])
        assert (abs(gaps) < 1e-5 * (scale + 1)).all()


def test_a_deep_network_converges(rng):
    """The gains of 60 layers depend on one another."""
    layers = [L.Dense(3, "relu") for _ in range(60)]
    model = plain((3,), *layers, L.Dense(1))
    for i, layer in enumerate(layers):
        layer.kernel.assign(np.abs(rng.normal(size=(3, 3))) * 10 ** (-1) ** i)
    kx.balance(model)
    kernels = model.get_weights()[::2]
    for before, behind in itertools.pairwise(kernels):
        gaps = kx.theory.imbalance(before, behind)
        assert abs(gaps).max() < 1e-5 * np.square(before).sum()


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(dtype, rng):
    keras.config.set_dtype_policy(dtype)
    try:
        model, _ = convolutions()
    finally:
        keras.config.set_dtype_policy("float32")
    alone, units = convolutions()
    spread(model, rng)
    alone.set_weights(model.get_weights())
    x = inputs_of(model, rng)
    function = outputs_of(model, x)
    kx.balance(model)
    assert_same(model, x, function, 0.1)
    for new, best in zip(
        model.get_weights(), twin(alone.get_weights(), units), strict=True
    ):
        np.testing.assert_allclose(new, best, rtol=1e-5)


def test_units_without_effect_keep_their_scale(rng):
    model, _ = dense()
    spread(model, rng)
    first, second = model.layers[1], model.layers[2]
    kernel, bias = first.get_weights()
    kernel[:, 0] = bias[0] = 0
    first.set_weights([kernel, bias])
    kernel = second.kernel.numpy()
    kernel[1] = 0
    second.kernel.assign(kernel)
    before = first.get_weights()
    x = inputs_of(model, rng)
    function = outputs_of(model, x)
    kx.balance(model)
    assert_same(model, x, function)
    for new, old in zip(first.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new[..., :2], old[..., :2])
        assert (new[..., 2:] != old[..., 2:]).all()


def test_what_comes_first_or_last_is_free(rng):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            L.Embedding(9, 3, name="words"),
            L.LayerNormalization(),
            L.LSTM(4, name="recurrent"),
            L.Dense(6, "relu"),
            L.Dense(3),
            L.BatchNormalization(),
            L.Activation("tanh"),
        ]
    )
    x = rng.integers(0, 9, (4, 5))
    function = outputs_of(model, x)
    done = kx.balance(model)
    assert_same(model, x, function)
    reason = "not known to be linear in one kernel"
    assert done.skipped == {"words": reason, "recurrent/lstm_cell": reason} or (
        set(done.skipped) == {"words", "recurrent"}
    )
    assert len(done.balanced) == 2
    assert "squares after" in str(done)
    assert "<table" in done._repr_html_()


def frozen():
    layer = L.Dense(8, name="stuck")
    layer.trainable = False
    return [layer]


def twice():
    layer = L.Dense(8, name="again")
    return [layer, layer]


def with_lora():
    layer = L.Dense(8, name="adapted")
    layer.build((None, 6, 8))
    layer.enable_lora(2)
    return [layer]


def quantized():
    layer = L.Dense(8, name="whole")
    layer.build((None, 6, 8))
    layer.quantize("int8")
    return [layer]


def not_finite():
    layer = L.Dense(8, name="nan")
    layer.build((None, 6, 8))
    layer.bias.assign(np.full(8, np.nan))
    return [layer]


@keras.saving.register_keras_serializable("tests")
class Shifted(L.Dense):
    """A layer whose call is not what the rule of its class says."""

    def call(self, inputs):
        return super().call(inputs) + 1


@kx.inspection.register_layer(Shifted)
def shifted(layer):
    return kx.inspection.LayerRule(
        units=kx.inspection.LinearUnits(layer.kernel, (1,), bias=layer.bias)
    )


class Offset(L.Layer):
    """A layer that no rule knows, which is homogeneous by chance."""

    def build(self, shape):
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")
        self.offset.assign(np.zeros(shape[-1]))

    def call(self, x):
        return x + self.offset


def constrained():
    return [L.Dense(8, kernel_constraint="unit_norm", name="unit")]


# The layers between two dense ones of 8 units, the name and the reason.
REFUSED = {
    "tanh": lambda: ([L.Dense(8, "tanh", name="t")], "t", "activation"),
    "relu6": lambda: ([L.ReLU(6, name="six")], "six", "scale of each unit"),
    "elu": lambda: ([L.ELU(name="elu")], "elu", "scale of each unit"),
    "gelu": lambda: (
        [L.Activation("gelu", name="g")],
        "g",
        "scale of each unit",
    ),
    "softmax": lambda: ([L.Softmax(name="s")], "s", "scale of each unit"),
    "sign": lambda: (
        [L.Lambda(keras.ops.sign, name="sign")],
        "sign",
        "scale of each unit",
    ),
    "shift": lambda: (
        [L.Rescaling(1, 1, name="shift")],
        "shift",
        "scale of each unit",
    ),
    "batch": lambda: ([L.BatchNormalization(name="n")], "n", "normalizes"),
    "layer": lambda: ([L.LayerNormalization(name="n")], "n", "normalizes"),
    "unit": lambda: ([L.UnitNormalization(name="n")], "n", "normalizes"),
    "noise": lambda: ([L.GaussianNoise(0.1, name="n")], "n", "in training"),
    "product": lambda: (
        [lambda x: L.Multiply(name="gate")([x, L.Dense(8)(x)])],
        "gate",
        "scale of each unit",
    ),
    "mean of channels": lambda: (
        [lambda x: keras.ops.mean(x, axis=-1, keepdims=True)],
        "mean",
        "scale of each unit",
    ),
    "attention": lambda: (
        [lambda x: L.MultiHeadAttention(2, 4, name="heads")(x, x)],
        "heads",
        "not known to be linear",
    ),
    "recurrent": lambda: ([L.GRU(8, name="r")], "r", "not known to be linear"),
    "wrapped": lambda: (
        [L.TimeDistributed(L.Dense(8), name="wrap")],
        "wrap",
        "not known to be linear",
    ),
    "axes": lambda: (
        [L.EinsumDense("abc,cde->abde", (None, 2, 4), name="axes")],
        "axes",
        "several axes",
    ),
    "frozen": lambda: (frozen(), "stuck", "frozen"),
    "called twice": lambda: (twice(), "again", "called 2 times"),
    "adapter": lambda: (with_lora(), "adapted", "LoRA"),
    "quantized": lambda: (quantized(), "whole", "quantized"),
    "not finite": lambda: (not_finite(), "nan", "not finite"),
    "wrong rule": lambda: (
        [Shifted(8, name="wrong")],
        "wrong",
        "than its rule says",
    ),
    "unknown weight": lambda: ([Offset(name="own")], "own", "role 'unknown'"),
    "constraint": lambda: (constrained(), "unit", "constraint"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_named(name):
    layers, named, reason = REFUSED[name]()
    model = plain((6, 8), L.Dense(8), *layers, L.Dense(2))
    before = model.get_weights()
    with pytest.raises(
        ValueError, match=rf"(?s){named}.*{reason}|{reason}.*{named}"
    ):
        kx.balance(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_shared_weights_are_refused():
    class Tied(L.Layer):
        def __init__(self, kernel):
            super().__init__()
            self.kernel = kernel

        def call(self, x):
            return x @ keras.ops.transpose(self.kernel)

    one = L.Dense(4, name="one")
    one.build((None, 4))
    model = plain((4,), one, Tied(one.kernel), L.Dense(1))
    with pytest.raises(ValueError, match=r"'one'.*shares its weights"):
        kx.balance(model)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        return self.dense(x)


def test_other_models_are_refused():
    model = Subclass()
    with pytest.raises(ValueError, match="before it is built"):
        kx.balance(model)
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="Sequential or functional"):
        kx.balance(model)
    with pytest.raises(ValueError, match="dense layer or convolution"):
        kx.balance(keras.Sequential([keras.Input((3,)), L.ReLU()]))
    with pytest.raises(TypeError):
        kx.balance("model")
    small = plain((2,), L.Dense(1))
    with pytest.raises(RuntimeError, match="balance changes the model"):
        tf.function(lambda: kx.balance(small))()


def test_two_replicas_have_the_balanced_weights(rng):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model, _ = dense()
    alone, _ = dense()
    spread(alone, rng)
    model.set_weights(alone.get_weights())
    for each in (model, alone):
        kx.balance(each)
    for variable, value in zip(model.weights, alone.get_weights(), strict=True):
        for copy in strategy.experimental_local_results(variable.value):
            np.testing.assert_array_equal(copy, value)
