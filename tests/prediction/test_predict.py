"""Names, traces, arguments and refusals of `predict`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.prediction.elementwise import found_kinks
from keras_initx.prediction.finite_width import DrawnEngine
from keras_initx.theory.mean_field.gaussian_products import (
    Function,
    gaussian_mean,
)
from tests.prediction.networks import rows_of_network

L = keras.layers


def functional(build, *shape):
    inputs = keras.Input(shape)
    return keras.Model(inputs, build(inputs))


def dense(units=4, **kwargs):
    return L.Dense(units, **kwargs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = dense(activation="tanh")
        self.rest = [dense(name="same"), dense(name="same")]
        self.outputs_layer = dense(2, activation="softmax")

    def call(self, x):
        x = self.first(x)
        for layer in self.rest:
            x = x + 0.5 * keras.ops.relu(layer(x))
        return self.outputs_layer(x)


class OwnDense(keras.layers.Layer):
    """A kernel in the layer's own call, and an activation attribute."""

    def __init__(self):
        super().__init__(name="own")
        self.activation = keras.activations.relu

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return self.activation(keras.ops.matmul(x, self.kernel))


def nested():
    inner = keras.Sequential([dense(activation="relu"), dense()], name="inner")
    return functional(lambda x: L.Add()([inner(x), inner(inner(x))]), 4)


def several_outputs():
    x = keras.Input((4,), name="x")
    y = keras.Input((3,), name="y")
    joined = dense()(L.Concatenate()([x, y]))
    ends = {"b": dense(2)(joined), "a": dense(3, activation="softmax")(y)}
    return keras.Model({"x": x, "y": y}, ends)


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 4)))
    return model


MODELS = {
    "sequential": lambda: keras.Sequential(
        [keras.Input((4,)), dense(), dense()]
    ),
    "nested": nested,
    "subclassed": subclassed,
    "several": several_outputs,
    "own": lambda: keras.Sequential([keras.Input((4,)), OwnDense(), dense()]),
    "residual": lambda: functional(
        lambda x: kx.layers.Residual(
            keras.Sequential([dense(), kx.layers.BranchScale(depth=3)])
        )(x),
        4,
    ),
    "shaped": lambda: functional(
        lambda x: kx.layers.ShapedActivation("tanh", width=4)(
            kx.layers.ShapedReLU(width=4)(kx.layers.ScalarBias()(dense()(x)))
        ),
        4,
    ),
    "images": lambda: functional(
        lambda x: dense()(L.Flatten()(L.Conv2D(4, 3, groups=2)(x))), 4, 4, 2
    ),
    "time": lambda: functional(
        lambda x: L.TimeDistributed(keras.Sequential([dense(), dense()]))(x),
        3,
        4,
    ),
    "wrapped": lambda: functional(
        lambda x: L.Activation("relu")(L.EinsumDense("ab,bc->ac", 3)(x)), 4
    ),
    "norms": lambda: functional(
        lambda x: dense()(
            L.UnitNormalization()(
                L.RMSNormalization()(L.BatchNormalization()(dense()(x)))
            )
        ),
        4,
    ),
}


def inputs_of(model):
    rng = np.random.default_rng(0)
    shapes = (
        [x.shape[1:] for x in model.inputs]
        if hasattr(model, "inputs")
        else [(4,)]
    )
    arrays = [
        rng.normal(size=(5, *shape)).astype("float32") for shape in shapes
    ]
    if len(arrays) > 1:
        return dict(zip(model.input, arrays, strict=True))
    return arrays[0]


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_measure(name):
    model = MODELS[name]()
    x = inputs_of(model)
    found = kx.predict(model, x)
    names, rows = rows_of_network(model, x, 0)
    assert list(found.layers) == names
    assert np.isfinite(found.total).all()
    reached = ~np.isnan(rows[:, 2])
    # No gradient comes out of the steps of a TimeDistributed layer.
    assert name == "time" or (np.isfinite(found.gradient) == reached).all()


def trace(model):
    layers = [model, *model._flatten_layers(include_self=False)]
    return (
        [
            (id(la), len(la._inbound_nodes), len(la._outbound_nodes))
            for la in layers
        ],
        [(la.name, la.built, sorted(vars(la))) for la in layers],
        model.to_json() if isinstance(model, keras.Model) else None,
    )


