"""How far are predictions from freshly drawn networks?

`predict` is compared with networks that are drawn anew, on the same data: the
mean square of each row, 1 minus the correlation of two samples, and the squared
gradient for a normal cotangent at the last row. The error of a row is that of
the mean over the networks, whose own standard error is shown beside it.

The models of keras.applications get He weights from `initialize`, which are
predicted at their mean square over the drawn networks. They are taken for
images of 32 x 32, with an output of 64 numbers. In training mode, where all
samples are one batch, those with Batch Normalization start behind their first
layers, from white noise on 8 x 8 positions: `predict` would have room for two
samples of the whole image only, and in a batch of two almost nothing is left of
a gradient.

Run `python benchmarks/prediction.py`; each model is printed when it is done.
With `--results FILE`, each network is added to a file, from which a run that
was cut short goes on.

`python benchmarks/prediction.py --applications` predicts every class of
keras.applications in inference and in training mode, as Keras draws it, without
data, and has the seconds of `predict` or the sentence of its refusal. With
`--results FILE`, each row is added to a file, and a later run skips it.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np
import report

import keras_initx as kx

L = keras.layers
ACTIVATIONS = ("relu", "tanh", "gelu", "silu", "elu", "softplus", "leaky_relu")


def mlp() -> keras.Model:
    """Ten layers of 1024 units with seven activations."""
    layers = [
        L.Dense(1024, ACTIVATIONS[i % 7], kernel_initializer="lecun_normal")
        for i in range(10)
    ]
    return keras.Sequential([keras.Input((64,)), *layers, L.Dense(64)])


def transformer(norm_first: bool) -> keras.Model:
    """Two blocks of a Transformer, 24 tokens, 256 channels, 8 heads."""
    inputs = keras.Input((24, 256))
    x = L.Dense(256, kernel_initializer="lecun_normal")(inputs)
    for _ in range(2):
        for kind in ("attention", "dense"):
            y = L.LayerNormalization()(x) if norm_first else x
            if kind == "attention":
                y = L.MultiHeadAttention(8, 32)(y, y)
            else:
                y = L.Dense(1024, "gelu")(y)
                y = L.Dense(256)(y)
            x = x + y
            if not norm_first:
                x = L.LayerNormalization()(x)
    return keras.Model(inputs, L.Dense(64)(L.GlobalAveragePooling1D()(x)))


def plain_cnn(filters: int) -> keras.Model:
    """Six convolutions on 8 x 8 positions."""
    layers = [
        L.Conv2D(
            filters, 3, 2 if i == 3 else 1, "same", activation="relu",
            kernel_initializer="he_normal",
        )
        for i in range(6)
    ]  # fmt: skip
    ends = [L.GlobalAveragePooling2D(), L.Dense(64)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, *ends])


def merged() -> keras.Model:
    """Branches that have something in common, 1024 wide."""
    inputs = keras.Input((64,))
    x = L.Dense(1024)(inputs)
    x = L.Dense(1024)(x + keras.ops.relu(x))
    x = L.Dense(1024)(x * keras.ops.sigmoid(x))
    gate, value = keras.ops.split(L.Dense(2048)(x), 2, axis=-1)
    x = keras.ops.silu(gate) * value
    for _ in range(3):
        x = keras.ops.relu(x + L.Dense(1024)(x))
    return keras.Model(inputs, L.Dense(64)(x))


def application(name: str, start: str = "", **kwargs: Any) -> keras.Model:
    """A model of keras.applications behind the layer `start`."""
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(32, 32, 3),
        classes=64,
        classifier_activation=None,
        **kwargs,
    )
    if not start:
        return model
    return keras.Model(model.get_layer(start).output, model.output)


@dataclass(frozen=True)
class Case:
    """A model, and how it is drawn and run.

    Args:
        build: Function that returns the model, with weights of its own
            initializers.
        networks: int. How many networks are drawn.
        samples: int. The number of samples.
        training: bool. Whether it runs in training mode.
        initialized: bool. Whether `initialize` draws He weights.
    """

    build: Callable[[], keras.Model]
    networks: int
    samples: int = 4
    training: bool = False
    initialized: bool = False


def trained(name: str, start: str, networks: int, samples: int = 12) -> Case:
    """A model of keras.applications in training mode."""
    return Case(lambda: application(name, start), networks, samples, True, True)


CASES = {
    "MLP, 7 activations": Case(mlp, 48),
    "branches in common": Case(merged, 48),
    "Transformer, pre-norm": Case(lambda: transformer(True), 48),
    "Transformer, post-norm": Case(lambda: transformer(False), 48),
    "plain CNN, 640 filters": Case(lambda: plain_cnn(640), 24),
    "ResNet50, training": trained("ResNet50", "pool1_pool", 40),
    # The padding of its blocks takes room, too.
    "ResNet50V2, training": trained("ResNet50V2", "pool1_pool", 48, 10),
    "MobileNetV2, training": trained("MobileNetV2", "block_1_project_BN", 96),
    "ConvNeXtTiny": Case(
        lambda: application("ConvNeXtTiny", include_preprocessing=False),
        *(24, 2, False, True),
    ),
    "DenseNet121, training": trained("DenseNet121", "pool1", 40),
}


def mean_squares(model: keras.Model) -> list[float]:
    """Returns the mean square of each weight."""
    return [float(np.mean(np.square(w))) for w in model.get_weights()]


def with_mean_squares(model: keras.Model, squares: np.ndarray) -> None:
    """Scales each weight to a mean square."""
    own = np.array(mean_squares(model))
    factors = np.sqrt(squares / np.where(own > 0, own, 1))
    weights = zip(model.get_weights(), factors, strict=True)
    model.set_weights([w * factor for w, factor in weights])


def drawn_network(
    case: Case, model: keras.Model, meter: kx.Meter, x: np.ndarray, seed: int
) -> dict[str, Any]:
    """Draws the weights of a model, and returns what was measured.

    Returns:
        dict with "rows", total, total (1 - correlation), and squared
        gradient of each row, and "squares", those of `mean_squares`.
    """
    if case.initialized:
        kx.initialize(model, "he_normal", seed=seed)
    else:
        keras.utils.set_random_seed(seed)
        model.set_weights(case.build().get_weights())
    found = meter(x)
    # The part that differs, for pairs of different samples.
    differs = found.sample_variance * len(x) / (len(x) - 1)
    rows = np.stack([found.total, differs, found.gradient], axis=1)
    return {"rows": rows.tolist(), "squares": mean_squares(model)}


def compared(
    case: Case, networks: list[dict[str, Any]], save: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns relative errors, standard errors, and the seconds of predict.

    Args:
        case: Case. The model.
        networks: list. The networks that are drawn, to which others are added.
        save: Function that is called after each network.
    """
    keras.utils.set_random_seed(0)
    model = case.build()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.samples, *model.input_shape[1:]))
    x = x.astype("float32")
    meter = kx.Meter(model, training=case.training, gradient=True)
    for seed in range(len(networks), case.networks):
        networks.append(drawn_network(case, model, meter, x, seed + 1))
        save()
    networks = networks[: case.networks]
    if case.initialized:
        kx.initialize(model, "he_normal", seed=0)
        squares = np.mean([n["squares"] for n in networks], axis=0)
        with_mean_squares(model, squares)
    start = time.process_time()
    found = kx.predict(
        model,
        x,
        samples=case.samples,
        training=case.training,
        weights="present" if case.initialized else "initial",
    )
    seconds = time.process_time() - start
    rows = np.array([n["rows"] for n in networks])
    mean = np.mean(rows, axis=0)
    relative = rows / mean
    # 1 - correlation is the ratio of two means.
    relative[:, :, 1] -= relative[:, :, 0] - 1
    mean[:, 1] /= mean[:, 0]
    error = np.std(relative, axis=0, ddof=1) / np.sqrt(len(rows))
    predicted = np.stack(
        [found.total, found.sample_fraction, found.gradient], axis=1
    )
    return predicted / mean - 1, error, seconds


