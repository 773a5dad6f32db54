"""Constraints of trained weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx.validation import check_int, refuse

__all__ = ["BlockDiagonal"]


@keras.saving.register_keras_serializable(package="keras_initx")
class BlockDiagonal(keras.constraints.Constraint):
    """Constrains a kernel to blocks on its diagonal, with zeros elsewhere.

    The units of a `Dense` layer with this constraint stay in groups that are
    not connected to each other, whatever the optimizer does.

    Args:
        blocks: int. The number of blocks, at least 1. The numbers of inputs
            and outputs of the kernel must be multiples of it.

    Returns:
        When called with a kernel of shape (inputs, outputs): the same kernel
        with zeros outside the blocks, whose shape is
        (inputs / blocks, outputs / blocks).

    Raises:
        ValueError: If `blocks` is not such an int. When called: if the kernel
            cannot be divided into blocks.

    Example:

    >>> kernel = np.ones((2, 4), "float32")
    >>> keras.ops.convert_to_numpy(BlockDiagonal(2)(kernel))
    array([[1., 1., 0., 0.],
           [0., 0., 1., 1.]], dtype=float32)

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, whose wider
    networks have this variant.
    """

    def __init__(self, blocks: int):
        self.blocks = check_int("blocks", blocks, 1)

    def __call__(self, value: Any) -> Any:
        """Returns the kernel with zeros outside the blocks."""
        value = keras.ops.convert_to_tensor(value)
        shape = tuple(value.shape)
        if len(shape) != 2 or any(size % self.blocks for size in shape):
            refuse(
                "A kernel must have two axes whose sizes are multiples of "
                f"blocks={self.blocks}.",
                shape=shape,
            )
        block = np.ones([size // self.blocks for size in shape])
        mask = np.kron(np.eye(self.blocks), block)
        # A product with the mask would turn infinite weights into NaN.
        return keras.ops.where(mask.astype(bool), value, 0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {"blocks": self.blocks}


def __dir__() -> list[str]:
    return __all__
