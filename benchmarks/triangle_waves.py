"""Do triangle waves learn curves better than random weights?

Repeats tables of Milkert, Hyde & Laine (ICML 2025, arXiv:2311.18022, section
4): a relu net of width 4 with 5 hidden layers learns a curve on [0, 1] by
Adam(1e-3) from 30 starts. The rows:

    default         weights and biases U(+-1/sqrt(fan_in)), as in PyTorch
    init only       triangle waves with random peaks; all weights are trained
    free scales     first the peaks and scales of the waves are trained, then
                    all weights
    differentiable  first the peaks are trained, which determine the scales,
                    then all weights

The parts:

    fit             500 points; mean square error on these points
    unseen          10 points; mean square error halfway between them

All rows are trained for the same number of epochs, and all triangle waves have
the same 30 starts. What the paper does not state is chosen here: the size of a
batch, the epochs of each phase, and the distribution of the peaks.

Run `python benchmarks/triangle_waves.py [PART ...] [--epochs N] [--batch N]`.
All nets of a part are trained at once, stacked in one tensor.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from report import print_table
from rich.progress import track

from keras_initx import theory
from keras_initx.layers import TriangleWave
from keras_initx.theory.triangle_waves.peaks import random_peaks

DEPTH, STARTS, SEED = 5, 30, 20
# The sign with which waves are added, and the curve to learn.
TARGETS = {
    "x^3": (-1, lambda x: x**3),
    "x^11": (-1, lambda x: x**11),
    "sin(pi x/2)": (1, lambda x: np.sin(np.pi * x / 2)),
    "tanh 3x": (1, lambda x: np.tanh(3 * x)),
}
SIGNS = [sign for sign, _ in TARGETS.values()]
ROWS = ("default", "init only", "free scales", "differentiable")
# Kernel and bias of each layer, (nets, in, out) and (nets, 1, out).
Weights = list[tuple[np.ndarray, np.ndarray]]


# Starts --------------------------------------------------------------------


def default_start() -> Weights:
    """Returns the weights that PyTorch draws, for every target and start."""
    rng = np.random.default_rng(SEED)
    sizes = [1, *[4] * DEPTH, 1]
    nets = len(TARGETS) * STARTS
    return [
        (
            rng.uniform(-1, 1, (nets, a, b)) / math.sqrt(a),
            rng.uniform(-1, 1, (nets, 1, b)) / math.sqrt(a),
        )
        for a, b in itertools.pairwise(sizes)
    ]


def weights_of(layers: list[TriangleWave]) -> Weights:
    """Returns the weights of the nets that equal the layers' features."""
    nets = [
        theory.triangle_wave_weights(a, layer.concave, layer.form, s)
        for layer in layers
        for a, s in zip(*map(np.asarray, layer.curves()), strict=True)
    ]
    return [
        (
            np.stack([net[k][0] for net in nets]),
            np.stack([net[k][1][None] for net in nets]),
        )
        for k in range(DEPTH + 1)
    ]


# Training ------------------------------------------------------------------


def forward(weights, x):
    """Returns the outputs (n, nets) of all relu nets for inputs (n,)."""
    h = x[None, :, None]
    for k, (kernel, bias) in enumerate(weights):
        h = h @ kernel + bias
        if k < len(weights) - 1:
            h = tf.nn.relu(h)
    return tf.transpose(h[..., 0])


