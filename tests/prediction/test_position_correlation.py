"""Tests of the mean correlation of two positions of one sample."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers


def test_closed_forms():
    inputs = keras.Input((4, 8))
    x = L.Dense(8, name="tokens")(inputs)
    pairs = L.Dense(8, name="pairs")(L.AveragePooling1D(2, strides=1)(x))
    relu = L.Dense(8, name="relu")(L.ReLU()(x))
    last = L.Dense(2, name="last")(
        L.Concatenate()([L.GlobalAveragePooling1D()(y) for y in (pairs, relu)])
    )
    found = kx.predict(keras.Model(inputs, last))
    correlation = dict(
        zip(found.layers, found.position_correlation, strict=True)
    )
    assert correlation["tokens"] == pytest.approx(0, abs=1e-12)
    # Two pairs of the three windows share one of two tokens, and the third
    # pair shares none: (1/2 + 1/2 + 0) / 3.
    assert correlation["pairs"] == pytest.approx(1 / 3, abs=1e-12)
    # E relu(u) relu(v) / E relu(u)^2 of independent normal u, v.
    assert correlation["relu"] == pytest.approx(1 / np.pi, abs=1e-9)
    assert np.isnan(correlation["last"])
    assert kx.Prediction.from_dict(found.to_dict()) == found


def test_tokens_that_are_equal():
    model = keras.Sequential([keras.Input((3, 8)), L.Dense(4)])
    data = np.repeat(np.random.default_rng(0).normal(size=(4, 1, 8)), 3, 1)
    found = kx.predict(model, data)
    assert found.position_correlation == pytest.approx([1])


def test_bad_values():
    with pytest.raises(ValueError, match="position_correlation must hold"):
        kx.Prediction(["a"], [1.0], [1.0], [4], position_correlation=[0, 1])
