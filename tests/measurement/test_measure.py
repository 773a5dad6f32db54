"""measure: data and batches of every kind, state of the model, clear errors."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_initx as kx
from keras_initx.measurement import replicas
from keras_initx.measurement.moments import (
    activation_outputs,
    layer_moments,
    of_all_layers,
)
from tests.helpers import processes
from tests.helpers.stat_checks import assert_same_profile, profile_of


def he_net(width, depth, **layer):
    layers = [
        keras.layers.Dense(
            width, "relu", kernel_initializer="he_normal", **layer
        )
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


def expected_profile(model, x):
    """The profile of a stack of relu layers, computed in float64."""
    signals, h = {}, np.asarray(x, np.float64)
    for layer in model.layers:
        weights = [w.numpy().astype(np.float64) for w in layer.weights]
        signals[layer.name] = h @ weights[0] + weights[1]
        h = np.maximum(signals[layer.name], 0)
    return profile_of(signals)


@pytest.mark.slow
def test_fifty_layers_against_a_computation_in_float64(rng):
    model = he_net(200, 50)
    x = rng.normal(size=(300, 200))
    # float32 rounds each layer's signal by 1e-7, and v^2 is 1% of its square.
    assert_same_profile(
        kx.measure(model, x), expected_profile(model, x), rtol=2e-5
    )


class Pairs(keras.utils.PyDataset):
    def __init__(self, x, labels, **options):
        super().__init__(**options)
        self.x, self.labels = x, labels

    def __len__(self):
        return -(-len(self.x) // 10)

    def __getitem__(self, i):
        part = self.x[10 * i : 10 * i + 10]
        return (part, np.zeros(len(part))) if self.labels else (part,)


def generated(x):
    return tf.data.Dataset.from_generator(
        lambda: (x[i : i + 7] for i in range(0, len(x), 7)),
        output_signature=tf.TensorSpec((None, x.shape[1])),
    )


def sliced(*parts):
    return tf.data.Dataset.from_tensor_slices(parts)


DATA = {
    "array": lambda x: x,
    "float64": lambda x: x.astype("float64"),
    "tensor": tf.constant,
    "variable": tf.Variable,
    "tuple": lambda x: (x,),
    "dict": lambda x: {"x": x},
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(8),
    "labels": lambda x: sliced(x, x[:, 0]).batch(8),
    "weights": lambda x: sliced(x, x[:, 0], x[:, 0]).batch(8),
    "dict and labels": lambda x: sliced({"x": x}, x[:, 0]).batch(8),
    "unknown length": generated,
    "endless": lambda x: sliced(x, x).batch(len(x)).repeat(),
    "pydataset": lambda x: Pairs(x, labels=False),
    "pydataset and labels": lambda x: Pairs(x, labels=True),
}


@pytest.fixture(scope="module")
def meters():
    """Returns a stack of layers, and the meter of a model for each input."""
    inputs = keras.Input((3,), name="x")
    first = keras.layers.Dense(4, "relu", name="first")
    last = keras.layers.Dense(2, "relu", name="last")
    outputs = last(first(inputs))
    structures = {"dict": {"x": inputs}, "tuple": (inputs,), "tensor": inputs}
    return keras.Sequential([first, last]), {
        name: kx.Meter(keras.Model(structure, outputs))
        for name, structure in structures.items()
    }


@pytest.mark.parametrize("kind", DATA)
def test_every_kind_of_data(kind, rng, meters):
    x = rng.normal(size=(50, 3)).astype("float32")
    stack, by_structure = meters
    meter = by_structure.get(kind.split()[0], by_structure["tensor"])
    profile = meter(DATA[kind](x), steps=1 if kind == "endless" else None)
    assert_same_profile(profile, expected_profile(stack, x), rtol=1e-5)


def test_steps_stop_early(rng):
    x = rng.normal(size=(50, 3)).astype("float32")
    model = he_net(3, 2)
    first = kx.measure(model, x[:20])
    assert_same_profile(
        kx.measure(model, x, steps=2, batch_size=10), first, rtol=1e-5
    )
    data = tf.data.Dataset.from_tensor_slices(x).batch(10)
    assert_same_profile(kx.measure(model, data, steps=2), first, rtol=1e-5)


@pytest.mark.slow
def test_the_batch_size_does_not_matter():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, kernel_initializer="ones")]
    )
    meter = kx.Meter(model)  # Traced once for all examples.

    @given(
        # Few numbers, since XLA compiles anew for each size of a batch.
        size=st.sampled_from([1, 2, 3, 7, 31, 32, 33, 64, 65, 130]),
        mean=st.sampled_from([0.0, 1.0, 1000.0]),
        samples=st.sampled_from([2, 3, 32, 33, 65, 100]),
    )
    def check(size, mean, samples):
        rng = np.random.default_rng([size, samples])
        # Integers, so that the layer itself rounds nothing.
        x = (rng.integers(-9, 10, size=(samples, 3)) + mean).astype("float32")
        x[0] += 1
        x[-1] -= 1
        total = x.astype(np.float64).sum(axis=1)
        profile = meter(x, batch_size=size)
        np.testing.assert_allclose(
            profile.sample_variance[0], total.var(), 1e-5
        )
        np.testing.assert_allclose(
            profile.squared_mean[0], total.mean() ** 2, 1e-5, 1e-5 * total.var()
        )

    check()


DTYPES = ("float32", "mixed_bfloat16", "float64")


@pytest.fixture(scope="module")
def of_three_dtypes():
    """Returns a model of a layer of each dtype, and its meter."""
    inputs = keras.Input((5,))
    model = keras.Model(
        inputs,
        [
            keras.layers.Dense(
                5, kernel_initializer="identity", dtype=dtype, name=dtype
            )(inputs)
            for dtype in DTYPES
        ],
    )
    return model, kx.Meter(model)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 32, 33, 100, 1000])
def test_a_signal_without_variance_has_exactly_none(size, of_three_dtypes):
    # 0.1 is rounded in any of these, and so is a sum of it.
    model, meter = of_three_dtypes
    x = np.full((1000, 5), 0.1)
    profile = meter(x, batch_size=size)
    outputs = dict(zip(DTYPES, model(x[:1]), strict=True))
    assert sorted(profile.layers) == sorted(outputs)
    for name, variance, fraction, squared_mean in zip(
        profile.layers,
        profile.sample_variance,
        profile.sample_fraction,
        profile.squared_mean,
        strict=True,
    ):
        assert variance == 0 and fraction == 0, name
        expected = np.mean(np.float64(outputs[name]) ** 2)
        np.testing.assert_allclose(squared_mean, expected, 1e-6, err_msg=name)


def test_one_large_batch_is_as_good_as_many(rng):
    # A sum of 30,000 terms in sequence loses the sixth digit.
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="ones")]
    )
    x = (0.1 + 0.001 * rng.normal(size=(30_000, 3))).astype("float32")
    profile = kx.measure(model, x, batch_size=len(x))
    y = x.astype("float64").sum(axis=1)
    np.testing.assert_allclose(profile.sample_variance[0], y.var(), 1e-5)
    np.testing.assert_allclose(profile.squared_mean[0], y.mean() ** 2, 1e-6)


@pytest.mark.slow
def test_deep_layers_in_batches_of_any_size(rng):
    # Traced once for all sizes. Stacks of 16 layers are reduced together, by a
    # program that XLA compiles for each size.
    meter = kx.Meter(he_net(128, 48))
    x = rng.normal(size=(64, 128)).astype("float32")
    whole = meter(x, batch_size=64)
    assert whole.sample_fraction[-1] < 0.3
    for size in (1, 7, 32, 63):
        assert_same_profile(meter(x, batch_size=size), whole, rtol=1e-5)


@pytest.mark.parametrize("made", [("a", "b", "c"), ("c", "b", "a")])
@pytest.mark.parametrize("joined", [("a", "b", "c"), ("b", "c", "a")])
def test_branches_come_in_the_order_of_the_model_s_layers(
    made, joined, rng, tmp_path
):
    inputs, branches = keras.Input((3,)), {}
    for name in made:
        branches[name] = keras.layers.Dense(3, name=name)(inputs)
    # A longer branch, which Keras begins before the others.
    branches["c"] = keras.layers.Dense(3, name="c2")(branches["c"])
    model = keras.Model(
        inputs, keras.layers.Concatenate()([branches[name] for name in joined])
    )
    x = rng.normal(size=(8, 3))
    names = kx.measure(model, x).layers
    assert sorted(names) == ["a", "b", "c", "c2"]
    assert names.index("c") < names.index("c2")
    assert list(names) == [la.name for la in model.layers if la.weights]
    model.save(tmp_path / "model.keras")
    for copy in (
        keras.models.clone_model(model),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        assert kx.measure(copy, x).layers == names


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ["first", "inner/first", "inner/last"]),
        ("first", ["first", "inner/first"]),
        ("inner/first", ["inner/first"]),
        ("inner", ["inner/first", "inner/last"]),
        (["inner/last", "first"], ["first", "inner/first", "inner/last"]),
        (keras.layers.Dense, ["first", "inner/first", "inner/last"]),
        (keras.Sequential, ["first", "inner/first", "inner/last"]),
        (keras.layers.Dropout, ["inner/drop"]),
        (lambda layer: layer.name == "last", ["inner/last"]),
        (
            (keras.layers.Dropout, "first"),
            ["first", "inner/first", "inner/drop"],
        ),
        (
            lambda layer: True,
            ["first", "inner/first", "inner/drop", "inner/last"],
        ),
    ],
)
def test_layers_picks(layers, names, rng):
    inner = keras.Sequential(
        [
            keras.layers.Dense(3, "relu", name="first"),
            keras.layers.Dropout(0.5, name="drop"),
            keras.layers.Dense(2, name="last"),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, name="first"), inner]
    )
    profile = kx.measure(model, rng.normal(size=(9, 2)), layers=layers)
    assert list(profile.layers) == names


def state(model):
    """All that a pass could change: values, and attributes of each layer."""
    values = [v.numpy().copy() for v in model.variables]
    for layer in model.layers:
        values += [np.copy(v) for v in getattr(layer, "states", None) or []]
    held = [
        {name: id(value) for name, value in vars(layer).items()}
        for layer in [model, *model.layers]
    ]
    return values, held


def assert_same_state(before, after):
    for a, b in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert before[1] == after[1]


def with_state():
    return keras.Sequential(
        [
            keras.Input((4, 3)),
            keras.layers.Dense(3, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.GaussianNoise(1.0),
            keras.layers.LSTM(3, dropout=0.5, return_sequences=True),
            keras.layers.TimeDistributed(keras.layers.Dense(2)),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_unchanged(training, rng):
    model = with_state()
    x = rng.normal(size=(20, 4, 3)).astype("float32")
    model(x)
    call = keras.layers.Layer.__call__
    before = state(model)
    kx.measure(model, x, training=training, batch_size=5)
    assert_same_state(before, state(model))
    assert keras.layers.Layer.__call__ is call


def test_stateful_layers_continue_from_batch_to_batch_and_are_unchanged(rng):
    layer = keras.layers.SimpleRNN(
        2,
        stateful=True,
        activation="linear",
        kernel_initializer="ones",
        recurrent_initializer="identity",
        name="sum",
    )
    model = keras.Sequential([keras.Input(batch_shape=(2, 3, 1)), layer])
    x = np.arange(12, dtype="float32").reshape(4, 3, 1)
    first = x[:2].sum(axis=(1, 2))
    totals = np.concatenate([first, first + x[2:].sum(axis=(1, 2))])
    profile = kx.measure(model, x, batch_size=2)
    np.testing.assert_allclose(profile.sample_variance, [totals.var()], 1e-6)
    assert all((s.numpy() == 0).all() for s in layer.states)


@pytest.mark.slow
def test_training_mode_uses_batch_statistics_and_new_dropout_masks(rng):
    x = np.ones((400, 1), "float32")
    dropout = keras.layers.Dropout(0.5, seed=1)
    drop = keras.Sequential([keras.Input((1,)), dropout])
    kept = kx.measure(drop, x, layers="dropout", batch_size=1, training=True)
    # One sample a batch: with one mask for all, nothing would vary. With 400
    # draws the variance p (1 - p) 2^2 misses [0.7, 1] in one of 1e9.
    assert 0.7 < kept.sample_variance[0] <= 1
    noise = rng.normal(5, 3, size=(64, 1)).astype("float32")
    norm = keras.Sequential(
        [keras.Input((1,)), keras.layers.BatchNormalization(epsilon=0)]
    )
    options = {"layers": keras.layers.BatchNormalization, "batch_size": 64}
    profile = kx.measure(norm, noise, training=True, **options)
    np.testing.assert_allclose(profile.sample_variance, [1], 1e-5)
    profile = kx.measure(norm, noise, training=False, **options)
    np.testing.assert_allclose(profile.sample_variance, [noise.var()], 1e-5)


class Breaks(keras.layers.Layer):
    def call(self, x):
        if self.armed:
            raise ZeroDivisionError("raised on purpose")
        return x


def test_an_exception_leaves_the_model_unchanged(rng):
    breaks = Breaks()
    breaks.armed = False
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), breaks])
    x = rng.normal(size=(8, 2))
    model(x)
    call = keras.layers.Layer.__call__
    breaks.armed = True
    before = state(model)
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        kx.measure(model, x)
    with pytest.raises(KeyError, match="of the user"):
        kx.measure(model, x, layers=refuse)
    assert_same_state(before, state(model))
    assert keras.layers.Layer.__call__ is call
    breaks.armed = False
    assert len(kx.measure(model, x)) == 1


def refuse(layer):
    raise KeyError("of the user")


class Selecting:
    """An object without hash, with a method that selects layers."""

    __hash__ = None

    def __call__(self, layer):
        return isinstance(layer, keras.layers.Dense)

    def method(self, layer):
        return self(layer)


@pytest.mark.parametrize(
    "select",
    [
        lambda layer: layer,
        lambda layer: [layer, "last"],
        lambda layer: Selecting(),
        lambda layer: Selecting().method,
    ],
)
def test_layers_takes_objects_of_any_kind(select, rng):
    last = keras.layers.Dense(2, name="last")
    model = keras.Sequential([keras.Input((3,)), last])
    x = rng.standard_normal((4, 3))
    assert kx.measure(model, x, layers=select(last)).layers == ("last",)


def test_a_layer_of_another_model_is_refused(rng):
    x = rng.standard_normal((4, 3))
    elsewhere = keras.layers.Dense(2)
    with pytest.raises(ValueError, match=r"must pick a layer.*Received: lay"):
        kx.measure(he_net(3, 2), x, layers=elsewhere)


class Setting:
    """A plain object, which Keras does not know."""

    factor = 1.0


class Scaled(keras.layers.Layer):
    """Multiplies by Python values of every kind."""

    def __init__(self):
        super().__init__()
        self.array, self.number = np.array(1.0), np.float32(1)
        self.items, self._private = [1.0], 1.0
        self.setting, self.function = Setting(), lambda x: x

    def call(self, x):
        x = x * self.array * self.number * self.items[0] * self._private
        return self.function(x * self.setting.factor)


def set_array(scaled):
    scaled.array[...] = 10


def set_items(scaled):
    scaled.items[0] = 10.0


def set_number(scaled):
    scaled.number = np.float32(10)


def set_private(scaled):
    scaled._private = 10.0


def set_object(scaled):
    scaled.setting.factor = 10.0


def set_function(scaled):
    scaled.function = lambda x: 10 * x


@pytest.mark.parametrize(
    "change",
    [set_array, set_items, set_number, set_private, set_object, set_function],
)
def test_a_python_value_that_was_changed_between_two_calls_is_seen(change, rng):
    scaled = Scaled()
    model = keras.Sequential([keras.Input((4,)), scaled, keras.layers.Dense(3)])
    x = rng.normal(size=(20, 4)).astype("float32")
    before = kx.measure(model, x).total[0]
    change(scaled)
    np.testing.assert_allclose(
        kx.measure(model, x).total[0] / before, 100, 1e-4
    )


def test_a_layer_that_was_added_between_two_calls_is_seen(rng):
    model = he_net(4, 1)
    x = rng.normal(size=(20, 4)).astype("float32")
    kx.measure(model, x)
    model.add(keras.layers.Dense(3, name="more"))
    assert kx.measure(model, x).layers[-1] == "more"


def test_a_normalization_that_was_adapted_again_is_seen(rng):
    normal = keras.layers.Normalization()
    x = rng.normal(size=(20, 4)).astype("float32")
    normal.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normal, keras.layers.Dense(3)])
    before = kx.measure(model, x).sample_variance[0]
    normal.adapt(10 * x)
    after = kx.measure(model, x).sample_variance[0]
    np.testing.assert_allclose(before / after, 100, 1e-4)


@pytest.mark.slow
def test_threads_may_measure_one_model(rng):
    model = he_net(5, 6)
    x = rng.normal(size=(30, 5)).astype("float32")
    before = [dict(vars(layer)) for layer in model.layers]
    results = []

    def work(size):
        results.append(kx.measure(model, x, layers=lambda la: True))
        results.append(kx.measure(model, x[:size]))

    threads = [threading.Thread(target=work, args=(n,)) for n in (10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for layer, attributes in zip(model.layers, before, strict=True):
        assert vars(layer).keys() == attributes.keys()
        assert layer.activation is attributes["activation"]


def test_layers_of_two_dtypes(rng):
    layers = [
        keras.layers.Dense(4, dtype="float64"),
        keras.layers.Dense(3, dtype="float32"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    x = rng.normal(size=(40, 4))
    profile = kx.measure(model, x, batch_size=13)
    y = x @ layers[0].kernel.numpy()
    z = y @ layers[1].kernel.numpy()
    expected = profile_of(
        {la.name: v for la, v in zip(layers, [y, z], strict=True)}
    )
    assert_same_profile(profile, expected, rtol=1e-5)


def test_a_batch_without_samples_is_skipped(rng):
    model = he_net(4, 2)
    x = rng.normal(size=(9, 4)).astype("float32")
    data = tf.data.Dataset.from_generator(
        lambda: iter([x[:6], x[:0], x[6:]]),
        output_signature=tf.TensorSpec((None, 4)),
    )
    assert_same_profile(
        kx.measure(model, data), expected_profile(model, x), rtol=1e-5
    )


@pytest.mark.slow
def test_threads_measure_their_own_models(rng):
    results = {}

    def work(name, width):
        model = he_net(width, 6)
        x = rng_of[name].normal(size=(64, width)).astype("float32")
        for _ in range(3):
            results[name] = (kx.measure(model, x), expected_profile(model, x))
            model.predict(x, verbose=0)

    rng_of = {n: np.random.default_rng(n) for n in range(3)}
    threads = [
        threading.Thread(target=work, args=(n, 5 + 3 * n)) for n in range(3)
    ]
    call = keras.layers.Layer.__call__
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for measured, expected in results.values():
        assert_same_profile(measured, expected, rtol=1e-5)
    assert keras.layers.Layer.__call__ is call


def good():
    return he_net(3, 2)


def unbuilt():
    return keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(3)])


@keras.saving.register_keras_serializable("tests")
class Root(keras.layers.Layer):
    def call(self, x):
        return tf.sqrt(x)

    def compute_output_shape(self, shape):
        return shape


def functional():
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2, name="dense")

    def call(self, x):
        return self.dense(x)


def subclassed():
    model = Subclassed()
    model(X)
    return model


def batched(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(4)


def with_root():
    layers = [
        keras.layers.Dense(3, name="before"),
        Root(name="root"),
        keras.layers.Dense(3, name="after"),
    ]
    return keras.Sequential([keras.Input((3,)), *layers])


X = np.linspace(-1, 1, 30, dtype="float32").reshape(10, 3)
NAN, INF = X.copy(), X.copy()
NAN[3, 1], INF[7, 2] = np.nan, np.inf
EMPTY = tf.data.Dataset.from_tensor_slices(X[:0]).batch(2)
HOLLOW = tf.data.Dataset.from_tensor_slices(X[:, :0]).batch(5)
RAGGED = tf.ragged.constant([[1.0, 2.0], [3.0], [4.0], [5.0]])
SPARSE = tf.sparse.from_dense(X)
ENDLESS = tf.data.Dataset.from_tensor_slices(X).batch(2).repeat()


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (lambda: 3, X, {}, "keras.Model. Received: model=3 of type int"),
        (unbuilt, np.zeros((4, 2, 2, 0)), {}, None),
        (good, X[:0], {}, "must hold samples. Received: empty data"),
        (good, X.astype(str), {}, "data must be numbers, unless"),
        (good, None, {}, "must hold samples. Received: data=None"),
        (good, EMPTY, {}, "must hold samples. Received: empty data"),
        (good, X[:1], {}, "at least two.* Received: data of one sample"),
        (good, NAN, {}, "data must be finite. Received: NaN or inf in data"),
        (good, INF, {}, "data must be finite"),
        (good, X * 1e30, {}, "squared in float32.* at layer 'dense"),
        (with_root, X, {}, "Received: NaN or inf at layer 'root'"),
        (with_root, X, {"layers": "after"}, "NaN or inf at layer 'root'"),
        (good, X, {"layers": "dens"}, "mean 'dense.*Received: layers='dens'"),
        (good, X, {"layers": ["dense", "x"]}, "Received: layers='x'"),
        (good, X, {"layers": keras.layers.LSTM}, "LSTM"),
        (good, X, {"layers": 3}, "layers=3"),
        (good, X, {"layers": []}, r"layers=\[\]"),
        (good, X, {"layers": lambda layer: False}, "layers=<function"),
        (good, "digits", {}, "Received: 'digits' of type str"),
        (good, np.array([["a", None]], object), {}, "dtype object"),
        (good, X.astype("datetime64[s]"), {}, "dtype datetime64"),
        (good, X.tolist(), {}, r"np.array\(data\).*Received: -1.0 of type"),
        (good, RAGGED, {}, r"to_tensor\(\).* Received: a RaggedTensor"),
        (good, batched(RAGGED), {}, r"to_tensor\(\).*a RaggedTensor"),
        (good, SPARSE, {}, r"to_dense\(data\)\. Received: a SparseTensor"),
        (good, batched(SPARSE), {}, r"to_dense\(data\).*a SparseTensor"),
        (good, (X, X[:, 0]), {}, "x alone.*: 2 arrays, .* takes 1"),
        (functional, (X, X[:, 0]), {}, "x alone.*: 2 arrays, .* takes 1"),
        (unbuilt, [X, X[:, 0]], {}, "x alone.*: 2 arrays, .* takes 1"),
        (functional, batched(((X, X), X)), {}, r": 2 arrays,.* takes 1"),
        (functional, list(X), {}, "stacked.* 10 arrays, .* takes 1"),
        (good, np.float32(3), {}, r"shape \(\)"),
        (good, {"x": X, "y": X[:5]}, {}, r"equally many.*\[5, 10\]"),
        (good, {}, {}, "empty data"),
        (good, X[:, :0], {}, r"at least one number.* shape \(10, 0\)"),
        (good, HOLLOW, {}, r"at least one number.* shape \(5, 0\)"),
        (good, ENDLESS, {}, "number of batches.* steps=None"),
        (good, ENDLESS, {"batch_size": 3}, "batch_size=3"),
        (good, X, {"steps": 0}, "steps=0"),
        (good, X, {"batch_size": 2.5}, r"batch_size=2\.5"),
        (good, X, {"batch_size": True}, "batch_size=True"),
    ],
)  # fmt: skip
def test_bad_input_is_named(model, data, options, message):
    if message is None:
        message = "An unbuilt model is built on the first batch"
        model, data = unbuilt_pair()
    else:
        model = model()
    with pytest.raises(ValueError, match=message):
        kx.measure(model, data, **options)


@pytest.mark.parametrize("model", [Subclassed, subclassed])
def test_labels_beside_the_data_are_named_in_the_error(model):
    # Only the call of such a model knows how many inputs it takes.
    with pytest.raises(ValueError) as failure:
        kx.measure(model(), (X, X[:, 0]))
    message = str(failure.value) + "".join(failure.value.__notes__)
    assert "for (x, y), pass x alone. Received: 2 arrays" in message


class Frame:
    """An object that can be converted to an array, like those of pandas."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


