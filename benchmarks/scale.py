"""How do measuring and calibrating grow with depth, and what do they send?

Dense nets of 10, 100 and 1000 layers, one pass over the same samples. The first
call traces and compiles; later ones are the median of rounds. What crosses the
wire is counted from the tensors themselves: what leaves a replica for each
batch, and the one message between workers.

Run `python benchmarks/scale.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import shown
import tensorflow as tf
from measure import dense_net

import keras_initx as kx
from keras_initx.signal.probe import Probe
from keras_initx.signal.selection import selectors

WIDTH, SAMPLES = 256, 256
DEPTHS = (10, 100, 1000)


OPERATIONS = {
    "measure": lambda model, x: kx.measure(model, x, batch_size=SAMPLES),
    "calibrate": kx.calibrate,
}


def growth(depths: list[int], rounds: int) -> list[list[object]]:
    rows = []
    x = np.random.default_rng(0).normal(size=(SAMPLES, WIDTH))
    x = x.astype(np.float32)
    for name, run in OPERATIONS.items():
        for depth in depths:
            model = dense_net(WIDTH, depth)
            start = time.perf_counter()
            run(model, x)
            first = time.perf_counter() - start
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                run(model, x)
                seconds.append(time.perf_counter() - start)
            later = float(np.median(seconds))
            rows.append([name, depth, first, 1000 * later, 1e6 * later / depth])
    return rows


def sent(depth: int) -> tuple[int, int]:
    """Bytes that leave a replica a batch, and a worker a batch."""
    model = dense_net(WIDTH, depth)
    probe = Probe(model, training=False)
    probe._wanted = selectors(None)
    layers, finite, _ = probe._forward(tf.zeros((2, WIDTH)), (), [], [], [])
    leaves = [*tf.nest.flatten(layers), finite]
    of_replica = sum(leaf.dtype.size * int(tf.size(leaf)) for leaf in leaves)
    units = sum(int(layer.mean.shape[0]) for layer in layers)
    return of_replica, 8 * (units + 2 * len(layers) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    # Keras walks a model recursively when it builds it.
    sys.setrecursionlimit(20 * max(args.depths) + 1000)
    shown.show(
        f"Dense nets {WIDTH} wide, {SAMPLES} samples",
        ["", "layers", "first call, s", "later, ms", "later, us a layer"],
        growth(args.depths, args.rounds),
    )
    rows = []
    for depth in args.depths:
        of_replica, of_worker = sent(depth)
        for replicas in (1, 2, 4):
            rows.append([depth, replicas, replicas * of_replica, of_worker])
    shown.show(
        f"Bytes a batch, {WIDTH} units a layer",
        ["layers", "replicas", "from the replicas", "from each worker"],
        rows,
    )


if __name__ == "__main__":
    main()
