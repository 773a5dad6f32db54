"""Rows of networks whose moments are known to eight digits and more.

q is the mean square of a pre-activation, k the mean product of two samples,
Gamma the squared gradient summed over the units of a layer, for one output,
and "cross" its product for two samples with one cotangent. The numbers are
those of neural-tangents 0.6.5 in float64, of closed forms, and of a separate
quadrature.
"""

import importlib

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx.prediction.expressions import Block, White
from keras_initx.prediction.wide import WideEngine

# The function of this name hides the module.
predict_module = importlib.import_module("keras_initx.prediction.predict")

L = keras.layers
X = np.array([[1.0] * 8, [1.0] * 5 + [-1.0] * 3])
i, j, c = np.meshgrid(np.arange(6), np.arange(6), np.arange(2), indexing="ij")
IMAGES = np.stack(
    [
        np.cos(0.7 * i + 1.3 * j + 2.1 * c),
        np.sin(0.5 * i - 0.9 * j + 1.7 * c + 0.3),
    ]
)


def scaled(gain):
    return keras.initializers.VarianceScaling(
        gain, "fan_in", "untruncated_normal"
    )


def dense(gain, activation=None, units=6, bias=0.0):
    return L.Dense(
        units,
        activation,
        kernel_initializer=scaled(gain),
        bias_initializer=keras.initializers.RandomNormal(stddev=bias**0.5),
        use_bias=bias > 0,
    )


def chain(activation, gain, bias=0.0):
    return keras.Sequential(
        [keras.Input((8,))]
        + [dense(gain, activation, bias=bias) for _ in range(4)]
    )


def predicted(model, x, **kwargs):
    return kx.predict(model, x, weights="initial", samples=len(x), **kwargs)


def cross_gradients(model, monkeypatch):
    """Returns E g_1 g_2 at each row, for one cotangent of both samples."""

    def cotangent(engine, signal):
        same = np.zeros(signal.size)
        return [Block(signal.width, White(signal.size, "cotangent", same))]

    crossed = []
    result = predict_module._result

    def gradients(engine, model, steps, samples):
        signals = [row.tensor.signal for row in steps.rows]
        found = engine.gradients(signals[-1], signals)
        crossed.extend(engine.second(gradient)[0, 1] for gradient in found)
        return result(engine, model, steps, samples)

    monkeypatch.setattr(WideEngine, "cotangent", cotangent)
    monkeypatch.setattr(predict_module, "_result", gradients)
    predicted(model, X)
    return crossed


# Activation, gain, variance of the bias, and rows of
# (layer, q, k, Gamma, cross).
CHAINS = [
    (
        "relu",
        *(2.0, 0.01),
        (0, 2.01000000, 0.51000000, 1, 0.26462496),
        (1, 2.02000000, 0.92551069, 1, 0.45494948),
        (2, 2.03000000, 1.18449296, 1, 0.69831486),
        (3, 2.04000000, 1.36191417, 1, 1),
    ),
    (
        keras.ops.erf,
        *(2.25, 0.04),
        (0, 2.29000000, 0.60250000, 1.17242840, 0.33534626),
        (3, 1.17359961, 0.29275219, 1, 1),
    ),
    (
        "gelu",
        *(2.25, 0.0),
        (0, 2.25, 0.5625, 1.38030633, 0.37700318),
        (1, 2.35744598, 0.90418609, 1.24327347, 0.56297777),
        (3, 2.61695883, 1.41439765, 1, 1),
    ),
    (
        L.LeakyReLU(negative_slope=0.2),
        *(2.0, 0.0),
        (0, 2, 0.5, 1.12486400, 0.50476806),
    ),
    (
        "tanh",
        *(2.25, 0.0),
        (0, 2.25, 0.5625, 0.76489186, 0.30276679),
        (1, 1.2164588570, 0.2686755567, 1.02391899, 0.62617452),
    ),
    (
        "silu",
        *(2.25, 0.0),
        (1, 2.05985666, 0.69816479, 0.91631523, 0.48376967),
    ),
]


@pytest.mark.parametrize(
    ("activation", "gain", "bias", "rows"),
    [(a, g, b, rows) for a, g, b, *rows in CHAINS],
    ids=lambda value: getattr(value, "name", str(value)[:12]),
)
def test_chains(activation, gain, bias, rows, monkeypatch):
    model = chain(activation, gain, bias)
    found = predicted(model, X)
    cross = cross_gradients(model, monkeypatch)
    for row, q, k, gradient, product in rows:
        assert found.total[row] == pytest.approx(q, abs=1e-8)
        assert found.squared_mean[row] == pytest.approx(k, abs=1e-8)
        # The layers are equally wide, so that Gamma is the mean square.
        assert found.gradient[row] == pytest.approx(gradient, abs=1e-8)
        assert cross[row] == pytest.approx(product, abs=1e-8)
    assert found.exactness == ("exact", "wide", "wide", "wide")


def functional(build):
    inputs = keras.Input((8,))
    return keras.Model(inputs, build(inputs))


def normalized(inputs, twice=False):
    x = L.Activation("relu")(L.LayerNormalization()(dense(2.0)(inputs)))
    x = dense(2.0)(x)
    if twice:
        x = L.Activation("relu")(L.LayerNormalization()(x))
        x = dense(1.0)(x)
    return x


def residual(inputs, blocks=2):
    x = dense(1.0)(inputs)
    for _ in range(blocks):
        x = x + dense(1.0)(L.Activation("relu")(x))
    return L.Activation("linear", name="stream")(x)


def pre_norm(inputs):
    x = dense(1.0)(inputs)
    branch = dense(2.0, "relu")(L.LayerNormalization()(x))
    x = L.Add()([x, dense(0.25)(branch)])
    return L.Activation("linear", name="stream")(x)


