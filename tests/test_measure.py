"""measure: what it takes, what it says, what it leaves alone."""

import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from stat_checks import assert_same_profile, profile_of

import keras_initx as kx
from keras_initx.signal import probe
from keras_initx.signal.tap import listening

SAMPLES = 21
LAYER_CALL = keras.layers.Layer.__call__


def stacked(*stack, shape=(3,)):
    return keras.Sequential([keras.Input(shape), *stack])


def relu_model():
    return stacked(
        layers.Dense(5, "relu", name="a"),
        layers.Dense(4, "relu", name="b"),
        layers.Dense(2, name="c"),
    )


def twin(model, x, names="abc"):
    """Signals of a relu model, in float64."""
    signals, y = {}, np.asarray(x, np.float64)
    for name in names:
        kernel, bias = model.get_layer(name).get_weights()
        signals[name] = np.maximum(y, 0) if signals else y
        signals[name] = signals[name] @ kernel.astype(np.float64) + bias
        y = signals[name]
    return signals


@pytest.fixture
def x(rng):
    return rng.normal(size=(SAMPLES, 3)).astype("float32")


# Data of every kind gives the same numbers.


class Batched(keras.utils.PyDataset):
    """`arrays` by eights, each batch made by `element`."""

    def __init__(self, arrays, element, batches=3):
        super().__init__()
        self.arrays, self.element, self.batches = arrays, element, batches

    @property
    def num_batches(self):
        return self.batches

    def __getitem__(self, i):
        part = slice(8 * i, 8 * i + 8)
        batch = keras.tree.map_structure(lambda a: a[part], self.arrays)
        return self.element(batch)


def labels(batch):
    return np.zeros(len(keras.tree.flatten(batch)[0]))