@pytest.mark.parametrize("name", ["sequential", "nested", "norms", "time"])
def test_nothing_of_the_model_changes(name):
    model = MODELS[name]()
    weights = [w.copy() for w in model.get_weights()]
    before = trace(model)
    methods = keras.Layer.__call__, keras.Operation.symbolic_call
    kx.predict(model)
    kx.predict(model, training=True, samples=5)
    assert trace(model) == before
    assert methods == (keras.Layer.__call__, keras.Operation.symbolic_call)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # It still runs, and its next layer has the next name.
    model(inputs_of(model))


def test_the_methods_are_restored_after_an_error():
    methods = keras.Layer.__call__, keras.Operation.symbolic_call
    with pytest.raises(ValueError, match="cannot be predicted"):
        kx.predict(functional(lambda x: L.Dot(1)([x, x]), 5, 4))
    assert methods == (keras.Layer.__call__, keras.Operation.symbolic_call)


def test_the_same_call_gives_the_same_numbers():
    model = functional(
        lambda x: dense()(
            L.ReLU()(L.Add()([dense()(x), L.ReLU()(dense()(x))]))
        ),
        4,
    )
    first, again = kx.predict(model, seed=3), kx.predict(model, seed=3)
    other = kx.predict(model, seed=4)
    assert first == again
    assert first != other
    assert first.exactness[-1] == "sampled"
    np.testing.assert_allclose(first.total, other.total, rtol=0.05)


def test_it_is_laid_beside_a_measurement(tmp_path):
    model = MODELS["sequential"]()
    x = inputs_of(model)
    profile, found = kx.measure(model, x), kx.predict(model, x)
    table = profile.table(expected=found)
    assert "expected gradient ratio" in table.splitlines()[0]
    # The first row is exact: it is the mean over drawings of the kernel.
    assert found.exactness[0] == "exact"
    found.save(tmp_path / "prediction.json")
    loaded = kx.Prediction.load(tmp_path / "prediction.json")
    assert loaded == found
    assert json.loads((tmp_path / "prediction.json").read_text())["gradient"]
    assert found["dense" if "dense" in found.layers else 0].gradient > 0


def test_present_and_initial_weights():
    model = keras.Sequential([keras.Input((50,)), dense(50)])
    layer = model.layers[0]
    layer.kernel.assign(3 * layer.kernel)
    present, initial = kx.predict(model), kx.predict(model, weights="initial")
    mean_square = np.mean(layer.kernel.numpy().astype(float) ** 2)
    assert present.total[0] == pytest.approx(50 * mean_square, rel=1e-6)
    # Glorot's variance is 1 / 50.
    assert initial.total[0] == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("initializer", "variance", "mean"),
    [
        ("he_normal", 2 / 6, 0),
        ("glorot_uniform", 2 / 10, 0),
        (keras.initializers.RandomNormal(0.0, 0.3), 0.09, 0),
        (keras.initializers.TruncatedNormal(0.0, 0.3), 0.09 * 0.7737413, 0),
        (keras.initializers.RandomUniform(-0.6, 0.6), 0.12, 0),
        (keras.initializers.Orthogonal(2.0), 4 / 6, 0),
        ("zeros", 0, 0),
        (kx.initializers.Scaled("he_normal", 0.5), 0.5 / 6, 0),
    ],
)
def test_variances_of_initializers(initializer, variance, mean):
    layer = dense(4, kernel_initializer=initializer)
    model = keras.Sequential([keras.Input((6,)), layer])
    found = kx.predict(model, weights="initial")
    assert found.total[0] == pytest.approx(6 * variance, rel=1e-6)


def test_layers_and_training_and_precision():
    model = keras.Sequential(
        [
            keras.Input((8,)),
            L.Dense(8, "relu", dtype="mixed_float16", name="half"),
            L.Dropout(0.5),
            L.Dense(8, name="last"),
        ]
    )
    found = kx.predict(model, layers="half")
    assert found.layers == ("half",)
    trained, tested = kx.predict(model, training=True), kx.predict(model)
    assert trained.total[1] == pytest.approx(2 * tested.total[1], rel=1e-9)


