"""The axes of kernels that `EinsumDense` does not name before Keras 3.15.

From Keras 3.15 on `EinsumDense` passes `input_axes` and `output_axes` to its
kernel's initializer. Before, an initializer is given a shape and a dtype, and
reads the shape of an attention kernel as that of a convolution, as Keras's own
do.

What this module needs of Keras before 3.15, and what is not documented:
`EinsumDense.build`, a function whose argument is `self`, calls the initializer
of its kernel, so its frame is in the stack. Where it is not, nothing warns.
"""

from __future__ import annotations

import math
import sys
import warnings
from types import FrameType

import keras

KERAS_NAMES_AXES = hasattr(keras.initializers.VarianceScaling(), "input_axes")

# Whether this process has warned.
_warned = False


def warn_of_einsum(shape: tuple[int, ...], fan_in: int) -> None:
    """Warns, once a process, if a kernel's fan-in is not that of its layer.

    Args:
        shape: tuple of int. The shape of the kernel.
        fan_in: int. The fan-in that the initializer takes.
    """
    global _warned
    if KERAS_NAMES_AXES or _warned:
        return
    layer = _layer_that_builds()
    if layer is None:
        return
    left, outputs = layer.equation.split("->")
    kernel = left.split(",")[1]
    if len(kernel) != len(shape):
        return
    summed = math.prod(
        size
        for size, letter in zip(shape, kernel, strict=True)
        if letter not in outputs
    )
    if summed == fan_in:
        return
    _warned = True
    warnings.warn(
        f"Keras {keras.__version__} does not tell initializers which axes "
        "EinsumDense and the attention layers sum over, as Keras 3.15 does. "
        f"The kernel {shape} of layer {layer.name!r} gets the weights of "
        f"fan-in {fan_in}, as from Keras's own initializers, where the layer "
        f"sums {summed} terms. Draw the weights with "
        "`keras_initx.initialize`, which reads the layer.",
        stacklevel=3,
    )


def _layer_that_builds() -> keras.layers.EinsumDense | None:
    """The layer whose `build` is running, further up in the stack."""
    frame: FrameType | None = sys._getframe(1)
    build = keras.layers.EinsumDense.build.__code__
    # Up to Python 3.12 a frame whose variables have been read keeps them alive:
    # those of other frames are not read.
    while frame is not None and frame.f_code is not build:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]
