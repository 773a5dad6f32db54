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
from tests.helpers.arranged_rows import (
    ROWS,
    STEPS,
    UNITS,
    UNREACHED,
    WIDTH,
    Inside,
    computed,
    joined,
    model_of,
    of_computed_size,
    swapped,
)
from tests.helpers.stat_checks import assert_same_profile, profile_of

# As many samples as steps in one batch, fewer, more, and a smaller last batch.
BATCHES = ((STEPS, STEPS), (STEPS, 4), (20, 32), (20, 8), (20, 1))


# Rows whose samples have numbers in several places of the signal.
OUT_OF_ORDER = {
    "heads, one after the other",
    "steps first",
    "steps first, folded",
    "steps first, of a computed size",
    "samples between steps",
    "two equal views",
    "two views",
}


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


@pytest.mark.slow
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
        assert ("not in order" in note) == (name in OUT_OF_ORDER)


def top(x):
    """The six vectors of the whole batch whose first entry is largest."""
    rows = ops.reshape(x, (-1, WIDTH))
    return ops.take(rows, ops.top_k(rows[:, 0], STEPS)[1], axis=0)


def chosen_by_value(x):
    """As `top`, by a mask, of which no graph knows how many it lets pass."""
    rows = ops.reshape(x, (-1, WIDTH))
    return tf.boolean_mask(
        rows, rows[:, 0] >= ops.top_k(rows[:, 0], STEPS)[0][-1]
    )


# Signals in which no number belongs to one sample, at any batch size.
MIXED = {
    "mean over samples": lambda x: ops.mean(x, axis=0),
    "one mean for all": lambda x: ops.mean(x, axis=0, keepdims=True),
    "chosen vectors": top,
    "vectors chosen by value": chosen_by_value,
    "mean over samples that came second": lambda x: ops.mean(
        of_computed_size(swapped(x)), axis=1
    ),
    "mean over samples, of a computed size": lambda x: tf.reshape(
        ops.mean(x, axis=0), [computed(x, 1), WIDTH]
    ),
    "learned vectors beside the samples": lambda x: joined(x[:1] * 0 + 1, x),
    "sums over samples, steps first": lambda x: swapped(ops.cumsum(x, axis=0)),
    "products of samples": lambda x: ops.reshape(
        ops.einsum("itc,jtc->ijc", x, x), (-1, WIDTH)
    ),
}


@pytest.mark.slow
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


def test_noise_reaches_a_layer_as_samples_do(rng):
    """Each sample has noise of its own, so that its row has a variance."""
    model, _ = model_of(
        lambda layer, x: x[..., :1] + layer.map(tf.random.normal(tf.shape(x)))
    )
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    row = row_of(kx.measure(model, x))
    assert row.sample_variance > 0.1 * row.squared_mean


def test_the_two_samples_that_are_looked_at_differ_in_all_inputs(rng):
    """The first ones are equal in the input that the map is run on."""
    run, source = ROWS["steps first"]
    inputs = [keras.Input((2,)), keras.Input((STEPS, WIDTH))]
    inside = Inside(run, name="inside")
    sums = [ops.sum(each, axis=-1) for each in (*inputs, inside(inputs[1]))]
    model = keras.Model(inputs, ops.sum(sums[1] + sums[2], axis=-1) + sums[0])
    a = rng.normal(size=(20, 2)).astype("float32")
    b = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    b[:5] = b[0]
    profile = kx.measure(model, [a, b])
    assert_same_profile(row_of(profile), unfolded(source, inside, b), rtol=1e-5)


def test_a_model_that_takes_one_number_of_samples(rng):
    def run(layer, x):
        y = layer.map(ops.reshape(swapped(x), (4 * STEPS, WIDTH)))
        return swapped(ops.reshape(y, (STEPS, 4, UNITS)))

    inputs = keras.Input(batch_shape=(4, STEPS, WIDTH))
    inside = Inside(run, name="inside")
    model = keras.Model(inputs, inside(inputs))
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    expected = unfolded(ROWS["steps first"][1], inside, x)
    assert_same_profile(row_of(kx.measure(model, x)), expected, rtol=1e-5)


@pytest.mark.slow
def test_texts_are_as_long_as_the_longest_of_a_batch():
    """Neither the graph nor one sample knows the number of units."""
    words = layers.TextVectorization()
    words.adapt(["a b c", "d e"])
    model = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            words,
            layers.Embedding(10, WIDTH),
            layers.Dense(3),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    texts = np.array(["a b c", "d", "e a", "b"], object)
    assert kx.measure(model, texts).units.tolist() == [3 * WIDTH, 3 * 3, 2]


# ---- Arrangements of the training mode alone -------------------------------


class WhenTraining(layers.Layer):
    """Runs a row of the table in training mode, and a plain map otherwise."""

    def __init__(self, name, noise=None, always=False):
        super().__init__(name="inside")
        self.run, self.source = ROWS[name]
        _, self.inside = model_of(self.run)
        self.map, self.free = self.inside.map, self.inside.free
        self.noise, self.always = noise, always

    def call(self, x, training=False):
        if self.noise is not None:
            x = self.noise(x, training=training)
        return self.run(self, x) if training or self.always else self.map(x)


