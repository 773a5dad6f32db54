"""What does it cost to measure a model on another backend of Keras?

    KERAS_BACKEND=jax python benchmarks/backends.py

The same batch runs through the same network in two ways:

    forward   the forward pass alone, compiled but on PyTorch
    measure   a keras_initx.Meter, which is compiled once as well

Each round runs both, and the ratio of their CPU times is taken within
a round. The table has the median and the quartiles of the ratios. The times of
the first call, tracing and compiling included, stand beside.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np
import paired

import keras_initx as kx


def dense_net(width: int, depth: int) -> keras.Model:
    layers = [
        keras.layers.Dense(width, "relu", kernel_initializer="he_normal")
        for _ in range(depth)
    ]
    return keras.Sequential([keras.Input((width,)), *layers])


def conv_net(channels: int, size: int, depth: int) -> keras.Model:
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


# name: (model, samples in one batch)
NETS: dict[str, tuple[Callable[[], keras.Model], int]] = {
    "20 dense, 1024 wide": (lambda: dense_net(1024, 20), 1024),
    "10 dense, 2048 wide": (lambda: dense_net(2048, 10), 1024),
    "10 conv, 64 channels of 32x32": (lambda: conv_net(64, 32, 10), 32),
}


def compiled_forward(model: keras.Model) -> Callable[[np.ndarray], object]:
    """Returns the bare forward pass, which waits for its result.

    It is compiled, but for that of PyTorch, which measures op by op too.
    """
    if keras.config.backend() == "jax":
        import jax

        @jax.jit
        def run(trainable, others, x):
            return model.stateless_call(trainable, others, x)[0]

        def forward(x):
            trainable = [v.value for v in model.trainable_variables]
            others = [v.value for v in model.non_trainable_variables]
            return run(trainable, others, x).block_until_ready()

        return forward
    if keras.config.backend() == "torch":
        import torch

        return torch.no_grad()(lambda x: model(x, training=False))
    import tensorflow as tf

    return tf.function(lambda x: model(x, training=False), autograph=False)


def cpu_seconds(function: Callable[[], object]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def report(name: str, rounds: int) -> str:
    """Returns the row of a net."""
    make, samples = NETS[name]
    keras.utils.set_random_seed(0)
    model = make()
    x = np.random.default_rng(0).normal(size=(samples, *model.input_shape[1:]))
    x = keras.ops.convert_to_tensor(x.astype("float32"))
    meter = kx.Meter(model)
    forward = compiled_forward(model)
    ways = {
        "forward": lambda: forward(x),
        "measure": lambda: meter(x, batch_size=samples),
    }
    first = {way: cpu_seconds(run) for way, run in ways.items()}
    seconds = paired.times(ways, rounds, time.process_time)
    ratios = np.divide(seconds["measure"], seconds["forward"])
    return (
        f"| {keras.config.backend()} | {name}, {samples} samples "
        f"| {np.median(seconds['forward']):.3f} s "
        f"| {paired.median_and_quartiles(ratios)} "
        f"| {first['forward']:.1f} s, {first['measure']:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "nets", nargs="*", default=[*NETS], help=f"of {[*NETS]}"
    )
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print("| backend | net | forward | measure / forward | first calls |")
    print("|---|---|---|---|---|")
    for name in args.nets:
        print(report(name, args.rounds), flush=True)


if __name__ == "__main__":
    main()
