"""How do the costs of a Meter and of calibrate grow with depth?

Dense nets of 10, 100 and 1000 layers run once over the same samples. The first
call traces and compiles; the time of later calls is the median of rounds, both
in CPU time, on which the load of the machine has less influence. A
second table has the bytes that a distributed measurement sends, also for a
convolutional net: each replica sends its bytes for every batch, each worker
once. They are counted from the tensors.

Run `python benchmarks/scale.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report
import tensorflow as tf
from measure import dense_net

import keras_initx as kx
from keras_initx.inspection.selection import selectors
from keras_initx.measurement.forward import forward_pass
from keras_initx.measurement.moments import of_all_layers
from keras_initx.measurement.replicas import packed

WIDTH, SAMPLES = 256, 256
DEPTHS = (10, 100, 1000)
OPERATIONS = {
    "Meter": lambda model: partial(kx.Meter(model), batch_size=SAMPLES),
    "calibrate": lambda model: partial(kx.calibrate, model),
}


def growth(depths: list[int], rounds: int) -> list[list[object]]:
    """Returns the rows of the first table."""
    rows = []
    x = np.random.default_rng(0).normal(size=(SAMPLES, WIDTH))
    x = x.astype(np.float32)
    for name, operation in OPERATIONS.items():
        for depth in depths:
            run = operation(dense_net(WIDTH, depth))
            start = time.process_time()
            run(x)
            first = time.process_time() - start
            seconds = []
            for _ in range(rounds):
                start = time.process_time()
                run(x)
                seconds.append(time.process_time() - start)
            later = float(np.median(seconds))
            row = [name, depth, first, 1000 * later, 1e6 * later / depth]
            print(*row, sep="  ", flush=True)
            rows.append(row)
    return rows


def sent(model: keras.Model) -> tuple[int, int, int, int]:
    """Returns numbers of layers and units, and bytes per replica and worker."""

    def messages(batch):
        result = forward_pass(model, batch, selectors(None))
        return (
            (result.moments, result.outputs, result.finite),
            packed(
                of_all_layers(result.moments, result.outputs), result.finite
            ),
        )

    batch = tf.TensorSpec((SAMPLES, *model.input_shape[1:]))
    from_replica, from_worker = (
        tf.function(messages, autograph=False)
        .get_concrete_function(batch)
        .structured_outputs
    )
    shapes = [stack.mean.shape for stack in from_replica[0]]
    layers = sum(shape[0] for shape in shapes)
    units = sum(shape.num_elements() for shape in shapes)
    return layers, units, bytes_of(from_replica), bytes_of(from_worker)


def bytes_of(tensors: object) -> int:
    """Returns the bytes of all tensors in a nested structure."""
    return sum(
        x.dtype.size * x.shape.num_elements() for x in tf.nest.flatten(tensors)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    # Keras traverses a model recursively when it builds it.
    sys.setrecursionlimit(20 * max(args.depths) + 1000)
    report.print_table(
        f"Dense nets {WIDTH} wide, {SAMPLES} samples",
        ["", "layers", "first call, s", "later, ms", "later, us a layer"],
        growth(args.depths, args.rounds),
    )
    nets = {
        f"{depth} dense, {WIDTH} wide": dense_net(WIDTH, depth)
        for depth in args.depths
    }
    nets["ResNet50 at 224 x 224"] = keras.applications.ResNet50(weights=None)
    report.print_table(
        "Bytes per batch",
        ["", "layers", "units", "from each replica", "from each worker"],
        [[name, *sent(model)] for name, model in nets.items()],
    )


if __name__ == "__main__":
    main()
