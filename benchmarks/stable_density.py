"""How fast and how accurate are densities of stable distributions?

    keras_initx   AlphaStable, compiled by tf.function and by XLA
    SciPy         scipy.stats.levy_stable, in its parameterization S0
    Pyro          pyro.distributions.Stable, which has no distribution function

Points are samples, each of a distribution of its own, with a stability between
0.3 and 2 and a skewness between -1 and 1. A time is that of a batch over its
number of points, and ratios are taken within paired rounds (see paired.py).
Memory is the peak of a process of its own, above its memory after a batch of a
sixteenth of the points. The time of the first call, which compiles, is in a
column of its own. The error is the largest |difference| of the density, or of
the distribution function, from the tests' reference values, which are accurate
to 16 digits and include tails and the ends of supports. A last table has the
quantile and the mode, which are roots, beside the distribution function.

Run `python benchmarks/stable_density.py`. Pyro and PyTorch are not requirements
of keras_initx: install them by `pip install pyro-ppl torch` to have them in the
table.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import paired
import scipy.stats
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.table import Table

import keras_initx as kx

REFERENCE = (
    Path(__file__).parents[1]
    / "tests"
    / "distributions"
    / "stable_reference.csv"
)
QUANTITIES = {"log_prob": "log_density", "cdf": "log_cdf"}
KERAS_INITX = "keras_initx, tf.function"

# Takes x, stability and skewness, and returns log_prob or cdf.
Function = Callable[[np.ndarray, np.ndarray, np.ndarray], object]


def keras_initx_function(quantity: str, xla: bool) -> Function:
    @tf.function(jit_compile=xla)
    def compute(x, stability, skewness):
        distribution = kx.distributions.AlphaStable(stability, skewness)
        return getattr(distribution, quantity)(x)

    return lambda *arguments: compute(*map(tf.constant, arguments)).numpy()


def scipy_function(quantity: str) -> Function:
    scipy.stats.levy_stable.parameterization = "S0"
    name = {"log_prob": "logpdf", "cdf": "cdf"}[quantity]
    return getattr(scipy.stats.levy_stable, name)


def pyro_function(quantity: str) -> Function | None:
    if importlib.util.find_spec("pyro") is None or quantity == "cdf":
        return None
    import pyro.distributions
    import torch

    def compute(x, stability, skewness):
        distribution = pyro.distributions.Stable(
            torch.tensor(stability), torch.tensor(skewness)
        )
        return distribution.log_prob(torch.tensor(x)).numpy()

    return compute


# name: (quantity -> its function, points in a batch)
WAYS: dict[str, tuple[Callable[[str], Function | None], int]] = {
    KERAS_INITX: (
        lambda quantity: keras_initx_function(quantity, xla=False),
        2**16,
    ),
    "keras_initx, XLA": (
        lambda quantity: keras_initx_function(quantity, xla=True),
        2**16,
    ),
    "SciPy levy_stable": (scipy_function, 2**9),
    "Pyro Stable": (pyro_function, 2**12),
}


def points(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns random x, stability and skewness."""
    rng = np.random.default_rng(0)
    stability = rng.uniform(0.3, 2, count)
    skewness = rng.uniform(-1, 1, count)
    distribution = kx.distributions.AlphaStable(stability, skewness)
    return distribution.sample(seed=[1, 2]).numpy(), stability, skewness


def largest_error(function: Function, quantity: str) -> str:
    """Returns the largest error, and how many values are non-finite."""
    with open(REFERENCE, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("z", "stability", "skewness", QUANTITIES[quantity])
    x, stability, skewness, logarithm = (
        np.array([float(row[name]) for row in rows]) for name in columns
    )
    with np.errstate(all="ignore"):
        values = np.asarray(function(x, stability, skewness))
        values = np.exp(values) if quantity == "log_prob" else values
        error = np.abs(values - np.exp(logarithm))
    non_finite = np.count_nonzero(~np.isfinite(error))
    largest = f"{np.nanmax(error[np.isfinite(error)]):.1e}"
    if non_finite:
        largest += f", {non_finite} of {len(error)} non-finite"
    return largest


def print_memory(quantity: str, way: str) -> None:
    build, count = WAYS[way]
    function = build(quantity)
    function(*points(count // 16))
    batch = points(count)
    print(paired.memory_peak(lambda: function(*batch)))


def print_first(quantity: str, way: str) -> None:
    build, count = WAYS[way]
    batch = points(count)
    function = build(quantity)
    start = time.perf_counter()
    function(*batch)
    print(time.perf_counter() - start)


def compare(quantity: str, ways: list[str], rounds: int) -> None:
    """Prints the table of a quantity."""
    functions = {
        way: function
        for way in ways
        if (function := WAYS[way][0](quantity)) is not None
    }
    batches = {way: points(WAYS[way][1]) for way in functions}
    runs = {
        way: (lambda function=function, batch=batches[way]: function(*batch))
        for way, function in functions.items()
    }
    seconds = paired.times(runs, rounds)
    each = {way: s * 1e6 / WAYS[way][1] for way, s in seconds.items()}
    first = paired.printed_numbers(__file__, "--first-of", runs, quantity)
    memory = paired.printed_numbers(__file__, "--memory-of", runs, quantity)
    table = Table(box=box.MARKDOWN)
    table.add_column(quantity, no_wrap=True)
    heads = (
        "points",
        "us a point",
        "/ keras_initx",
        "largest error",
        "MiB",
        "first",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for way in ways:
        if way in functions:
            table.add_row(
                way,
                str(WAYS[way][1]),
                f"{np.median(each[way]):.3g}",
                paired.median_and_quartiles(each[way] / each[KERAS_INITX]),
                largest_error(functions[way], quantity),
                f"{memory[way]:.0f}",
                f"{first[way]:.1f} s",
            )
        else:
            table.add_row(way, "not installed, or not available")
    Console(width=160, color_system=None).print(table)


def compare_roots(rounds: int) -> None:
    """Prints the table of quantiles and modes, beside the cdf."""
    count = 2**16
    x, stability, skewness = points(count)
    p = np.random.default_rng(1).uniform(size=count)
    distribution = kx.distributions.AlphaStable(stability, skewness)
    calls = {
        "cdf": lambda: distribution.cdf(x).numpy(),
        "quantile": lambda: distribution.quantile(p).numpy(),
        "mode": lambda: distribution.mode().numpy(),
    }
    first = {}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        first[name] = time.perf_counter() - start
    seconds = paired.times(calls, rounds)
    table = Table(box=box.MARKDOWN)
    for head in ("roots, eager", "us a point", "/ cdf", "first"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, each in seconds.items():
        table.add_row(
            name,
            f"{np.median(each) * 1e6 / count:.3g}",
            paired.median_and_quartiles(each / seconds["cdf"]),
            f"{first[name]:.1f} s",
        )
    Console(width=160, color_system=None).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quantity", choices=QUANTITIES, nargs="+", default=list(QUANTITIES)
    )
    parser.add_argument(
        "--way",
        choices=WAYS,
        nargs="+",
        default=list(WAYS),
        help=f"what to compare with {KERAS_INITX!r}",
    )
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--first-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if options.memory_of:
        print_memory(*options.memory_of)
    elif options.first_of:
        print_first(*options.first_of)
    else:
        ways = [way for way in WAYS if way in (KERAS_INITX, *options.way)]
        for quantity in options.quantity:
            compare(quantity, ways, options.rounds)
        compare_roots(options.rounds)


if __name__ == "__main__":
    main()
