"""The gradient at each row, against gradients by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.measurement.gradient import standard_normal
from tests.prediction.networks import LIMIT, NETS, redraw

L = keras.layers
SAMPLES, STEPS = 7, 4


@pytest.fixture(scope="module")
def model():
    """A model with every kind of row."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((STEPS, 3))
    shared = L.Dense(3, "tanh", name="shared")
    x = shared(shared(inputs))
    x = keras.Sequential([L.Dense(6, "relu", name="in")], name="nested")(x)
    x = L.TimeDistributed(L.Dense(5, "elu"), name="steps")(x)
    x = L.LSTM(4, return_sequences=True, name="lstm")(x)
    x = L.SimpleRNN(6, name="rnn")(x)
    off = keras.initializers.Constant(-9.0)
    dead = L.Dense(6, "relu", bias_initializer=off, name="dead")(x)
    aside = L.Dense(3, name="aside")(x)
    logits = L.Dense(5, "softmax", name="logits")(x + dead)
    return keras.Model(inputs, [logits, aside])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, STEPS, 3)).astype("float32")
    labels = rng.integers(0, 5, size=SAMPLES)
    return x, rng.normal(size=(SAMPLES, 3)).astype("float32"), labels


def by_hand(model, x, target):
    """The mean square of the gradient of `target(aside, logits)` at each row.

    The model is computed by its formulas, one time step after the other.
    """
    weights = {}
    for layer in model.layers:
        weights[layer.name] = [w.value for w in layer.weights]
    rows = {}
    with tf.GradientTape() as tape:

        def row(name, value):
            tape.watch(value)
            rows.setdefault(name, []).append(value)
            return value

        def dense(name, value, label=None):
            kernel, bias = weights[name]
            return row(label or name, value @ kernel + bias)

        h = tf.tanh(dense("shared", tf.constant(x)))
        h = tf.tanh(dense("shared", h, "shared:2"))
        h = tf.nn.relu(dense("nested", h, "nested/in"))
        h = tf.nn.elu(dense("steps", h, "steps/dense"))
        w, u, b = weights["lstm"]
        state = carry = tf.zeros([len(x), 4])
        outputs = []
        for t in range(STEPS):
            z = tf.split(h[:, t] @ w + state @ u + b, 4, axis=1)
            i, f, o = (tf.sigmoid(z[k]) for k in (0, 1, 3))
            carry = f * carry + i * tf.tanh(row("lstm", z[2]))
            state = o * tf.tanh(carry)
            outputs.append(state)
        w, u, b = weights["rnn"]
        state = tf.zeros([len(x), 6])
        for value in outputs:
            state = tf.tanh(row("rnn", value @ w + state @ u + b))
        dead = tf.nn.relu(dense("dead", state))
        aside = dense("aside", state)
        logits = dense("logits", state + dead)
        number = target(aside, logits)
    found = tape.gradient(number, rows)
    means = {}
    for name, gradients in found.items():
        missing = [g is None for g in gradients]
        means[name] = (
            np.nan
            if all(missing)
            else np.mean([np.square(g) for g in gradients])
        )
    return means


def assert_rows(profile, means):
    """Asserts that each row of a profile has its gradient."""
    for name, gradient in zip(profile.layers, profile.gradient, strict=True):
        key = "steps/dense" if name.startswith("steps/") else name
        np.testing.assert_allclose(
            gradient, means[key], rtol=1e-5, atol=1e-12, err_msg=name
        )


@pytest.mark.slow
def test_gradient_of_every_kind_of_row(model, data):
    x, _, _ = data
    meter = kx.Meter(model, gradient=True)
    profile = meter(x)
    cotangent = standard_normal(0, SAMPLES, 5)
    means = by_hand(
        model, x, lambda aside, logits: tf.reduce_sum(cotangent * logits)
    )
    assert_rows(profile, means)
    assert profile["dead"].gradient == 0
    assert profile["logits"].gradient == pytest.approx(1, abs=1e-6)
    assert np.isnan(profile["aside"].gradient)
    assert profile["aside"].note and not profile["rnn"].note
    # Neither the other columns nor the batches matter.
    without = kx.measure(model, x)
    np.testing.assert_array_equal(profile.total, without.total)
    np.testing.assert_allclose(
        meter(x, batch_size=3).gradient, profile.gradient, rtol=1e-5
    )


@pytest.mark.slow
def test_gradient_of_losses_with_weights(model, data):
    x, values, labels = data
    weights = np.linspace(0.5, 2.0, SAMPLES).astype("float32")
    # Keras's names of the outputs, and batches of unequal size.
    batches = tf.data.Dataset.from_tensor_slices(
        (
            x,
            {"aside": values, "logits": labels},
            {"aside": weights, "logits": weights},
        )
    ).batch(4)
    losses = {
        "logits": "sparse_categorical_crossentropy",
        "aside": keras.losses.MeanSquaredError(),
    }
    profile = kx.measure(model, batches, gradient=True, loss=losses)

    def target(aside, logits):
        square = tf.reduce_mean((aside - values) ** 2, axis=1)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_sum(weights * (square + entropy))

    means = by_hand(model, x, target)
    assert_rows(profile, means)
    assert not np.isnan(profile.gradient).any()
    ratio = profile.gradient / profile.gradient[-1]
    np.testing.assert_allclose(profile.gradient_ratio, ratio)


