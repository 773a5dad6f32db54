"""The axes of kernels that `EinsumDense` does not name before Keras 3.15.

From Keras 3.15 on `EinsumDense` passes `input_axes` and `output_axes` to its
kernel's initializer. Before, an initializer is given a shape and a dtype, and
takes the fan-in of an attention kernel from its shape, as if it were that of a
convolution and as Keras's own initializers do. Initializers that give the
weights places in the kernel read the equation of the layer instead.

What this module needs of Keras before 3.15, and what is not documented:
`EinsumDense.build`, a function whose argument is `self`, calls the initializer
of its kernel, so its frame is in the stack. Where it is not, nothing warns, and
the shape is read as that of a convolution.
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
    layer = _layer_that_builds(shape)
    if layer is None:
        return
    summed = math.prod(shape[axis] for axis in _axes(layer.equation)[0])
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


def einsum_axes(
    shape: tuple[int, ...],
) -> tuple[list[int], list[int]] | tuple[None, None]:
    """Returns the axes that Keras before 3.15 does not name.

    Args:
        shape: tuple of int. The shape of a kernel that is being drawn.

    Returns:
        Two lists of int, the axes of the kernel that its `EinsumDense` layer
        sums over, and those of the layer's output; as Keras 3.15 passes them.
        None and None where no such layer is being built, and from 3.15 on.
    """
    layer = None if KERAS_NAMES_AXES else _layer_that_builds(shape)
    return (None, None) if layer is None else _axes(layer.equation)


def _axes(equation: str) -> tuple[list[int], list[int]]:
    """Returns the axes of the kernel that are summed, and the others."""
    left, outputs = equation.split("->")
    kernel = left.split(",")[1]
    axes: tuple[list[int], list[int]] = [], []
    for axis, letter in enumerate(kernel):
        axes[letter in outputs].append(axis)
    return axes


def _layer_that_builds(
    shape: tuple[int, ...],
) -> keras.layers.EinsumDense | None:
    """The layer whose `build` makes a kernel of a shape, from the stack."""
    frame: FrameType | None = sys._getframe(1)
    build = keras.layers.EinsumDense.build.__code__
    # Up to Python 3.12 a frame whose variables have been read keeps them alive:
    # those of other frames are not read.
    while frame is not None and frame.f_code is not build:
        frame = frame.f_back
    if frame is None:
        return None
    layer = frame.f_locals["self"]
    kernel = layer.equation.split("->")[0].split(",")[1]
    return layer if len(kernel) == len(shape) else None
