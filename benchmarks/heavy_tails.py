"""What does it cost to sample a heavy-tailed distribution?

    draws     4096 x 4096 values in float32 on the CPU, from several libraries:
              the time over that of keras.initializers.HeNormal, and the memory
              beyond the result
    finite    how many of 10^9 stable values are NaN or infinite, in float32
              and in float16, for stabilities from 0.3 to 2

Ratios of times are taken within paired rounds (see paired.py). Memory is the
peak of a process of its own, above its memory after a sample of 1024 x 1024,
less the result: so libraries and compiled code do not count. The time of the
first sample, which includes compilation, is in a column of its own.

Run `python benchmarks/heavy_tails.py [PART ...]`. Pyro and PyTorch are not
requirements of keras_initx: install them by `pip install pyro-ppl torch` to
have them in the table.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import paired
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from rich import box
from rich.console import Console
from rich.table import Table

import keras_initx as kx

SIZE = 4096
STABILITY = 1.5
BASE = "keras HeNormal"
KERAS_INITX = "keras_initx AlphaStable"

Draw = Callable[[tuple[int, int]], object]


def keras_draw(initializer: keras.Initializer) -> Draw:
    return lambda shape: initializer(shape, "float32")


def tfp_draw(distribution: tfp.distributions.Distribution) -> Draw:
    return lambda shape: distribution.sample(shape, seed=[1, 2])


def scipy_draw(skewness: float) -> Draw:
    def draw(shape):
        distribution = scipy.stats.levy_stable(STABILITY, skewness)
        values = distribution.rvs(shape, random_state=1)
        return values.astype(np.float32)

    return draw


def pyro_draw(skewness: float) -> Draw | None:
    if importlib.util.find_spec("pyro") is None:
        return None
    import pyro.distributions
    import torch

    distribution = pyro.distributions.Stable(
        torch.tensor(STABILITY), torch.tensor(skewness)
    )
    return lambda shape: distribution.sample(shape)


# Each is built only when it is used: in the process that times all of them, or
# in one of its own. None if the library is not installed.
WAYS: dict[str, Callable[[], Draw | None]] = {
    BASE: lambda: keras_draw(keras.initializers.HeNormal(seed=1)),
    "keras RandomNormal": lambda: keras_draw(
        keras.initializers.RandomNormal(seed=1)
    ),
    KERAS_INITX: lambda: tfp_draw(kx.distributions.AlphaStable(STABILITY)),
    f"{KERAS_INITX}, skewed": lambda: tfp_draw(
        kx.distributions.AlphaStable(STABILITY, 0.5)
    ),
    "TFP StudentT": lambda: tfp_draw(
        tfp.distributions.StudentT(STABILITY, 0.0, 1.0)
    ),
    "SciPy levy_stable": lambda: scipy_draw(0.0),
    "SciPy levy_stable, skewed": lambda: scipy_draw(0.5),
    "Pyro Stable": lambda: pyro_draw(0.0),
    "Pyro Stable, skewed": lambda: pyro_draw(0.5),
}


def print_memory(way: str, size: int) -> None:
    draw = WAYS[way]()
    draw((1024, 1024))
    result = size**2 * 4 / 2**20
    print(paired.memory_peak(lambda: draw((size, size))) / result - 1)


def print_first(way: str) -> None:
    draw = WAYS[way]()
    start = time.perf_counter()
    draw((1024, 1024))
    print((time.perf_counter() - start) * 1e3)


def draws(rounds: int, size: int) -> None:
    """Prints time and memory of a sample of `size` x `size` values."""
    runs = {
        way: (lambda draw=draw: draw((size, size)))
        for way, build in WAYS.items()
        if (draw := build()) is not None
    }
    seconds = paired.times(runs, rounds)
    memory = paired.printed_numbers(
        __file__, f"--size={size}", runs, "--memory-of"
    )
    first = paired.printed_numbers(__file__, "--first-of", runs)
    table = Table(box=box.MARKDOWN)
    table.add_column("draw", no_wrap=True)
    for head in ("ms", f"/ {BASE}", "memory / result", "first 1024^2, ms"):
        table.add_column(head, justify="right", no_wrap=True)
    for way in WAYS:
        if way in runs:
            table.add_row(
                way,
                f"{np.median(seconds[way]) * 1e3:.0f}",
                paired.median_and_quartiles(seconds[way] / seconds[BASE]),
                f"{memory[way]:.2f}",
                f"{first[way]:.0f}",
            )
        else:
            table.add_row(way, "not installed")
    print(
        f"{size} x {size} in float32, stability {STABILITY} (StudentT: its df)."
        f" Times: median of {rounds} paired rounds (quartiles of the ratio)."
    )
    Console(width=160, color_system=None).print(table)


def finite(total: int, size: int) -> None:
    """Counts non-finite values, of several stabilities and skewnesses."""
    shapes = list(itertools.product(np.linspace(0.3, 2, 20), (0.0, 0.5, 1.0)))
    each = -(-total // (len(shapes) * size**2))
    table = Table("dtype", "values", "NaN", "inf", "clipped", box=box.MARKDOWN)
    for dtype in (tf.float32, tf.float16):
        counts = np.zeros(4, np.int64)
        for i, (stability, skewness) in enumerate(shapes):
            distribution = kx.distributions.AlphaStable(
                dtype.as_numpy_dtype(stability),
                0.0 if skewness == 0 else dtype.as_numpy_dtype(skewness),
            )
            for j in range(each):
                x = distribution.sample((size, size), seed=[i, j])
                counts += [
                    size**2,
                    np.count_nonzero(tf.math.is_nan(x)),
                    np.count_nonzero(tf.math.is_inf(x)),
                    np.count_nonzero(tf.abs(x) == dtype.max),
                ]
        table.add_row(dtype.name, *map(str, counts))
    Console(width=160, color_system=None).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = {
        "draws": lambda options: draws(options.rounds, options.size),
        "finite": lambda options: finite(options.values, options.size),
    }
    parser.add_argument(
        "part", nargs="*", metavar="PART", help=", ".join(parts)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--size",
        type=int,
        default=SIZE,
        help="a sample has this number of values, squared",
    )
    parser.add_argument(
        "--values",
        type=int,
        default=10**9,
        help="number of values of the part `finite`",
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--first-of", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        print_memory(options.memory_of, options.size)
    elif options.first_of:
        print_first(options.first_of)
    else:
        for part in options.part or parts:
            parts[part](options)


if __name__ == "__main__":
    main()
