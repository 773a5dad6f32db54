"""Layers whose first axis is not the samples, against the unfolded signal.

A row of the table runs a dense map inside a model on a signal that is arranged
in some way. Whatever the arrangement, the numbers are those of the units of
each sample, at any batch size, and equal samples have no variance.
"""

import numpy as np
import pytest
from keras import ops

import keras_initx as kx
from tests.helpers.arranged_rows import (
    ROWS,
    STEPS,
    UNREACHED,
    WIDTH,
    joined,
    model_of,
    swapped,
)
from tests.helpers.stat_checks import assert_same_profile, profile_of

# As many samples as steps in one batch, fewer, more, and a smaller last batch.
BATCHES = ((STEPS, STEPS), (STEPS, 4), (20, 32), (20, 8), (20, 1))


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
