"""What does a stable density cost a point, and how far is it off?

    ours      keras_initx AlphaStable, compiled by tf.function and by XLA
    SciPy     scipy.stats.levy_stable, in its parameterization S0
    Pyro      pyro.distributions.Stable, which has no distribution function

The points are drawn from laws of their own, each with a stability between 0.3
and 2 and a skewness between -1 and 1. A time is that of a batch over its size,
and a ratio is taken within a round of all ways (see paired.py). Memory is the
highest resident size of a process of its own, above that after a batch of a
sixteenth of the points.
The first call, which compiles, is in a column of its own. Errors are against
the tests' reference values of 16 and more digits, tails and edges included, as
the largest of |difference| of the density and of the distribution function.

Run `python benchmarks/stable_density.py`. Pyro and PyTorch are not
requirements of ours: `pip install pyro-ppl torch` to have them in the table.
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
OURS = "keras_initx, tf.function"

# x, stability, skewness -> log_prob or cdf
Law = Callable[[np.ndarray, np.ndarray, np.ndarray], object]


def of_ours(quantity: str, xla: bool) -> Law:
    @tf.function(jit_compile=xla)
    def compute(x, stability, skewness):
        law = kx.distributions.AlphaStable(stability, skewness)
        return getattr(law, quantity)(x)

    return lambda *law: compute(*map(tf.constant, law)).numpy()


def of_scipy(quantity: str) -> Law:
    scipy.stats.levy_stable.parameterization = "S0"
    name = {"log_prob": "logpdf", "cdf": "cdf"}[quantity]
    return getattr(scipy.stats.levy_stable, name)


def of_pyro(quantity: str) -> Law | None:
    if importlib.util.find_spec("pyro") is None or quantity == "cdf":
        return None
    import pyro.distributions
    import torch

    def compute(x, stability, skewness):
        law = pyro.distributions.Stable(
            torch.tensor(stability), torch.tensor(skewness)
        )
        return law.log_prob(torch.tensor(x)).numpy()

    return compute


# name: (how to make it, points in a batch)
WAYS: dict[str, tuple[Callable[[str], Law | None], int]] = {
    OURS: (lambda quantity: of_ours(quantity, xla=False), 2**16),
    "keras_initx, XLA": (lambda quantity: of_ours(quantity, xla=True), 2**16),
    "SciPy levy_stable": (of_scipy, 2**9),
    "Pyro Stable": (of_pyro, 2**12),
}


def points(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    stability = rng.uniform(0.3, 2, count)
    skewness = rng.uniform(-1, 1, count)
    law = kx.distributions.AlphaStable(stability, skewness)
    return law.sample(seed=[1, 2]).numpy(), stability, skewness


def largest_error(law: Law, quantity: str) -> str:
    with open(REFERENCE, newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("z", "stability", "skewness", QUANTITIES[quantity])
    x, stability, skewness, logarithm = (
        np.array([float(row[name]) for row in rows]) for name in columns
    )
    with np.errstate(all="ignore"):
        found = np.asarray(law(x, stability, skewness))
        found = np.exp(found) if quantity == "log_prob" else found
        error = np.abs(found - np.exp(logarithm))
    lost = np.count_nonzero(~np.isfinite(error))
    worst = f"{np.nanmax(error[np.isfinite(error)]):.1e}"
    return worst + (f", {lost} of {len(error)} not finite" if lost else "")


def print_memory(quantity: str, way: str) -> None:
    build, count = WAYS[way]
    law = build(quantity)
    law(*points(count // 16))
    some = points(count)
    print(paired.peak_above_now(lambda: law(*some)))


def print_first(quantity: str, way: str) -> None:
    build, count = WAYS[way]
    some = points(count)
    law = build(quantity)
    start = time.perf_counter()
    law(*some)
    print(time.perf_counter() - start)


def compare(quantity: str, rounds: int) -> None:
    laws = {way: build(quantity) for way, (build, _) in WAYS.items()}
    laws = {way: law for way, law in laws.items() if law is not None}
    samples = {way: points(WAYS[way][1]) for way in laws}
    runs = {
        way: (lambda law=law, some=samples[way]: law(*some))
        for way, law in laws.items()
    }
    seconds = paired.times(runs, rounds)
    each = {way: s * 1e6 / WAYS[way][1] for way, s in seconds.items()}
    first = paired.numbers_of(__file__, "--first-of", runs, quantity)
    memory = paired.numbers_of(__file__, "--memory-of", runs, quantity)
    table = Table(box=box.MARKDOWN)
    table.add_column(quantity, no_wrap=True)
    heads = ("points", "us a point", "/ ours", "largest error", "MiB", "first")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for way in WAYS:
        if way in laws:
            table.add_row(
                way,
                str(WAYS[way][1]),
                f"{np.median(each[way]):.3g}",
                paired.spread(each[way] / each[OURS]),
                largest_error(laws[way], quantity),
                f"{memory[way]:.0f}",
                f"{first[way]:.1f} s",
            )
        else:
            table.add_row(way, "not installed, or has none")
    Console(width=160, color_system=None).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--first-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if options.memory_of:
        print_memory(*options.memory_of)
    elif options.first_of:
        print_first(*options.first_of)
    else:
        for quantity in QUANTITIES:
            compare(quantity, options.rounds)


if __name__ == "__main__":
    main()
