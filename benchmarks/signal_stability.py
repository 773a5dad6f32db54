"""Where does the signal of a plain network end, by its activation?

`theory.signal_stability` is the factor by which a deviation of the total
variance from 1 grows in each layer of a wide plain network at the critical
scale of its weights. Random networks of finite width deviate from 1 by
themselves, so that above a factor of 1 the signal vanishes or explodes. The
networks are computed by NumPy.

Run `python benchmarks/signal_stability.py`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import numpy as np
import report

from keras_initx import theory
from keras_initx.theory.mean_field.activations import resolve

SAMPLES = 100
ACTIVATIONS = ("tanh", "selu", "elu", "relu", "mish", "gelu", "silu")


def last_total(
    activation: str, rng: np.random.Generator, depth: int, width: int
) -> float:
    """Returns the mean square of the last layer's pre-activations.

    The pre-activations of the first layer have mean square 1 in each sample.
    """
    phi = resolve(activation, {}).function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        deviation = np.sqrt(theory.critical_scale(activation) / width)
    z = rng.standard_normal((SAMPLES, width))
    z /= np.sqrt(np.mean(z * z, axis=1, keepdims=True))
    for _ in range(depth - 1):
        z = phi(z) @ (deviation * rng.standard_normal((width, width)))
    return float(np.mean(z * z))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, default=60)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args(argv)
    rows = []
    for activation in ACTIVATIONS:
        totals = [
            last_total(
                activation,
                np.random.default_rng(seed),
                options.depth,
                options.width,
            )
            for seed in range(options.seeds)
        ]
        slope = theory.signal_stability(activation)
        rows.append(
            [
                activation,
                f"{slope:.3f}",
                f"{slope ** (options.depth - 1):.2g}",
                *(f"{v:.2g}" for v in (min(totals), np.median(totals))),
                f"{max(totals):.2g}",
            ]
        )
    report.print_table(
        f"Total variance at layer {options.depth} of {options.seeds} plain "
        f"networks of width {options.width}, {SAMPLES} samples of total 1.",
        [
            *("activation", "growth a layer", "growth in all"),
            *("smallest", "median", "largest"),
        ],
        rows,
    )


if __name__ == "__main__":
    main()
