"""kx.paired: plain networks that start linear, or what breaks the pairing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_initx as kx

DEPTH = 200
CHANNELS_FIRST = "channels_first"


def jacobian(model, x):
    """The Jacobian of a model's output at one input, a row for each output."""
    size = int(np.prod(model.output_shape[1:]))
    same = tf.repeat(tf.constant(x[None], tf.float32), size, 0)
    with tf.GradientTape() as tape:
        tape.watch(same)
        # Row i of the outputs depends on row i of the inputs only.
        flat = tf.reshape(tf.cast(model(same), tf.float32), (size, size))
        trace = tf.linalg.trace(flat)
    return np.asarray(tape.gradient(trace, same)).reshape(size, -1)


def singular_values(model, rng):
    x = rng.normal(size=model.input_shape[1:])
    return np.linalg.svd(jacobian(model, x), compute_uv=False)


def dense(*activations, width=12, inputs=6, depth=DEPTH):
    """A plain network, whose layers have the activations in turn."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            *[
                L.Dense(width, activations[i % len(activations)])
                for i in range(depth)
            ],
            L.Dense(width // 2),
        ]
    )


def convolutional(*activations, depth=DEPTH):
    hidden = [
        L.Conv1D(
            4, 3, padding="same", activation=activations[i % len(activations)]
        )
        for i in range(depth)
    ]
    return keras.Sequential(
        [keras.Input((4, 2)), *hidden, L.Conv1D(2, 2, padding="same")]
    )


ACTIVATIONS = {
    "relu": "relu",
    "gelu": keras.activations.gelu,
    "silu": "silu",
    "softplus": "softplus",
    "hard_silu": "hard_silu",
    "leaky_relu": L.LeakyReLU(0.3),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "depth"), [(dense, DEPTH), (convolutional, DEPTH // 2)]
)
def test_very_deep_networks_are_isometries(make, depth, rng):
    model = make(*ACTIVATIONS.values(), depth=depth)
    kx.initialize(model, kx.paired(model))
    # Rounding of 200 dense layers or 100 convolutions, each of about 1e-7 in a
    # random direction.
    np.testing.assert_allclose(singular_values(model, rng), 1, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_gives_an_isometry(name, rng):
    model = dense(ACTIVATIONS[name], depth=10)
    kx.initialize(model, kx.paired(model))
    np.testing.assert_allclose(singular_values(model, rng), 1, atol=1e-5)


@pytest.mark.slow
def test_half_precision_is_as_far_off_as_the_guide_says(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = dense("relu", depth=50)
    finally:
        keras.config.set_dtype_policy("float32")
    kx.initialize(model, kx.paired(model))
    values = singular_values(model, rng)
    assert 1e-4 < abs(values - 1).max() < 0.1


def test_he_weights_are_no_isometry(rng):
    model = dense("relu", depth=20)
    kx.initialize(model, "he_normal")
    assert np.ptp(singular_values(model, rng)) > 0.1


def units(number=8, **options):
    return L.Dense(number, **options)


def chained(x, layers):
    for layer in layers:
        x = layer(x)
    return x


@keras.saving.register_keras_serializable("tests")
class Mix(L.Layer):
    """A layer of a user, whose kernel is transposed."""

    def build(self, shape):
        self.w = self.add_weight(shape=(8, shape[-1]), name="w")

    def call(self, inputs):
        return inputs @ keras.ops.transpose(self.w)


@kx.inspection.register_layer(Mix)
def mix(layer):
    shape = tuple(layer.w.shape)
    return kx.inspection.LayerRule(
        {"w": kx.inspection.Geometry("kernel", shape, (), (1,), (0,))},
        kx.inspection.LinearUnits(layer.w, kernel_axes=(0,)),
    )


# name: (shape of the input, layers from the first kernel to the last, layers
# before them, layers behind them)
PASS = {
    "no activation": lambda: (
        (6,),
        [units(), units(activation="relu"), units()],
    ),
    "layers": lambda: (
        (6,),
        [units(), L.ReLU(), units(), L.LeakyReLU(), units()],
    ),
    "functions": lambda: (
        (6,),
        [units(), keras.ops.silu, units(), keras.ops.relu, units()],
    ),
    "odd ends": lambda: ((5,), [units(activation="relu"), units(3)]),
    "one layer": lambda: ((5,), [units(3)]),
    "free ends": lambda: (
        (4, 6),
        [units(activation="relu"), units(5)],
        [L.BatchNormalization(), L.Dropout(0.5), L.Flatten()],
        [L.Dropout(0.5), L.LayerNormalization(), L.Softmax()],
    ),
    "pooling": lambda: (
        (8, 8, 3),
        [
            L.Conv2D(6, 3, activation="relu"),
            L.AveragePooling2D(2),
            L.ZeroPadding2D(),
            L.Conv2D(8, 2, strides=2),
            L.GlobalAveragePooling2D(),
            L.ReLU(),
            L.Dense(3),
        ],
    ),
    "flattened pixels of one": lambda: (
        (2, 2, 3),
        [L.Conv2D(6, 2, activation="relu"), L.Flatten(), L.Dense(3)],
    ),
    "moved channels": lambda: (
        (4, 6),
        [
            units(activation="silu"),
            L.Permute((2, 1)),
            L.EinsumDense("abc,bd->adc", (6, None)),
            L.ReLU(),
            L.Permute((2, 1)),
            L.Dense(2),
        ],
    ),
    "a model inside": lambda: (
        (6,),
        [
            keras.Sequential([keras.Input((6,)), units(), L.ReLU(), units()]),
            L.ReLU(),
            units(),
        ],
    ),
    "own layers": lambda: ((6,), [Mix(), L.ReLU(), Mix(), L.ReLU(), Mix()]),
    "over time": lambda: (
        (3, 5, 6),
        [
            L.TimeDistributed(L.Conv1D(4, 2, activation="silu")),
            L.TimeDistributed(L.GlobalAveragePooling1D()),
            L.TimeDistributed(units()),
            L.TimeDistributed(L.ReLU()),
            units(),
        ],
    ),
    "a model over time": lambda: (
        (2, 3, 2, 6),
        [
            units(activation="relu"),
            L.TimeDistributed(
                L.TimeDistributed(
                    keras.Sequential(
                        [
                            units(6),
                            L.ReLU(),
                            L.Permute((2, 1)),
                            L.Permute((2, 1)),
                            L.TimeDistributed(units(4, activation="gelu")),
                        ]
                    )
                )
            ),
            units(),
        ],
    ),
    "channels first": lambda: (
        (3, 6, 6),
        [
            L.Conv2D(4, 3, data_format=CHANNELS_FIRST, activation="relu"),
            L.AveragePooling2D(2, data_format=CHANNELS_FIRST),
            L.TimeDistributed(L.Flatten()),
            L.Permute((2, 1)),
            units(),
        ],
    ),
    "channels first over time": lambda: (
        (2, 6, 4),
        [
            L.TimeDistributed(L.Conv1D(4, 2, data_format=CHANNELS_FIRST)),
            L.TimeDistributed(L.ReLU()),
            L.TimeDistributed(L.Conv1D(6, 2, data_format=CHANNELS_FIRST)),
        ],
    ),
    "transposed": lambda: (
        (4, 6),
        [
            L.Conv1D(4, 3, activation="relu"),
            L.Conv1DTranspose(6, 3, strides=2, activation="gelu"),
            L.UpSampling1D(2),
            L.Conv1D(2, 1),
        ],
    ),
}


@pytest.mark.parametrize("name", PASS)
def test_chains_start_linear(name, rng):
    shape, layers, before, behind = (*PASS[name](), [], [])[:4]
    inputs = keras.Input(shape)
    start = chained(inputs, before)
    end = chained(start, layers)
    model = keras.Model(inputs, chained(end, behind))
    kx.initialize(model, kx.paired(model))
    chain = keras.Model(start, end)
    x, y = rng.normal(size=(2, 3, *start.shape[1:])).astype(np.float32)
    together, *parts = (np.asarray(chain(each)) for each in (x + y, x, y))
    assert together.any()
    np.testing.assert_allclose(together, sum(parts), atol=1e-5)


def skip(x):
    return L.Add(name="sum")([x, L.Dense(8)(x)])


def attention(x):
    return L.MultiHeadAttention(2, 4, name="heads")(x, x)


def frozen():
    layer = units(name="stuck")
    layer.trainable = False
    return layer


def twice():
    layer = units(name="again")
    return [layer, layer]


def shared_over_time():
    layer = units(name="again")
    return [layer, L.TimeDistributed(layer)]


def with_lora():
    layer = units(name="adapted")
    layer.build((None, 8))
    layer.enable_lora(2)
    return layer


RELU = {"activation": "relu"}
# name: (layers between two dense ones, the layer that is named, the reason)
BREAK = {
    "recurrent over time": lambda: (
        [
            L.Reshape((2, 2, 8)),
            L.TimeDistributed(L.GRU(8), name="wrap"),
        ],
        "wrap",
        "not known to be linear",
    ),
    "odd over time": lambda: (
        [L.TimeDistributed(units(65), name="wrap")],
        "wrap",
        "odd number of units, 65",
    ),
    "normalized over time": lambda: (
        [L.TimeDistributed(L.LayerNormalization(), name="wrap")],
        "wrap",
        "normalizes",
    ),
    "dropout over time": lambda: (
        [L.TimeDistributed(L.Dropout(0.1), name="wrap")],
        "wrap",
        "in training",
    ),
    "another axis in a format": lambda: (
        [L.Conv1D(4, 1, data_format=CHANNELS_FIRST, name="first")],
        "first",
        "does not sum over",
    ),
    "shared over time": lambda: (
        shared_over_time(),
        "again",
        "more than once",
    ),
    "batch": lambda: (
        [L.BatchNormalization(name="norm")],
        "norm",
        "normalizes",
    ),
    "layer": lambda: (
        [L.LayerNormalization(name="norm")],
        "norm",
        "normalizes",
    ),
    "unit": lambda: ([L.UnitNormalization(name="norm")], "norm", "normalizes"),
    "dropout": lambda: ([L.Dropout(0.1, name="drop")], "drop", "in training"),
    "noise": lambda: (
        [L.GaussianNoise(0.1, name="noise")],
        "noise",
        "in training",
    ),
    "maximum": lambda: (
        [L.GlobalMaxPooling1D(name="max")],
        "max",
        "not linear",
    ),
    "pooling": lambda: ([L.MaxPooling1D(2, name="max")], "max", "not linear"),
    "shift": lambda: ([L.Rescaling(1, 1, name="shift")], "shift", "not linear"),
    "flattened": lambda: (
        [L.Flatten(name="flat")],
        "flat",
        "halves of the channels",
    ),
    "skip": lambda: ([skip], "sum", "takes several tensors"),
    "attention": lambda: ([attention], "heads", "not known to be linear"),
    "recurrent": lambda: (
        [L.GRU(8, name="gru")],
        "gru",
        "not known to be linear",
    ),
    "odd": lambda: (
        [L.Dense(65, name="odd")],
        "odd",
        "odd number of units, 65",
    ),
    "depthwise": lambda: (
        [L.DepthwiseConv1D(3, name="depth")],
        "depth",
        "for each group or channel",
    ),
    "groups": lambda: (
        [L.Conv1D(8, 1, groups=2, name="groups")],
        "groups",
        "for each group or channel",
    ),
    "separable": lambda: (
        [L.SeparableConv1D(8, 1, name="two")],
        "two",
        "not known to be linear",
    ),
    "axes": lambda: (
        [L.EinsumDense("abc,cde->abde", (None, 2, 4), name="axes")],
        "axes",
        "several axes",
    ),
    "other axis": lambda: (
        [L.EinsumDense("abc,bd->adc", (6, 8), name="other")],
        "other",
        "does not sum over",
    ),
    "tanh": lambda: ([units(activation="tanh", name="odd")], "odd", "phi"),
    "elu": lambda: ([L.ELU(name="elu")], "elu", "phi"),
    "softmax": lambda: ([L.Softmax(name="soft")], "soft", "mixes the units"),
    "slopes": lambda: ([L.PReLU(name="slopes")], "slopes", "activation"),
    "two": lambda: ([L.ReLU(), L.ReLU(name="second")], "second", "a second"),
    "after one": lambda: (
        [units(**RELU), L.ReLU(name="second")],
        "second",
        "a second",
    ),
    "frozen": lambda: ([frozen()], "stuck", "frozen"),
    "shared": lambda: (twice(), "again", "more than once"),
    "adapter": lambda: ([with_lora()], "adapted", "not known to be linear"),
}


@pytest.mark.parametrize("name", BREAK)
def test_what_breaks_the_pairing_is_named(name):
    layers, named, reason = BREAK[name]()
    inputs = keras.Input((4, 6))
    x = chained(inputs, [units(), *layers])
    model = keras.Model(inputs, L.Dense(2)(x))
    before = model.get_weights()
    with pytest.raises(ValueError, match=rf"{named}.*{reason}"):
        kx.paired(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_second_branch_is_named():
    inputs = keras.Input((6,))
    x = units(name="fork")(inputs)
    model = keras.Model(inputs, [L.Dense(2)(x), L.Dense(3)(x)])
    with pytest.raises(ValueError, match=r"'fork'.*several layers"):
        kx.paired(model)
    model = keras.Model(inputs, [x, L.Dense(3)(x)])
    with pytest.raises(ValueError, match=r"'fork'.*several layers"):
        kx.paired(model)


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = units()

    def call(self, x):
        return self.dense(x)


def test_other_models_are_refused():
    model = Subclass()
    with pytest.raises(ValueError, match="before it is built"):
        kx.paired(model)
    model(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="Sequential or functional"):
        kx.paired(model)
    empty = keras.Sequential([keras.Input((3,)), L.ReLU()])
    with pytest.raises(ValueError, match="layer with a kernel"):
        kx.paired(empty)
    with pytest.raises(TypeError):
        kx.paired("model")
    with pytest.raises(ValueError, match="initializer"):
        kx.paired(dense("relu", depth=1), "nonsense")
    choose = kx.paired(dense("relu", depth=1))
    with pytest.raises(ValueError, match=r"of the model that kx.paired"):
        choose(units())


def test_the_record_names_what_was_drawn():
    model = dense(L.LeakyReLU(0.25), depth=2)
    done = kx.initialize(model, kx.paired(model, "he_normal"), seed=3)
    texts = [row.initializer for row in done.rows if row.role == "kernel"]
    inner = "HeNormal()"
    assert texts == [
        f"Paired({inner}, outputs=-1, scale=1.0)",
        f"Paired({inner}, inputs=-1, outputs=-1, scale=0.64)",
        f"Paired({inner}, inputs=-1, scale=0.64)",
    ]
    again = dense(L.LeakyReLU(0.25), depth=2)
    kx.initialize(again, kx.paired(again, "he_normal"), seed=3)
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_two_replicas_start_linear_with_the_same_weights(rng):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = dense("relu", depth=3)
    alone = dense("relu", depth=3)
    for each in (model, alone):
        kx.initialize(each, kx.paired(each), seed=1)
    for one, two in zip(model.weights, alone.weights, strict=True):
        np.testing.assert_array_equal(one, two)
    x = tf.constant(rng.normal(size=(4, 6)), tf.float32)
    outputs = strategy.run(lambda: model(x))
    for y in strategy.experimental_local_results(outputs):
        sizes = np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)
        np.testing.assert_allclose(sizes, 1, rtol=1e-5)
