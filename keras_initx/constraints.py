"""Constraints of trained weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_initx.validation import check_int

__all__ = ["BlockDiagonal"]


@keras.saving.register_keras_serializable(package="keras_initx")
class BlockDiagonal(keras.constraints.Constraint):
    """Keeps a kernel's blocks on the diagonal, and zeros beside them.

    With it the units of a Dense layer stay in groups that do not see each
    other, whatever an optimizer does.

    Args:
        blocks: How many, an int >= 1, of which the kernel's inputs and outputs
            are multiples.

    Returns:
        When called with a kernel of shape (in, out), the same without what is
        beside the blocks, which are (in / blocks, out / blocks).

    Raises:
        ValueError: blocks is no such int, or the kernel has no such blocks.

    Example:

    >>> keras.ops.convert_to_numpy(BlockDiagonal(2)(np.ones((2, 4), "float32")))
    array([[1., 1., 0., 0.],
           [0., 0., 1., 1.]], dtype=float32)

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, whose
    wider networks have this variant.
    """

    def __init__(self, blocks: int):
        check_int("blocks", blocks, 1)
        self.blocks = int(blocks)

    def __call__(self, value: Any) -> Any:
        value = keras.ops.convert_to_tensor(value)
        shape = tuple(value.shape)
        if len(shape) != 2 or any(size % self.blocks for size in shape):
            raise ValueError(
                "BlockDiagonal needs a kernel (in, out) whose sizes are "
                f"multiples of blocks={self.blocks}. Received: shape={shape}"
            )
        block = np.ones([size // self.blocks for size in shape])
        mask = np.kron(np.eye(self.blocks), block)
        # Not a product, of which an infinite weight would make NaN.
        return keras.ops.where(mask.astype(bool), value, 0)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {"blocks": self.blocks}