class Doubled(L.Layer):
    """x + x, whose gradient is two lists of rows in TensorFlow."""

    def call(self, x):
        rows = keras.ops.arange(keras.ops.shape(x)[0])
        return sum(keras.ops.take(x, rows, axis=0) for _ in range(2))


@pytest.mark.slow
def test_gradient_in_training_mode():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((4, 4, 2))
    x = Doubled()(L.Conv2D(3, 3, padding="same")(inputs))
    x = x + L.ReLU()(
        L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x))
    )
    x = L.Reshape((-1, 3))(L.MaxPooling2D()(x))
    x = x + L.MultiHeadAttention(2, 3)(x, x)
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(x)))
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype("float32")
    found = kx.measure(model, x, gradient=True, training=True)
    signals = []
    with tf.GradientTape() as tape:

        def watch(layer_call, signal):
            tape.watch(signal)
            signals.append(signal)
            return signal

        with keras.StatelessScope(), forward_hooks(on_pre_activation=watch):
            model(x, training=True)
        cotangent = standard_normal(0, 6, 2)
        number = tf.reduce_sum(cotangent * signals[-1])
    gradients = map(tf.convert_to_tensor, tape.gradient(number, signals))
    expected = [np.mean(g.numpy() ** 2) for g in gradients]
    assert len(expected) == len(found)
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-5)


# The policy, the factor of each layer, and the size of the input.
SCALED = [
    ("float32", 1e-5, 1.0),
    ("float32", 1e5, 1e-20),
    ("mixed_float16", 2.0**-5, 1.0),
    ("mixed_float16", 2.0**3, 1e-3),
    ("mixed_bfloat16", 2.0**-4, 1.0),
]


@pytest.mark.parametrize(("policy", "factor", "size"), SCALED)
def test_no_gradient_underflows_or_overflows(policy, factor, size):
    depth, width = 6, 8
    identity = [factor * np.eye(width), np.zeros(width)]
    layers = [L.Dense(width, dtype=policy) for _ in range(depth)]
    model = keras.Sequential([keras.Input((width,)), *layers])
    for layer in layers:
        layer.set_weights(identity)
    x = size * np.random.default_rng(0).normal(size=(64, width))
    found = kx.measure(model, x.astype("float32"), gradient=True)
    powers = 2 * np.arange(depth - 1, -1, -1)
    np.testing.assert_allclose(
        np.log(found.gradient_ratio),
        np.log(np.float64(factor)) * powers,
        atol=1e-4,
    )
    # Rounding of the gradient where it starts.
    assert found.gradient[-1] == pytest.approx(1, rel=3e-3)
    assert not any(found.notes)


class Root(L.Layer):
    """A square root, whose derivative at 0 is infinite."""

    def call(self, x):
        return keras.ops.sqrt(keras.ops.relu(x))


@pytest.mark.slow
def test_what_is_not_known_is_said():
    inputs = keras.Input((2,))
    first = L.Dense(2, name="first")
    rooted = L.Dense(2, name="rooted", kernel_initializer="zeros")(
        first(inputs)
    )
    beside = L.Dense(2, name="beside")(inputs)
    last = L.Dense(2, name="last")(Root()(rooted) + beside)
    model = keras.Model(inputs, last)
    found = kx.measure(model, np.eye(2), gradient=True)
    for name in ("first", "rooted"):
        assert np.isnan(found[name].gradient)
        assert "not finite" in found[name].note
    assert found["beside"].gradient > 0 and not found["beside"].note
    # A row is reached from the last one of those that are asked for.
    part = kx.measure(
        model, np.eye(2), gradient=True, layers=["first", "rooted"]
    )
    assert part["rooted"].gradient == pytest.approx(1)
    assert part["first"].gradient == 0
    again = kx.VarianceProfile.from_dict(found.to_dict())
    assert again == found


def test_vectors_are_standard_normal():
    z = standard_normal(5, 4096, 64).numpy().astype(np.float64)
    np.testing.assert_allclose(np.mean(z**2, axis=1), 1, rtol=1e-5)
    # The numbers do not depend on the batch.
    np.testing.assert_allclose(standard_normal(105, 3, 64), z[100:103], 1e-5)
    np.testing.assert_allclose(np.abs(standard_normal(0, 9, 1)), 1, 1e-6)
    # Statistics of 2^18 numbers of the sphere, within 6 standard errors.
    error = 1 / np.sqrt(z.size)
    assert abs(z.mean()) < 6 * error
    assert abs(np.mean(z**4) - 3 * 64 / 66) < 6 * np.sqrt(96) * error
    for products in (
        z[:, 1:] * z[:, :-1],
        z[1:] * z[:-1],
        z[:, :32] * z[:, 32:],
    ):
        assert abs(products.mean()) < 6 / np.sqrt(products.size)
    # Second moments of all pairs of columns.
    moments = z.T @ z / len(z) - np.eye(64)
    assert np.abs(moments).max() < 6 * np.sqrt(2 / len(z))


