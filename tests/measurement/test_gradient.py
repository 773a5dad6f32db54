"""The gradient at each row, against gradients by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.measurement.gradient import standard_normal

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