def test_objects_that_convert_to_an_array_are_accepted(rng):
    model = good()
    assert kx.measure(model, Frame(X)) == kx.measure(model, X)
    with pytest.raises(ValueError, match="dtype object"):
        kx.measure(model, Frame([[1, "a"], [2, None]]))


def test_batches_without_samples_add_nothing():
    model = good()
    batches = [X[:0], X[:4], X[4:4], X[4:]]
    data = tf.data.Dataset.from_generator(
        lambda: batches, output_signature=tf.TensorSpec((None, 3))
    )
    whole = kx.measure(model, X, batch_size=10)
    assert_same_profile(kx.measure(model, data), whole, 1e-6)


class Cut(keras.layers.Layer):
    def call(self, x):
        return x[:, :0]


def root_in_a_model(kind):
    """A model in which one place takes roots of negative numbers."""
    one, two, x = keras.Input((3,)), keras.Input((3,)), keras.layers
    dense = [x.Dense(3, name=f"dense_{i}") for i in range(3)]
    if kind == "fused":
        dense[0].activation = tf.sqrt
        y = dense[1](dense[0](one))
    if kind == "between":
        y = dense[1](keras.ops.sqrt(dense[0](one)))
    if kind == "parallel":
        # Finite branches are made, and run, before and after the other one.
        bad = dense[1](Root(name="root")(one))
        y = x.Add()([dense[0](one), bad, dense[2](one)])
    if kind == "shared":
        root = Root(name="root")
        y = dense[1](root(dense[0](root(keras.ops.abs(one)))))
    if kind == "nested":
        inner = keras.Sequential([x.Input((3,)), Root(name="root")], name="in")
        y = dense[1](inner(dense[0](one)))
    if kind == "over time":
        each = x.TimeDistributed(Root(name="root"), name="td")
        y = dense[1](each(x.Reshape((1, 3))(one)))
    if kind == "recurrent":
        y = x.SimpleRNN(3, activation=tf.sqrt, name="rnn")(
            x.Reshape((3, 1))(one)
        )
        y = dense[1](y)
    if kind == "by its own call":
        y = dense[1](Roots(name="roots")(one))
    return keras.Model([one, two], [y, dense[2](two)])


