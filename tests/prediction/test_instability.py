"""How an error of a prediction grows from layer to layer."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers


# 1 / E phi(z)^2 for a standard normal z.
SCALES = {
    "relu": 2.0,
    "tanh": 2.536183,
    "gelu": 2.351718,
    "silu": 2.810758,
    "mish": 2.210722,
}


def chain(activation, depth, norm=False):
    layers = []
    for k in range(depth):
        scale = SCALES[activation] if k else 1.0
        layers.append(
            L.Dense(
                8,
                kernel_initializer=keras.initializers.VarianceScaling(scale),
                name=f"d{k}",
            )
        )
        if norm:
            layers.append(L.LayerNormalization())
        layers.append(L.Activation(activation))
    return keras.Sequential([keras.Input((8,)), *layers, L.Dense(8, name="e")])


def perturbed(model, first):
    """Returns totals where the variance of one kernel is 1e-4 larger."""
    layer = model.get_layer(first)
    initializer = layer.kernel_initializer
    layer.kernel_initializer = kx.initializers.Scaled(
        initializer, np.sqrt(1 + 1e-4)
    )
    total = kx.predict(model, weights="initial").total
    layer.kernel_initializer = initializer
    return total


@pytest.mark.parametrize("activation", SCALES)
def test_an_error_grows_by_the_slope_of_each_activation(activation):
    model = chain(activation, 12)
    found = kx.predict(model, weights="initial")
    grown = perturbed(model, "d2")[-1] / found.total[-1] - 1
    growth = grown / 1e-4
    note = found.notes[found.layers.index("d2")]
    if growth < 2:
        assert note == ""
    else:
        said = float(note.split(" is ")[1].split("%")[0])
        assert said == pytest.approx(growth, rel=0.06)
        assert (
            note
            == f"an error of 1% of the total here is {said:.2g}% at the end"
        )


def test_no_number_is_given_that_an_error_would_double(tmp_path):
    model = chain("silu", 40)
    found = kx.predict(model, weights="initial")
    unknown = np.isnan(found.total)
    # 1.1726^29 = 101: what the first layer's error is 29 layers later.
    assert unknown.tolist() == [k > 28 for k in range(41)]
    assert np.isnan(found.squared_mean).tolist() == unknown.tolist()
    assert np.isnan(found.sample_fraction).tolist() == unknown.tolist()
    assert "more than 100% here" in found.notes[-1]
    # The gradient at a layer depends on all layers behind it.
    assert np.isnan(found.gradient).tolist() == [k < 12 for k in range(41)]
    assert "the gradient is not known" in found.notes[0]
    assert "lives" in str(found.verdict)
    found.save(tmp_path / "p.json")
    assert kx.Prediction.load(tmp_path / "p.json") == found
    assert "nan" in str(found.table()) or "-" in str(found.table())
    # A measured profile has a number in each row.
    with pytest.raises(ValueError, match="finite"):
        kx.VarianceProfile(["a"], [np.nan], [1.0], [4])


def test_a_normalization_ends_the_growth():
    found = kx.predict(chain("silu", 40, norm=True), weights="initial")
    assert np.isfinite(found.total).all()
    assert np.isfinite(found.gradient).all()
    assert set(found.notes) == {""}


def test_branches_have_shares_in_an_error():
    # x + branch(x) with a branch of a tenth of the mean square.
    inputs = keras.Input((8,))
    x = inputs
    for k in range(40):
        y = L.Dense(8, name=f"a{k}", kernel_initializer="he_normal")(x)
        y = L.Activation("gelu")(y)
        scale = keras.initializers.VarianceScaling(0.02)
        x = x + L.Dense(8, name=f"b{k}", kernel_initializer=scale)(y)
    model = keras.Model(inputs, L.Dense(8, name="e")(x))
    found = kx.predict(model, weights="initial")
    assert np.isfinite(found.total).all()
    assert not any("not known" in note for note in found.notes)
