"""Do fractional moments of the signal behave as the theory says?

The set-ups are those of Gurbuzbalaban & Hu (AISTATS 2021, arXiv:2005.11878), as
their public code has them. Alpha-stable weights are added:

    moments    (E |x_i|^q)^(1/q) against q after 500 layers, 64 wide
    norms      log |x_100| / |x_0| against its Gaussian limit, and
               P(|x_100| < 0.1 |x_0|)
    stable     drift of the log norm per layer with stable weights, for two
               scales
    training   20 layers, 64 wide, on handwritten digits, 20 seeds

Run `python benchmarks/fractional_moments.py [PART ...] [--out DIR]`. With
`--out` figures are drawn as well. All parts take a few minutes on two cores. A
further part, `training_mnist`, needs `keras.datasets` to download MNIST.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from report import new_axes, print_table, save_figure
from scipy import special

import keras_initx as kx

WIDTH = 64
ORDERS = (2.0, 1.5, 1.0, 0.8, 0.5)


# Signal through random networks --------------------------------------------


def layer_norms(depth: int, nets: int, seed: int) -> np.ndarray:
    """Returns log |x_l| / |x_0| of every layer l, and the direction of x_depth.

    The weights have standard deviation 1 and are drawn anew for each network
    and layer. Another standard deviation adds its logarithm in every layer and
    changes nothing else, so one run serves every order s.
    """
    pieces = [
        _some_networks(
            tf.constant([seed, i], tf.int32), depth, min(500, nets - i)
        )
        for i in range(0, nets, 500)
    ]
    logs, last = zip(*pieces, strict=True)
    return np.concatenate(logs, 1), np.concatenate(last, 0)


@tf.function(autograph=False)
def _some_networks(seed: tf.Tensor, depth: int, nets: int):
    seeds = tf.random.split(seed, depth + 1)
    x = tf.random.stateless_normal((nets, WIDTH), seeds[depth])
    x /= tf.norm(x, axis=1, keepdims=True)

    def layer(i, x, total, logs):
        shape = (nets, WIDTH, WIDTH)
        x = tf.nn.relu(
            tf.linalg.matvec(tf.random.stateless_normal(shape, seeds[i]), x)
        )
        norm = tf.norm(x, axis=1)
        total += tf.math.log(norm)
        return i + 1, x / norm[:, None], total, logs.write(i, total)

    _, x, _, logs = tf.while_loop(
        lambda i, *_: i < depth,
        layer,
        (0, x, tf.zeros(nets), tf.TensorArray(tf.float32, depth)),
    )
    return logs.stack(), x


def moments(out: Path | None) -> None:
    depth, nets = 500, 500
    logs, unit = layer_norms(depth, nets, seed=1)
    orders = np.linspace(1, 3, 21)
    curves = {}
    for s in (2.0, 1.5, 1.0):
        std = kx.theory.fractional_moment_std(s, WIDTH)
        norm = logs[-1] + depth * np.log(std)
        # log |x_i|, of which the moments are taken over nets and units
        with np.errstate(divide="ignore"):
            entries = np.log(unit.astype(np.float64)) + norm[:, None]
        curves[s] = np.array(
            [
                np.exp(
                    (special.logsumexp(q * entries) - np.log(entries.size)) / q
                )
                for q in orders
            ]
        )
    print_table(
        f"(E |x_i|^q)^(1/q) after {depth} layers, {nets} networks of width "
        f"{WIDTH}, |x_0| = 1",
        ["q", *(f"s = {s:g}" for s in curves)],
        [
            [float(q), *(float(c[i]) for c in curves.values())]
            for i, q in enumerate(orders)
            if i % 5 == 0
        ],
    )
    print(
        "The few largest of 500 heavy-tailed numbers determine their mean: at "
        "this depth the curves of two seeds differ by factors.\n"
    )
    if out:
        ax = new_axes()
        for s, curve in curves.items():
            ax.plot(orders, curve, label=f"s = {s:g}")
        ax.set(xlabel="order q", ylabel="(E |x_i|^q)^(1/q)", yscale="log")
        save_figure(ax, out / "moments.png")


def norms(out: Path | None) -> None:
    depth, nets = 100, 4000
    log_ratio = layer_norms(depth, nets, seed=2)[0][-1]
    rows, curves = [], []
    for s in ORDERS:
        std = kx.theory.fractional_moment_std(s, WIDTH)
        drift, variance = kx.theory.log_norm_drift_and_variance(std, WIDTH)
        ratios = log_ratio + depth * np.log(std)
        mean, deviation = depth * drift, np.sqrt(depth * variance)
        rows.append(
            [
                f"{s:g}",
                *(float(ratios.mean()), float(ratios.std() / np.sqrt(nets))),
                *(float(mean), float(ratios.var()), float(deviation**2)),
                float((ratios < np.log(0.1)).mean()),
                float(special.ndtr((np.log(0.1) - mean) / deviation)),
            ]
        )
        curves.append((s, ratios, mean, deviation))
    print_table(
        f"log |x_{depth}| / |x_0|, {nets} networks of width {WIDTH}, relu",
        [
            *("s", "mean", "s.e.", "theory", "variance", "theory"),
            *("P(ratio < 0.1)", "theory"),
        ],
        rows,
    )
    if out:
        ax = new_axes()
        for s, ratios, mean, deviation in curves[:3]:
            line = ax.hist(
                ratios, 60, density=True, histtype="step", label=f"s = {s:g}"
            )
            x = np.linspace(*np.percentile(ratios, [0.1, 99.9]))
            ax.plot(
                x,
                np.exp(-(((x - mean) / deviation) ** 2) / 2)
                / (deviation * np.sqrt(2 * np.pi)),
                "--",
                color=line[2][0].get_edgecolor(),
            )
        ax.set(xlabel=f"log |x_{depth}| / |x_0|", ylabel="density")
        save_figure(ax, out / "norms.png")


def stable(out: Path | None) -> None:
    """Prints the drift; there is no figure of it."""
    depth, nets, width = 50, 20, 256
    rows = []
    for stability in (1.0, 1.5, 1.8):
        scales = {
            "width^(-1/a)": width ** (-1 / stability),
            "keeps the log": kx.theory.stable_weight_scale(stability, width),
        }
        initializer = kx.initializers.AlphaStable(
            stability, fan_in=width, seed=None
        )
        drifts = []
        for _ in range(nets):
            x = tf.nn.relu(tf.random.normal((1, width)))
            x /= tf.reduce_sum(x**stability) ** (1 / stability)
            total = 0.0
            for _ in range(depth):
                weights = (
                    initializer.clone()((width, width))
                    / scales["keeps the log"]
                )
                x = tf.nn.relu(x @ weights)
                norm = tf.reduce_sum(x**stability) ** (1 / stability)
                x, total = x / norm, total + float(tf.math.log(norm))
            drifts.append(total / depth)
        mean, error = np.mean(drifts), np.std(drifts) / np.sqrt(nets)
        for name, scale in scales.items():
            rows.append(
                [
                    f"{stability:g}",
                    name,
                    f"{scale:.5f}",
                    float(mean + np.log(scale)),
                    float(error),
                    float(np.log(scale / scales["keeps the log"])),
                ]
            )
    print_table(
        f"Growth of log |x|_a a layer, {nets} networks of {depth} layers, "
        f"{width} wide, relu, stable weights",
        [
            "stability a",
            "scale of the weights",
            "",
            "measured",
            "s.e.",
            "theory",
        ],
        rows,
    )


# Training ------------------------------------------------------------------


def schemes() -> dict[str, Callable[[], keras.Initializer]]:
    return {
        "Kaiming": keras.initializers.HeNormal,
        "Xavier": keras.initializers.GlorotNormal,
        "s = 0.8": lambda: kx.initializers.FractionalMoment(0.8),
        "stable 1.8": lambda: kx.initializers.AlphaStable(1.8),
        "stable 1.5": lambda: kx.initializers.AlphaStable(1.5),
    }


def digits() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns scikit-learn's digits: 1437 to train on and 360 to test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = ((images / 16 - 0.5) / 0.5).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1437], order[1437:]
    return (x[train], labels[train]), (x[test], labels[test])


def mnist() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns MNIST, which `keras.datasets` downloads."""
    train, test = keras.datasets.mnist.load_data()
    return tuple(
        (((x.reshape(len(x), -1) / 255 - 0.5) / 0.5).astype(np.float32), y)
        for x, y in (train, test)
    )


