"""What does it cost to measure a model, compared with running it?

Four ways run the same batches through the same model:

    forward   the compiled forward pass alone; its outputs are not kept
    measure   a keras_initx.Meter, which like the others is compiled once
    predict   `predict` of a model with every layer as an output, then np.var
    copy      the same model compiled, its outputs copied to NumPy, then np.var

Ratios of times are taken within paired rounds (see paired.py). Memory is the
peak of a process of its own that runs one way, above that of a process that
builds only the model and the data.

`--first` shows what the first call on a fresh model costs instead, tracing and
compiling included: `measure` and `predict` on the same data, each in processes
of their own, in CPU time.

`--shares` shows what the shares of dead and saturated units add: a pass that
keeps them against one that does not, in CPU time.

`--gradient` shows what `gradient=True` costs: a pass forward and backward
against a training step of Keras on the same batch, in CPU time, and the peak of
the memory of both, each in a process of its own.

Run `python benchmarks/measure.py`; `--help` lists the nets.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import paired
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.table import Table

import keras_initx as kx
from keras_initx.measurement import forward

WAYS = ("forward", "measure", "predict", "copy")


def dense_net(
    width: int, depth: int = 50, activation: str = "relu"
) -> keras.Model:
    layers = [
        keras.layers.Dense(width, activation, kernel_initializer="he_normal")
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


def conv_net(channels: int, size: int, depth: int = 20) -> keras.Model:
    layers = [
        keras.layers.Conv2D(
            channels,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
        )
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((size, size, channels)), *layers])


# name: (model, samples in a batch, number of batches)
NETS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {
    "20 conv, 64 channels of 64x64": (lambda: conv_net(64, 64), 16, 2),
    "the same, 64 samples at once": (lambda: conv_net(64, 64), 64, 1),
    "20 conv, 128 channels of 32x32": (lambda: conv_net(128, 32), 32, 2),
    "50 dense, 256 wide": (lambda: dense_net(256), 1024, 4),
    "50 dense, 1024 wide": (lambda: dense_net(1024), 1024, 2),
    "50 dense, 2048 wide": (lambda: dense_net(2048), 1024, 1),
}


# name: (model, samples)
FIRST: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "50 dense, 64 wide": (lambda: dense_net(64), 256),
    "50 dense, 256 wide": (lambda: dense_net(256), 256),
    "50 dense, 1024 wide": (lambda: dense_net(1024), 256),
    "1000 dense, 64 wide": (lambda: dense_net(64, 1000), 256),
    "ResNet50 at 224 x 224": (
        lambda: keras.applications.ResNet50(weights=None),
        32,
    ),
}


# name: (model, samples in one batch)
SHARES: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "20 dense, 1024 wide, relu": (lambda: dense_net(1024, 20), 1024),
    "20 dense, 1024 wide, tanh": (lambda: dense_net(1024, 20, "tanh"), 1024),
    "10 dense, 2048 wide, relu": (lambda: dense_net(2048, 10), 1024),
    "10 conv, 64 channels of 32x32, relu": (lambda: conv_net(64, 32, 10), 64),
}


# name: (model, samples in one batch)
GRADIENT: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "50 dense, 1024 wide, with gradients": (lambda: dense_net(1024), 256),
    "20 conv, 64 channels of 32x32, with gradients": (
        lambda: conv_net(64, 32),
        32,
    ),
    "ResNet50 at 64 x 64, with gradients": (
        lambda: keras.applications.ResNet50(
            weights=None, input_shape=(64, 64, 3)
        ),
        32,
    ),
}


def ways(
    model: keras.Model, batches: list[tf.Tensor]
) -> dict[str, Callable[[], object]]:
    """Returns a function for each way, which returns when it has finished."""
    data, samples = tf.concat(batches, axis=0), len(batches[0])
    forward = tf.function(lambda x: model(x, training=False))
    every_layer = keras.Model(
        model.inputs, [each.output for each in model.layers]
    )
    outputs = tf.function(lambda x: every_layer(x, training=False))

    def run_forward():
        for batch in batches:
            result = forward(batch)
        return float(tf.reshape(result, [-1])[0])

    def run_copy():
        copies = [[y.numpy() for y in outputs(batch)] for batch in batches]
        return [
            np.concatenate(layer).var(0).mean()
            for layer in zip(*copies, strict=True)
        ]

    def run_predict():
        outputs = every_layer.predict(data, batch_size=samples, verbose=0)
        return [y.var(0).mean() for y in outputs]

    meter = kx.Meter(model)
    return {
        "forward": run_forward,
        "measure": lambda: meter(data, batch_size=samples),
        "predict": run_predict,
        "copy": run_copy,
    }


def prepare(net: str) -> dict[str, Callable[[], object]]:
    """Returns the four ways for a net of the table."""
    build, samples, count = NETS[net]
    keras.utils.set_random_seed(0)
    model = build()
    shape = (samples, *model.input_shape[1:])
    return ways(model, [tf.random.normal(shape) for _ in range(count)])


def peak_memory(net: str) -> dict[str, float]:
    """Returns the MiB of a process that runs one way, above one without."""
    processes = ("nothing", *WAYS)
    peaks = paired.printed_numbers(__file__, "--memory-of", processes, net)
    return {way: peaks[way] - peaks["nothing"] for way in WAYS}


def print_memory(net: str, way: str) -> None:
    runs = prepare(net)
    if way in runs:
        runs[way]()
        runs[way]()
    print(paired.resident_memory())


def print_first(net: str, way: str) -> None:
    """Prints the CPU seconds of the first call on a fresh model."""
    build, samples = FIRST[net]
    # Keras traverses a model recursively when it builds it.
    sys.setrecursionlimit(20000)
    keras.utils.set_random_seed(0)
    model = build()
    data = np.random.default_rng(0).normal(
        size=(samples, *model.input_shape[1:])
    )
    start = time.process_time()
    if way == "measure":
        kx.measure(model, data)
    else:
        model.predict(data, verbose=0)
    print(time.process_time() - start)


def report_first(nets: list[str], rounds: int) -> None:
    table = Table(box=box.MARKDOWN)
    for head in ("net", "samples", "predict", "measure", "ratio"):
        table.add_column(
            head, justify="left" if head == "net" else "right", no_wrap=True
        )
    for net in nets:
        seconds = [
            paired.printed_numbers(
                __file__, "--first-of", ("predict", "measure"), net
            )
            for _ in range(rounds)
        ]
        predict, measure = (
            np.array([each[way] for each in seconds])
            for way in ("predict", "measure")
        )
        cells = [
            net,
            str(FIRST[net][1]),
            f"{np.median(predict):.2f} s",
            f"{np.median(measure):.2f} s",
            paired.median_and_quartiles(measure / predict),
        ]
        print(*cells, sep="  ", flush=True)
        table.add_row(*cells)
    print(
        "CPU time of the first call on a fresh model, in batches of 32: median "
        f"of {rounds} paired rounds (quartiles)."
    )
    Console(width=200, color_system=None).print(table)


def report_shares(nets: list[str], rounds: int) -> None:
    """Prints the time of a pass with the shares over one without."""
    table = Table(box=box.MARKDOWN)
    for head in ("net", "without the shares", "with them, over it"):
        table.add_column(
            head, justify="left" if head == "net" else "right", no_wrap=True
        )
    for net in nets:
        build, samples = SHARES[net]
        keras.utils.set_random_seed(0)
        model = build()
        x = np.random.normal(size=(samples, *model.input_shape[1:]))
        x = x.astype(np.float32)
        meters = {way: kx.Meter(model) for way in ("without", "with")}
        nothing = mock.patch.object(forward._Rows, "_keep", lambda *_: ())
        with nothing:
            meters["without"](x, batch_size=samples)
        seconds = paired.times(
            {
                way: functools.partial(meter, x, batch_size=samples)
                for way, meter in meters.items()
            },
            rounds,
            clock=time.process_time,
        )
        cells = [
            net,
            f"{np.median(seconds['without']):.2f} s",
            paired.median_and_quartiles(
                seconds["with"] / seconds["without"], digits=3
            ),
        ]
        print(*cells, sep="  ", flush=True)
        table.add_row(*cells)
    print(f"CPU time, median of {rounds} paired rounds (quartiles).")
    Console(width=200, color_system=None).print(table)


def gradient_ways(net: str) -> dict[str, Callable[[], object]]:
    """Returns a training step and a measurement of the same batch."""
    build, samples = GRADIENT[net]
    keras.utils.set_random_seed(0)
    model = build()
    # Small steps, so that the weights stay what they are.
    model.compile(keras.optimizers.SGD(1e-9), "mse", jit_compile=False)
    x = tf.random.normal((samples, *model.input_shape[1:]))
    y = tf.random.normal((samples, *model.output_shape[1:]))
    meter = kx.Meter(model, gradient=True, training=True)
    return {
        "training step": lambda: model.train_on_batch(x, y),
        "measure": functools.partial(meter, x, batch_size=samples),
    }


def print_gradient_memory(net: str, way: str) -> None:
    runs = gradient_ways(net)
    if way in runs:
        runs[way]()
        runs[way]()
    print(paired.resident_memory())


def report_gradient(nets: list[str], rounds: int) -> None:
    """Prints the time and the memory of gradients and of a training step."""
    table = Table(box=box.MARKDOWN)
    heads = (
        "net",
        "samples",
        "training step",
        "measure, over it",
        "MiB training step",
        "MiB measure",
    )
    for head in heads:
        table.add_column(
            head, justify="left" if head == "net" else "right", no_wrap=True
        )
    names = ("nothing", "training step", "measure")
    for net in nets:
        seconds = paired.times(
            gradient_ways(net), rounds, clock=time.process_time
        )
        peaks = paired.printed_numbers(
            __file__, "--gradient-memory-of", names, net
        )
        step = seconds["training step"]
        cells = [
            net.removesuffix(", with gradients"),
            str(GRADIENT[net][1]),
            f"{np.median(step):.2f} s",
            paired.median_and_quartiles(seconds["measure"] / step),
            *(f"{peaks[name] - peaks['nothing']:.0f}" for name in names[1:]),
        ]
        print(*cells, sep="  ", flush=True)
        table.add_row(*cells)
    print(
        f"CPU time, median of {rounds} paired rounds (quartiles). Peak of the "
        "memory of a training step and of `measure`, above that of a process "
        "with the model and data alone."
    )
    Console(width=200, color_system=None).print(table)


def report(nets: list[str], rounds: int) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("net", no_wrap=True)
    for head in ("forward", *WAYS[1:], *(f"MiB {way}" for way in WAYS)):
        table.add_column(head, justify="right", no_wrap=True)
    for net in nets:
        seconds = paired.times(prepare(net), rounds)
        cells = [f"{np.median(seconds['forward']) * 1e3:.0f} ms"]
        for way in WAYS[1:]:
            cells.append(
                paired.median_and_quartiles(seconds[way] / seconds["forward"])
            )
        cells += [f"{peak:.0f}" for peak in peak_memory(net).values()]
        table.add_row(net, *cells)
    print(
        f"Time over that of the forward pass: median of {rounds} paired rounds "
        "(quartiles).\n"
        "Memory: peak above that of a process with the model and data alone."
    )
    Console(width=200, color_system=None).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--net",
        action="append",
        choices=NETS | FIRST | SHARES | GRADIENT,
        help="only this net",
    )
    parser.add_argument(
        "--first", action="store_true", help="the first call on a fresh model"
    )
    parser.add_argument(
        "--shares", action="store_true", help="the cost of dead units"
    )
    parser.add_argument(
        "--gradient", action="store_true", help="the cost of gradients"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--first-of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--gradient-memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        print_memory(*options.memory_of)
    elif options.first_of:
        print_first(*options.first_of)
    elif options.gradient_memory_of:
        print_gradient_memory(*options.gradient_memory_of)
    elif options.gradient:
        report_gradient(options.net or list(GRADIENT), options.rounds)
    elif options.first:
        report_first(options.net or list(FIRST), options.rounds)
    elif options.shares:
        report_shares(options.net or list(SHARES), options.rounds)
    else:
        report(options.net or list(NETS), options.rounds)


if __name__ == "__main__":
    main()