def test_two_replicas():
    devices = tf.config.list_logical_devices("CPU")[:2]
    strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), dense(), dense()])
    alone = keras.models.clone_model(model)
    alone.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        kx.predict(model).total, kx.predict(alone).total
    )


def test_a_rule_of_ones_own():
    class Signed(L.Layer):
        def call(self, x):
            return tf.math.sign(x)

    model = keras.Sequential(
        [keras.Input((4,)), Signed(name="signed"), dense()]
    )
    with pytest.raises(ValueError, match=r"'signed'.*register_propagation"):
        kx.predict(model)

    @kx.prediction.register_propagation(Signed)
    def signed(steps, layer, x):
        return steps.elementwise(lambda z: tf.math.sign(z), x)

    kernel = model.layers[-1].kernel.numpy().astype(float)
    found = kx.predict(model)
    assert found.total[0] == pytest.approx(4 * np.mean(kernel**2), rel=1e-9)
    with pytest.raises(TypeError, match="layer classes"):
        kx.prediction.register_propagation(Signed(name="no_class"))


def images(*layers):
    return keras.Sequential([keras.Input((4, 4, 4)), *layers])


@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (np.tanh, ()),
        (np.exp, ()),
        (np.square, ()),
        (lambda z: np.sin(3 * z), ()),
        (lambda z: np.maximum(z, 0), (0.0,)),
        (lambda z: np.clip(z, -1, 1), (-1.0, 1.0)),
        (lambda z: np.clip(2 * z - 0.3, -1, 2.1), (-0.35, 1.2)),
        (np.sign, (0.0,)),
        (lambda z: np.abs(z - 1 / 3) + np.tanh(z), (1 / 3,)),
    ],
)
def test_kinks_are_found(function, kinks):
    assert found_kinks(function) == pytest.approx(kinks, abs=1e-8)


def test_an_activation_with_kinks_that_nobody_named():
    def clipped(z):
        return keras.ops.clip(2 * z - 0.3, -1.0, 2.1)

    layers = [dense(activation=clipped), dense()]
    model = keras.Sequential([keras.Input((4,)), *layers])
    found = kx.predict(model, weights="initial")

    def exact(z):
        return np.clip(2 * z - 0.3, -1.0, 2.1)

    # Glorot's variance is 1 / 4, so that both pre-activations have variance 1.
    moment = gaussian_mean(
        Function(lambda z: exact(z) ** 2, (-0.35, 1.2)),
        np.zeros(1),
        np.ones(1),
    )[0]
    assert found.total[1] == pytest.approx(moment, rel=1e-9)


@pytest.mark.parametrize("width", [3.0, 40.0])
def test_sines_of_wide_signals_are_drawn(width):
    """E sin^2 = (1 - exp(-2 q)) / 2, and E cos^2 = (1 + exp(-2 q)) / 2.

    With standard deviation 20, quadrature was 6% off.
    """

    def sine(z):
        return keras.ops.sin(width * z)

    def white():
        return keras.initializers.VarianceScaling(
            1.0, "fan_in", "untruncated_normal"
        )

    model = keras.Sequential(
        [
            keras.Input((4,)),
            dense(activation=sine, kernel_initializer=white(), use_bias=False),
            dense(kernel_initializer=white(), use_bias=False),
        ]
    )
    found = kx.predict(model, np.eye(4), weights="initial", samples=4)
    # Each sample has variance 1 / 4.
    q = width**2 / 4
    drawn = width > 10
    tolerance = 6.1 * np.sqrt(0.5 / 8192) if drawn else 1e-9
    sines, cosines = ((1 - s * np.exp(-2 * q)) / 2 for s in (1, -1))
    assert found.total[1] == pytest.approx(sines, rel=tolerance)
    assert found.gradient[0] == pytest.approx(width**2 * cosines, rel=tolerance)
    words = {"exact", "sampled"} if drawn else {"exact", "wide"}
    assert set(found.exactness) <= words
    assert ("sampled" in found.exactness) == drawn


