"""What runs on every backend of Keras, in processes without TensorFlow."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_initx as kx
from keras_initx import backend
from keras_initx.backend import float64, passes
from keras_initx.initializers.alpha_stable import symmetric_stable
from keras_initx.prediction.elementwise import found_kinks
from tests.helpers import backend_models
from tests.helpers.initializer_rows import (
    LEVELS,
    NORMAL,
    STABLE,
    assert_half_are_positive,
)
from tests.helpers.stat_checks import assert_shares

SCRIPT = Path(__file__).parent / "scripts" / "check_backend.py"


@pytest.mark.backends
@pytest.mark.slow
@pytest.mark.isolated
@pytest.mark.parametrize("name", ["jax", "torch"])
def test_without_tensorflow(name, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    x = inputs = keras.Input((4,))
    x = keras.layers.Dense(6)(x)
    x = kx.layers.Residual(keras.layers.Dense(6), scale=0.5)(x)
    model = keras.Model(inputs, kx.layers.ScalarBias(0.3)(x))
    kx.initialize(model, kx.initializers.AlphaStable(1.8), seed=1)
    values = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
    model.save(tmp_path / "ours.keras")
    np.savez(tmp_path / "ours.npz", x=values, y=np.asarray(model(values)))
    np.savez(tmp_path / "profiles.npz", **backend_models.profiles())
    np.savez(tmp_path / "predictions.npz", **backend_models.predictions())
    np.savez(tmp_path / "calibrations.npz", **backend_models.calibrations())
    np.savez(tmp_path / "jacobians.npz", **backend_models.jacobians())
    done = subprocess.run(
        [
            *(sys.executable, SCRIPT, "--load", tmp_path / "ours.keras"),
            *("--save", tmp_path / "theirs.keras"),
            *("--profiles", tmp_path / "profiles.npz"),
            *("--predictions", tmp_path / "predictions.npz"),
            *("--calibrations", tmp_path / "calibrations.npz"),
            *("--jacobians", tmp_path / "jacobians.npz"),
        ],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = keras.models.load_model(tmp_path / "theirs.keras")
    arrays = np.load(tmp_path / "theirs.npz")
    np.testing.assert_allclose(
        theirs(arrays["x"]), arrays["y"], rtol=1e-4, atol=1e-5
    )


# Those of PyTorch compute with `keras.ops`, and so where Keras runs on it.
@pytest.mark.parametrize("name", ["tensorflow", "jax"])
def test_gradients_of_slots(name):
    """A function of slots that are made in a certain order, one not used."""
    pytest.importorskip(name)
    module = importlib.import_module(f"keras_initx.backend.{name}_passes")

    def run(new_slot):
        a, b, _ = (new_slot() for _ in range(3))
        return 3 * a[0] + (1 + b[0]) * (2 + b[1]) + a[0] * b[1], {"other": b}

    compiled, _ = module.PASSES.compile(
        lambda: module.PASSES.gradients(run, size=2)
    )
    found, others = compiled()
    expected = [[3, 0], [2, 1], [0, 0]]
    np.testing.assert_array_equal([np.asarray(x) for x in found], expected)
    np.testing.assert_array_equal(others["other"], [0, 0])


def test_parts_of_tensors_are_those_of_keras_ops():
    """TensorFlow has its own; a backend without them takes the defaults."""
    ours = importlib.import_module("keras_initx.backend.tensorflow_passes")
    own, default = ours.PASSES, passes.Passes
    x = keras.ops.reshape(keras.ops.arange(30.0), (5, 2, 3))
    for sizes in ([5], [1, 4], [2, 0, 3], [1, 1, 1, 2]):
        found = default.parts(own, x, sizes)
        for mine, theirs in zip(found, own.parts(x, sizes), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert [len(part) for part in found] == sizes
    for rows in (0, 1, 4, 5):
        np.testing.assert_array_equal(
            default.first_rows(own, x[:, 0], rows),
            own.first_rows(x[:, 0], rows),
        )
    for stack in (x, x[0], x[None]):
        found = default.first_row(own, stack)
        assert found.shape == (*stack.shape[:-2], 1, 3)
        np.testing.assert_array_equal(found, own.first_row(stack))


# At stability 2 the distribution is normal with variance 2. The false-alarm
# rate is that of `assert_shares` and `assert_half_are_positive`.
@pytest.mark.parametrize("stability", [*STABLE, 2.0])
def test_stable_draws_of_the_other_backends(stability, seed):
    shape = 1 << 20
    drawn = symmetric_stable((shape,), stability, 3.0, seed)
    assert drawn.dtype == "float32"
    drawn = np.asarray(drawn, np.float64)
    assert np.isfinite(drawn).all()
    unit = np.abs(drawn) / (3 * np.sqrt(2) if stability == 2 else 3)
    levels = NORMAL if stability == 2 else STABLE[stability]
    assert_shares(unit, levels, LEVELS)
    assert_half_are_positive(drawn)
    with pytest.raises(AssertionError, match="draws lie below"):
        assert_shares(1.05 * unit, levels, LEVELS)
    again = symmetric_stable((shape,), stability, 3.0, seed)
    np.testing.assert_array_equal(again, np.float32(drawn))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("stability", [0.05, 0.3, 1.0, 2.0])
def test_stable_draws_of_any_scale_are_finite(stability, scale, seed):
    drawn = np.asarray(symmetric_stable((4096,), stability, scale, seed))
    assert np.isfinite(drawn).all()
    unit = np.asarray(symmetric_stable((4096,), stability, 1.0, seed), float)
    # Where a product in float64 is in the range of float32, it is the draw.
    with np.errstate(over="ignore"):
        product = unit * scale
    inside = (abs(unit) > 1e-30) & (abs(unit) < 1e38)
    inside &= (abs(product) > 1e-30) & (abs(product) < 1e38)
    np.testing.assert_allclose(drawn[inside], product[inside], rtol=1e-4)


def test_batches_without_tf_data_hold_each_sample_once_an_epoch(monkeypatch):
    monkeypatch.setattr(backend, "is_tensorflow", lambda: False)
    x = np.arange(7.0)[:, None]
    batches = backend.endless_batches(x, 2 * x, 3)
    epochs = []
    for _ in range(2):
        taken = [next(batches) for _ in range(3)]
        assert [len(each) for each, _ in taken] == [3, 3, 1]
        for a, b in taken:
            np.testing.assert_array_equal(b, 2 * a)
        epochs.append(np.concatenate([a for a, _ in taken])[:, 0])
        assert sorted(epochs[-1]) == [*range(7)]
    assert (epochs[0] != epochs[1]).any()


@pytest.mark.parametrize(
    "function, expected",
    [
        (np.tanh, []),
        (lambda z: np.maximum(np.tanh(z), 0.3125), [np.arctanh(0.3125)]),
        (lambda z: np.where(z > 0.5, np.sin(z), -2), [0.5]),
    ],
    ids=["smooth", "kink", "jump"],
)
def test_kinks_of_functions_in_float32(monkeypatch, function, expected):
    monkeypatch.setattr(float64, "is_exact", lambda: False)
    found = found_kinks(lambda z: function(np.float32(z)).astype(float))
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=2e-4)
