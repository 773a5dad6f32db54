"""Data that `predict` takes are measured, calibrated to and watched in fits."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy import sparse

import keras_initx as kx

TEXT = ["the cat", "a mat", "sat on", "cat on mat", "a cat"] * 4
X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")


class Both(layers.Layer):
    """Adds maps of two inputs, of which the second one is optional."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(4), layers.Dense(4)

    def build(self, *shapes):
        self.first.build((None, 3))
        self.second.build((None, 3))

    def call(self, a, b=None):
        return self.first(a) + (0 if b is None else self.second(b))

    def compute_output_shape(self, *shapes, **named):
        return (None, 4)


def text():
    vectors = layers.TextVectorization(20, output_sequence_length=4)
    vectors.adapt(TEXT)
    return keras.Sequential(
        [
            keras.Input((), dtype="string"),
            vectors,
            layers.Embedding(20, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )


def optional(structure):
    a = keras.Input((3,), name="a")
    b = keras.Input((3,), name="b", optional=True)
    inputs = keras.tree.map_structure({"a": a, "b": b}.get, structure)
    return keras.Model(inputs, Both()(a, b))


def vectors(width=3, **options):
    return keras.Sequential(
        [keras.Input((width,), **options), layers.Dense(4, "relu")]
    )


def tokens():
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            layers.Embedding(9, 4, mask_zero=True),
            layers.LSTM(3),
        ]
    )


def stateful(batch=4, *others):
    return keras.Sequential(
        [
            keras.Input(batch_shape=(batch, 5, 3)),
            layers.GRU(4, stateful=True, return_sequences=bool(others)),
            *others,
            layers.Dense(2),
        ]
    )


def both_directions():
    """A stateful layer that holds two others, after one that holds none."""
    return stateful(4, layers.Bidirectional(layers.LSTM(2, stateful=True)))


class Table:
    """An object that converts to an array, like a column of a table."""

    def __init__(self, values, dtype):
        self.values, self.dtype = values, dtype
        self.shape = np.shape(values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype or self.dtype)


class Dataset(keras.utils.PyDataset):
    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return self.batch


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts).batch(8)


KERAS = tuple(int(part) for part in keras.__version__.split(".")[:2])
STEPS = np.random.default_rng(1).normal(size=(20, 5, 3)).astype("float32")
ROWS = {
    "text as objects": (text, np.array(TEXT, object)),
    "text as tensor": (text, tf.constant(TEXT)),
    "text in a data set": (text, dataset(TEXT)),
    "None in a list": (lambda: optional(["a", "b"]), [X, None]),
    "None in a tuple": (lambda: optional(["a", "b"]), (X, None)),
    "None in a dict": (
        lambda: optional({"a": "a", "b": "b"}),
        {"a": X, "b": None},
    ),
    "None before others": (
        lambda: optional({"b": "b", "a": "a"}),
        {"b": None, "a": X},
    ),
    "no None": (lambda: optional(["a", "b"]), [X, X + 1]),
    "a fixed batch": (lambda: vectors(batch_size=8), X),
    "a fixed batch with states": (both_directions, STEPS),
    "a fixed batch of 5 with states": (lambda: stateful(5), STEPS),
    "numbers of a dimension": (lambda: vectors(1), X[:, 0]),
    "booleans": (vectors, X > 0),
    "bytes": (vectors, (X * 9).astype("int8")),
    "halves": (vectors, X.astype("float16")),
    "tokens": (tokens, np.arange(60).reshape(20, 3) % 9),
    "a column": (lambda: vectors(1), Table(X[:, 0], "float64")),
    "weights beside": (vectors, dataset(X, X[:, 0], X[:, 0])),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_predict_takes_is_measured_and_calibrated(name):
    if name.startswith("None") and KERAS < (3, 13):
        pytest.skip("predict takes no None on Keras 3.10")
    make, data = ROWS[name]
    model = make()
    # predict has no batch size of its own for a model that requires one.
    size = {"a fixed batch with states": 4, "a fixed batch of 5 with states": 5}
    model.predict(data, batch_size=size.get(name), verbose=0)
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_state()
    profile = kx.measure(model, data)
    assert (profile.sample_variance > 0).all()
    assert len(kx.calibrate(model, data)) == len(profile)


def test_text_in_arrays_is_that_of_the_tensor():
    meter = kx.Meter(text())
    expected = meter(tf.constant(TEXT))
    for same in (
        np.array(TEXT, object),
        np.array(TEXT),
        np.array(TEXT, "S"),
        Table(TEXT, object),
        # Two batches of all samples.
        Dataset(np.array(TEXT, object)),
    ):
        profile = meter(same)
        np.testing.assert_allclose(profile.total, expected.total, 1e-6)


@pytest.mark.slow
def test_a_fixed_batch_size_is_that_of_the_batches():
    meter = kx.Meter(stateful())
    assert meter(STEPS) == meter(STEPS, batch_size=4)


MASKED = np.ma.masked_array(X, X > 1)


class Toarray:
    """A sparse array."""

    shape = (20, 3)

    def toarray(self):
        return X


def growing():
    """Batches that are padded to the longest sample in each."""
    return (
        tf.data.Dataset.range(1, 9)
        .map(lambda n: tf.ones((n, 3)))
        .padded_batch(4, padded_shapes=(None, 3))
    )


@pytest.mark.parametrize("call", [kx.measure, kx.calibrate])
@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (vectors, MASKED, r"data\.filled\(value\).* Received: a MaskedArray"),
        (vectors, Dataset(MASKED), r"data\.filled\(value\)"),
        (lambda: optional(["a", "b"]), [X, MASKED], r"data\.filled\(value\)"),
        (vectors, Toarray(), r"data\.toarray\(\)\. Received: a Toarray"),
        (vectors, X.astype(object), "numbers, or of text.* dtype object"),
        (text, np.array(["a", None] * 9, object), "text.* dtype object"),
        (text, np.array(["a", np.nan] * 9, object), "text.* dtype object"),
        (lambda: optional(["a", "b"]), [None, None], "empty data"),
        (stateful, STEPS[:18], "of 4 samples.* Received: a batch of 2 samples"),
        (stateful, dataset(STEPS), "of 4 samples.* a batch of 8 samples"),
    ],
)
def test_data_that_are_refused_with_the_remedy(call, make, data, message):
    with pytest.raises(ValueError, match=message):
        call(make(), data)