class ReadOut(keras.Layer):
    """Products of a signal with all vectors of an embedding."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return keras.ops.matmul(x, keras.ops.transpose(self.table.embeddings))


def test_a_tied_read_out_says_by_how_much_its_total_is_off():
    """The square of a token's own logit, |e|^2, counts among all logits."""
    normal = keras.initializers.RandomNormal(0.0, 0.5)
    table = L.Embedding(300, 90, embeddings_initializer=normal)
    read_out = ReadOut(table)
    model = keras.Sequential([keras.Input((5,)), table, read_out])
    tokens = np.arange(40).reshape(8, 5)
    found = kx.predict(model, tokens, layers=[table, read_out])
    assert "up to 30% higher" in found.notes[-1]
    vectors = table.get_weights()[0]
    measured = np.mean((vectors[:40] @ vectors.T) ** 2)
    # The mean over 40 own logits has a relative standard error of 5%, and that
    # of all logits one of 2%.
    assert measured / found.total[-1] == pytest.approx(1.30, abs=0.18)


def initialized(initializer, *layers):
    first = dense(16, name="first", activation="relu")
    model = keras.Sequential([keras.Input((16,)), first, *layers, dense(16)])
    if initializer is kx.paired:
        initializer = kx.paired(model)
    kx.initialize(model, initializer, seed=0)
    return model


class Repeated(L.Layer):
    """Copies the heads of its input."""

    def call(self, x):
        return keras.ops.repeat(x, 2, axis=1)


def halves(x):
    """Two activations, so that channels differ in distribution."""
    a, b = keras.ops.split(x, 2, axis=-1)
    return dense()(L.Concatenate()([keras.ops.relu(a), keras.ops.tanh(b)]))


class NeedsNumbers(L.Layer):
    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        if type(x).__name__ == "MomentTensor":
            raise TypeError("a word " * 40)
        return x


def text_vectorization():
    return L.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)


REFUSED = {
    # Where the gradient is formed.
    "gradient of copies": (
        lambda: functional(
            lambda x: halves(
                L.Reshape((32,))(
                    Repeated(name="copies")(
                        L.EinsumDense("ab,bcd->acd", (2, 8))(x)
                    )
                )
            ),
            4,
        ),
        r"^layer 'copies' \(Repeated\).*channels that differ.*Received: model=",
    ),
    "gradient of a flatten": (
        lambda: functional(
            lambda x: halves(L.Flatten(name="flat")(x)), 2, 2, 4
        ),
        r"^layer 'flat' \(Flatten\) cannot be predicted: it flattens",
    ),
    "softmax": (
        lambda: keras.Sequential(
            [keras.Input((4,)), dense(name="a"), L.Softmax(), dense(name="b")]
        ),
        "'b'.*softmax",
    ),
    "heavy": (
        lambda: keras.Sequential(
            [
                keras.Input((4,)),
                dense(kernel_initializer=kx.initializers.AlphaStable(1.5)),
            ]
        ),
        "stable_scale_recursion",
    ),
    "paired initializer": (
        lambda: keras.Sequential(
            [
                keras.Input((2,)),
                dense(kernel_initializer=kx.initializers.Paired(outputs=-1)),
            ]
        ),
        "in pairs, which are not independent",
    ),
    "identity": (
        lambda: keras.Sequential(
            [keras.Input((64,)), dense(64, kernel_initializer="identity")]
        ),
        "constructed",
    ),
    "ones": (
        lambda: keras.Sequential(
            [keras.Input((64,)), dense(64, kernel_initializer="ones")]
        ),
        "the mean of its kernel",
    ),
    "attention": (
        lambda: functional(lambda x: L.Dot(1)([dense()(x), dense()(x)]), 5, 4),
        "dot",
    ),
    "permuted": (lambda: images(L.Permute((3, 1, 2)), dense()), "channels"),
    "interpolated": (
        lambda: images(
            L.UpSampling2D(2, interpolation="bilinear"), L.Conv2D(2, 2)
        ),
        "interpolates",
    ),
    "tokens": (
        lambda: keras.Sequential([keras.Input((5,)), L.Embedding(4, 3)]),
        "it needs the tokens themselves: pass data to predict. Received",
    ),
    "pairs": (
        lambda: initialized(kx.paired, dense(16, activation="relu")),
        "measure them.*'first'",
    ),
    "paired inputs": (
        lambda: initialized(kx.initializers.Paired("he_normal", inputs=-1)),
        "in pairs.*'first'",
    ),
    "paired outputs": (
        lambda: initialized(kx.initializers.Paired("he_normal", outputs=1)),
        "in pairs.*'first'",
    ),
    "tensorflow": (
        lambda: keras.Sequential(
            [keras.Input((5,)), L.Lambda(lambda x: tf.nn.relu(x)), dense()]
        ),
        "it calls functions of TensorFlow, and .*keras.ops alone. A rule",
    ),
    # The error of its call is cut at a word.
    "long error": (
        lambda: functional(lambda x: dense()(NeedsNumbers()(x)), 4),
        r"\(NeedsNumbers\).*TypeError: (a word ){20,}(a )?\[\.{3}\]\. A rule",
    ),
    "text": (
        lambda: keras.Sequential(
            [keras.Input((), dtype="string"), text_vectorization(), dense()]
        ),
        "of text.*measure.*an input of dtype 'string'",
    ),
    "no layers": (keras.Sequential, "must have layers.*none"),
    "no weights": (
        lambda: keras.Sequential([keras.Input((4,)), L.ReLU()]),
        "no weights.*layers=None",
    ),
    "too many tokens": (
        lambda: functional(lambda x: L.MultiHeadAttention(1, 2)(x, x), 1600, 4),
        "1600 positions, joins them in another way",
    ),
    "unknown size": (
        lambda: keras.Sequential([keras.Input((None, 2)), L.Conv1D(2, 3)]),
        "unknown size",
    ),
    "not built": (
        lambda: keras.Sequential([dense()]),
        r"built. Call the model on data, or call model.build\(input_shape\).",
    ),
    "noise": (
        lambda: functional(
            lambda x: L.LSTM(3)(
                L.Masking()(x), initial_state=[x[:, 0, :3]] * 2
            ),
            5,
            4,
        ),
        "'masking'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        kx.predict(build())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layers": "nope"}, "layers"),
        ({"training": 1}, "training"),
        ({"weights": "late"}, "weights"),
        ({"samples": 1}, "samples"),
        ({"seed": -1}, "seed"),
        ({"data": np.ones((1, 4))}, "two samples"),
        ({"data": np.full((3, 4), np.nan)}, "finite"),
        ({"data": np.full((3, 4), "a")}, "numbers"),
    ],
)
def test_arguments_that_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        kx.predict(MODELS["sequential"](), **kwargs)


