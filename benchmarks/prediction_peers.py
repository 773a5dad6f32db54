"""How far are the predictions of other packages from drawn networks?

anyinit reports the mean square behind each layer that it predicts for the
weights that it draws, beside the one that it measures. neural-tangents has
total and correlation of a network that is written in its own layers, which is
done here for the MLP of `prediction.py`, and compared with the networks that
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

NETWORKS = {"MLP, 7 activations": 24, "x + x": 12, "x + relu(x)": 12}


def anyinit() -> None:
    """Prints what anyinit predicts, for three models."""
    import anyinit
    import keras
    import prediction

    def merged(merge: Any) -> Any:
        inputs = keras.Input((64,))
        x = keras.layers.Dense(1024)(inputs)
        return keras.Model(inputs, keras.layers.Dense(1024)(merge(x)))

    models = {
        "MLP, 7 activations": prediction.mlp,
        "x + x": lambda: merged(lambda x: x + x),
        "x + relu(x)": lambda: merged(lambda x: x + keras.ops.relu(x)),
    }
    for name, build in models.items():
        keras.utils.set_random_seed(0)
        model = build()
        x = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
        reports = [
            anyinit.initialize(model, input_spec=x, seed=seed)
            for seed in range(NETWORKS[name])
        ]
        predicted = np.array([row.predicted for row in reports[0].layers])
        measured = [[row.measured for row in r.layers] for r in reports]
        print_row(name, predicted, np.array(measured, dtype=float))


def neural_tangents(path: Path) -> None:
    """Prints what neural-tangents predicts, for the MLP."""
    import jax
    from neural_tangents import stax

    jax.config.update("jax_enable_x64", True)
    name = "MLP, 7 activations"
    networks = json.loads(path.read_text())[name]
    rows = np.array([network["rows"] for network in networks])

    def numerical(function: Any) -> Any:
        return stax.ElementwiseNumerical(function, deg=50)

    activations = [
        *(stax.Relu(), numerical(jax.numpy.tanh), stax.Gelu()),
        *(numerical(jax.nn.silu), numerical(jax.nn.elu)),
        *(numerical(jax.nn.softplus), stax.LeakyRelu(0.2)),
    ]
    x = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    layers, predicted = [], []
    count = rows.shape[1]
    for i in range(count):
        # The last layer has the variance of Glorot, others 1 / inputs.
        gain = (2 * 1024 / (1024 + 64)) ** 0.5 if i == count - 1 else 1.0
        layers.append(stax.Dense(1024, W_std=gain, b_std=0.0))
        kernel = np.array(
            stax.serial(*layers)[2](x.astype(float), None, "nngp")
        )
        total = np.trace(kernel) / 4
        covariance = (kernel.sum() - np.trace(kernel)) / 12
        predicted.append([total, total - covariance])
        layers.append(activations[i % 7])
    total, differs = np.array(predicted).T
    print_row(f"{name}: total", total, rows[:, :, 0])
    fractions = rows[:, :, 1] / rows[:, :, 0].mean(axis=0)
    print_row(f"{name}: 1 - correlation", differs / total, fractions)


def print_row(name: str, predicted: np.ndarray, rows: np.ndarray) -> None:
    """Prints errors of a prediction, and standard errors, of each row."""
    mean = rows.mean(axis=0)
    noise = rows.std(axis=0, ddof=1) / len(rows) ** 0.5 / mean
    error = predicted / mean - 1
    print(
        f"{name}: median {np.median(np.abs(error)):.1%} "
        f"(s.e. {np.median(noise):.1%}); last row {predicted[-1]:.3g}, "
        f"drawn {mean[-1]:.3g}",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "anyinit":
        anyinit()
    else:
        neural_tangents(Path(sys.argv[2]))
