"""Relu networks of dense layers that start as triangle waves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.initializers import TriangleWaveBias, TriangleWaveKernel
from keras_initx.layers.relu_stack import relu_stack
from keras_initx.validation import check_bool, check_int


def triangle_wave_network(
    depth: int,
    concave: bool = True,
    form: str = "ramp",
    peaks: Sequence[float] | Sequence[Sequence[float]] | None = None,
    blocks: int = 1,
    connect_blocks: bool = True,
    inputs: int = 1,
    outputs: int = 1,
    seed: int | None = None,
    dtype: Any = None,
) -> keras.Sequential:
    """Returns a relu network that starts with 2^depth linear pieces.

    The network has `depth` dense layers with 4 units for each block and relu,
    and one layer without. Its weights are those of
    `initializers.TriangleWaveKernel`, which describes how blocks take several
    inputs and how they are summed.

    Args:
        depth: int. The number of hidden layers, at least 1.
        concave: bool. Whether the waves are added, which makes the curves
            concave, or subtracted, which makes them convex. Defaults to True.
        form: str. "ramp" for inputs in [0, 1], "v" for inputs in [-1, 1].
            Defaults to "ramp".
        peaks: Sequence of depth + 1 floats in (0, 1), for all blocks, or one
            such sequence for each block. By default they are uniform in
            (0.05, 0.95).
        blocks: int. The number of triangle waves side by side, at least 1.
            Defaults to 1.
        connect_blocks: bool. Whether training may connect the blocks. If False,
            `constraints.BlockDiagonal` keeps them apart. Defaults to True.
        inputs: int. The number of input features, at least 1. Defaults to 1.
        outputs: int. The number of outputs, at least 1. Defaults to 1.
        seed: int. The seed of the peaks and of the sums, at least 0. By default
            it is drawn from the generator that `keras.utils.set_random_seed`
            seeds.
        dtype: str or dtype policy. The dtype of the layers, as in
            `keras.layers.Layer`. In bfloat16 deep waves are lost in rounding.

    Returns:
        A `keras.Sequential` of Keras layers, not compiled.

    Raises:
        ValueError: If an argument has another type or is out of range.

    Example:

    >>> model = triangle_wave_network(
    ...     depth=5, concave=False, peaks=[0.5] * 6
    ... )
    >>> y = model(keras.ops.array([[0.0], [0.25], [1.0]]))  # x^2
    >>> keras.ops.convert_to_numpy(y).ravel().tolist()
    [0.0, 0.0625, 1.0]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections 4
    and 5.
    """
    check_int("blocks", blocks, 1)
    check_int("inputs", inputs, 1)
    check_int("outputs", outputs, 1)
    check_bool("connect_blocks", connect_blocks)
    if seed is None:
        seed = keras.initializers.RandomUniform().seed

    def initializers(index: int) -> dict[str, Any]:
        network = depth, index, concave, form, peaks, seed
        return {
            "kernel_initializer": TriangleWaveKernel(*network),
            "bias_initializer": TriangleWaveBias(*network),
        }

    # This refuses bad arguments before a stack of that depth is made.
    initializers(0)
    return relu_stack(
        (inputs,), depth, blocks, outputs, connect_blocks, dtype, initializers
    )
