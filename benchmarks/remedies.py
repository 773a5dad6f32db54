"""Which remedy lets a deep plain network train?

A network of 50 dense relu layers, 64 wide, on handwritten digits, from three
starts:

    plain, He           He weights
    plain, calibrated   the same, calibrated per unit to the training data
    residual            each layer in a residual branch with He weights, whose
                        output is multiplied by depth^(-1/2)

The table shows the decay of the sample variance at the last hidden layer before
training, and the training loss and the accuracy on held-out digits after
training with Adam(1e-3) in batches of 64.

Run `python benchmarks/remedies.py`.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report

import keras_initx as kx

STARTS = ("plain, He", "plain, calibrated", "residual, scaled by depth")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Standardized images in a fixed random order, and their labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images - images.mean()) / images.std()
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order].astype("float32"), labels[order]


def hidden_layers(start: str, depth: int, width: int) -> keras.Model:
    """The network without its last layer."""
    layers: list[keras.layers.Layer] = [keras.Input((width,))]
    for _ in range(depth):
        branch = [
            keras.layers.ReLU(),
            keras.layers.Dense(width, kernel_initializer="he_normal"),
        ]
        if start.startswith("plain"):
            layers += branch
        else:
            scale = kx.layers.BranchScale(depth=depth)
            layers.append(kx.layers.Residual(branch, scale))
    return keras.Sequential(layers)


def one_run(
    start: str, seed: int, depth: int, epochs: int
) -> tuple[float, float, float]:
    """Decay before training; loss and held-out accuracy after it."""
    images, labels = digits()
    train, test = slice(0, 1437), slice(1437, None)
    keras.utils.set_random_seed(seed)
    body = hidden_layers(start, depth, images.shape[1])
    if start == "plain, calibrated":
        kx.calibrate(body, images[train])
    decay = kx.measure(body, images[train]).decay[-1]
    model = keras.Sequential([body, keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        images[train], labels[train], batch_size=64, epochs=epochs, verbose=0
    )
    _, accuracy = model.evaluate(images[test], labels[test], verbose=0)
    return float(decay), history.history["loss"][-1], accuracy


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--depth", type=int, default=50)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    rows = []
    for start in STARTS:
        runs = [
            one_run(start, seed, options.depth, options.epochs)
            for seed in range(options.seeds)
        ]
        rows.append(
            [
                start,
                *(
                    f"{np.median(values):.3f} "
                    f"({min(values):.3f} to {max(values):.3f})"
                    for values in np.transpose(runs)
                ),
            ]
        )
    report.print_table(
        f"{options.depth} layers of 64 after {options.epochs} epochs, median "
        f"of {options.seeds} seeds (smallest to largest).",
        ["start", "decay at the last layer", "training loss", "accuracy"],
        rows,
    )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
