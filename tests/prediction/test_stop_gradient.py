"""Operations that pass a signal on and stop its gradient."""

import keras
import numpy as np
import pytest

import keras_initx as kx

L = keras.layers
ops = keras.ops


def dense(name, activation=None):
    return L.Dense(64, activation, name=name)


def straight_through(x):
    return x + ops.stop_gradient(ops.tanh(x) - x)


def model_of(between):
    inputs = keras.Input((64,))
    return keras.Model(inputs, dense("last")(between(dense("first")(inputs))))


def predicted(between, **options):
    return kx.predict(model_of(between), weights="initial", **options)


@pytest.mark.parametrize("width", ["infinite", "actual"])
@pytest.mark.parametrize("inside", [False, True])
def test_no_gradient_arrives_behind_a_stop(width, inside):
    options = {"width": width, "networks": 3} if width == "actual" else {}
    stop = L.Activation(ops.stop_gradient) if inside else ops.stop_gradient
    found = predicted(stop, **options)
    passed = predicted(ops.copy, **options)
    np.testing.assert_allclose(found.total, passed.total, rtol=1e-12)
    assert np.isnan(found.gradient[0]) and np.isfinite(found.gradient[1])
    x = np.random.default_rng(0).normal(size=(4, 64))
    measured = kx.measure(model_of(ops.stop_gradient), x, gradient=True)
    assert np.isnan(measured.gradient[0])
    assert tuple(found.notes) == tuple(measured.notes)
    assert found.notes[0] and not found.notes[1]


def test_another_path_has_its_gradient_alone():
    found = predicted(straight_through)
    forward, backward = predicted(ops.tanh), predicted(ops.copy)
    np.testing.assert_allclose(found.total, forward.total, rtol=1e-9)
    np.testing.assert_allclose(found.gradient, backward.gradient, rtol=1e-12)
    assert not any(found.notes)
