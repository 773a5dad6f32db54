"""Relu nets of width 4, one or several side by side, as Dense layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_initx.constraints import BlockDiagonal


def relu_stack(
    sample_shape: Sequence[int | None],
    depth: int,
    blocks: int,
    outputs: int,
    connect_blocks: bool,
    dtype: Any = None,
    options: Callable[[int], dict[str, Any]] = lambda index: {},
    own_ends: bool = False,
) -> keras.Sequential:
    """`depth` layers of 4 units a block with relu, and one without.

    Blocks that are kept apart share inputs and outputs, or with `own_ends`
    have each their own.
    """
    apart = not connect_blocks and blocks > 1
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    # By default inputs become float32, in a model of float64 as well.
    exact = keras.backend.result_type(policy.compute_dtype, "float32")
    model = keras.Sequential([keras.Input(tuple(sample_shape), dtype=exact)])
    for index in range(depth + 1):
        hidden = index < depth
        between = 0 < index < depth or own_ends
        model.add(
            keras.layers.Dense(
                4 * blocks if hidden else outputs,
                activation="relu" if hidden else None,
                kernel_constraint=(
                    BlockDiagonal(blocks) if apart and between else None
                ),
                dtype=dtype,
                **options(index),
            )
        )
    return model
