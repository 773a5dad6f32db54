"""How does calibrate change the signal and training, and what does it cost?

    signal     moments on held-out samples at layers 1, 10, 20 and 49 of a relu
               net of 50 layers: with He weights, calibrated per layer, and
               calibrated per unit
    cost       time of a calibration over that of a forward pass; the same of
               the package lsuv on PyTorch (needs `pip install lsuv torch`)
    batches    time and memory in batches and in one batch, beside `measure`
    training   training loss on handwritten digits of nets with He weights,
               calibrated in three ways, and with batch normalization

Run `python benchmarks/calibrate.py [signal|cost|batches|training]`. Without an
argument all four parts run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import paired
import report
import tensorflow as tf
from measure import conv_net

import keras_initx as kx

L = keras.layers


def dense_net(depth: int, width: int) -> keras.Model:
    return keras.Sequential(
        [keras.Input((width,))]
        + [
            L.Dense(width, "relu", kernel_initializer="he_normal")
            for _ in range(depth)
        ]
    )


# The arguments of `calibrate` for each row of the table; None for none.
WAYS: dict[str, dict[str, Any] | None] = {
    "He": None,
    "per layer": {"per": "layer"},
    "per unit": {"per": "unit"},
}


def signal(nets: int) -> None:
    width, depth, samples = 500, 50, 2000
    at = [1, 10, 20, 49]
    rows = []
    results: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    for seed in range(nets):
        keras.utils.set_random_seed(seed)
        x, held_out = np.random.normal(size=(2, samples, width))
        model = dense_net(depth, width)
        start = model.get_weights()
        for way, arguments in WAYS.items():
            model.set_weights(start)
            if arguments is not None:
                kx.calibrate(model, x.astype("float32"), **arguments)
            profile = kx.measure(model, held_out.astype("float32"))
            results[way].append(
                np.stack([profile.sample_variance, profile.squared_mean])[:, at]
            )
    for way, values in results.items():
        mean, deviation = np.mean(values, 0), np.std(values, 0)
        for name, m, s in zip(("v²", "m²"), mean, deviation, strict=True):
            cells = [f"{a:.3f} ± {b:.3f}" for a, b in zip(m, s, strict=True)]
            rows.append([way, name, *cells])
    report.print_table(
        f"Moments on held-out samples, {depth} layers of {width}: {samples} "
        f"samples to calibrate on, as many held out; mean and standard "
        f"deviation over {nets} nets.",
        ["weights", "", *(f"layer {i}" for i in at)],
        rows,
    )


def keras_runs(depth: int, width: int, samples: int) -> paired.Runs:
    model = dense_net(depth, width)
    x = tf.random.normal((samples, width))
    compiled = tf.function(lambda x: model(x, training=False))
    return {
        "forward": lambda: model(x, training=False).numpy(),
        "compiled": lambda: compiled(x).numpy(),
        "per unit": lambda: kx.calibrate(model, x),
        "LSUV": lambda: kx.calibrate(model, x, per="layer", center=False),
    }


def torch_runs(depth: int, width: int, samples: int) -> paired.Runs:
    import lsuv
    import torch

    layers: list[Any] = []
    for _ in range(depth):
        layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers)
    x = torch.randn(samples, width)

    start = {name: w.clone() for name, w in model.state_dict().items()}

    def forward() -> Any:
        with torch.no_grad():
            return model(x)

    def calibrate() -> Any:
        # It would run fewer passes on weights that it has scaled before.
        model.load_state_dict(start)
        return lsuv.lsuv_with_singlebatch(
            model, x, do_orthonorm=False, verbose=False
        )

    return {"forward": forward, "lsuv": calibrate}


def torch_cost(depth: int, width: int, samples: int) -> list[str]:
    try:
        runs = torch_runs(depth, width, samples)
    except ImportError:
        return ["not installed"] * 2
    # Each takes hundreds of forward passes, so one or two runs are enough.
    forward = np.median(
        paired.times({"forward": runs["forward"]}, 9)["forward"]
    )
    ratios = []
    for _ in range(1 if depth >= 200 else 2):
        start = time.perf_counter()
        runs["lsuv"]()
        ratios.append((time.perf_counter() - start) / forward)
    shown = ", ".join(f"{ratio:.0f}" for ratio in ratios)
    return [f"{forward * 1e3:.0f} ms", shown]


def cost(rounds: int) -> None:
    rows = []
    for width, samples in ((256, 1024), (1024, 1024)):
        for depth in (10, 50, 200) if width == 256 else (50,):
            seconds = paired.times(keras_runs(depth, width, samples), rounds)
            forward = seconds["forward"]
            cells = [f"{np.median(forward) * 1e3:.0f} ms"]
            for way in ("compiled", "per unit", "LSUV"):
                cells.append(
                    paired.median_and_quartiles(seconds[way] / forward)
                )
            cells += torch_cost(depth, width, samples) if width == 256 else []
            cells += [""] * (6 - len(cells))
            print(f"{depth} of {width}:", *cells, sep="  ", flush=True)
            rows.append([f"{depth} of {width}", *cells])
    report.print_table(
        "Time over that of model(x), median and quartiles of paired rounds.",
        [
            "relu layers",
            "model(x)",
            "compiled",
            "calibrate",
            "calibrate, LSUV",
            "torch",
            "lsuv over torch",
        ],
        rows,
    )


# name: (model, samples)
BATCH_NETS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "12 conv, 32 channels of 112x112": (lambda: conv_net(32, 112, 12), 64),
    "50 dense, 1024 wide": (lambda: dense_net(50, 1024), 1024),
}


def batch_runs(net: str) -> paired.Runs:
    """Returns a function for each way to divide the samples."""
    build, samples = BATCH_NETS[net]
    keras.utils.set_random_seed(0)
    model = build()
    x = np.random.normal(size=(samples, *model.input_shape[1:]))
    x = x.astype(np.float32)
    return {
        "one batch": lambda: kx.calibrate(model, x, batch_size=samples),
        "calibrate": lambda: kx.calibrate(model, x),
        "4 batches": lambda: kx.calibrate(model, x, batch_size=samples // 4),
        "measure": lambda: kx.measure(model, x),
    }


def print_memory(net: str, way: str) -> None:
    """Prints the MiB that a way adds to a process at its peak."""
    print(paired.memory_peak(batch_runs(net)[way]))


def batches(rounds: int) -> None:
    rows = []
    for net in BATCH_NETS:
        runs = batch_runs(net)
        seconds = paired.times(runs, rounds, clock=time.process_time)
        peaks = paired.printed_numbers(__file__, "--memory-of", runs, net)
        one = seconds["one batch"]
        cells = [
            net,
            f"{np.median(one):.2f} s",
            *(
                paired.median_and_quartiles(seconds[way] / one)
                for way in ("calibrate", "4 batches")
            ),
            *(f"{peak:.0f}" for peak in peaks.values()),
        ]
        print(*cells, sep="  ", flush=True)
        rows.append(cells)
    report.print_table(
        "Time of the processor over that of one batch, median and quartiles of "
        "paired rounds; memory that a process of its own adds.",
        [
            "net",
            "one batch",
            "calibrate",
            "4 batches",
            *(f"MiB {way}" for way in runs),
        ],
        rows,
    )


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images - images.mean()) / images.std()
    return images.astype("float32").reshape(-1, 8, 8, 1), labels


def plain_net(norm: bool) -> keras.Model:
    layers: list[Any] = [keras.Input((8, 8, 1)), L.Flatten()]
    for _ in range(50):
        layers.append(L.Dense(64, kernel_initializer="he_normal"))
        if norm:
            layers.append(L.BatchNormalization())
        layers.append(L.ReLU())
    return keras.Sequential([*layers, L.Dense(10, name="logits")])


def all_convolutional(norm: bool) -> keras.Model:
    layers: list[Any] = [keras.Input((8, 8, 1))]
    for filters, size, strides in (
        (32, 3, 1),
        (32, 3, 1),
        (32, 3, 2),
        (64, 3, 1),
        (64, 3, 1),
        (64, 3, 2),
        (64, 3, 1),
        (64, 1, 1),
    ):
        layers.append(
            L.Conv2D(
                filters,
                size,
                strides=strides,
                padding="same",
                kernel_initializer="he_normal",
            )
        )
        if norm:
            layers.append(L.BatchNormalization())
        layers.append(L.ReLU())
    layers += [L.Conv2D(10, 1, name="logits"), L.GlobalAveragePooling2D()]
    return keras.Sequential(layers)


NETS: dict[str, Callable[[bool], keras.Model]] = {
    "all-convolutional, 9 layers": all_convolutional,
    "plain, 50 layers of 64": plain_net,
}
STARTS = ("He", "per layer", "per unit", "LSUV", "Batch Normalization")


def initialized_model(
    build: Callable[[bool], keras.Model], start: str, seed: int
) -> Any:
    keras.utils.set_random_seed(seed)
    model = build(start == "Batch Normalization")
    x = digits()[0][:500]
    if arguments := WAYS.get(start):
        kx.calibrate(model, x, **arguments, layers=_is_hidden)
    elif start == "LSUV":
        kx.initialize(model, "orthogonal", seed=seed, layers=_is_hidden)
        kx.calibrate(model, x, per="layer", center=False, layers=_is_hidden)
    return model


def _is_hidden(layer: keras.layers.Layer) -> bool:
    return hasattr(layer, "kernel") and layer.name != "logits"


def training(seeds: int, epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    x, y = digits()
    rows = []
    for net, build in NETS.items():
        ax = report.new_axes()
        for start in STARTS:
            curves = []
            for seed in range(seeds):
                model = initialized_model(build, start, seed)
                model.compile(
                    keras.optimizers.Adam(1e-3),
                    keras.losses.SparseCategoricalCrossentropy(
                        from_logits=True
                    ),
                )
                history = model.fit(
                    x, y, batch_size=64, epochs=epochs, verbose=0
                )
                curves.append(history.history["loss"])
            low, middle, high = np.percentile(curves, [25, 50, 75], axis=0)
            steps = np.arange(1, epochs + 1)
            ax.plot(steps, middle, label=start)
            ax.fill_between(steps, low, high, alpha=0.2)
            at = sorted({1, *(max(1, epochs // k) for k in (4, 2, 1))})
            rows.append(
                [net, start]
                + [
                    f"{middle[i - 1]:.3f} ({low[i - 1]:.3f} to "
                    f"{high[i - 1]:.3f})"
                    for i in at
                ]
            )
        ax.set_yscale("log")
        ax.set_xlabel("epoch")
        ax.set_ylabel("training loss")
        ax.set_title(net)
        report.save_figure(ax, out / f"{net.split(',')[0]}.png")
    report.print_table(
        f"Training loss on digits, Adam(1e-3), median of {seeds} seeds "
        "(quartiles).",
        ["net", "start", *(f"epoch {i}" for i in at)],
        rows,
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what", nargs="?", choices=["signal", "cost", "batches", "training"]
    )
    parser.add_argument(
        "--nets", type=int, default=5, help="nets of the part `signal`"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="rounds of the parts `cost` and `batches`",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds of the part `training`"
    )
    parser.add_argument(
        "--epochs", type=int, default=20, help="epochs of the part `training`"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("calibrate"),
        help="folder for the figures of the part `training`",
    )
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        print_memory(*options.memory_of)
        return
    start = time.perf_counter()
    if options.what in (None, "signal"):
        signal(options.nets)
    if options.what in (None, "cost"):
        cost(options.rounds)
    if options.what in (None, "batches"):
        batches(options.rounds)
    if options.what in (None, "training"):
        training(options.seeds, options.epochs, options.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
