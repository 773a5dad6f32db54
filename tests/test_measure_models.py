"""Any Keras model: a row a kind, against numbers known beforehand.

Weights and inputs are small integers and there are eight samples, so that
float32 holds signals and their means exactly; the tolerance is for the square
root that a deviation goes through. Models with a sigmoid or a tanh in them run
in float64 against a NumPy twin. The integers are drawn from the seed, and the
expectation holds for any.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L  # noqa: N812
from stat_checks import assert_same_profile, profile_of

import keras_initx as kx
from keras_initx.signal.tap import listening

SAMPLES = 8


@dataclass
class Known:
    """A model, data for it, and the signals that measure must find."""

    model: keras.Model
    data: Any
    signals: dict[str, np.ndarray]
    options: dict[str, Any]

    def __init__(self, model, data, signals, **options):
        self.model, self.data, self.signals = model, data, signals
        self.options = options


CASES = {}


def case(function=None, dtype="float32", rtol=1e-6):
    """Enter a builder `rng -> Known` into the table."""
    if function is None:
        return lambda f: case(f, dtype, rtol)
    CASES[function.__name__] = (function, dtype, rtol)
    return function


@pytest.fixture
def policy():
    """Sets the dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", CASES_NAMES := [])
def test_model(name, rng, policy):
    build, dtype, rtol = CASES[name]
    policy(dtype)
    known = build(rng)
    policy("float32")
    model, data = known.model, known.data
    built = model.built
    before = outputs(model, data) if built else None
    profile = kx.measure(model, data, **known.options)
    assert_same_profile(profile, profile_of(known.signals), rtol)
    if built:
        same(outputs(model, data), before)
    after = outputs(model, data)
    # Nor does listening itself change what comes out.
    with listening(lambda heard, signal: signal, lambda heard: True):
        same(outputs(model, data), after)


# The hands of the twins


def integers(rng, *shape, low=-3, high=4, dtype="float32"):
    return rng.integers(low, high, shape).astype(dtype)


def inputs(rng, *shape, samples=SAMPLES, **bounds):
    return integers(rng, samples, *shape, **bounds)


def filled(model, rng):
    """The model, its weights small integers."""
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            weight.assign(integers(rng, *weight.shape))
    return model


def sequential(rng, shape, *stack):
    model = keras.Sequential([keras.Input(shape), *stack])
    return filled(model, rng)


def outputs(model, data):
    for layer in model.layers if isinstance(model, keras.Model) else ():
        if getattr(layer, "stateful", False):
            layer.reset_states()
    tensors = keras.tree.flatten(model(data))
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def dense(layer, x):
    kernel, *bias = layer.get_weights()
    return x @ kernel + (bias[0] if bias else 0)


def relu(y):
    return np.maximum(y, 0)


def sigmoid(y):
    return 1 / (1 + np.exp(-y))


def softmax(y):
    e = np.exp(y - y.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def padded(x, *widths):
    return np.pad(x, [(0, 0), *widths, (0, 0)])


def convolved(x, kernel):
    """Valid cross-correlation over the axes between the first and last."""
    rank = kernel.ndim - 2
    axes = tuple(range(1, rank + 1))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[:rank], axis=axes
    )
    # (samples, *space, channels, *window) by (*window, channels, filters)
    ends = tuple(range(-rank, 0))
    return np.tensordot(
        windows, kernel, ((-rank - 1, *ends), (rank, *range(rank)))
    )
