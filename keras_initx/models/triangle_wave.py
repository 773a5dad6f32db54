"""Plain relu nets that start as triangle waves."""

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
    """A relu net of Dense layers that starts with 2^depth linear pieces.

    `depth` layers of 4 units a block with relu, and one without, with the
    weights of `initializers.TriangleWaveKernel`, which says how blocks take
    several inputs and what they are summed to.

    Args:
        depth: Number of hidden layers, an int >= 1.
        concave: As in `initializers.TriangleWaveKernel`.
        form: "ramp", for inputs in [0, 1], or "v", for inputs in [-1, 1].
        peaks: As in `initializers.TriangleWaveKernel`.
        blocks: Number of triangle waves side by side, an int >= 1.
        connect_blocks: Whether training may connect the blocks; False keeps
            them apart by `constraints.BlockDiagonal`.
        inputs: Number of features, an int >= 1.
        outputs: An int >= 1.
        seed: Of peaks and sums, an int >= 0; None draws one.
        dtype: Of the layers, as in `keras.layers.Layer`. In bfloat16 deep
            waves are lost in rounding.

    Returns:
        A `keras.Sequential` of ordinary layers, not compiled.

    Raises:
        ValueError: An argument is none of these.

    Example:

    >>> model = triangle_wave_network(depth=5, concave=False, peaks=[0.5] * 6)
    >>> y = model(keras.ops.array([[0.0], [0.25], [1.0]]))  # x^2
    >>> keras.ops.convert_to_numpy(y).ravel().tolist()
    [0.0, 0.0625, 1.0]

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, sections
    4 and 5.
    """
    for name, value in (
        ("blocks", blocks),
        ("inputs", inputs),
        ("outputs", outputs),
    ):
        check_int(name, value, 1)
    if seed is None:
        seed = keras.initializers.RandomUniform().seed
    net = {
        "depth": depth,
        "concave": concave,
        "form": form,
        "peaks": peaks,
        "seed": seed,
    }
    # Refuses what is wrong, before a stack of that depth is made.
    TriangleWaveKernel(index=0, **net)
    return relu_stack(
        (inputs,),
        depth,
        blocks,
        outputs,
        check_bool("connect_blocks", connect_blocks),
        dtype,
        lambda index: {
            "kernel_initializer": TriangleWaveKernel(index=index, **net),
            "bias_initializer": TriangleWaveBias(index=index, **net),
        },
    )
