"""From the shape of a kernel to how many numbers its layer sums."""

from __future__ import annotations

import math
from collections.abc import Sequence


def compute_fans(
    shape: Sequence[int],
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> tuple[int, int]:
    """Fan-in and fan-out of a kernel, by the rule of Keras.

    With axes, the products of the sizes along them. Without, by rank:

        ()             1, 1
        (n,)           n, n
        (n, m)         n, m                   Dense
        (..., n, m)    n prod(...), m prod(...)    convolutions

    Args:
        shape: Of the kernel, ints.
        input_axes: Axes of `shape` that the layer sums over.
        output_axes: Axes of `shape` that its output has.

    Returns:
        (fan_in, fan_out), two ints; 0 if the kernel has no entries.

    Raises:
        ValueError: An axis is not one of `shape`.

    Example:

    >>> compute_fans((3, 3, 64, 128))
    (576, 1152)
    >>> compute_fans((64, 4, 16), input_axes=[0], output_axes=[1, 2])
    (64, 64)

    Reference: `keras.initializers.VarianceScaling` of Keras 3.15, which has
    the axes from `EinsumDense`.
    """
    shape = tuple(int(size) for size in shape)
    if input_axes is not None and output_axes is not None:
        return (
            _size_along("input_axes", input_axes, shape),
            _size_along("output_axes", output_axes, shape),
        )
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def _size_along(name: str, axes: Sequence[int], shape: tuple[int, ...]) -> int:
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise ValueError(
            f"{name} must be axes of the kernel, whose shape is {shape}. "
            f"Received: {name}={list(axes)}"
        )
    return math.prod(shape[axis] for axis in axes)
