"""Recurrent layers, and weights that are correlated over depth."""

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.theory.mean_field.gaussian_products import (
    piecewise_linear_product,
    step_product,
)
from tests.prediction.networks import assert_predicted

L = keras.layers
WIDTH, TIME, SAMPLES = 192, 3, 3


def scaled(gain):
    return keras.initializers.VarianceScaling(
        gain, "fan_in", "untruncated_normal"
    )


def relu_rnn_by_pairs(x, bias, last):
    """Returns second moments of pre-activations, and squared gradients.

    With w = 2 for the recurrent weights and 1 for those of the input, for all
    pairs of steps and samples; a loop over pairs, with the closed forms of
    relu. `last` is whether the gradient starts at the last step alone.
    """
    n, time, width = x.shape
    q = np.zeros((time, time, n, n))
    h = np.zeros((time + 1, time + 1, n, n))
    for s in range(time):
        for t in range(time):
            inner = x[:, s] @ x[:, t].T / width
            q[s, t] = 2 * h[s, t] + inner + bias
            # All pairs of smaller steps, and their diagonals, are known.
            variances = []
            for one in (s, t):
                own = x[:, one] @ x[:, one].T / width
                variances.append(np.diag(2 * h[one, one] + own + bias))
            u = np.broadcast_to(variances[0][:, None], (n, n))
            v = np.broadcast_to(variances[1][None, :], (n, n))
            relu = piecewise_linear_product((1, 0), (1, 0), u, v, q[s, t])
            h[s + 1, t + 1] = relu
    sizes = np.zeros((time, n))
    # E g_s g_t of the same sample: of different steps with fresh cotangents.
    g = np.zeros((time + 1, time + 1, n))
    for s in reversed(range(time)):
        for t in reversed(range(time)):
            start = float(s == t and (not last or t == time - 1))
            u, v = (np.diag(q[one, one]) for one in (s, t))
            slope = step_product((1, 0), (1, 0), u, v, np.diag(q[s, t]))
            g[s, t] = slope * (start + 2 * g[s + 1, t + 1])
        sizes[s] = g[s, s]
    return q, sizes


@pytest.mark.parametrize("sequences", [True, False])
def test_simple_rnn_has_closed_forms(sequences):
    x = np.random.default_rng(0).normal(size=(2, TIME, 5))
    layer = L.SimpleRNN(
        7,
        "relu",
        kernel_initializer=scaled(1.0),
        recurrent_initializer=scaled(2.0),
        bias_initializer=keras.initializers.RandomNormal(stddev=0.5),
        return_sequences=sequences,
        name="rnn",
    )
    end = L.Activation("linear", name="end")
    model = keras.Sequential([keras.Input((TIME, 5)), layer, end])
    found = kx.predict(
        model, x, weights="initial", layers=["rnn", "end"], samples=2
    )
    q, sizes = relu_rnn_by_pairs(x, 0.25, last=not sequences)
    steps = range(TIME) if sequences else [TIME - 1]
    total = np.mean([np.diag(q[t, t]) for t in steps])
    product = np.mean([q[t, t, 0, 1] for t in steps])
    assert found.total[0] == pytest.approx(total, abs=1e-10)
    assert found.squared_mean[0] == pytest.approx(product, abs=1e-10)
    # The gradient of a row is the mean over all steps.
    assert found.gradient[0] == pytest.approx(np.mean(sizes), abs=1e-10)
    assert set(found.exactness) == {"wide"}


def units(kind, **options):
    return kind(
        WIDTH,
        kernel_initializer=scaled(1.0),
        recurrent_initializer=scaled(1.0),
        **options,
    )


def recurrent(tokens):
    """Layers of every kind, which meet in one last layer."""
    embedded = L.Embedding(
        6, WIDTH, mask_zero=True, embeddings_initializer=scaled(6.0)
    )(tokens)
    x = L.Dense(WIDTH, kernel_initializer=scaled(2.0))(embedded)
    cells = [units(L.GRUCell, reset_after=False), units(L.LSTMCell)]
    sequence = units(L.LSTM, return_sequences=True)(x)
    first, state = units(L.GRU, return_state=True)(sequence)
    ends = [
        L.Bidirectional(units(L.GRU))(sequence),
        L.RNN(cells)(x),
        units(L.SimpleRNN, go_backwards=True)(x, initial_state=state),
        first,
    ]
    return L.Dense(WIDTH, kernel_initializer=scaled(1.0))(L.Concatenate()(ends))


