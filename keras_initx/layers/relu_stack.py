"""Relu networks of width 4, one or several side by side, as dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_initx.constraints import BlockDiagonal


def _no_options(index: int) -> dict[str, Any]:
    return {}


def relu_stack(
    sample_shape: Sequence[int | None],
    depth: int,
    blocks: int,
    outputs: int,
    connect_blocks: bool,
    dtype: Any = None,
    options: Callable[[int], dict[str, Any]] = _no_options,
    separate_ends: bool = False,
) -> keras.Sequential:
    """Returns a model of dense layers with 4 units for each block.

    Args:
        sample_shape: Sequence of int or None. The shape of the inputs without
            the batch.
        depth: int. The number of layers with relu. A layer without follows.
        blocks: int. The number of networks of width 4 side by side.
        outputs: int. The number of units of the last layer.
        connect_blocks: bool. Whether training may connect the blocks.
        dtype: The dtype or dtype policy of the layers.
        options: Function. Returns further arguments of the layer of an index,
            from 0 to depth.
        separate_ends: bool. Whether blocks that are not connected also have
            inputs and outputs of their own. Defaults to False.
    """
    constrained = not connect_blocks and blocks > 1
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    # By default inputs become float32, in a model of float64 as well.
    input_dtype = keras.backend.result_type(policy.compute_dtype, "float32")
    model = keras.Sequential(
        [keras.Input(tuple(sample_shape), dtype=input_dtype)]
    )
    for index in range(depth + 1):
        hidden = index < depth
        between = 0 < index < depth or separate_ends
        model.add(
            keras.layers.Dense(
                4 * blocks if hidden else outputs,
                activation="relu" if hidden else None,
                kernel_constraint=(
                    BlockDiagonal(blocks) if constrained and between else None
                ),
                dtype=dtype,
                **options(index),
            )
        )
    return model
