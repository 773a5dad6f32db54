"""Models that run one dense map on a signal that is arranged in some way."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

STEPS, WIDTH, UNITS = 6, 4, 5


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


def computed(tensor, axis):
    """The size of an axis, which a graph does not know."""
    sizes = tf.shape(tensor)
    return sizes[axis] * tf.reduce_max(sizes) // tf.reduce_max(sizes)


def of_computed_size(x):
    return tf.reshape(x, [computed(x, 0), -1, *x.shape[2:]])


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
    "steps first, of a computed size": (
        lambda la, x: swapped(
            ops.reshape(
                la.map(of_computed_size(swapped(x))), (STEPS, -1, UNITS)
            )
        ),
        given,
    ),
    "steps of a computed size": (
        lambda la, x: with_steps(la.map(of_computed_size(x))),
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
    "learned vectors, repeated and folded": (
        lambda la, x: (
            x[..., :1]
            + with_steps(la.map(ops.reshape(repeated(la, x), (-1, WIDTH))))
        ),
        given_once,
    ),
    "learned vectors, repeated in pairs": (
        lambda la, x: (
            x[..., :1]
            + with_steps(la.map(ops.reshape(repeated(la, x), (-1, 2, WIDTH))))
        ),
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
