"""How far are the predictions of other packages from drawn networks?

anyinit reports the mean square behind each layer that it predicts for the
weights that it draws, beside the one that it measures. It is run on the models
of `prediction.py`, and on two small ones. neural-tangents has total and
correlation of a network that is written in its own layers, which is done here
for the MLP and the plain CNN, and compared with the networks that
`prediction.py --results FILE` has drawn.

Run `python benchmarks/prediction_peers.py anyinit` where anyinit 0.4.0 is
installed, and `python benchmarks/prediction_peers.py neural-tangents FILE` in
an environment with neural-tangents 0.6.5 and jax 0.4.23.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

# How many networks anyinit draws.
NETWORKS = {"MLP, 7 activations": 24, "x + x": 12, "x + relu(x)": 12}
_OTHERS = 6


def anyinit(names: list[str]) -> None:
    """Prints what anyinit predicts.

    Args:
        names: list of str. The models; all of them if it is empty.
    """
    import anyinit
    import keras
    import prediction

    def merged(merge: Any) -> Any:
        inputs = keras.Input((64,))
        x = keras.layers.Dense(1024)(inputs)
        return keras.Model(inputs, keras.layers.Dense(1024)(merge(x)))

    models = {name: case.build for name, case in prediction.CASES.items()}
    models |= {
        "x + x": lambda: merged(lambda x: x + x),
        "x + relu(x)": lambda: merged(lambda x: x + keras.ops.relu(x)),
    }
    for name in names or models:
        keras.utils.set_random_seed(0)
        model = models[name]()
        shape = (4, *model.input_shape[1:])
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        try:
            reports = [
                anyinit.initialize(model, input_spec=x, seed=seed)
                for seed in range(NETWORKS.get(name, _OTHERS))
            ]
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        rows = [[row.measured for row in report.layers] for report in reports]
        measured = np.array(rows, dtype=float)
        predicted = np.array(
            [row.predicted for row in reports[0].layers], dtype=float
        )
        known = np.isfinite(predicted) & np.isfinite(measured).all(axis=0)
        print_row(name, predicted[known], measured[:, known], len(known))


def neural_tangents(path: Path) -> None:
    """Prints what neural-tangents predicts, for the MLP and the plain CNN."""
    import jax
    from neural_tangents import stax

    jax.config.update("jax_enable_x64", True)
    drawn = json.loads(path.read_text())

    def numerical(function: Any) -> Any:
        return stax.ElementwiseNumerical(function, deg=50)

    activations = [
        *(stax.Relu(), numerical(jax.numpy.tanh), stax.Gelu()),
        *(numerical(jax.nn.silu), numerical(jax.nn.elu)),
        *(numerical(jax.nn.softplus), stax.LeakyRelu(0.2)),
    ]
    dense, convolutions = [], []
    for i in range(10):
        dense.append((stax.Dense(1024, W_std=1.0, b_std=0.0),))
        dense[-1] += (activations[i % 7],)
    for i in range(6):
        strides = (2, 2) if i == 3 else (1, 1)
        kernel = stax.Conv(
            640, (3, 3), strides, "SAME", W_std=2**0.5, b_std=0.0
        )
        convolutions.append((kernel, stax.Relu()))

    def head(inputs: int) -> Any:
        # The last layer has the variance of Glorot, others 1 or 2 / inputs.
        gain = (2 * inputs / (inputs + 64)) ** 0.5
        return stax.Dense(64, W_std=gain, b_std=0.0)

    for name, blocks, ends, shape in (
        ("MLP, 7 activations", dense, [head(1024)], (4, 64)),
        (
            "plain CNN, 640 filters",
            convolutions,
            [stax.GlobalAvgPool(), head(640)],
            (4, 8, 8, 3),
        ),
    ):
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        # The mean over positions of what two samples have at one of them.
        mean = [stax.Flatten()] if len(shape) > 2 else []
        before: list[Any] = []
        networks: list[list[Any]] = []
        for linear, activation in blocks:
            networks.append([*before, linear, *mean])
            before += [linear, activation]
        networks.append([*before, *ends])
        predicted = []
        for layers in networks:
            network = stax.serial(*layers)[2]
            kernel = np.array(network(x.astype(float), None, "nngp"))
            total = np.trace(kernel) / 4
            covariance = (kernel.sum() - np.trace(kernel)) / 12
            predicted.append([total, total - covariance])
        total, differs = np.array(predicted).T
        rows = np.array([network["rows"] for network in drawn[name]])
        print_row(f"{name}: total", total, rows[:, :, 0], len(total))
        fractions = rows[:, :, 1] / rows[:, :, 0].mean(axis=0)
        print_row(
            f"{name}: 1 - correlation", differs / total, fractions, len(total)
        )


def print_row(
    name: str, predicted: np.ndarray, rows: np.ndarray, count: int
) -> None:
    """Prints errors of a prediction, and standard errors, of each row.

    Args:
        name: str. The model.
        predicted: Array of shape `(rows,)`.
        rows: Array of shape `(networks, rows)`. What was measured.
        count: int. The number of rows that there are.
    """
    mean = rows.mean(axis=0)
    noise = rows.std(axis=0, ddof=1) / len(rows) ** 0.5 / mean
    error = predicted / mean - 1
    print(
        f"{name}: {len(rows)} networks, {len(predicted)} of {count} rows, "
        f"median {np.median(np.abs(error)):.1%} "
        f"(s.e. {np.median(noise):.1%}); last row {predicted[-1]:.3g}, "
        f"drawn {mean[-1]:.3g}",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "anyinit":
        anyinit(sys.argv[2:])
    else:
        neural_tangents(Path(sys.argv[2]))