def encoder(x):
    return L.MultiHeadAttention(2, 3)(x, x)


# For each model, shapes of samples that it does not take.
WRONG_SHAPES = {
    "dense": (lambda: images(L.Flatten(), dense()), [(5, 4, 4)]),
    "convolution": (lambda: images(L.Conv2D(2, 3)), [(4, 4, 3), (4, 4)]),
    "depthwise": (lambda: images(L.DepthwiseConv2D(3)), [(4, 4, 2)]),
    "normalized": (
        lambda: functional(lambda x: dense()(L.LayerNormalization()(x)), 4),
        [(5,), (3, 4)],
    ),
    "attention": (lambda: functional(encoder, 5, 4), [(5, 6), (4,)]),
    "recurrent": (lambda: functional(L.LSTM(3), 5, 4), [(5, 3)]),
    "images of another size": (
        lambda: functional(lambda x: L.Conv2D(2, 3)(x), 4, 4, 2),
        [(5, 5, 2)],
    ),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_data_of_another_shape_are_refused(name):
    build, shapes = WRONG_SHAPES[name]
    model = build()
    for shape in shapes:
        with pytest.raises(ValueError, match="data must have the shapes"):
            kx.predict(model, np.ones((3, *shape)))


def test_data_of_too_few_arrays_and_of_other_tokens_are_refused():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    two = keras.Model([a, b], dense()(L.Concatenate()([a, b])))
    x = np.ones((3, 4))
    for data in (x, [x], (x,)):
        for function in (kx.predict, kx.measure):
            with pytest.raises(
                ValueError,
                match=r"an array for each input.*4\), where.*4\), \(None, 2\)",
            ):
                function(two, data)
    tokens = functional(lambda x: dense()(L.Embedding(4, 3)(x)), 5)
    with pytest.raises(ValueError, match=r"^The integers in.* Received: 9 in"):
        kx.predict(tokens, np.full((3, 5), 9))


def test_data_that_a_call_of_ones_own_does_not_take():
    model = subclassed()
    with pytest.raises(ValueError, match=r"Received|incompatible"):
        kx.predict(model, np.ones((3, 5)))
    assert len(kx.predict(model, np.eye(4))) == 4


def test_several_arrays_for_one_input():
    with pytest.raises(ValueError, match=r"labels left out.* 2 arrays"):
        kx.predict(MODELS["sequential"](), (np.ones((3, 4)), np.ones(3)))


def test_other_shapes_that_a_model_takes():
    # Keras drops a last axis of one entry, and a Sequential takes other sizes.
    model = MODELS["sequential"]()
    x = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_array_equal(
        kx.predict(model, x[..., None]).total, kx.predict(model, x).total
    )
    small = np.random.default_rng(0).normal(size=(3, 3, 3, 4))
    model = images(L.Conv2D(3, 3), L.GlobalAveragePooling2D(), dense())
    same = keras.Sequential([keras.Input((3, 3, 4)), *model.layers])
    np.testing.assert_array_equal(
        kx.predict(model, small).total, kx.predict(same, small).total
    )


def test_a_sample_that_is_tried_leaves_the_state_as_it_was():
    layer = L.SimpleRNN(3, stateful=True, return_sequences=True)
    model = keras.Sequential([keras.Input((5, 4), batch_size=2), layer])
    kx.predict(model, np.ones((2, 6, 4)))
    np.testing.assert_array_equal(layer.states[0], np.zeros((2, 3)))


def test_a_trained_model_is_refused_unless_its_start_is_asked_for():
    model = MODELS["sequential"]()
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((2, 4)), np.ones((2, 4)))
    with pytest.raises(ValueError, match='weights="initial"'):
        kx.predict(model)
    assert len(kx.predict(model, weights="initial")) == 2