@pytest.mark.slow
def test_gradient_is_what_theory_predicts(pytestconfig):
    keras.utils.set_random_seed(pytestconfig.seed)
    rng = np.random.default_rng(pytestconfig.seed)
    layers = [
        *(L.Dense(128, name) for name in ("relu", "gelu", "elu")),
        L.SimpleRNN(128, return_sequences=True),
        L.SimpleRNN(128),
        L.Dense(32),
    ]
    model = keras.Sequential([keras.Input((3, 16)), *layers])
    kx.initialize(model, "he_normal", seed=pytestconfig.seed)
    x = rng.normal(size=(32, 3, 16)).astype("float32")
    predicted = kx.predict(model, x, samples=16)
    meter, drawn = kx.Meter(model, gradient=True), []
    for _ in range(NETS):
        redraw(model, rng)
        drawn.append(meter(x).gradient)
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(NETS)
    # Each number is off by more than this with a probability below 3e-9. The
    # width adds 2%.
    off = np.abs(np.mean(drawn, axis=0) - predicted.gradient)
    assert (off < LIMIT * error + 0.02 * predicted.gradient + 1e-6).all()
    # So an error of 60% is found at every row.
    assert (error[:-1] < 0.05 * predicted.gradient[:-1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "yes"}, "gradient='yes'"),
        ({"gradient": False, "loss": "mse"}, "needs gradient=True"),
        ({"labels": np.ones((4, 1))}, "labels need a loss"),
        ({"loss": "no such loss"}, "loss='no such loss'"),
        ({"loss": 3}, "loss=3"),
        ({"loss": []}, "at least one loss"),
        ({"loss": "mse"}, "A loss needs labels"),
        ({"loss": "mse", "labels": np.ones((3, 1))}, "3 labels of 4 samples"),
        ({"loss": "mse", "labels": "text"}, "labels must be what data may be"),
        ({"loss": ["mse"] * 2, "labels": np.ones((4, 1))}, "2 losses"),
        (
            {"loss": "mse", "labels": [np.ones((4, 1))] * 2},
            "2 arrays of labels",
        ),
        (
            {"loss": {"a": "mse"}, "labels": np.ones((4, 1))},
            r"without names.*Received: a dict of \['a'\]",
        ),
        (
            {
                "data": tf.data.Dataset.from_tensors((np.ones((4, 2)),) * 2),
                "loss": "mse",
                "labels": np.ones((4, 1)),
            },
            "labels is for arrays",
        ),
        (
            {
                "data": tf.data.Dataset.from_tensors(np.ones((4, 2))),
                "loss": "mse",
            },
            "data without labels",
        ),
        (
            {
                "loss": lambda y, p: keras.ops.round(p),
                "labels": np.ones((4, 1)),
            },
            "by operations that have a derivative",
        ),
    ],
)
def test_bad_arguments(options, message):
    model = keras.Sequential([keras.Input((2,)), L.Dense(1)])
    options = {"data": np.eye(4, 2), "gradient": True} | options
    with pytest.raises(ValueError, match=message):
        kx.measure(model, **options)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ({"a": "mse"}, "ab"),
        ({"a": "mse", "b": "mse", "c": "mse"}, "ab"),
        ({"a": "mse", "c": "mse"}, "ab"),
        ("mse", "bc"),
        ("mse", "a"),
    ],
)
def test_names_of_outputs_that_are_a_dict(loss, labels):
    x = keras.Input((2,))
    model = keras.Model(x, {"b": L.Dense(1)(x), "a": L.Dense(1)(x)})
    y = {name: np.ones((4, 1)) for name in labels}
    with pytest.raises(ValueError, match=r"outputs, \['a', 'b'\]\. Received"):
        kx.measure(model, np.eye(4, 2), gradient=True, loss=loss, labels=y)


def test_losses_of_outputs_that_are_a_dict_go_by_name():
    x = keras.Input((2,))
    layers = [L.Dense(1, name=name) for name in "ba"]
    model = keras.Model(x, {layer.name: layer(x) for layer in layers})
    y = {"b": np.full((4, 1), 3.0), "a": np.zeros((4, 1))}
    # The gradient of a squared error at the output: 2 (y - label), or 0.
    losses = {"b": "mse", "a": lambda label, out: 0 * out}
    profile = kx.measure(
        model, np.zeros((4, 2)), gradient=True, loss=losses, labels=y
    )
    assert dict(zip(profile.layers, profile.gradient, strict=True)) == {
        "b": pytest.approx(36),
        "a": 0,
    }


def test_labels_that_are_no_classes_and_layers_that_cannot_be_compiled():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, "softmax")])
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"from 0 to 2.*{label} in labels"):
            kx.measure(
                model,
                np.eye(4, 2),
                gradient=True,
                loss="sparse_categorical_crossentropy",
                labels=np.array([0, 1, 2, label]),
            )
    with keras.RematScope(mode="full"):
        model = keras.Sequential([keras.Input((2,)), L.Dense(3)])
    with pytest.raises(ValueError, match="RematScope"):
        kx.measure(model, np.eye(4, 2), gradient=True)