def quartiles(values: np.ndarray) -> str:
    low, middle, high = np.quantile(
        values, [0.25, 0.5, 0.75], method="closest_observation"
    )
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


class Stack(tf.Module):
    """Several networks of one shape, trained together: one for each seed."""

    def __init__(
        self,
        initializer: Callable[[], keras.Initializer],
        sizes: Sequence[int],
        seeds: Sequence[int],
    ):
        kernels = []
        for seed in seeds:
            keras.utils.set_random_seed(seed)
            kernels.append(
                [initializer()(shape) for shape in itertools.pairwise(sizes)]
            )
        self.kernels = [
            tf.Variable(tf.stack(w)) for w in zip(*kernels, strict=True)
        ]
        self.biases = [
            tf.Variable(tf.zeros(w[:, :1].shape)) for w in self.kernels
        ]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        layers = list(zip(self.kernels, self.biases, strict=True))
        for kernel, bias in layers[:-1]:
            x = tf.nn.relu(x @ kernel + bias)
        kernel, bias = layers[-1]
        return x @ kernel + bias


def trained(
    stack: Stack, train, test, epochs: int, rate: float = 0.01, batch: int = 128
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each seed's training loss and test accuracy, every epoch."""
    seeds = stack.kernels[0].shape[0]
    x, y = tf.constant(train[0]), tf.constant(train[1], tf.int32)

    @tf.function(autograph=False)
    def step(rows: tf.Tensor) -> tf.Tensor:
        # rows has the shape (seeds, batch): each seed has an order of its own.
        labels = tf.gather(y, rows)
        with tf.GradientTape() as tape:
            losses = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    labels, stack(tf.gather(x, rows))
                ),
                axis=1,
            )
            total = tf.reduce_sum(losses)
        variables = stack.trainable_variables
        for variable, gradient in zip(
            variables, tape.gradient(total, variables), strict=True
        ):
            variable.assign_sub(rate * gradient)
        return losses

    @tf.function(autograph=False)
    def accuracy() -> tf.Tensor:
        logits = stack(tf.constant(test[0])[None])
        right = tf.equal(tf.argmax(logits, -1), tf.constant(test[1], tf.int64))
        return tf.reduce_mean(tf.cast(right, tf.float32), axis=1)

    rngs = [np.random.default_rng(seed) for seed in range(seeds)]
    for _ in range(epochs):
        order = np.stack([rng.permutation(len(x)) for rng in rngs])
        losses = [
            step(tf.constant(order[:, i : i + batch], tf.int32)).numpy()
            for i in range(0, len(x) - batch + 1, batch)
        ]
        yield np.mean(losses, axis=0), accuracy().numpy()


