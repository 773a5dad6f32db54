"""Which layers preserve the variance of their input?

Weights with variance 1 / fan_in turn unit normal input into output of variance
1. Each row of the table is a layer of Keras, and has the mean square of its
output, away from borders, when Keras draws the kernel by LecunNormal and when
`keras_initx.initialize` draws it. Weights and inputs are drawn so often that
chance changes a value by 0.6%.

Run `python benchmarks/layer_variance.py`.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import report

import keras_initx as kx

L = keras.layers
# Numbers of weights and of input values that are drawn for each layer. The
# relative standard deviation is at most sqrt(2 / WEIGHTS + 4 / NUMBERS).
WEIGHTS, NUMBERS = 100_000, 300_000


class Case(NamedTuple):
    """A layer, its input, and the output that should have unit variance.

    Args:
        make: Callable. Returns the layer; takes initializers of its kernels as
            keywords.
        shape: tuple of int. The shape of one sample of the input.
        count: int. The number of weights in the smallest kernel.
        names: tuple of str. The keywords that take the initializer.
        output: Callable. Takes the layer and its input and returns the output
            whose square is averaged.
        outputs: int. The number of values in one sample of this output, if
            they are fewer than in the input. Defaults to None.
    """

    make: Callable[..., keras.layers.Layer]
    shape: tuple[int, ...]
    count: int
    names: tuple[str, ...] = ("kernel_initializer",)
    output: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    outputs: int | None = None


def inside(border: int) -> Callable[[Any, Any], Any]:
    """Returns the output without `border` positions at each end of an axis."""

    def output(layer: Any, x: Any) -> Any:
        y = np.asarray(layer(x))
        for axis in range(1, y.ndim - 1):
            kept = range(border, y.shape[axis] - border)
            y = np.take(y, kept, axis)
        return y

    return output


def product(weight: str) -> Callable[[Any, Any], Any]:
    """Returns the input, or state, times a kernel of a recurrent layer."""

    def output(layer: Any, x: Any) -> Any:
        layer = getattr(layer, "forward_layer", layer)
        return np.asarray(x)[:, 0] @ np.asarray(getattr(layer.cell, weight))

    return output


def convolved(weight: str) -> Callable[[Any, Any], Any]:
    """Returns the input convolved with a kernel of a recurrent layer."""

    def output(layer: Any, x: Any) -> Any:
        return keras.ops.conv(x[:, 0], getattr(layer.cell, weight))

    return output


def projections(layer: Any, x: Any) -> Any:
    """Returns the root mean squares of query, key and value of attention."""
    profile = _meter(layer, x.shape[1:])(x)
    rows = [
        total
        for name, total in zip(profile.layers, profile.total, strict=True)
        if not name.endswith("output")
    ]
    assert len(rows) == 3
    return np.sqrt(rows)


# The pass of a layer stays the same when its weights are drawn anew.
@functools.lru_cache(maxsize=1)
def _meter(layer: keras.layers.Layer, shape: tuple[int, ...]) -> kx.Meter:
    return kx.Meter(
        keras.Sequential([keras.Input(shape), _SelfAttention(layer)])
    )


class _SelfAttention(keras.layers.Layer):
    def __init__(self, layer: keras.layers.Layer):
        super().__init__()
        self.layer = layer

    def call(self, x: Any) -> Any:
        return self.layer(x, x)


def on_one_hot(layer: Any, x: Any) -> Any:
    return layer(np.arange(layer.input_dim))


def _reversed(layer: Any, x: Any) -> Any:
    return layer(x, reverse=True)


def _scores(layer: Any, x: Any) -> Any:
    return np.asarray(x) @ np.asarray(layer.scale)


_RECURRENT = ("kernel_initializer", "recurrent_initializer")
_DEPTHWISE = ("depthwise_initializer",)
_SEPARABLE = ("depthwise_initializer", "pointwise_initializer")

CASES = {
    "Dense": Case(lambda **k: L.Dense(320, **k), (320,), 102400),
    "Conv1D": Case(lambda **k: L.Conv1D(128, 5, **k), (9, 160), 102400),
    "Conv2D": Case(lambda **k: L.Conv2D(128, 3, **k), (5, 5, 96), 110592),
    "Conv2D, strides 2": Case(
        lambda **k: L.Conv2D(128, 3, strides=2, **k), (9, 9, 96), 110592
    ),
    "Conv2D, dilation 2": Case(
        lambda **k: L.Conv2D(128, 3, dilation_rate=2, **k), (9, 9, 96), 110592
    ),
    "Conv2D, 8 groups": Case(
        lambda **k: L.Conv2D(256, 3, groups=8, **k), (6, 6, 256), 73728
    ),
    "Conv3D": Case(lambda **k: L.Conv3D(64, 3, **k), (4, 4, 4, 64), 110592),
    "Conv1DTranspose, strides 2": Case(
        lambda **k: L.Conv1DTranspose(128, 4, strides=2, **k),
        (12, 128),
        65536,
        output=inside(2),
    ),
    "Conv2DTranspose": Case(
        lambda **k: L.Conv2DTranspose(128, 3, **k),
        (9, 9, 64),
        73728,
        output=inside(2),
    ),
    "Conv2DTranspose, strides 2": Case(
        lambda **k: L.Conv2DTranspose(128, 4, strides=2, **k),
        (8, 8, 64),
        131072,
        output=inside(2),
    ),
    "Conv2DTranspose, 3x3, strides 2": Case(
        lambda **k: L.Conv2DTranspose(64, 3, strides=2, **k),
        (8, 8, 64),
        36864,
        # Without the last row and column, positions to which 1, 2 and 4
        # weights contribute are as frequent as inside a large output.
        output=lambda layer, x: inside(2)(layer, x)[:, :-1, :-1],
    ),
    "Conv3DTranspose": Case(
        lambda **k: L.Conv3DTranspose(64, 2, **k),
        (5, 5, 5, 64),
        32768,
        output=inside(1),
    ),
    "DepthwiseConv1D": Case(
        lambda **k: L.DepthwiseConv1D(5, **k), (12, 256), 1280, _DEPTHWISE
    ),
    "DepthwiseConv2D": Case(
        lambda **k: L.DepthwiseConv2D(3, **k), (6, 6, 256), 2304, _DEPTHWISE
    ),
    "DepthwiseConv2D, multiplier 2": Case(
        lambda **k: L.DepthwiseConv2D(3, depth_multiplier=2, **k),
        (6, 6, 128),
        2304,
        _DEPTHWISE,
    ),
    "SeparableConv1D": Case(
        lambda **k: L.SeparableConv1D(128, 5, **k), (12, 256), 1280, _SEPARABLE
    ),
    "SeparableConv2D": Case(
        lambda **k: L.SeparableConv2D(128, 3, **k),
        (6, 6, 256),
        2304,
        _SEPARABLE,
    ),
    "EinsumDense": Case(
        lambda **k: L.EinsumDense("abc,cde->abde", (None, 4, 64), **k),
        (5, 256),
        65536,
    ),
    "EinsumDense, batched": Case(
        lambda **k: L.EinsumDense("bgi,gio->bgo", (8, 96), **k),
        (8, 128),
        98304,
    ),
    "MultiHeadAttention, q, k, v": Case(
        lambda **k: L.MultiHeadAttention(4, 64, **k),
        (6, 256),
        65536,
        output=projections,
    ),
    "GroupQueryAttention, q, k, v": Case(
        lambda **k: L.GroupQueryAttention(64, 4, 2, **k),
        (6, 256),
        32768,
        output=projections,
    ),
    "AdditiveAttention": Case(
        lambda **k: L.AdditiveAttention(), (128,), 128, (), _scores, 1
    ),
    "Embedding": Case(
        lambda **k: L.Embedding(1000, 100, **k),
        (1000,),
        100000,
        ("embeddings_initializer",),
        on_one_hot,
    ),
    "SimpleRNN": Case(
        lambda **k: L.SimpleRNN(256, **k),
        (1, 256),
        65536,
        _RECURRENT,
        product("kernel"),
    ),
    "LSTM": Case(
        lambda **k: L.LSTM(128, **k),
        (1, 256),
        131072,
        _RECURRENT,
        product("kernel"),
    ),
    "LSTM, recurrent": Case(
        lambda **k: L.LSTM(256, **k),
        (1, 256),
        262144,
        _RECURRENT,
        product("recurrent_kernel"),
    ),
    "GRU, recurrent": Case(
        lambda **k: L.GRU(256, **k),
        (1, 256),
        196608,
        _RECURRENT,
        product("recurrent_kernel"),
    ),
    "Bidirectional LSTM": Case(
        lambda **k: L.Bidirectional(L.LSTM(128, **k)),
        (1, 256),
        131072,
        _RECURRENT,
        product("kernel"),
    ),
    "ConvLSTM2D": Case(
        lambda **k: L.ConvLSTM2D(64, 3, **k),
        (1, 6, 6, 64),
        147456,
        _RECURRENT,
        convolved("kernel"),
    ),
    "TimeDistributed Dense": Case(
        lambda **k: L.TimeDistributed(L.Dense(320, **k)), (3, 320), 102400
    ),
    "SpectralNormalization Dense": Case(
        lambda **k: L.SpectralNormalization(L.Dense(320, **k)), (320,), 102400
    ),
}
# Keras 3.10 has no such layer.
if hasattr(L, "ReversibleEmbedding"):
    CASES["ReversibleEmbedding, reverse"] = Case(
        lambda **k: L.ReversibleEmbedding(1000, 100, tie_weights=False, **k),
        (100,),
        100000,
        ("embeddings_initializer",),
        _reversed,
    )


def build(case: Case, initializer: Callable[[], Any] | None) -> Any:
    """Returns the layer, built, with a new initializer for each kernel."""
    layer = case.make(
        **{name: initializer() for name in case.names if initializer}
    )
    if isinstance(layer, L.MultiHeadAttention | L.GroupQueryAttention):
        layer.build((None, *case.shape), (None, *case.shape))
    elif isinstance(layer, L.AdditiveAttention):
        layer.build([(None, 4, *case.shape)] * 2)
    else:
        layer.build((None, *case.shape))
    return layer


def mean_square(case: Case, layers: Callable[[int], Any], seed: int) -> float:
    """Returns the mean square of the output over many weights and inputs.

    Args:
        case: Case. The layer and its input.
        layers: Callable. Returns a layer with new weights for i = 0, 1, ...
        seed: int. Seed of the inputs.
    """
    repeats = math.ceil(WEIGHTS / case.count)
    sample_size = case.outputs or math.prod(case.shape)
    samples = math.ceil(NUMBERS / (sample_size * repeats))
    rng = np.random.default_rng(seed)
    squares = []
    for i in range(repeats):
        x = rng.standard_normal((samples, *case.shape), np.float32)
        y = np.asarray(case.output(layers(i), x), np.float64)
        squares.append(np.mean(y**2))
    return float(np.mean(squares))


def with_initialize(case: Case, initializer: Any, seed: int) -> float:
    """Returns the mean square with weights that `initialize` draws."""
    layer = build(case, None)

    def new_weights(i: int) -> Any:
        kx.initialize(layer, initializer, seed=seed + i)
        return layer

    return mean_square(case, new_weights, seed)


def with_keras(case: Case, seed: int) -> float:
    """Returns the mean square with weights that Keras draws."""
    keras.utils.set_random_seed(seed % 2**31)

    def new_weights(i: int) -> Any:
        if not case.names:
            layer = build(case, None)
            scale = keras.initializers.LecunNormal()(layer.scale.shape)
            layer.scale.assign(scale)
            return layer
        return build(case, keras.initializers.LecunNormal)

    return mean_square(case, new_weights, seed)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--layer", choices=CASES, nargs="+", help="only these layers"
    )
    options = parser.parse_args(argv)
    initializers = {
        "VarianceScaling": keras.initializers.VarianceScaling(),
        "FractionalMoment": kx.initializers.FractionalMoment(
            order=2, activation="linear"
        ),
    }
    rows = [
        [
            name,
            f"{with_keras(case, options.seed):.3f}",
            *(
                f"{with_initialize(case, initializer, options.seed):.3f}"
                for initializer in initializers.values()
            ),
        ]
        for name, case in CASES.items()
        if not options.layer or name in options.layer
    ]
    report.print_table(
        "Mean square of the output for unit normal input.",
        ["layer", "Keras", *(f"initialize, {name}" for name in initializers)],
        rows,
    )


if __name__ == "__main__":
    main()