def test_images_of_many_positions_have_fewer_samples():
    model = functional(lambda x: L.Conv2D(4, 3, padding="same")(x), 16, 16, 2)
    data = np.random.default_rng(0).normal(size=(8, 16, 16, 2))
    few, more = kx.predict(model, data), kx.predict(model, data[[0, 1, 2, 3]])
    assert few.total == pytest.approx(more.total, rel=0.1)
    (said,) = few.remarks
    assert few.samples == 4 and "4 of your 8 samples" in said
    assert "those of these 4" in said and "batch" not in said
    assert not more.remarks


def test_it_says_that_a_pair_was_taken_of_more_samples():
    for size in (24, 40):
        inputs = keras.Input((size, size, 1))
        model = keras.Model(
            inputs, L.Dense(2)(L.GlobalAveragePooling2D()(inputs))
        )
        data = np.random.default_rng(0).normal(size=(9, size, size, 1))
        found = kx.predict(model, data, samples=8, training=True)
        said = found.remarks[-1]
        assert found.samples == 2 and said in str(found)
        assert "2 of your 8 samples" in said
        assert "sample fraction, decay and verdict are those of this" in said
        assert "this pair is the batch, not all 8" in said
        assert not kx.predict(model, data, samples=2).remarks
        assert "2 of 32 samples" in kx.predict(model, training=True).remarks[-1]
        assert not kx.predict(model).remarks


@pytest.mark.parametrize("options", [{}, {"width": "actual", "networks": 2}])
def test_rounding_is_no_difference_between_samples(options):
    same, others = keras.Input((8,)), keras.Input((6,))
    branches = [L.Dense(5, "relu")(x) for x in (same, others)]
    model = keras.Model([same, others], L.Dense(3)(L.Concatenate()(branches)))
    rng = np.random.default_rng(0)
    for value in (1.0, 0.3, 0.7, 100.0):
        data = [np.full((7, 8), value), rng.normal(size=(7, 6))]
        found = kx.predict(model, data, **options)
        assert found.sample_fraction[0] == found.decay[0] == 0
        assert found.decay[1] == 1 and found.decay[2] > 0
    # A small difference is one.
    data[0] = np.ones((7, 8))
    data[0][:2] += 1e-4
    fraction = kx.predict(model, data, **options).sample_fraction[0]
    assert 1e-9 < fraction < 1e-7