@pytest.mark.slow
def test_recurrent_layers(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    tokens = rng.integers(1, 6, (SAMPLES, TIME))
    # Some steps of two of the samples do not count.
    tokens[0, -1] = tokens[1, 0] = 0
    inputs = keras.Input((TIME,))
    model = keras.Model(inputs, recurrent(inputs))
    found = kx.predict(model, tokens, samples=SAMPLES)
    assert_predicted(found, model, tokens, pytestconfig.seed, wide=0.06)


class Convolved(keras.Model):
    """Convolutions with a state, and a dropout of states."""

    def __init__(self):
        super().__init__(name="convolved")
        options = {
            "kernel_initializer": scaled(2.0),
            "recurrent_initializer": scaled(2.0),
        }
        self.first = L.ConvLSTM1D(
            48, 2, return_sequences=True, name="a", **options
        )
        self.dropped = L.LSTM(
            WIDTH,
            dropout=0.3,
            recurrent_dropout=0.4,
            name="b",
            **options,
        )
        self.last = L.Dense(WIDTH, kernel_initializer=scaled(1.0), name="c")

    def call(self, x, training=False):
        x = self.first(x)
        x = keras.ops.mean(x, axis=2)
        return self.last(self.dropped(x, training=training))


@pytest.mark.slow
def test_convolutions_and_dropout(pytestconfig):
    rng = np.random.default_rng(pytestconfig.seed)
    x = rng.normal(size=(SAMPLES, TIME, 5, 8)) + rng.normal(size=(5, 8))
    x = x.astype("float32")
    model = Convolved()
    model(x)
    found = kx.predict(model, x, training=True, samples=SAMPLES)
    assert_predicted(
        found, model, x, pytestconfig.seed, wide=0.1, training=True
    )


@pytest.mark.parametrize("kind", ["smooth", "fractional", "white"])
@pytest.mark.parametrize("weights", ["present", "initial"])
def test_weights_that_are_correlated_over_depth(kind, weights):
    options = {"hurst": 0.8} if kind == "fractional" else {}
    process = kx.initializers.DepthProcess(4, kind, seed=1, **options)
    lag = {
        "white": 0.0,
        "smooth": kx.theory.smooth_covariance(2, 4),
        "fractional": kx.theory.fractional_noise_covariance(2, 0.8),
    }[kind]
    inputs = keras.Input((300,))
    first, third = (
        L.Dense(
            300,
            use_bias=False,
            kernel_initializer=kx.initializers.Scaled(process.at(k), 2.0),
        )
        for k in (0, 2)
    )
    joined = L.Activation("linear", name="sum")(first(inputs) + third(inputs))
    model = keras.Model(inputs, joined)
    found = kx.predict(model, weights=weights, layers=[first, "sum"])
    # E (u + v)^2 = 2 E u^2 (1 + g) for two layers of covariance g.
    total = found.total[1] / found.total[0]
    rel = 1e-9 if weights == "initial" else 0.02
    assert total == pytest.approx(2 * (1 + lag), rel=rel)
    assert found.gradient[0] == pytest.approx(1.0, rel=rel)
    # Other values are no longer those of the process.
    first.kernel.assign(np.random.default_rng(0).normal(size=(300, 300)))
    third.kernel.assign(np.random.default_rng(1).normal(size=(300, 300)))
    again = kx.predict(model, layers=[first, "sum"]).total
    assert again[1] / again[0] == pytest.approx(2.0, rel=0.02)
    if kind != "white":
        with pytest.raises(ValueError, match="correlated with those of other"):
            kx.predict(model, weights="initial", width="actual", networks=2)


@pytest.mark.slow
def test_recurrent_layers_of_their_own_width():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    layers = [
        L.LSTM(900, return_sequences=True),
        L.Bidirectional(L.SimpleRNN(900)),
    ]
    model = keras.Sequential([keras.Input((3, 4)), *layers, L.Dense(8)])
    options = {"weights": "initial", "samples": 2}
    wide = kx.predict(model, x, **options)
    drawn = kx.predict(model, x, width="actual", networks=12, **options)
    np.testing.assert_allclose(drawn.total, wide.total, rtol=0.25)
    # One matrix at all steps: a state that is mapped alike is the same.
    assert drawn.layers == wide.layers


class Sliced(L.Layer):
    """A cell that multiplies by a part of its kernel."""

    state_size = output_size = 64

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(64, 128), initializer=scaled(1.0), name="kernel"
        )

    def call(self, x, states):
        h = x + keras.ops.matmul(states[0], self.kernel[:, 64:])
        return h, [h]


def test_a_part_of_a_weight_is_the_same_at_all_steps():
    # With h_t = x + W h_(t-1) and x the same at all steps, h_2 = x + W x.
    model = keras.Sequential(
        [
            keras.Input((3, 64)),
            L.RNN(Sliced(), return_sequences=True, name="rnn"),
            L.Activation("linear", name="end"),
        ]
    )
    x = np.repeat(np.random.default_rng(0).normal(size=(2, 1, 64)), 3, axis=1)
    found = kx.predict(model, x, layers="end", samples=2)
    kernel = model.layers[0].cell.kernel.numpy().astype(float)[:, 64:]
    v, q = 64 * np.mean(kernel**2), np.mean(x**2)
    # E h_3^2 = q + v E h_2^2, since W x and W^2 x are independent.
    expected = q * np.mean([1, 1 + v, 1 + v + v**2])
    # E x W x = 0, but W x at two steps is one vector: (x + W x) + W (W x).
    assert found.total[0] == pytest.approx(expected, rel=1e-9)


