"""What does SampleVarianceDecay cost a training on one and several replicas?

One `fit` runs under each strategy. Every other epoch ends with a measurement on
a fiftieth of the epoch's samples. The table shows the seconds of the callback
over those of the epoch before, which has no measurement, and the seconds of the
whole epoch over those of the one before, which would also show a slower
training, but has the noise of two epochs. Replicas are logical CPUs and workers
are processes, each run in processes of its own. All share the cores of one
machine, so more of them train no faster.

Run `python benchmarks/distributed.py`; `--help` lists the nets.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import paired
import report
import tensorflow as tf
from measure import conv_net, dense_net

import keras_initx as kx

# name: (model, samples in a step, steps in an epoch)
NETS = {
    "20 conv, 16 channels of 16x16": (lambda: conv_net(16, 16), 32, 50),
    "50 dense, 256 wide": (lambda: dense_net(256), 256, 50),
}
PLACES = ("1 replica", "2 replicas", "4 replicas", "2 workers")


class EveryOtherEpoch(kx.callbacks.SampleVarianceDecay):
    """Measures after epochs 1, 3, 5, ... and records times.

    `epoch_seconds` has the seconds of every epoch, `callback_seconds` those
    that the callback took at its end.
    """

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.epoch_seconds, self.callback_seconds = [], []

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        trained = time.perf_counter()
        if epoch % 2:
            super().on_epoch_end(epoch, logs)
        ended = time.perf_counter()
        self.epoch_seconds.append(ended - self.start)
        self.callback_seconds.append(ended - trained)


def cost(net: str, place: str, rounds: int, batch_size: int | None) -> str:
    """Returns the last four cells of a row of the table, separated by "|".

    Args:
        net: str. A key of `NETS`.
        place: str. One of `PLACES`.
        rounds: int. Number of pairs of epochs.
        batch_size: int. Samples in a batch of the measurement, by default as
            many as in a step of training.
    """
    number, kind = place.split()
    several = kind.startswith("replica") and int(number) > 1
    if several:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * int(number),
        )
    strategy = kx.distribute.get_strategy("mirrored" if several else "auto")
    build, batch, steps = NETS[net]
    with strategy.scope():
        model = build()
        model.compile(keras.optimizers.SGD(1e-6), "mse")
    shape = model.input_shape[1:]
    x = np.random.default_rng(0).normal(size=(batch * steps, *shape))
    x = x.astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, x)).batch(batch)
    callback = EveryOtherEpoch(
        x[: len(x) // 50], batch_size=batch_size or batch, verbose=0
    )
    kx.distribute.fit(
        model, data, epochs=2 * rounds + 2, callbacks=[callback], verbose=0
    )
    without, with_callback = np.reshape(
        callback.epoch_seconds[2:], (rounds, 2)
    ).T
    inside = np.array(callback.callback_seconds[3::2])
    return "|".join(
        [
            f"{1000 * np.median(without):.0f} ms",
            f"{1000 * np.median(inside):.0f} ms",
            paired.median_and_quartiles(inside / without, digits=3),
            paired.median_and_quartiles(with_callback / without),
        ]
    )


def run(*arguments: str, workers: int) -> str:
    """Runs this script in one process for each worker.

    Returns:
        The last line that the first of the processes prints.
    """
    # All sockets stay open until all ports are known, so that no port is
    # chosen twice.
    with contextlib.ExitStack() as sockets:
        ports = []
        for _ in range(workers):
            free = sockets.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for i in range(workers):
        environment = dict(os.environ)
        if workers > 1:
            task = {"type": "worker", "index": i}
            environment["TF_CONFIG"] = json.dumps(
                {"cluster": cluster, "task": task}
            )
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [process.communicate(timeout=1800) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, outputs, strict=True):
        if process.returncode:
            sys.exit(error)
    return outputs[0][0].splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, nargs="+", default=list(NETS))
    parser.add_argument(
        "--place", choices=PLACES, nargs="+", default=list(PLACES)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--probe-batch-size",
        type=int,
        help="samples in a batch of the measurement, by default as many as in "
        "a step of training",
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(
            cost(args.net[0], args.place[0], args.rounds, args.probe_batch_size)
        )
        return
    rows, options = [], ["--rounds", str(args.rounds)]
    if args.probe_batch_size:
        options += ["--probe-batch-size", str(args.probe_batch_size)]
    for net in args.net:
        for place in args.place:
            number, kind = place.split()
            cells = run(
                *("--here", "--net", net, "--place", place),
                *options,
                workers=int(number) if kind == "workers" else 1,
            )
            rows.append([net, place, *cells.split("|")])
    report.print_table(
        "Time of the callback and of an epoch with it, over an epoch without",
        [
            "net",
            "on",
            "epoch without",
            "callback",
            "callback / epoch",
            "epoch with / without",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