def training(out: Path | None, data=digits, epochs: int = 100) -> None:
    """Trains networks with each initializer, and prints loss and accuracy."""
    train, test = data()
    seeds = range(20)
    # There are twenty kernels, as in the paper, where the input has size 784.
    sizes = [train[0].shape[1], *[WIDTH] * 19, 10]
    curves, rows = {}, []
    bar = keras.utils.Progbar(len(schemes()) * epochs, unit_name="epoch")
    for name, initializer in schemes().items():
        stack = Stack(initializer, sizes, seeds)
        curve = []
        for losses, right in trained(stack, train, test, epochs):
            curve.append((losses, right))
            bar.add(1)
        losses, right = (np.array(c) for c in zip(*curve, strict=True))
        diverged = ~np.isfinite(losses[-1])
        curves[name] = np.where(np.isfinite(losses), losses, np.inf)
        rows.append(
            [
                name,
                *map(quartiles, (curves[name][epochs // 4], curves[name][-1])),
                *(quartiles(right[-1]), int(diverged.sum())),
            ]
        )
    print_table(
        f"20 layers, {WIDTH} wide, relu, on {data.__name__}: SGD 0.01, "
        f"batch 128, {len(seeds)} seeds; median (quartiles)",
        [
            *("weights", f"loss at epoch {epochs // 4}"),
            *(f"loss at epoch {epochs}", "test accuracy", "diverged"),
        ],
        rows,
    )
    if out:
        ax = new_axes()
        for name, losses in curves.items():
            low, middle, high = np.quantile(
                losses, [0.25, 0.5, 0.75], axis=1, method="closest_observation"
            )
            line = ax.plot(middle, label=name)[0]
            ax.fill_between(
                range(epochs), low, high, alpha=0.2, color=line.get_color()
            )
        ax.set(xlabel="epoch", ylabel="training loss")
        save_figure(ax, out / "training.png")


def training_mnist(out: Path | None) -> None:
    training(out, data=mnist, epochs=30)


PARTS = {
    "moments": moments,
    "norms": norms,
    "stable": stable,
    "training": training,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    all_parts = PARTS | {"training_mnist": training_mnist}
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=", ".join(all_parts)
    )
    parser.add_argument("--out", type=Path, help="folder for figures")
    options = parser.parse_args(argv)
    for part in options.parts or PARTS:
        if part not in all_parts:
            parser.error(
                f"PART must be one of {', '.join(all_parts)}. Received: {part}"
            )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or PARTS:
        all_parts[part](options.out)


if __name__ == "__main__":
    main()