CELLS = [L.SimpleRNNCell, L.GRUCell, L.LSTMCell]


@pytest.mark.parametrize("cell", CELLS)
def test_a_class_of_ones_own_without_a_call_is_the_cell(cell):
    own = type("Own", (cell,), {})
    x = np.random.default_rng(0).normal(size=(2, 2, 4))
    totals = [
        kx.predict(
            keras.Sequential([keras.Input((2, 4)), L.RNN(kind(8)), L.Dense(3)]),
            x,
            weights="initial",
        ).total
        for kind in (cell, own)
    ]
    np.testing.assert_array_equal(*totals)


@pytest.mark.parametrize("plus_one", [True, False])
def test_the_initial_bias_of_the_forget_gate(plus_one):
    # With small kernels c_t = f c_(t-1) + W x_t / 2 and h_t = c_t / 2.
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(2, 1, 16)), 3, axis=1)
    lstm = L.LSTM(
        16,
        kernel_initializer=scaled(1e-4),
        recurrent_initializer="zeros",
        unit_forget_bias=plus_one,
    )
    end = L.Activation("linear", name="end")
    model = keras.Sequential([keras.Input((3, 16)), lstm, end])
    found = kx.predict(model, x, layers="end", weights="initial")
    f = 1 / (1 + np.exp(-float(plus_one)))
    expected = 1e-4 * np.mean(x**2) / 16 * (1 + f + f**2) ** 2
    # The mean over 8192 draws, which differs by less than 6 deviations.
    assert found.total[0] == pytest.approx(expected, rel=0.1)


def test_what_recurrent_layers_refuse():
    x = np.ones((2, 3, 4), "float32")
    stateful = L.LSTM(3, stateful=True, name="held")
    inputs = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, stateful(inputs))
    kx.predict(model, x)
    model(x)
    with pytest.raises(ValueError, match=r"'held'.*holds a state"):
        kx.predict(model, x)
    process = kx.initializers.DepthProcess(2, seed=1).at(0)
    inputs = keras.Input((3, 8))
    attend = L.MultiHeadAttention(2, 4, kernel_initializer=process)
    model = keras.Model(inputs, attend(inputs, inputs))
    with pytest.raises(ValueError, match="weights in common"):
        kx.predict(model, weights="initial")


def attention(**options):
    inputs = keras.Input((5, 32))
    mask = keras.Input((5, 5), dtype="bool", name="mask")
    layer = L.MultiHeadAttention(
        4, 16, kernel_initializer="lecun_normal", name="a", **options
    )
    y = layer(inputs, inputs, attention_mask=mask)
    return keras.Model([inputs, mask], L.Dense(8)(y))


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}])
def test_masks_of_attention_differ_from_sample_to_sample(options):
    # With a dropout Keras multiplies scores and values itself.
    x = np.random.default_rng(0).normal(size=(2, 5, 32)).astype("float32")
    x[0, 0] *= 3
    first = np.zeros((2, 5, 5), bool)
    first[0, :, 0] = first[1, :, 4] = True
    model = attention(**options)
    found = kx.predict(model, [x, first], samples=2)
    # All queries see one key, so that each head returns its value.
    value = model.get_layer("a").value_dense.kernel.numpy().astype(float)
    output = model.get_layer("a").output_dense.kernel.numpy().astype(float)
    square = np.mean([np.mean(x[0, 0] ** 2.0), np.mean(x[1, 4] ** 2.0)])
    gain = 32 * np.mean(value**2) * 64 * np.mean(output**2)
    total = found["a/attention_output"].total
    assert total == pytest.approx(gain * square, rel=1e-5)
    rows = kx.predict(model, [x, np.ones_like(first)], samples=2)
    twin = attention()
    twin.set_weights(model.get_weights())
    same = kx.predict(twin, [x, np.ones_like(first)], samples=2)
    np.testing.assert_allclose(rows.total, same.total, rtol=1e-6)
    np.testing.assert_allclose(rows.gradient, same.gradient, rtol=1e-6)
    first[0, 1] = False
    with pytest.raises(ValueError, match="see no key"):
        kx.predict(model, [x, first], samples=2)


def test_the_mask_of_an_embedding_is_refused_by_attention():
    inputs = keras.Input((5,))
    x = L.Embedding(6, 16, mask_zero=True)(inputs)
    y = L.MultiHeadAttention(2, 8, name="a")(x, x)
    model = keras.Model(inputs, L.Dense(4)(y))
    tokens = np.array([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match=r"'a'.*mask"):
        kx.predict(model, tokens)
    assert len(kx.predict(model, np.maximum(tokens, 1))) == 6
