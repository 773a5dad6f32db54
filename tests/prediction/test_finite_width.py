"""Networks of finite width, drawn without their weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_initx as kx
from keras_initx.prediction.finite_width import DrawnEngine, _Uses

L = keras.layers
# The shared weight meets 8 vectors of 10 entries, and then 8 gradients.
N, SAMPLES, NETS, TWINS = 10, 2, 4000, 4000
X = np.random.default_rng(0).normal(size=(SAMPLES, 4, N)).astype("float32")


def dense(units=N, gain=2.0):
    return L.Dense(
        units,
        kernel_initializer=keras.initializers.VarianceScaling(
            gain, "fan_in", "untruncated_normal"
        ),
        use_bias=False,
    )


def model_of_shared_layers():
    """Windows, a layer that is used twice, a skip, a norm and a maximum."""
    inputs = keras.Input((4, N))
    window = L.Conv1D(
        N,
        2,
        kernel_initializer=keras.initializers.VarianceScaling(
            1.0, "fan_in", "untruncated_normal"
        ),
        use_bias=False,
    )
    x = L.MaxPooling1D(2, 1)(window(inputs))
    shared = dense()
    h = L.ReLU()(shared(x))
    h = x + 0.5 * L.Activation("tanh")(shared(h))
    h = L.LayerNormalization(epsilon=1e-3)(h)
    return keras.Model(inputs, dense(3, 1.0)(L.Flatten()(h)))


def values_of_twins(rng):
    """Returns the same of networks with weights, computed by TensorFlow."""

    def weights(*shape):
        scale = np.sqrt(shape[-1])
        return tf.constant(rng.normal(size=(TWINS, *shape[:-1])) / scale)

    first = weights(2, N, N, 2 * N)
    w = np.sqrt(2) * weights(N, N, N)
    last = weights(2, N, 3, 2 * N)
    x = tf.constant(X, tf.float64)
    windows = tf.stack([x[:, :-1], x[:, 1:]], axis=2)
    rows = []
    with tf.GradientTape() as tape:

        def row(y):
            tape.watch(y)
            rows.append(y)
            return y

        u = row(tf.einsum("stkc,rkcd->rstd", windows, first))
        y = tf.maximum(u[:, :, :-1], u[:, :, 1:])
        h = tf.nn.relu(row(tf.einsum("rstc,rcd->rstd", y, w)))
        h = y + 0.5 * tf.tanh(row(tf.einsum("rstc,rcd->rstd", h, w)))
        mean = tf.reduce_mean(h, -1, keepdims=True)
        variance = tf.reduce_mean((h - mean) ** 2, -1, keepdims=True)
        h = (h - mean) / tf.sqrt(variance + 1e-3)
        end = row(tf.einsum("rstc,rtcd->rsd", h, last))
        total = tf.reduce_sum(end * rng.normal(size=end.shape))
    gradients = tape.gradient(total, rows)
    squares = [np.mean(y.numpy() ** 2, (*range(1, y.ndim),)) for y in rows]
    sizes = [np.mean(g.numpy() ** 2, (*range(1, g.ndim),)) for g in gradients]
    means = [
        np.mean(y.numpy().mean(axis=1) ** 2, (*range(1, y.ndim - 1),))
        for y in rows
    ]
    pairs = [
        (SAMPLES * m - q) / (SAMPLES - 1)
        for m, q in zip(means, squares, strict=True)
    ]
    fractions = [1 - p / q for p, q in zip(pairs, squares, strict=True)]
    return {"total": squares, "sample_fraction": fractions, "gradient": sizes}


def test_the_distribution_over_networks(pytestconfig):
    found = kx.predict(
        model_of_shared_layers(),
        X,
        weights="initial",
        width="actual",
        networks=NETS,
        samples=SAMPLES,
        seed=pytestconfig.seed,
    )
    twins = values_of_twins(np.random.default_rng(pytestconfig.seed))
    # A share of the twins below a quartile of the others is off by chance by
    # more than 6.5 standard errors with a probability below 1e-10, which makes
    # less than 1e-6 for all rows. An error of 0.1 in a share is found.
    for name, values in twins.items():
        for row, each in enumerate(values):
            for level, quartile in zip(
                (0.25, 0.5, 0.75), found.quartiles[name][:, row], strict=True
            ):
                spread = level * (1 - level) * (1 / NETS + 1 / TWINS)
                share = np.mean(each < quartile)
                assert abs(share - level) < 6.5 * np.sqrt(spread), (name, row)
    assert set(found.exactness) == {"drawn"}


def relu_chain(width, depth=50):
    layers = [
        L.Dense(width, "relu", kernel_initializer="he_normal")
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


@pytest.mark.slow
def test_deep_narrow_relu_networks():
    """The root of m^2 / v^2 at layer 49 is that of networks, not of the limit.

    Over 40 seeds the root for the median of 400 networks of width 100 was
    4.15 +- 0.23, and the variance of log q, which is about 5 L / n = 2.45
    (Hanin & Nica, arXiv:1812.05994), was 2.37 +- 0.31. The root of the ratio of
    means for 40 networks of width 1000 was 6.97 +- 0.38, so +- 0.24 for 100.
    The intervals are 6 standard deviations wide to each side.
    """
    model = relu_chain(100)
    found = kx.predict(model, weights="initial", width="actual", networks=400)
    fraction = found.quartiles["sample_fraction"][1, -1]
    assert 2.75 < np.sqrt(1 / fraction - 1) < 5.6
    lower, _, upper = np.log(found.quartiles["total"][:, -1])
    assert 0.5 < ((upper - lower) / 1.349) ** 2 < 4.3
    found = kx.predict(
        relu_chain(1000), weights="initial", width="actual", networks=100
    )
    ratio = np.sqrt(found.squared_mean[-1] / found.sample_variance[-1])
    assert 5.5 < ratio < 8.45
    wide = kx.predict(model, weights="initial")
    limit = np.sqrt(wide.squared_mean[-1] / wide.sample_variance[-1])
    assert limit == pytest.approx(8.87, abs=0.01)


@pytest.mark.slow
def test_wide_networks_are_the_limit():
    inputs = keras.Input((8,))
    x = dense(4000)(inputs)
    x = x + dense(4000)(L.ReLU()(L.LayerNormalization()(x)))
    model = keras.Model(inputs, dense(4)(x))
    options = {"weights": "initial", "seed": 1}
    wide = kx.predict(model, **options)
    drawn = kx.predict(model, width="actual", networks=200, **options)
    np.testing.assert_allclose(drawn.total, wide.total, rtol=0.2)
    np.testing.assert_allclose(drawn.gradient, wide.gradient, rtol=0.2)


def test_records_and_refusals(tmp_path):
    model = relu_chain(8, 2)
    found = kx.predict(model, width="actual", networks=3)
    found.save(tmp_path / "drawn.json")
    assert kx.Prediction.load(tmp_path / "drawn.json") == found
    assert found == kx.predict(model, width="actual", networks=3)
    for bad in ({"width": "wide"}, {"width": "actual", "networks": 1}):
        with pytest.raises(ValueError, match="Received"):
            kx.predict(model, **bad)
    groups = keras.Sequential([keras.Input((4, 4)), L.Conv1D(4, 2, groups=2)])
    with pytest.raises(ValueError, match="channels in groups"):
        kx.predict(groups, width="actual")
    for quartiles in ({"mean": [[0] * 2] * 3}, {"total": [0, 0]}):
        with pytest.raises(ValueError, match="quartiles"):
            kx.Prediction(
                ["a", "b"], [1, 1], [0, 0], [4, 4], quartiles=quartiles
            )
    with pytest.raises(ValueError, match="exactness"):
        kx.Prediction(["a"], [1], [0], [4], exactness=["sure"])


def test_one_weight_is_one_matrix():
    # Whatever was drawn of W holds for all that is drawn of it later:
    # d^T (W h) = (W^T d)^T h, and W (2 h - h') = 2 W h - W h'.
    rng = np.random.default_rng(0)
    engine = DrawnEngine(networks=3, limit=9, rng=rng)
    uses = _Uses()
    h, g = rng.normal(size=(2, 3, 12, 2))
    first, second = (engine._forward(uses, x, 0.5, 9) for x in (h, g))
    mixed = engine._forward(uses, 2 * h - g, 0.5, 9)
    np.testing.assert_allclose(mixed, 2 * first - second, atol=1e-8)
    d, e = rng.normal(size=(2, 3, 9, 2))
    back, more = (engine._backward(uses, y, 0.5) for y in (d, e))
    again = engine._backward(uses, d - 3 * e, 0.5)
    np.testing.assert_allclose(again, back - 3 * more, atol=1e-8)
    for y, returned in ((d, back), (e, more)):
        for x, u in ((h, first), (g, second)):
            np.testing.assert_allclose(
                np.swapaxes(y, 1, 2) @ u,
                np.swapaxes(returned, 1, 2) @ x,
                atol=1e-8,
            )