def dense():
    model = vectors()
    model.layers[0].set_weights([np.eye(3, 4), np.full(4, 0.1)])
    return model


def generator(*parts):
    for i in range(0, 20, 6):
        yield tuple(each[i : i + 6] for each in parts)


# Data that `predict` takes and `measure` does not, beside X.
PREDICTED = {
    "a sparse tensor": lambda: tf.sparse.from_dense(X),
    "a ragged tensor": lambda: tf.RaggedTensor.from_tensor(X),
    "a matrix of SciPy": lambda: sparse.csr_matrix(X),
    "an array of SciPy": lambda: sparse.coo_array(X),
    "a generator": lambda: generator(X),
    "a generator with labels": lambda: generator(X, X[:, 0]),
    "a generator with labels and weights": lambda: generator(X, X[:, 0], X),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", PREDICTED)
def test_the_remedy_for_what_predict_alone_takes(name):
    make, model = PREDICTED[name], dense()
    predicted = model.predict(make(), verbose=0)
    np.testing.assert_allclose(predicted, model(X), atol=1e-6)
    for call in (kx.measure, kx.calibrate):
        with pytest.raises(ValueError, match="data") as refused:
            call(model, make())
    code = re.search(r"(np|tf|data)[.\w]*\(.*?\)(?=[.,] )", str(refused.value))
    remedied = eval(code[0], {"np": np, "tf": tf, "data": make()})
    assert kx.measure(model, remedied) == kx.measure(model, X)


def test_sparse_tensors_in_a_data_set_are_refused():
    data = tf.data.Dataset.from_tensor_slices(tf.sparse.from_dense(X)).batch(8)
    model = dense()
    model.predict(data, verbose=0)
    with pytest.raises(ValueError, match=r"tf\.sparse\.to_dense\(data\)"):
        kx.measure(model, data)
    assert len(kx.measure(model, data.map(tf.sparse.to_dense))) == 1


def test_batches_padded_to_several_lengths_are_refused_with_the_remedy():
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(2)])
    with pytest.raises(ValueError, match=r"padded_shapes.*padded_batch"):
        kx.measure(model, growing())


def images():
    return keras.Sequential([keras.Input((4, 3, 1)), layers.Conv2D(2, 3)])


# name: (the model, data that it does not take, what is said of their shapes)
WRONG_SHAPES = {
    "width": (vectors, X[:, :2], r"2\), where .* \(None, 3\)"),
    "rank": (vectors, X.reshape(4, 5, 3), r"5, 3\), where .* \(None, 3\)"),
    "channels": (
        images,
        X.reshape(5, 3, 2, 2),
        r"3, 2, 2\), where .* \(None, 4, 3, 1\)",
    ),
    "a data set": (vectors, dataset(X[:, :2]), r"2\), where .* \(None, 3\)"),
    "one of two": (
        lambda: optional({"a": "a", "b": "b"}),
        {"a": X, "b": X[:, :1]},
        r"3\), \(.*1\), where .* takes \(None, 3\), \(None, 3\)",
    ),
}


