"""Layers whose first axis is not the samples, against the unfolded signal.

A row of the table runs a dense map inside a model on a signal that is arranged
in some way. Whatever the arrangement, the numbers are those of the units of
each sample, at any batch size, and equal samples have no variance.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_initx as kx
from tests.helpers.stat_checks import assert_same_profile, profile_of

STEPS, WIDTH, UNITS = 6, 4, 5
# As many samples as steps in one batch, fewer, more, and a smaller last batch.
BATCHES = ((STEPS, STEPS), (STEPS, 4), (20, 32), (20, 8), (20, 1))


class Inside(layers.Layer):
    """Runs a dense map as a function says, which returns (samples, ...)."""

    def __init__(self, run, **options):
        super().__init__(**options)
        self.run = run
        self.map = layers.Dense(UNITS, name="map", bias_initializer="normal")

    def build(self, shape):
        self.map.build((None, WIDTH))
        self.free = self.add_weight(
            shape=(STEPS, WIDTH), initializer="normal", name="free"
        )

    def call(self, x):
        return self.run(self, x)


def swapped(x):
    return ops.swapaxes(x, 0, 1)


def joined(*parts):
    return ops.concatenate(parts, axis=0)


def with_steps(y):
    return ops.reshape(y, (-1, STEPS, y.shape[-1]))


def windows_of_two(x):
    """Windows, each of them every third step, folded into the samples."""
    y = ops.transpose(ops.reshape(x, (-1, 2, 3, WIDTH)), (0, 2, 1, 3))
    return ops.reshape(y, (-1, 2, WIDTH))


def between(x):
    """Samples between the two halves of the steps, all in one axis."""
    y = ops.transpose(ops.reshape(x, (-1, 3, 2, WIDTH)), (1, 0, 2, 3))
    return ops.reshape(y, (-1, WIDTH))


def from_between(y):
    y = ops.transpose(ops.reshape(y, (3, -1, 2, UNITS)), (1, 0, 2, 3))
    return ops.reshape(y, (-1, STEPS, UNITS))


def repeated(layer, x):
    return ops.repeat(layer.free[None], ops.shape(x)[0], axis=0)


def with_free(layer, x):
    return ops.concatenate([repeated(layer, x), x], axis=1)


@tf.function
def hidden(free, x):
    """A learned signal that seems to depend on x where this is called."""
    return free + tf.zeros_like(x[0])


# For NumPy: what the map of each sample is given.


def given(x, free):
    return x


def given_once(x, free):
    return free[None]


# How the map is run, and what it is given, (samples, ...), or (1, ...) if that
# depends on no sample.
ROWS = {
    "plain": (lambda la, x: la.map(x), given),
    "steps folded": (
        lambda la, x: with_steps(la.map(ops.reshape(x, (-1, WIDTH)))),
        given,
    ),
    "windows": (
        lambda la, x: with_steps(la.map(ops.reshape(x, (-1, 3, WIDTH)))),
        given,
    ),
    "windows of every third step": (
        lambda la, x: with_steps(la.map(windows_of_two(x))),
        given,
    ),
    "heads, one after the other": (
        lambda la, x: ops.concatenate(
            ops.split(la.map(joined(*ops.split(x, 3, axis=1))), 3), axis=1
        ),
        given,
    ),
    "steps first": (lambda la, x: swapped(la.map(swapped(x))), given),
    "steps first, folded": (
        lambda la, x: swapped(
            ops.reshape(
                la.map(ops.reshape(swapped(x), (-1, WIDTH))), (STEPS, -1, UNITS)
            )
        ),
        given,
    ),
    "samples between steps": (
        lambda la, x: from_between(la.map(between(x))),
        given,
    ),
    "a fixed number of rows": (
        # Three, however many samples there are.
        lambda la, x: with_steps(
            ops.reshape(la.map(ops.reshape(x, (3, -1, WIDTH))), (-1, UNITS))
        ),
        given,
    ),
    "a sample in an axis of its own": (lambda la, x: la.map(x[None])[0], given),
    "two equal views": (
        lambda la, x: ops.split(la.map(joined(x, x)), 2)[0],
        lambda x, free: np.concatenate([x, x], axis=1),
    ),
    "two views": (
        lambda la, x: ops.split(la.map(joined(x, 2 * x + 1)), 2)[0],
        lambda x, free: np.concatenate([x, 2 * x + 1], axis=1),
    ),
    "the last step alone": (
        lambda la, x: la.map(swapped(x)[-1]),
        lambda x, free: x[:, -1],
    ),
    "learned vectors before the steps": (
        lambda la, x: la.map(with_free(la, x)),
        lambda x, free: np.concatenate(
            [np.broadcast_to(free, x.shape), x], axis=1
        ),
    ),
    "positions": (lambda la, x: x[..., :1] + la.map(la.free), given_once),
    "positions of a batch of one": (
        lambda la, x: x[..., :1] + la.map(la.free[None]),
        given_once,
    ),
    "positions by the shape of the data": (
        lambda la, x: x[..., :1] + la.map(ops.zeros_like(x[:1]) + la.free),
        given_once,
    ),
    "learned vectors, one for each sample": (
        lambda la, x: x[..., :1] + la.map(repeated(la, x)),
        given_once,
    ),
    "learned vectors out of a function": (
        lambda la, x: x[..., :1] + la.map(hidden(la.free.value, x)),
        given_once,
    ),
}
UNREACHED = {name for name, (_, source) in ROWS.items() if source is given_once}


def model_of(run):
    inputs = keras.Input((STEPS, WIDTH))
    inside = Inside(run, name="inside")
    head = layers.Dense(3, name="head")(inside(inputs))
    return keras.Model(inputs, head), inside


def unfolded(source, inside, x):
    """The profile of the map, on each sample by itself."""
    kernel, bias = (np.float64(w) for w in inside.map.get_weights())
    free = np.float64(inside.free)
    return profile_of({"inside/map": source(x, free) @ kernel + bias})


def row_of(profile):
    """The row of the map as a profile."""
    i = profile.layers.index("inside/map")
    return kx.VarianceProfile(
        profile.layers[i : i + 1],
        profile.sample_variance[i : i + 1],
        profile.squared_mean[i : i + 1],
        profile.units[i : i + 1],
    )


@pytest.mark.parametrize("name", ROWS)
def test_a_map_of_any_arrangement_against_the_units_of_each_sample(name, rng):
    run, source = ROWS[name]
    model, inside = model_of(run)
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    meter = kx.Meter(model)
    # What is found from equal samples is not used for others afterwards.
    equal = meter(np.repeat(x[:1], 64, axis=0))
    assert (equal.sample_variance == 0).all()
    for samples, size in BATCHES:
        profile = meter(x[:samples], batch_size=size)
        expected = unfolded(source, inside, x[:samples])
        assert_same_profile(row_of(profile), expected, rtol=1e-5)
        note = profile.notes[profile.layers.index("inside/map")]
        assert ("no sample" in note) == (name in UNREACHED)


def top(x):
    """The six vectors of the whole batch whose first entry is largest."""
    rows = ops.reshape(x, (-1, WIDTH))
    return ops.take(rows, ops.top_k(rows[:, 0], STEPS)[1], axis=0)


# Signals in which no number belongs to one sample, at any batch size.
MIXED = {
    "mean over samples": lambda x: ops.mean(x, axis=0),
    "one mean for all": lambda x: ops.mean(x, axis=0, keepdims=True),
    "chosen vectors": top,
    "learned vectors beside the samples": lambda x: joined(x[:1] * 0 + 1, x),
    "sums over samples, steps first": lambda x: swapped(ops.cumsum(x, axis=0)),
    "products of samples": lambda x: ops.reshape(
        ops.einsum("itc,jtc->ijc", x, x), (-1, WIDTH)
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_signal_that_mixes_samples_is_refused_by_name(name, rng):
    make = MIXED[name]
    model, _ = model_of(
        lambda layer, x: x[..., :1] + ops.sum(layer.map(make(x)))
    )
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    meter = kx.Meter(model)
    for samples, size in BATCHES[:-1]:
        with pytest.raises(ValueError, match=r"mixes.*\['inside/map'\]"):
            meter(x[:samples], batch_size=size)
    assert len(kx.Meter(model, layers="head")(x)) == 1