def dataset(arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def generated(x):
    return tf.data.Dataset.from_generator(
        lambda: (x[i : i + 8] for i in range(0, len(x), 8)),
        output_signature=tf.TensorSpec((None, 3)),
    )


def endless(x):
    # A second round, had it one, would count the first samples twice.
    return dataset(x).batch(8).concatenate(dataset(9 * x).batch(8).repeat())


KINDS_OF_DATA = {
    "array": lambda x: (x, {}),
    "array, batch_size": lambda x: (x, {"batch_size": 4}),
    "array, more steps than there are": lambda x: (x, {"steps": 50}),
    "float64 array": lambda x: (x.astype("float64"), {}),
    "array not contiguous": lambda x: (np.repeat(x, 2, axis=0)[::2], {}),
    "array in Fortran's order": lambda x: (np.asfortranarray(x), {}),
    "tensor": lambda x: (tf.constant(x), {"batch_size": 4}),
    "variable": lambda x: (tf.Variable(x), {}),
    "keras variable": lambda x: (keras.Variable(x), {}),
    "list of one array": lambda x: ([x], {"batch_size": 4}),
    "dataset": lambda x: (dataset(x).batch(8), {}),
    "dataset, labels": lambda x: (dataset((x, labels(x))).batch(8), {}),
    "dataset, labels, weights": lambda x: (
        dataset((x, labels(x), labels(x))).batch(8), {}
    ),
    "dataset of unknown length": lambda x: (generated(x), {}),
    "dataset of unknown length, steps": lambda x: (generated(x), {"steps": 3}),
    "endless dataset": lambda x: (endless(x), {"steps": 3}),
    "PyDataset": lambda x: (Batched(x, lambda b: b), {}),
    "PyDataset, labels": lambda x: (Batched(x, lambda b: (b, labels(b))), {}),
    "PyDataset, labels, weights": lambda x: (
        Batched(x, lambda b: (b, labels(b), labels(b))), {}
    ),
    "endless PyDataset": lambda x: (
        Batched(x, lambda b: b, batches=None), {"steps": 3}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_data_of_every_kind(kind, x):
    model = relu_model()
    data, options = KINDS_OF_DATA[kind](x)
    profile = kx.measure(model, data, **options)
    assert_same_profile(profile, profile_of(twin(model, x)), 1e-5)


@pytest.mark.parametrize("kind", KINDS_OF_DATA)
def test_data_of_every_kind_builds_a_model(kind, x):
    model = keras.Sequential(relu_model().layers)
    for layer in model.layers:
        layer.built = True
    model = keras.Sequential(
        [
            layers.Dense(5, "relu", name="a"),
            layers.Dense(4, "relu", name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    data, options = KINDS_OF_DATA[kind](x)
    profile = kx.measure(model, data, **options)
    assert_same_profile(profile, profile_of(twin(model, x)), 1e-5)


def named(x):
    return {"left": x, "right": 3 * x[:, :2] - 1}


KINDS_OF_SEVERAL_INPUTS = {
    "dict": lambda x: (named(x), {}),
    "tuple": lambda x: (tuple(named(x).values()), {"batch_size": 4}),
    "list of tensors": lambda x: (
        [tf.constant(a) for a in named(x).values()], {"batch_size": 4}
    ),
    "dataset of dicts": lambda x: (dataset(named(x)).batch(8), {}),
    "dataset of dicts, labels": lambda x: (
        dataset((named(x), labels(x))).batch(8), {}
    ),
    "dataset of tuples, labels": lambda x: (
        dataset((tuple(named(x).values()), labels(x))).batch(8), {}
    ),
    "PyDataset of dicts": lambda x: (Batched(named(x), lambda b: b), {}),
    "PyDataset of dicts, labels": lambda x: (
        Batched(named(x), lambda b: (b, labels(b))), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_SEVERAL_INPUTS)
def test_data_of_several_inputs(kind, x):
    data, options = KINDS_OF_SEVERAL_INPUTS[kind](x)
    entries = {
        "left": keras.Input((3,), name="left"),
        "right": keras.Input((2,), name="right"),
    }
    one = layers.Dense(4, name="one")(entries["left"])
    two = layers.Dense(4, name="two")(entries["right"])
    given = entries if "dict" in kind else list(entries.values())
    model = keras.Model(given, layers.add([one, two]))
    signals = {
        name: array @ model.get_layer(layer).get_weights()[0]
        for (name, array), layer in zip(
            named(x).items(), ("one", "two"), strict=True
        )
    }
    signals = {"one": signals["left"], "two": signals["right"]}
    profile = kx.measure(model, data, **options)
    assert_same_profile(profile, profile_of(signals), 1e-5)


def test_steps_stop_after_so_many_batches(x):
    model = relu_model()
    profile = kx.measure(model, x, batch_size=4, steps=3)
    assert_same_profile(profile, profile_of(twin(model, x[:12])), 1e-5)


# The size of a batch does not matter.


@settings(max_examples=40)
@given(
    batch_size=st.integers(1, 110),
    offset=st.sampled_from([0, 1, 1000, -3e4]),
    spread=st.sampled_from([1, 1e-2, 1e3]),
)
def test_any_batch_size(batch_size, offset, spread):
    model = identity_model()
    x = np.random.default_rng(0).normal(offset, spread, (101, 6))
    x = x.astype("float32")
    profile = kx.measure(model, x, batch_size=batch_size)
    # What rounds is the mean, to the 24 bits of the signal: it is the
    # square of that rounding which the sample variance can be wrong by.
    expected = profile_of({"identity": x})
    ulp = 2.0**-24 * abs(offset)
    slack = 1e-5 + 101 * ulp**2 / expected.sample_variance[0]
    assert_same_profile(profile, expected, slack)


IDENTITY = []


def identity_model():
    # Not one for each example: the point is not how often it is traced.
    if not IDENTITY:
        layer = layers.Dense(6, kernel_initializer="identity", name="identity")
        IDENTITY.append(stacked(layer, shape=(6,)))
    return IDENTITY[0]