IN_TRAINING = (
    "two views",
    "steps first",
    "steps folded",
    "heads, one after the other",
    "positions",
)


@pytest.mark.parametrize("name", IN_TRAINING)
def test_an_arrangement_in_training_alone(name, rng):
    inside = WhenTraining(name)
    model = keras.Sequential([keras.Input((STEPS, WIDTH)), inside])
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    for training, source in ((True, inside.source), (False, ROWS["plain"][1])):
        meter = kx.Meter(model, training=training)
        for samples, size in ((STEPS, STEPS), (20, 8)):
            profile = meter(x[:samples], batch_size=size)
            expected = unfolded(source, inside, x[:samples])
            assert_same_profile(row_of(profile), expected, rtol=1e-5)


@pytest.mark.slow
def test_noise_and_statistics_of_the_batch_in_training(rng):
    """Dropout tells samples apart by their numbers, statistics mix them."""
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    norm = layers.BatchNormalization
    for noise, name, always, known in (
        (layers.Dropout(0.5), "two views", False, True),
        (layers.Dropout(0.5, noise_shape=(None, 1, 1)), "plain", False, True),
        (norm(), "steps first", True, True),
        (norm(), "steps first", False, False),
        (norm(), "steps folded", False, False),
        (norm(), "two views", False, False),
    ):
        inside = WhenTraining(name, noise, always)
        model = keras.Sequential([keras.Input((STEPS, WIDTH)), inside])
        meter = kx.Meter(model, training=True)
        for samples, size in ((STEPS, STEPS), (20, 20)):
            if known:
                profile = meter(x[:samples], batch_size=size)
                units = unfolded(inside.source, inside, x[:2]).units
                assert row_of(profile).units == units
            else:
                with pytest.raises(ValueError, match=r"mixes.*inside/map"):
                    meter(x[:samples], batch_size=size)


# ---- Cells of recurrent layers ---------------------------------------------


class Cell(layers.Layer):
    """A cell that runs one map on its input, and another as a function says."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.state_size = self.output_size = WIDTH
        self.plain = layers.Dense(WIDTH, name="plain")
        self.map = layers.Dense(UNITS, name="map", bias_initializer="normal")

    def build(self, shape):
        self.plain.build((None, WIDTH))
        self.map.build((None, WIDTH))
        self.free = self.add_weight(
            shape=(3, WIDTH), initializer="normal", name="free"
        )

    def call(self, x, states, training=False):
        x = ops.tanh(self.plain(x + states[0])) + ops.sum(self.run(self, x))
        return x, [x]


def recurrent(cell, **options):
    layer = layers.RNN(cell, name="rnn", **options)
    return keras.Sequential([keras.Input((STEPS, WIDTH)), layer]), cell


LEARNED = {
    "three": lambda free: free,
    "one": lambda free: free[1:2],
    "batch": lambda free: free[None],
}


class LearnedCell(Cell):
    """A cell that runs a map on each kind of learned vectors."""

    def __init__(self):
        super().__init__(self.of_vectors)
        self.maps = {
            name: layers.Dense(UNITS, name=name, bias_initializer="normal")
            for name in LEARNED
        }

    def build(self, shape):
        super().build(shape)
        for each in self.maps.values():
            each.build((None, WIDTH))

    def signals(self):
        return {
            name: self.maps[name](vectors(self.free.value))
            for name, vectors in LEARNED.items()
        }

    def of_vectors(self, _, x):
        return sum(ops.sum(signal) for signal in self.signals().values())


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [False, True])
def test_learned_vectors_in_a_cell(sequences, rng):
    model, cell = recurrent(LearnedCell(), return_sequences=sequences)
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    signals = cell.signals()
    meter = kx.Meter(model)
    plain = kx.measure(model, x, layers="plain")
    for samples, size in ((3, 3), (20, 8), (20, 1)):
        profile = meter(x[:samples], batch_size=size)
        assert profile.layers == (
            "rnn/plain",
            *(f"rnn/{name}" for name in signals),
        )
        for i, signal in enumerate(map(np.asarray, signals.values()), 1):
            row = profile[i]
            assert row.sample_variance == 0
            np.testing.assert_allclose(
                row.squared_mean, (signal**2).mean(), rtol=1e-5
            )
            assert row.units == signal.size * (STEPS if sequences else 1)
            assert "no sample" in profile.notes[i]
    np.testing.assert_allclose(
        profile.sample_variance[0], plain.sample_variance[0], rtol=1e-5
    )


IN_CELLS = {
    "folded": lambda cell, x: cell.map(
        ops.reshape(ops.repeat(x, 2, axis=1), (-1, WIDTH))
    ),
    "two views": lambda cell, x: cell.map(joined(x, 2 * x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_CELLS)
def test_other_axes_in_a_cell_are_refused_by_name(name, rng):
    model, _ = recurrent(Cell(IN_CELLS[name]))
    x = rng.normal(size=(20, STEPS, WIDTH)).astype("float32")
    for size in (20, 1):
        with pytest.raises(
            ValueError, match=r"along its first axis.*layer rnn/map$"
        ):
            kx.measure(model, x, batch_size=size)
    assert len(kx.measure(model, x, layers="plain")) == 1
