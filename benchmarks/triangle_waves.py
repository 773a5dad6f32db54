"""Triangle waves against random starts: the tables of the paper, run again.

The set-up of Milkert, Hyde & Laine (ICML 2025, arXiv:2311.18022, section 4): a
relu net of width 4 with 5 hidden layers learns a curve on [0, 1] by Adam(1e-3)
from 30 starts. The rows:

    default         weights and biases U(+-1/sqrt(fan_in)), as in PyTorch
    init only       triangle waves of random peaks, all weights trained
    free scales     first the peaks and scales of the waves, then all weights
    differentiable  first the peaks, which set the scales, then all weights

    fit             500 points; the mean square error on these
    unseen          10 points; the mean square error half way between them

All rows have as many epochs in all, and all triangle waves the same 30 starts.
What the paper leaves open is chosen here: the size of a batch, the epochs of
each phase, and the law of the peaks.

Run `python benchmarks/triangle_waves.py [PART ...] [--epochs N] [--batch N]`:
all nets of a part are trained at once, side by side in one tensor.
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
from rich.progress import track
from shown import show

from keras_initx import theory
from keras_initx.layers import TriangleWave
from keras_initx.theory.triangle_waves.peaks import random_peaks

DEPTH, STARTS, SEED = 5, 30, 20
# Whether waves are added or subtracted, and what is learnt.
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
    """As PyTorch draws a Linear layer, of every target and start."""
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
    """Of the nets that the features of some layers are."""
    nets = [
        theory.triangle_wave_weights(
            a, 1 if layer.concave else -1, layer.form, s
        )
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
    """(n, nets) of (n,): relu nets side by side."""
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
    """Minimise the mean square error of each net, by Adam.

    Args:
        predict: (n,) to (n, nets).
        variables: Whose first axis is the nets.
        x: (points,).
        y: (points, nets).
        epochs: Through all points, in an order that is new in each.
        batch: Points a step.
        title: Of the progress bar.
    """
    adam = keras.optimizers.Adam(1e-3)
    adam.build(variables)
    x, y = tf.constant(x, tf.float32), tf.constant(y, tf.float32)
    points = len(x)

    @tf.function(jit_compile=False)
    def several(start, count):
        for epoch in tf.range(start, start + count):
            order = tf.random.experimental.stateless_shuffle(
                tf.range(points), seed=tf.stack([SEED, epoch])
            )
            for step in tf.range(-(-points // batch)):
                chosen = order[step * batch : (step + 1) * batch]
                with tf.GradientTape() as tape:
                    error = predict(tf.gather(x, chosen)) - tf.gather(y, chosen)
                    loss = tf.reduce_sum(tf.reduce_mean(error**2, axis=0))
                # Adam takes each number for itself, and so each net.
                adam.apply(tape.gradient(loss, variables), variables)

    several_at_once = max(1, epochs // 20)
    for start in track(range(0, epochs, several_at_once), title):
        several(
            tf.constant(start),
            tf.constant(min(several_at_once, epochs - start)),
        )


def train_waves(
    trainable_scales: bool, x, y, epochs, batch
) -> list[TriangleWave]:
    """Phase one: a feature of a layer is a net; one layer a sign."""
    start = random_peaks(DEPTH, STARTS, SEED)
    layers = []
    for sign in (-1, 1):
        mine = [i for i, s in enumerate(SIGNS) if s == sign]
        layer = TriangleWave(
            DEPTH, sign == 1, trainable_scales, np.tile(start, (len(mine), 1))
        )
        layer.build((None, len(mine) * STARTS))
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
    """Phase two: all weights of all nets."""
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
    """Mean square error of each row: (targets, starts).

    Args:
        x: Points that are learnt.
        unseen: Points of which the error is.
        epochs: Of each of the two phases.
        batch: Points a step.
    """

    def curves(points):
        values = [curve(points) for _, curve in TARGETS.values()]
        return np.repeat(np.stack(values, axis=1), STARTS, axis=1)

    y = curves(x)
    found = {}
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
        found[row] = (error**2).mean(0).reshape(len(TARGETS), STARTS)
    return found


def print_errors(title: str, found: dict[str, np.ndarray]) -> None:
    rows = []
    for kind, statistic in (
        ("min", np.min),
        ("median", np.median),
        ("mean", np.mean),
    ):
        for row, error in found.items():
            values = statistic(error, axis=1)
            rows.append([row, kind, *(f"{value:.1e}" for value in values)])
    show(title, ["start", "of 30", *TARGETS], rows)


def fit(epochs: int, batch: int) -> None:
    x = np.linspace(0, 1, 500)
    title = (
        "Mean square error on 500 points that were learnt, "
        f"{2 * epochs} epochs, batches of {batch}."
    )
    print_errors(title, errors(x, x, epochs, batch))


def unseen(epochs: int, batch: int) -> None:
    x = np.linspace(0, 1, 10)
    between = (x[1:] + x[:-1]) / 2
    title = (
        "Mean square error half way between 10 points that were learnt, "
        f"{2 * epochs} epochs."
    )
    print_errors(title, errors(x, between, epochs, min(batch, len(x))))


PARTS = {"fit": fit, "unseen": unseen}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="*", help="of " + ", ".join(PARTS))
    parser.add_argument(
        "--epochs", type=int, default=1000, help="of each phase"
    )
    parser.add_argument("--batch", type=int, default=500, help="points a step")
    options = parser.parse_args(argv)
    for part in options.part or PARTS:
        if part not in PARTS:
            parser.error(f"no part {part!r}, only {', '.join(PARTS)}")
        PARTS[part](options.epochs, options.batch)


if __name__ == "__main__":
    main()
