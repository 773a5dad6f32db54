"""What does it cost to measure a model on another backend of Keras?

    KERAS_BACKEND=jax python benchmarks/backends.py

The same batch runs through the same wide network in two ways:

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = dense_net(args.width, args.depth)
    x = np.random.default_rng(0).normal(size=(args.samples, args.width))
    x = keras.ops.convert_to_tensor(x.astype("float32"))
    meter = kx.Meter(model)
    forward = compiled_forward(model)
    ways = {
        "forward": lambda: forward(x),
        "measure": lambda: meter(x, batch_size=args.samples),
    }
    first = {name: cpu_seconds(way) for name, way in ways.items()}
    seconds = paired.times(ways, args.rounds, time.process_time)
    ratios = np.divide(seconds["measure"], seconds["forward"])
    print("| backend | net | forward | measure / forward | first calls |")
    print("|---|---|---|---|---|")
    print(
        f"| {keras.config.backend()} | {args.depth} dense, {args.width} wide, "
        f"{args.samples} samples | {np.median(seconds['forward']):.3f} s | "
        f"{paired.median_and_quartiles(ratios)} | "
        f"{first['forward']:.1f} s, {first['measure']:.1f} s |"
    )


if __name__ == "__main__":
    main()