def train(
    predict: Callable,
    variables: list[keras.Variable],
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    batch: int,
    title: str,
) -> None:
    """Minimizes the mean square error of each net by Adam.

    Args:
        predict: Callable. Maps points (n,) to outputs (n, nets).
        variables: list. Variables whose first axis is the nets.
        x: Array (points,).
        y: Array (points, nets).
        epochs: int. Number of passes through all points, each in a new order.
        batch: int. Points in a step.
        title: str. Title of the progress bar.
    """
    adam = keras.optimizers.Adam(1e-3)
    adam.build(variables)
    x, y = tf.constant(x, tf.float32), tf.constant(y, tf.float32)
    points = len(x)

    @tf.function(jit_compile=False)
    def run_epochs(start, count):
        for epoch in tf.range(start, start + count):
            order = tf.random.experimental.stateless_shuffle(
                tf.range(points), seed=tf.stack([SEED, epoch])
            )
            for step in tf.range(-(-points // batch)):
                chosen = order[step * batch : (step + 1) * batch]
                with tf.GradientTape() as tape:
                    error = predict(tf.gather(x, chosen)) - tf.gather(y, chosen)
                    loss = tf.reduce_sum(tf.reduce_mean(error**2, axis=0))
                # Adam updates each number by its own gradient only, so each
                # net is trained as if it were alone.
                adam.apply(tape.gradient(loss, variables), variables)

    epochs_at_once = max(1, epochs // 20)
    for start in track(range(0, epochs, epochs_at_once), title):
        run_epochs(
            tf.constant(start),
            tf.constant(min(epochs_at_once, epochs - start)),
        )


def train_waves(
    trainable_scales: bool, x, y, epochs, batch
) -> list[TriangleWave]:
    """Runs phase one: trains the peaks, and the scales if they are trainable.

    Returns:
        One layer for each sign. Each of its features is a net.
    """
    start = random_peaks(DEPTH, STARTS, SEED)
    layers = []
    for sign in (-1, 1):
        targets = [i for i, s in enumerate(SIGNS) if s == sign]
        layer = TriangleWave(
            DEPTH,
            sign == 1,
            trainable_scales,
            np.tile(start, (len(targets), 1)),
        )
        layer.build((None, len(targets) * STARTS))
        layers.append(layer)

    def predict(points):
        inputs = [
            tf.repeat(points[:, None], layer.raw_peaks.shape[0], axis=1)
            for layer in layers
        ]
        return tf.concat(
            [layer(h) for layer, h in zip(layers, inputs, strict=True)], axis=1
        )

    variables = [w for layer in layers for w in layer.trainable_weights]
    title = "free scales" if trainable_scales else "differentiable"
    train(predict, variables, x, y, epochs, batch, f"{title}, phase one")
    return layers


def train_weights(
    start: Weights, x, y, epochs: int, batch: int, title: str
) -> Weights:
    """Runs phase two: trains all weights of all nets."""
    weights = [
        tuple(keras.Variable(part, dtype="float32") for part in layer)
        for layer in start
    ]
    flat = [part for layer in weights for part in layer]
    train(
        lambda points: forward(weights, points),
        flat,
        x,
        y,
        epochs,
        batch,
        title,
    )
    return [
        tuple(np.asarray(part, np.float64) for part in layer)
        for layer in weights
    ]


# Parts ---------------------------------------------------------------------


def errors(x, unseen, epochs: int, batch: int) -> dict[str, np.ndarray]:
    """Returns the mean square errors of each row: (targets, starts).

    Args:
        x: Array. The points to learn.
        unseen: Array. The points at which the error is computed.
        epochs: int. Epochs of each of the two phases.
        batch: int. Points in a step.
    """

    def curves(points):
        values = [curve(points) for _, curve in TARGETS.values()]
        return np.repeat(np.stack(values, axis=1), STARTS, axis=1)

    y = curves(x)
    results = {}
    for row in ROWS:
        if row == "default":
            start, rest = default_start(), 2 * epochs
        elif row == "init only":
            layers = train_waves(False, x, y, 0, batch)
            start, rest = weights_of(layers), 2 * epochs
        else:
            layers = train_waves(row == "free scales", x, y, epochs, batch)
            start, rest = weights_of(layers), epochs
        end = train_weights(start, x, y, rest, batch, row)
        error = forward(end, tf.constant(unseen)).numpy() - curves(unseen)
        results[row] = (error**2).mean(0).reshape(len(TARGETS), STARTS)
    return results


def print_errors(title: str, results: dict[str, np.ndarray]) -> None:
    rows = []
    for kind, statistic in (
        ("min", np.min),
        ("median", np.median),
        ("mean", np.mean),
    ):
        for row, error in results.items():
            values = statistic(error, axis=1)
            rows.append([row, kind, *(f"{value:.1e}" for value in values)])
    print_table(title, ["start", f"over {STARTS}", *TARGETS], rows)


def fit(epochs: int, batch: int) -> None:
    x = np.linspace(0, 1, 500)
    title = (
        "Mean square error on the 500 points of training, "
        f"{2 * epochs} epochs, batches of {batch}."
    )
    print_errors(title, errors(x, x, epochs, batch))


def unseen(epochs: int, batch: int) -> None:
    x = np.linspace(0, 1, 10)
    between = (x[1:] + x[:-1]) / 2
    title = (
        "Mean square error halfway between the 10 points of training, "
        f"{2 * epochs} epochs."
    )
    print_errors(title, errors(x, between, epochs, min(batch, len(x))))


PARTS = {"fit": fit, "unseen": unseen}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "part", nargs="*", metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument(
        "--epochs", type=int, default=1000, help="epochs of each phase"
    )
    parser.add_argument(
        "--batch", type=int, default=500, help="points in a step"
    )
    options = parser.parse_args(argv)
    for part in options.part or PARTS:
        if part not in PARTS:
            parser.error(
                f"PART must be one of {', '.join(PARTS)}. Received: {part}"
            )
        PARTS[part](options.epochs, options.batch)


if __name__ == "__main__":
    main()