@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_data_of_other_shapes_than_the_model_takes(name):
    make, data, message = WRONG_SHAPES[name]
    model = make()
    for call in (kx.measure, kx.calibrate, kx.measure_jacobian):
        with pytest.raises(
            ValueError, match=f"data must have the shapes.*of shape.*{message}"
        ):
            call(model, data)


def test_other_errors_stay_as_they_are():
    broken = False

    def fails(x):
        if broken:
            raise KeyError("of the user")
        return x

    inputs = keras.Input((3,))
    outputs = layers.Lambda(fails)(layers.Dense(2)(inputs))
    model, broken = keras.Model(inputs, outputs), True
    with pytest.raises(KeyError, match="of the user"):
        kx.measure_jacobian(model, X)


@pytest.mark.parametrize("verb", [kx.measure, kx.calibrate])
def test_an_index_outside_of_an_embedding_is_refused(verb):
    inputs = keras.Input((3,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(9, 4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    before = model.get_weights()
    data = np.ones((4, 3), "int32")
    data[2, 1] = 9
    with pytest.raises(ValueError, match=r"from 0 to 8\. Received: 9 in data"):
        verb(model, data)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


class LooksUp(keras.Model):
    """A model whose `call` alone knows that it looks up tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.dense = layers.Embedding(9, 3), layers.Dense(2)

    def call(self, x):
        return self.dense(keras.ops.mean(self.embed(x), axis=1))


def looks_up(dtype):
    return keras.Sequential(
        [
            keras.Input((4,), dtype=dtype),
            layers.Embedding(9, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    "model",
    [lambda: looks_up("int32"), lambda: looks_up("float32"), LooksUp],
    ids=["int32", "float32", "subclass"],
)
def test_tokens_that_are_no_integers_are_refused(model):
    model, tokens = model(), np.arange(32.0).reshape(8, 4) % 9
    for run in (kx.measure, kx.predict, kx.calibrate):
        run(model, tokens)
        for value in (2.5, -0.25):
            wrong = tokens.copy()
            wrong[-1, 1] = value
            with pytest.raises(ValueError, match=f"Received: {value} in data"):
                run(model, wrong)


def test_other_inputs_than_tokens_may_be_no_integers():
    tokens, others = keras.Input((4,)), keras.Input((4,))
    looked_up = layers.Flatten()(layers.Embedding(9, 3)(tokens))
    out = layers.Dense(2)(layers.Concatenate()([looked_up, others]))
    model = keras.Model([tokens, others], out)
    x = np.arange(32.0).reshape(8, 4) % 9
    for run in (kx.measure, kx.predict):
        run(model, [x, x / 3])
        with pytest.raises(ValueError, match="must be integers"):
            run(model, [x / 3, x])


def test_labels_that_are_not_finite_or_fit_no_output_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    x = np.arange(32.0).reshape(8, 4)
    for bad in (np.nan, np.inf):
        labels = np.zeros((8, 3), "float32")
        labels[-1, 1] = bad
        pairs = tf.data.Dataset.from_tensor_slices((x, labels)).batch(5)
        for data, given in ((x, labels), (pairs, None)):
            with pytest.raises(ValueError, match="NaN or inf in labels"):
                kx.measure(model, data, gradient=True, loss="mse", labels=given)
    weighted = tf.data.Dataset.from_tensors(
        (x, np.zeros((8, 3)), np.full(8, np.nan))
    )
    with pytest.raises(ValueError, match="NaN or inf in weights"):
        kx.measure(model, weighted, gradient=True, loss="mse")
    match = r"Received: labels of shape \(None, 5\), an output of shape"
    with pytest.raises(ValueError, match=match):
        kx.measure(model, x, gradient=True, loss="mse", labels=np.zeros((8, 5)))


def test_a_dict_that_misses_an_input_is_refused():
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    out = layers.Dense(2)(layers.Add()(list(inputs.values())))
    x = np.ones((3, 4))
    for model in (
        keras.Model(inputs, out),
        keras.Model([*inputs.values()], out),
    ):
        for data in ({"a": x}, {"a": x, "c": x[:, :2]}):
            for run in (kx.measure, kx.predict):
                names = r"\['a', 'b'\]. Received: a dict of .'a'"
                with pytest.raises(ValueError, match=names):
                    run(model, data)