class Roots(keras.layers.Layer):
    """Takes the root in its call, before the layer inside it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = keras.layers.Dense(3, name="inner")

    def call(self, x):
        return self.inner(tf.sqrt(x))


@pytest.mark.parametrize("layers", [None, "dense_1"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("fused", "at layer 'dense_0'"),
        ("between", "in the input of layer 'dense_1'"),
        ("parallel", "at layer 'root'"),
        ("shared", "at layer 'root:2'"),
        ("nested", "at layer 'in/root'"),
        ("over time", "at layer 'td'"),
        ("recurrent", "at layer 'rnn'"),
        ("by its own call", "in the input of layer 'roots/inner'"),
    ],
)
def test_the_layer_where_nan_arises_is_named_and_no_other(kind, place, layers):
    model = root_in_a_model(kind)
    model([X, X])
    before = state(model)
    with pytest.raises(ValueError, match=f"Received: NaN or inf {place}"):
        kx.measure(model, [X, X], layers=layers, batch_size=5)
    assert_same_state(before, state(model))


def test_infinity_is_found_where_states_grow_to_it():
    # 1e10 a step, and squares of states: the second batch overflows.
    layer = keras.layers.SimpleRNN(
        1,
        stateful=True,
        activation=lambda y: y * y,
        kernel_initializer="ones",
        recurrent_initializer="ones",
        name="rnn",
    )
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, 1, 1)), layer, keras.layers.Dense(1)]
    )
    x = np.full((6, 1, 1), 1e9, "float32")
    with pytest.raises(ValueError, match="Received: NaN or inf at layer 'rnn"):
        kx.measure(model, x, batch_size=2, layers="dense")


def test_a_layer_without_units_is_named():
    model = keras.Sequential([keras.Input((3,)), Cut(name="cut")])
    with pytest.raises(ValueError, match="Received: none at layer 'cut'"):
        kx.measure(model, X, layers=Cut)


def unbuilt_pair():
    conv = keras.Sequential([keras.layers.Conv2D(3, 3)])
    return conv, np.zeros((4, 7), "float32")


def test_batches_of_two_lengths_are_refused(rng):
    model = keras.Sequential(
        [keras.Input((None, 2)), keras.layers.Dense(2, "relu")]
    )
    data = tf.data.Dataset.from_generator(
        lambda: (np.zeros((4, t, 2), "float32") for t in (3, 5)),
        output_signature=tf.TensorSpec((None, None, 2)),
    )
    with pytest.raises(ValueError, match="Every batch must have"):
        kx.measure(model, data)


class Looped(keras.layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.dense = keras.layers.Dense(2, name="inside")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.ops.while_loop(
            lambda i, h: i < 3, lambda i, h: (i + 1, self.dense(h)), (0, x)
        )[1]


class Compiled(Looped):
    @tf.function
    def call(self, x):
        return self.dense(x)


def with_inner(kind):
    layers = [keras.layers.Dense(2, name="outside"), kind(name="inner")]
    return keras.Sequential([keras.Input((2,)), *layers])


def test_a_layer_whose_call_is_a_tf_function_is_measured(rng):
    model = with_inner(Compiled)
    x = rng.normal(size=(8, 2)).astype("float32")
    model(x)
    profile = kx.measure(model, x)
    assert profile.layers == ("outside", "inner/inside")
    np.testing.assert_allclose(
        profile.total[1], np.square(model(x)).mean(), 1e-5
    )


def test_a_layer_in_a_loop_of_another_is_refused(rng):
    model = with_inner(Looped)
    x = rng.normal(size=(8, 2)).astype("float32")
    with pytest.raises(RuntimeError, match=r"Received: layer '.*/inside'"):
        kx.measure(model, x)
    assert kx.measure(model, x, layers="outside").layers == ("outside",)


def test_a_progress_bar_only_if_asked_for(rng, capsys):
    x = rng.normal(size=(50, 3))
    kx.measure(he_net(3, 1), x)
    assert capsys.readouterr().out == ""
    kx.measure(he_net(3, 1), x, verbose=1, batch_size=10)
    assert "5/5" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("jit", [True, False])
def test_a_compiled_model_is_measured_too(jit, rng):
    model = he_net(5, 3)
    model.compile("sgd", "mse", jit_compile=jit)
    x = rng.normal(size=(40, 5)).astype("float32")
    model.fit(x, x, verbose=0)
    assert_same_profile(
        kx.measure(model, x), expected_profile(model, x), rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.isolated
def test_a_model_under_a_strategy_of_two_devices():
    ran = processes.run_code(
        "import numpy as np, tensorflow as tf, keras\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_logical_device_configuration(\n"
        "    cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "import keras_initx as kx\n"
        "strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
        "x = np.random.default_rng(0).normal(size=(40, 4)).astype('float32')\n"
        "def build():\n"
        "    keras.utils.set_random_seed(1)\n"
        "    return keras.Sequential([keras.Input((4,)),\n"
        "        keras.layers.Dense(5, 'relu'), keras.layers.Dense(1)])\n"
        "with strategy.scope():\n"
        "    model = build()\n"
        "    model.compile('sgd', 'mse')\n"
        "same = kx.measure(build(), x).decay - kx.measure(model, x).decay\n"
        "callback = kx.callbacks.SampleVarianceDecay(x, verbose=0)\n"
        "model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[callback])\n"
        "print(abs(same).max() < 1e-6, len(callback.profiles))\n"
    )
    assert ran.output.split() == ["True", "3"], ran.errors


class Gathers:
    """A strategy whose other workers have sent messages."""

    def __init__(self, *messages):
        self.messages = messages

    def gather(self, mine, axis):
        return tf.concat([mine, *(x[None] for x in self.messages)], axis)


@pytest.mark.parametrize("not_finite", [None, 0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_messages_of_all_workers_are_merged(
    dtype, not_finite, rng, monkeypatch
):
    monkeypatch.setattr(replicas, "count_workers", lambda strategy: 3)
    pieces = [rng.normal(3, 2, (samples, 5)) for samples in (4, 1, 9)]

    def moments_of(x):
        narrow, wide = tf.constant(x[:, :2], "float32"), tf.constant(x, dtype)
        # Units that are 0 for all samples, for some, or for those of a worker.
        shifts = np.array([-99, 0, 99, -3, -3])
        relu = tf.nn.relu(tf.constant(x + shifts, dtype))
        plain = {"fuse": False, "few": True}
        return of_all_layers(
            [layer_moments([each], **plain) for each in (narrow, wide)],
            [
                activation_outputs([relu], **plain),
                activation_outputs([tf.tanh(narrow)], (-1.0, 1.0), **plain),
            ],
        )

    finite = [tf.constant(i != not_finite) for i in range(3)]
    mine, *others = map(moments_of, pieces)
    messages = list(map(replicas.packed, others, finite[1:]))
    sizes = {(x.dtype.name, len(x)) for x in messages}
    # Two layers, two activations, 7 units of each, and whether all is finite.
    assert sizes == {(dtype, 2 * 2 + 7 + 2 * 2 + 7 + 1)}
    moments, all_finite = replicas._of_all_workers(
        mine, finite[0], Gathers(*messages)
    )
    assert bool(all_finite) == (not_finite is None)
    expected = moments_of(np.concatenate(pieces))
    for mine, other in zip(
        tf.nest.flatten(moments), tf.nest.flatten(expected), strict=True
    ):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
