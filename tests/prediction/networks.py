"""Statistics of freshly drawn networks, to compare predictions with."""

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from keras_initx.hooks.forward_hooks import forward_hooks

NETS = 16
# A statistic of Student's t with 15 degrees of freedom is beyond by chance with
# a probability below 3e-9, so below 1e-6 in all comparisons of a test.
LIMIT = stats.t.isf(1.5e-9, NETS - 1)


def signals_of_network(model, x, seed, training=False):
    """Runs a model once, forward and back from its last row.

    Returns:
        The signals of the rows by their names, their gradients for a standard
        normal cotangent at the last one, and this cotangent.
    """
    names, signals = [], []
    with tf.GradientTape() as tape:

        def hook(layer_call, signal):
            tape.watch(signal)
            names.append(layer_call.name)
            signals.append(signal)
            return signal

        with keras.StatelessScope(), forward_hooks(on_pre_activation=hook):
            model(x, training=training)
        noise = tf.random.stateless_normal(tf.shape(signals[-1]), (seed, 1))
        total = tf.reduce_sum(tf.cast(signals[-1], tf.float32) * noise)
    gradients = [
        None if each is None else tf.convert_to_tensor(each)
        for each in tape.gradient(total, signals)
    ]
    return names, signals, gradients, noise


def rows_of_network(model, x, seed, training=False, run=signals_of_network):
    """Returns the names of rows, and for each row three numbers.

    They are the mean square, the mean product of two samples, and the squared
    gradient for a standard normal cotangent at the last row, over that of the
    cotangent itself.
    """
    names, signals, gradients, noise = run(model, x, seed, training)
    last = np.mean(noise.numpy() ** 2)
    rows = []
    for signal, gradient in zip(signals, gradients, strict=True):
        y = signal.numpy().astype(float)
        n = len(y)
        square = np.mean(y**2)
        mean = np.mean(y.mean(axis=0) ** 2)
        # What no sample reaches has no axis of samples.
        samples = n == len(x)
        product = (mean * n - square) / (n - 1) if samples else square
        size = np.nan
        if gradient is not None:
            size = np.mean(gradient.numpy() ** 2) / last
        rows.append((square, product, size))
    return names, np.array(rows)


def compiled(run):
    """Returns `run`, traced at the first call for all that follow."""
    found = []

    def traced(model, x, seed, training):
        if not found:
            names = []

            def of_seed(seed):
                names[:], *tensors = run(model, x, seed, training)
                return tensors

            spec = tf.TensorSpec((), tf.int32)
            function = tf.function(of_seed, autograph=False)
            found[:] = names, function.get_concrete_function(spec)
        names, function = found
        return names, *function(tf.constant(seed))

    return traced


def redraw(model, rng):
    """Draws all kernels anew, each of the mean square that it has."""
    for weight in model.trainable_weights:
        if len(weight.shape) > 1:
            z = rng.normal(size=weight.shape)
            size = np.sqrt(np.mean(weight.numpy() ** 2) / np.mean(z**2))
            weight.assign(size * z)


def assert_predicted(prediction, model, x, seed, wide=0.0, training=False):
    """Asserts that a prediction is the mean over networks.

    A wrong row is found where it is off by `LIMIT` standard errors of the mean
    over `NETS` networks and a share `wide`, which the finite width may make.
    """
    rng = np.random.default_rng(seed)
    # A graph runs many times sooner than it is traced.
    run = compiled(signals_of_network)
    drawn = []
    for net in range(NETS):
        redraw(model, rng)
        names, rows = rows_of_network(model, x, net, training, run)
        drawn.append(rows)
    assert list(prediction.layers) == names
    mean = np.mean(drawn, axis=0)
    error = np.std(drawn, axis=0, ddof=1) / np.sqrt(NETS)
    found = np.stack(
        [prediction.total, prediction.squared_mean, prediction.gradient], axis=1
    )
    off = np.abs(found - mean) - wide * np.abs(mean)
    # In the row of the cotangent itself there is no error.
    beyond = off > LIMIT * error + 1e-6 * np.abs(mean)
    assert not beyond.any(), [
        (names[row], column, found[row, column], mean[row, column])
        for row, column in np.argwhere(beyond)
    ]
    return found / mean - 1, error / np.abs(mean)
