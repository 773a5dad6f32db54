"""measure_jacobian against explicit Jacobians, exact and by Lanczos steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import keras_initx as kx
from keras_initx.measurement import jacobian

# Random vectors for each sample.
PROBES = 16


def explicit(model, x):
    """The Jacobians of the output, as (samples, outputs, inputs)."""
    batch = keras.tree.map_structure(tf.constant, x)
    leaves = keras.tree.flatten(batch)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(leaves)
        y = model(batch, training=False)
        y = tf.cast(tf.reshape(y, (len(y), -1)), tf.float32)
    parts = tape.jacobian(y, leaves, experimental_use_pfor=False)
    n = len(y)
    return np.stack(
        [
            np.concatenate(
                [np.reshape(p[i, :, i], (y.shape[1], -1)) for p in parts], 1
            )
            for i in range(n)
        ]
    )


def dense():
    return keras.Sequential(
        [
            keras.Input((9,)),
            L.Dense(12, "silu", bias_initializer="normal"),
            L.Dense(8, "tanh"),
            L.Dense(7),
        ]
    )


def convolutional():
    return keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            L.Conv2D(4, 3, activation="silu"),
            L.BatchNormalization(),
            L.Dropout(0.5),
            L.Conv2D(3, 2, strides=2),
        ]
    )


def recurrent():
    return keras.Sequential(
        [keras.Input((3, 4)), L.GRU(5, return_sequences=True), L.Dense(2)]
    )


def several_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((2, 2), name="b")
    both = L.Concatenate()([a, L.Flatten()(b)])
    skip = both + L.Dense(7, "relu")(both)
    return keras.Model({"a": a, "b": b}, L.Dense(4)(skip))


class Subclass(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 3)
        self.last = L.Dense(2)

    def call(self, x):
        return self.last(self.attention(x, x) + x)


MODELS = {
    "dense": (dense, (9,)),
    "convolutional": (convolutional, (5, 5, 2)),
    "recurrent": (recurrent, (3, 4)),
    "several inputs": (several_inputs, {"a": (3,), "b": (2, 2)}),
    "a subclass": (Subclass, (3, 4)),
}


def numbers(shape, rng, samples=3):
    if isinstance(shape, dict):
        return {k: numbers(s, rng, samples) for k, s in shape.items()}
    return rng.normal(size=(samples, *shape)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "way"),
    [
        *[(name, "exact") for name in MODELS],
        *[(name, "few steps") for name in MODELS],
        ("dense", "all steps"),
        ("several inputs", "all steps"),
    ],
)
def test_the_last_row_is_that_of_the_explicit_jacobian(
    name, way, rng, monkeypatch
):
    make, shape = MODELS[name]
    model = make()
    x = numbers(shape, rng)
    model(x)
    jacobians = explicit(model, x)
    values = np.linalg.svd(jacobians, compute_uv=False)
    before = [np.array(w) for w in map(keras.ops.copy, model.variables)]
    if way != "exact":
        monkeypatch.setattr(jacobian, "_EXACT_INPUTS", 0)
    # More vectors than pass at once, in a second pass that is not full.
    vectors = jacobians.shape[2] if way == "exact" else PROBES
    monkeypatch.setattr(jacobian, "_AT_ONCE", len(jacobians) * vectors // 2 + 1)
    iterations = 2 if way == "few steps" else 1000
    result = kx.measure_jacobian(
        model, x, iterations=iterations, probes=PROBES, seed=1
    )
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)
    largest, smallest = result.largest[-1], result.smallest[-1]
    true = values[:, 0].max(), values[:, -1].min()
    if way == "few steps":
        # Each is on the inner side, and a singular value is within its error.
        assert largest <= true[0] * (1 + 1e-5)
        assert smallest >= true[1] * (1 - 1e-5)
        for value, error in (
            (largest, result.largest_error[-1]),
            (smallest, result.smallest_error[-1]),
        ):
            assert np.abs(values - value).min() <= error + 1e-5 * true[0]
    else:
        assert largest == pytest.approx(true[0], rel=1e-4)
        assert smallest == pytest.approx(true[1], abs=1e-5 * float(true[0]))
        ratios = values[:, 0] / values[:, -1]
        assert result.condition[-1] == pytest.approx(ratios.max(), rel=1e-2)
    square, error = result.mean_square[-1], result.mean_square_error[-1]
    if way == "exact":
        assert error == result.largest_error[-1] == 0
        assert square == pytest.approx(np.mean(values**2), rel=1e-4)
    else:
        # The squares of 48 vectors have heavier tails than a normal number.
        assert abs(square - np.mean(values**2)) < 10 * error
        assert error < square


def test_fewer_vectors_pass_at_once_where_they_are_large(rng, monkeypatch):
    model, x = convolutional(), numbers((5, 5, 2), rng)
    monkeypatch.setattr(jacobian, "_EXACT_INPUTS", 0)
    given = {"iterations": 2, "probes": 4}
    expected = kx.measure_jacobian(model, x, **given)
    counts = []
    push = jacobian._LocalMaps.push

    def counted(self, samples, *arguments):
        counts.append(len(samples))
        return push(self, samples, *arguments)

    monkeypatch.setattr(jacobian._LocalMaps, "push", counted)
    monkeypatch.setattr(jacobian, "_BYTES", 0)
    result = kx.measure_jacobian(model, x, **given)
    assert 1 <= max(counts) <= jacobian._FEW
    for name in ("mean_square", "largest", "smallest"):
        np.testing.assert_allclose(
            getattr(result, name), getattr(expected, name), rtol=1e-4
        )


def test_a_layer_has_a_row_and_may_be_named():
    model = dense()
    names = [layer.name for layer in model.layers]
    x = np.ones((1, 9), np.float32)
    result = kx.measure_jacobian(model, x)
    assert list(result.layers) == names
    assert (result.inputs, list(result.units)) == (9, [12, 8, 7])
    # The first row is the kernel itself.
    values = np.linalg.svd(model.layers[0].kernel, compute_uv=False)
    assert result.largest[0] == pytest.approx(values[0], rel=1e-5)
    one = kx.measure_jacobian(model, x, layers=names[1])
    assert one.layers == (names[1],)
    assert one.largest[0] == pytest.approx(result.largest[1], rel=1e-6)
    text = str(result)
    assert "condition" in text and names[2] in text
    assert "<table>" in result._repr_html_()
    assert repr(result) == "<JacobianProfile of 3 layers, 9 inputs>"
    assert len(result) == 3


def test_skips_keep_the_singular_values(rng):
    """Residual branches of scale 1 / depth against none, and no skips."""
    x = rng.normal(size=(1, 16)).astype(np.float32)

    def condition(layer):
        model = keras.Sequential(
            [keras.Input((16,)), *[layer() for _ in range(8)], L.Dense(16)]
        )
        kx.initialize(model, "he_normal", seed=0)
        last = L.Dense(16)
        last.build((None, 16))
        kx.initialize(model.layers[-1], "orthogonal", seed=0)
        return kx.measure_jacobian(model, x, layers=model.layers[-1]).condition

    def residual():
        return kx.layers.Residual(L.Dense(16, "relu"), scale=1 / 8)

    skips, plain = condition(residual), condition(lambda: L.Dense(16, "relu"))
    assert skips[0] < 20 < plain[0]


def test_half_precision(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = dense()
    finally:
        keras.config.set_dtype_policy("float32")
    twin = dense()
    twin.set_weights(model.get_weights())
    x = numbers((9,), rng)
    result, expected = (kx.measure_jacobian(m, x) for m in (model, twin))
    np.testing.assert_allclose(result.largest, expected.largest, rtol=0.05)
    np.testing.assert_allclose(
        result.mean_square, expected.mean_square, rtol=0.05
    )


def test_two_replicas(rng):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = dense()
    twin = dense()
    twin.set_weights(model.get_weights())
    x = numbers((9,), rng)
    result, expected = (kx.measure_jacobian(m, x) for m in (model, twin))
    np.testing.assert_allclose(result.largest, expected.largest, rtol=1e-5)


def test_of_a_data_set_the_first_batch_is_used(rng):
    model, x = dense(), numbers((9,), rng, 5)
    result = kx.measure_jacobian(
        model, tf.data.Dataset.from_tensor_slices((x, np.ones(5))).batch(2)
    )
    expected = kx.measure_jacobian(model, x[:2])
    np.testing.assert_allclose(result.largest, expected.largest, rtol=1e-6)


def folds():
    """Windows become samples, in front of a dense layer."""
    inputs = keras.Input((4, 3))
    x = L.Reshape((2, 6))(inputs)
    x = keras.ops.reshape(x, (-1, 6))
    return keras.Model(inputs, L.Dense(2, name="folded")(x))


class Constant(keras.Model):
    """A layer that does not depend on the input."""

    def __init__(self):
        super().__init__()
        self.one, self.two = L.Dense(3, name="one"), L.Dense(3, name="two")

    def call(self, x):
        return self.one(x) + self.two(keras.ops.ones_like(x))


@pytest.mark.parametrize(
    ("make", "x", "given", "message"),
    [
        (dense, np.ones((2, 9), np.int32), {}, "floating-point.*int32"),
        (dense, np.full((2, 9), np.nan), {}, "NaN or inf in the Jacobian"),
        (dense, np.ones((0, 9), np.float32), {}, "empty data"),
        (dense, None, {}, "Received: data=None"),
        (dense, [[1.0]], {}, "data must be an array"),
        (dense, np.ones((2, 9)), {"layers": "nonsense"}, "nonsense"),
        (dense, np.ones((2, 9)), {"iterations": 0}, "iterations"),
        (dense, np.ones((2, 9)), {"probes": 1}, "probes"),
        (dense, np.ones((2, 9)), {"seed": 1.5}, "seed"),
        (folds, np.ones((2, 4, 3)), {}, r"mixes samples.*'folded'"),
        (Constant, np.ones((2, 3)), {}, r"depend on the input.*'two'"),
        (lambda: "model", np.ones((2, 9)), {}, r"keras\.Model"),
    ],
)
def test_bad_input(make, x, given, message):
    with pytest.raises(ValueError, match=message):
        kx.measure_jacobian(make(), x, **given)
