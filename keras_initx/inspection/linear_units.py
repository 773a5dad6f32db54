"""How a layer's pre-activation depends on its kernel, unit by unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

_L = keras.layers
_DENSE = (_L.Dense,)
_CONVOLUTIONS = (_L.Conv1D, _L.Conv2D, _L.Conv3D)
_TRANSPOSED = (_L.Conv1DTranspose, _L.Conv2DTranspose, _L.Conv3DTranspose)
_DEPTHWISE = (_L.DepthwiseConv1D, _L.DepthwiseConv2D)
_SEPARABLE = (_L.SeparableConv1D, _L.SeparableConv2D)


@dataclass(frozen=True)
class Readout:
    """A pre-activation y that is linear in a kernel: y = W x + b.

    Args:
        kernel: The Keras variable that each unit has its own part of.
        kernel_axes: Axes of the kernel that tell its units apart, in the order
            of the signal's.
        signal_axes: Axes of y that tell them apart.
        bias: The Keras variable of b, or None.
        bias_fits: Whether each unit has a bias of its own, or there is none.
    """

    kernel: Any
    kernel_axes: tuple[int, ...]
    signal_axes: tuple[int, ...]
    bias: Any = None
    bias_fits: bool = True

    @property
    def weights(self) -> list[Any]:
        """Kernel and bias, if there is one."""
        return [w for w in (self.kernel, self.bias) if w is not None]


def readout(layer: keras.layers.Layer) -> Readout | None:
    """Of a layer that Keras computes as it does its own; else None.

    A subclass that computes its output in another way has none, since what
    would be folded into its kernel need not come out of it.
    """
    for classes, find in (
        (_DENSE, _dense),
        (_CONVOLUTIONS, _convolution),
        (_TRANSPOSED, _transposed),
        (_DEPTHWISE, _depthwise),
        (_SEPARABLE, _separable),
        ((_L.EinsumDense,), _einsum),
    ):
        for cls in classes:
            if isinstance(layer, cls):
                if type(layer).call is not cls.call:
                    return None
                found = find(layer)
                # With LoRA or quantized, a kernel is computed from several.
                known = found is not None and isinstance(
                    found.kernel, keras.Variable
                )
                return found if known else None
    return None


def _dense(layer: Any) -> Readout:
    return Readout(layer.kernel, (1,), (-1,), layer.bias)


def _channels(layer: Any) -> tuple[int, ...]:
    return (1,) if layer.data_format == "channels_first" else (-1,)


def _convolution(layer: Any) -> Readout:
    last = len(layer.kernel.shape) - 1
    return Readout(layer.kernel, (last,), _channels(layer), layer.bias)


def _transposed(layer: Any) -> Readout:
    before_last = len(layer.kernel.shape) - 2
    return Readout(layer.kernel, (before_last,), _channels(layer), layer.bias)


def _depthwise(layer: Any) -> Readout:
    last = len(layer.kernel.shape) - 1
    return Readout(layer.kernel, (last - 1, last), _channels(layer), layer.bias)


def _separable(layer: Any) -> Readout:
    kernel = layer.pointwise_kernel
    last = len(kernel.shape) - 1
    return Readout(kernel, (last,), _channels(layer), layer.bias)


def _einsum(layer: Any) -> Readout | None:
    left, result = layer.equation.replace(" ", "").split("->")
    letters = left.split(",")[1].replace("...", "")
    # Counted from that end where no ellipsis is in between.
    first = 0 if result.endswith("...") else -len(result.replace("...", ""))
    result = result.replace("...", "")
    units = [letter for letter in result if letter in letters]
    if len(set(letters)) < len(letters):
        return None
    return Readout(
        layer.kernel,
        tuple(map(letters.index, units)),
        tuple(result.index(letter) + first for letter in units),
        layer.bias,
        layer.bias is None or set(layer.bias_axes) == set(units),
    )


_KERNELS = (
    "kernel",
    "depthwise_kernel",
    "pointwise_kernel",
    "recurrent_kernel",
    "embeddings",
)


def holds_kernel(layer: keras.layers.Layer) -> bool:
    """Whether a layer owns the weights of a linear map of its input.

    True for dense, convolution and embedding layers, for recurrent cells, and
    for any other layer with a weight under a name that Keras gives those:
    `kernel`, `depthwise_kernel`, `pointwise_kernel`, `recurrent_kernel`,
    `embeddings`. A wrapper such as `TimeDistributed` holds none; the layer
    inside it does.
    """
    return not isinstance(layer, keras.layers.Wrapper) and any(
        isinstance(weight, keras.Variable) or tf.is_tensor(weight)
        for weight in (getattr(layer, name, None) for name in _KERNELS)
    )