def test_kinds_of_data():
    model = MODELS["sequential"]()
    x = np.random.default_rng(0).normal(size=(8, 4))
    arrays = kx.predict(model, x, samples=8)
    sets = tf.data.Dataset.from_tensor_slices(x).batch(8)
    np.testing.assert_allclose(
        kx.predict(model, sets, samples=8).total, arrays.total, rtol=1e-6
    )


@pytest.mark.parametrize(
    "initializer", [kx.initializers.FractionalMoment(), lambda shape, dtype: 1]
)
def test_an_unknown_initializer_is_refused_and_its_values_are_not(initializer):
    layer = keras.layers.Dense(
        8, kernel_initializer=kx.initializers.FractionalMoment()
    )
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.kernel_initializer = initializer
    with pytest.raises(ValueError, match=r'not known; weights="present"'):
        kx.predict(model, weights="initial")
    total = kx.predict(model).total[0]
    expected = 8 * np.mean(keras.ops.convert_to_numpy(layer.kernel) ** 2)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_tokens_outside_of_a_table_are_refused():
    embed = L.Embedding(5, 8)
    model = keras.Sequential([keras.Input((2,)), embed, L.Flatten()])
    model.add(L.Dense(4))
    tokens = np.array([[1, 2], [3, 4], [-1, 0]])
    end = kx.predict(model, tokens)
    # As in `keras.ops.take`, -1 is the last row.
    assert end == kx.predict(model, tokens % 5)
    for token in (5, -6):
        tokens[0, 1] = token
        with pytest.raises(ValueError, match=f"from 0 to 4.*{token} in data"):
            kx.predict(model, tokens)
    with pytest.raises(TypeError, match=r"keras\.saving\.load_model"):
        kx.predict("model.keras")


@pytest.mark.parametrize("width", ["infinite", "actual"])
def test_stochastic_depth(width):
    rate, networks = 0.25, 2000
    units = 6 if width == "actual" else 64

    def normal(gain):
        return L.Dense(
            units,
            kernel_initializer=keras.initializers.VarianceScaling(
                gain, "fan_in", "untruncated_normal"
            ),
        )

    x = inputs = keras.Input((3, units))
    first, branch, last = normal(1.0), normal(2.0), normal(1.0)
    x = first(x)
    drop = L.Dropout(rate, noise_shape=(None, 1, 1))
    x = x + drop(branch(x))
    model = keras.Model(inputs, last(x))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 3, units))
    found = kx.predict(
        model,
        data,
        training=True,
        weights="initial",
        width=width,
        networks=networks,
    )
    # E mask^2 = 1 / (1 - rate), and masks of two samples are independent.
    grown = [1, 2, 1 + 2 / (1 - rate)]
    products = [1, 2, 3]
    size = np.mean(data**2)
    product = np.mean(data[0] * data[1])
    back = [1 + 2 / (1 - rate), 1 / (1 - rate), 1]
    # The relative standard deviations of 2000 networks, at most 0.05, and the
    # product of two samples against the size.
    rtol = 1e-6 if width == "infinite" else 0.3
    scale = size * np.array(grown)
    np.testing.assert_allclose(found.total / scale, 1, atol=rtol)
    difference = found.squared_mean - product * np.array(products)
    np.testing.assert_allclose(difference / scale, 0, atol=rtol)
    np.testing.assert_allclose(found.gradient / back, 1, atol=rtol)
    if width == "infinite":
        assert "all channels of a sample" in found.notes[-1]
        assert found.exactness[-1] == "approximated"


def test_drawn_masks_of_all_channels_are_one():
    engine = DrawnEngine(20, 256, np.random.default_rng(0))
    for all_channels in (True, False):
        kept = engine.mask(0.5, np.array([0, 0, 1, 2]), 8, all_channels).value
        assert kept.shape == (20, 8, 4) and set(np.unique(kept)) == {0, 2}
        assert bool(np.ptp(kept, axis=1).any()) is not all_channels
        assert np.ptp(kept[..., 1:], axis=2).any()
        np.testing.assert_array_equal(kept[..., 0], kept[..., 1])