# The CPU seconds after which a prediction of --applications is given up.
LIMIT = 60
# Classes that take no images of 32 x 32, and those also taken at their usual
# size.
SIZES = {"Xception": [71], "InceptionV3": [75], "InceptionResNetV2": [75]}
SIZES |= {name: [32, 224] for name in ("MobileNet", "ResNet50", "VGG16")}


class OutOfTimeError(BaseException):
    """A prediction has taken too long.

    It is no `Exception`, so that no layer takes it for an error of its own.
    """


def applications() -> list[tuple[str, int]]:
    """Returns all classes of keras.applications, with the size of images."""
    names = [
        name
        for name in sorted(dir(keras.applications))
        if name[0].isupper() and callable(getattr(keras.applications, name))
    ]
    return [(name, size) for name in names for size in SIZES.get(name, [32])]


def predicted_application(
    model: keras.Model, training: bool
) -> dict[str, float | int | str]:
    """Returns what `predict` says of a model, and how long it takes."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    cpu, wall = time.process_time(), time.perf_counter()
    row: dict[str, float | int | str] = {"refused": ""}
    try:
        found = kx.predict(model, training=training)
        row["rows"] = len(found)
        row["averaged"] = found.exactness.count("positions averaged")
        numbers = [found.total, found.sample_fraction, found.gradient]
        unknown = ~np.isfinite(numbers).all(axis=0)
        row["unknown"] = int(unknown.sum())
        # A row without a number must have a note.
        row["unsaid"] = sum(
            bool(u) and not note
            for u, note in zip(unknown, found.notes, strict=True)
        )
    except OutOfTimeError:
        row["refused"] = f"more than {LIMIT} s"
    except Exception as error:
        row["refused"] = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    row["cpu"] = time.process_time() - cpu
    row["wall"] = time.perf_counter() - wall
    return row


def predict_applications(names: Sequence[str], path: Path | None) -> None:
    """Prints a table of the models of keras.applications.

    Args:
        names: Sequence of str. The classes; all of them if it is empty.
        path: Path or None. The file that holds a row in each line.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    if path and path.exists():
        for line in path.read_text().splitlines():
            row = json.loads(line)
            rows[row["model"], row["size"], row["training"]] = row
    every = applications()
    for name in names or dict(every):
        for _, size in (pair for pair in every if pair[0] == name):
            modes = [t for t in (False, True) if (name, size, t) not in rows]
            if not modes:
                continue
            keras.utils.set_random_seed(0)
            model = getattr(keras.applications, name)(
                weights=None, input_shape=(size, size, 3), classes=10
            )
            for training in modes:
                row = {"model": name, "size": size, "training": training}
                row |= predicted_application(model, training)
                rows[name, size, training] = row
                print(json.dumps(row), flush=True)
                if path:
                    with path.open("a") as file:
                        print(json.dumps(row), file=file)
            del model
            keras.backend.clear_session()
            gc.collect()
    report.print_table(
        "predict of the models of keras.applications",
        [
            *("model", "size", "mode", "rows", "positions averaged"),
            *("unknown", "unsaid", "CPU s", "wall s", "refused"),
        ],
        [
            [
                row["model"],
                row["size"],
                "training" if row["training"] else "inference",
                *(
                    row.get(name, "-")
                    for name in ("rows", "averaged", "unknown", "unsaid")
                ),
                *(f"{row[name]:.1f}" for name in ("cpu", "wall")),
                row["refused"],
            ]
            for row in rows.values()
        ],
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, help="the same for all models")
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--applications", action="store_true")
    options = parser.parse_args(argv)
    if options.applications:
        predict_applications(options.models or (), options.results)
        return
    results: dict[str, list[dict[str, Any]]] = {}
    if options.results and options.results.exists():
        results = json.loads(options.results.read_text())

    def save() -> None:
        if options.results:
            options.results.write_text(json.dumps(results))

    columns = [
        *("model", "networks", "rows", "total", "s.e."),
        *("1 - correlation", "s.e.", "gradient", "s.e.", "seconds"),
    ]
    for name in options.models or CASES:
        case = CASES[name]
        if options.networks:
            case = replace(case, networks=options.networks)
        error, noise, seconds = compared(
            case, results.setdefault(name, []), save
        )
        cells: list[object] = [name, case.networks, len(error)]
        for i in range(3):
            cells.append(f"{np.nanmedian(np.abs(error[:, i])):.1%}")
            cells.append(f"{np.nanmedian(noise[:, i]):.1%}")
        report.print_table(
            "Median over rows of the relative error of a prediction",
            columns,
            [[*cells, f"{seconds:.1f}"]],
        )


if __name__ == "__main__":
    main()