def joined(inputs):
    parts = [dense(1.0, "relu")(inputs), dense(1.0, keras.ops.erf)(inputs)]
    return dense(1.0)(L.Concatenate()(parts))


def dropped(inputs):
    return dense(2.0)(L.Dropout(0.25)(dense(2.0, "relu")(inputs)))


@pytest.mark.parametrize(
    ("build", "q", "k", "options"),
    [
        (normalized, 0.9995002499, 0.4530833362, {}),
        (
            lambda x: normalized(x, twice=True),
            *(0.4995002500, 0.2888448550),
            {},
        ),
        (lambda x: residual(x, 1), 1.5, 0.4766549389, {"layers": "stream"}),
        (lambda x: residual(x, 2), 2.25, 0.8467090647, {"layers": "stream"}),
        (pre_norm, 1.2497502498, 0.3632142552, {"layers": "stream"}),
        (joined, 0.4822795272, 0.1666278485, {}),
        (dropped, 2.6666666667, 0.9066197557, {"training": True}),
    ],
    ids=["norm", "norms", "residual", "residuals", "pre", "joined", "dropped"],
)
def test_graphs(build, q, k, options):
    found = predicted(functional(build), X, **options)
    assert found.total[-1] == pytest.approx(q, abs=1e-9)
    assert found.squared_mean[-1] == pytest.approx(k, abs=1e-9)


def test_gradient_of_a_residual_stream():
    # The squared gradient grows by 3/2 a block.
    model = functional(lambda x: residual(x, 3))
    layers = [model.layers[1], "stream"]
    found = predicted(model, X, layers=layers)
    assert found.gradient[0] == pytest.approx(3.375, abs=1e-9)


def convolution(activation="relu"):
    return L.Conv2D(
        4,
        3,
        padding="same",
        activation=activation,
        kernel_initializer=scaled(2.0),
        use_bias=False,
    )


def image_net(*layers):
    return keras.Sequential(
        [keras.Input((6, 6, 2)), *layers, dense(1.0, units=1)]
    )


# q of the first and of the second image, k, and Gamma with global pooling and
# with Flatten.
CONVOLUTIONS = [
    (0.79363946, 0.78772712, -0.00674173, 0.00922116, 0.33196159),
    (0.66560871, 0.66189661, 0.21483686, 0.01097394, 0.39506173),
    (0.56799776, 0.56544534, 0.28201012, 0.01388889, 0.5),
]


@pytest.mark.parametrize("flat", [False, True])
def test_convolutions(flat):
    end = L.Flatten() if flat else L.GlobalAveragePooling2D()
    model = image_net(convolution(), convolution(), convolution(), end)
    found = predicted(model, IMAGES)
    for row, (q1, q2, k, *gammas) in enumerate(CONVOLUTIONS):
        assert found.total[row] == pytest.approx((q1 + q2) / 2, abs=1e-8)
        assert found.squared_mean[row] == pytest.approx(k, abs=1e-8)
        gamma = found.gradient[row] * found.units[row]
        assert gamma == pytest.approx(gammas[flat], abs=1e-8)
    if flat:
        mean = (0.2839988825 + 0.2827226706) / 2
        assert found.total[-1] == pytest.approx(mean, abs=1e-9)
        assert found.squared_mean[-1] == pytest.approx(0.1721727781, abs=1e-9)


def test_pooling_between_convolutions():
    model = image_net(
        convolution(),
        L.AveragePooling2D(2),
        convolution(),
        L.GlobalAveragePooling2D(),
    )
    found = predicted(model, IMAGES)
    mean = (0.32475821 + 0.37425050) / 2
    assert found.total[1] == pytest.approx(mean, abs=1e-8)
    assert found.squared_mean[1] == pytest.approx(0.14999483, abs=1e-8)
    gamma = found.gradient[1] * found.units[1]
    assert gamma == pytest.approx(0.05555556, abs=1e-8)


@pytest.mark.parametrize(
    ("activation", "depth"), [("relu", 50), ("tanh", 8), ("elu", 8)]
)
def test_critical_chains_are_those_of_the_theory(activation, depth):
    gain = kx.theory.critical_scale(activation)
    layers = [dense(1.0, activation, units=4)]
    layers += [dense(gain, activation, units=4) for _ in range(depth - 1)]
    found = kx.predict(
        keras.Sequential([keras.Input((4,)), *layers]), weights="initial"
    )
    expected = kx.theory.sample_variance_decay(depth, activation)
    np.testing.assert_allclose(found.total, 1, rtol=1e-8)
    np.testing.assert_allclose(
        found.sample_fraction, expected.sample_fraction, rtol=1e-8
    )


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_distributions_wider_than_the_bend_of_the_activation(activation):
    normal = keras.initializers.RandomNormal(stddev=100.0, seed=1)
    layers = [L.Dense(32, activation, kernel_initializer=normal) for _ in "abc"]
    model = keras.Sequential([keras.Input((32,)), *layers])
    found = kx.predict(model, weights="initial")
    variance = 32 * 1e4
    # With a density that is constant where phi' is not 0, E phi'(u)^2 is the
    # integral of phi'^2 over sqrt(2 pi q).
    area = {"tanh": 4 / 3, "sigmoid": 1 / 6}[activation]
    slopes = area / np.sqrt(2 * np.pi * found.total)
    expected = np.append(np.cumprod(variance * slopes[-2::-1])[::-1], 1.0)
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-4)
    # phi is a step, and its arguments are independent in the first layer.
    kept = {"tanh": 1.0, "sigmoid": 0.5}[activation]
    assert found.total[1] == pytest.approx(variance * kept, rel=5e-3)
