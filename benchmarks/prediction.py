"""How far are predictions from freshly drawn networks?

`predict` is compared with networks that are drawn anew, on the same data: the
mean square of each row, 1 minus the correlation of two samples, and the squared
gradient for a normal cotangent at the last row. The error of a row is that of
the mean over the networks, whose own standard error is shown beside it.

Run `python benchmarks/prediction.py`; each model is printed when it is done.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

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


def plain_cnn(filters: int = 256) -> keras.Model:
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


MODELS: dict[str, Callable[[], keras.Model]] = {
    "MLP, 7 activations": mlp,
    "branches in common": merged,
    "Transformer, pre-norm": lambda: transformer(True),
    "Transformer, post-norm": lambda: transformer(False),
    "plain CNN, 256 filters": plain_cnn,
}


def drawn_rows(meter: kx.Meter, x: np.ndarray) -> np.ndarray:
    """Returns total, 1 - correlation and squared gradient of each row."""
    found = meter(x)
    # The part that differs, for pairs of different samples.
    differs = found.sample_variance * len(x) / (len(x) - 1)
    return np.stack([found.total, differs, found.gradient], axis=1)


def compared(
    build: Callable[[], keras.Model], networks: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns relative errors, standard errors, and the seconds of predict."""
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, *model.input_shape[1:])).astype("float32")
    start = time.process_time()
    found = kx.predict(model, x, samples=4, weights="initial")
    seconds = time.process_time() - start
    rows, meter = [], kx.Meter(model, gradient=True)
    for seed in range(networks):
        keras.utils.set_random_seed(seed + 1)
        model.set_weights(build().get_weights())
        rows.append(drawn_rows(meter, x))
    # The mean of the ratio of sums, so that q and q - k have one denominator.
    mean = np.mean(rows, axis=0)
    error = np.std(rows, axis=0, ddof=1) / np.sqrt(networks) / mean
    predicted = np.stack(
        [found.total, found.sample_variance, found.gradient], axis=1
    )
    return predicted / mean - 1, error, seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    options = parser.parse_args(argv)
    columns = [
        *("model", "rows", "total", "s.e.", "sample variance", "s.e."),
        *("gradient", "s.e.", "seconds"),
    ]
    for name in options.models:
        error, noise, seconds = compared(MODELS[name], options.networks)
        cells: list[object] = [name, len(error)]
        for i in range(3):
            cells.append(f"{np.median(np.abs(error[:, i])):.1%}")
            cells.append(f"{np.median(noise[:, i]):.1%}")
        report.print_table(
            "Median over rows of the relative error of a prediction",
            columns,
            [[*cells, f"{seconds:.1f}"]],
        )


if __name__ == "__main__":
    main()
