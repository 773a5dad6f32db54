"""What does a DepthProcess cost, compared with independent weights?

Builds L dense layers, 64 wide, with HeNormal and with the initializers of a
DepthProcess, whose weights are correlated over depth. The table shows the
milliseconds a layer, and their ratio to HeNormal at the same L and to the same
initializer at the smallest L, in paired rounds (see paired.py). Memory is the
peak of a process that builds the layers once, above its memory before, less the
weights themselves.

Run `python benchmarks/depth_process.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import paired
from rich import box
from rich.console import Console
from rich.table import Table

from keras_initx.initializers import DepthProcess

WIDTH = 64
DEPTHS = (100, 1000, 4000)
BASE = "keras HeNormal"

# name: depth -> (index of a layer -> its initializer)
WAYS: dict[str, Callable[[int], Callable[[int], keras.Initializer]]] = {
    BASE: lambda depth: lambda index: keras.initializers.HeNormal(),
    "DepthProcess, white": lambda depth: DepthProcess(depth).at,
    "DepthProcess, smooth": lambda depth: DepthProcess(depth, "smooth").at,
    "DepthProcess, fractional": lambda depth: (
        DepthProcess(depth, "fractional", hurst=0.7).at
    ),
}


def build(way: str, depth: int) -> list[keras.layers.Layer]:
    """Returns built layers."""
    at = WAYS[way](depth)
    layers = []
    for index in range(depth):
        layer = keras.layers.Dense(WIDTH, kernel_initializer=at(index))
        layer.build((None, WIDTH))
        layers.append(layer)
    return layers


def print_memory(depth: str, way: str) -> None:
    build(way, 3)
    weights = int(depth) * (WIDTH + 1) * WIDTH * 4 / 2**20
    print(paired.memory_peak(lambda: build(way, int(depth))) - weights)


def compare(depths: list[int], rounds: int) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("weights", no_wrap=True)
    for head in (
        "L",
        "ms a layer",
        f"/ {BASE}",
        f"/ L = {depths[0]}",
        "MiB beyond",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    smallest = {}
    for depth in depths:
        runs = {way: (lambda way=way: build(way, depth)) for way in WAYS}  # noqa: B023
        seconds = paired.times(runs, rounds)
        memory = paired.printed_numbers(
            __file__, "--memory-of", WAYS, str(depth)
        )
        for way in WAYS:
            each = seconds[way] * 1e3 / depth
            smallest.setdefault(way, np.median(each))
            table.add_row(
                way,
                str(depth),
                f"{np.median(each):.2f}",
                paired.median_and_quartiles(seconds[way] / seconds[BASE]),
                f"{np.median(each) / smallest[way]:.2f}",
                f"{memory[way]:.0f}",
            )
    print(f"Dense layers {WIDTH} wide, median of {rounds} paired rounds.")
    Console(width=160, color_system=None).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=list(DEPTHS),
        help="numbers of layers, the smallest first",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        print_memory(*options.memory_of)
    else:
        compare(options.depths, options.rounds)


if __name__ == "__main__":
    main()
