"""How a layer's pre-activation depends on its kernel, unit by unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
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
    """

    kernel: Any
    kernel_axes: tuple[int, ...]
    signal_axes: tuple[int, ...]
    bias: Any = None

    @property
    def units(self) -> int:
        return math.prod(self.kernel.shape[axis] for axis in self.kernel_axes)

    @property
    def bias_fits(self) -> bool:
        """Whether there is no bias, or one for each unit."""
        return self.bias is None or math.prod(self.bias.shape) == self.units

    def folded(
        self, factor: np.ndarray, shift: np.ndarray
    ) -> list[tuple[Any, tf.Tensor]]:
        """The variables and their values for y -> factor (y - shift).

        Args:
            factor: Of each unit.
            shift: Of each unit. Equal for all where a bias does not fit.
        """
        by_axis = self._along_kernel(factor)
        wide = tf.cast(self.kernel.value, by_axis.dtype)
        changed = [(self.kernel, wide * by_axis)]
        if self.bias is not None:
            fits = self.bias_fits
            factor, shift = (
                each.reshape(self.bias.shape) if fits else each[:1]
                for each in (factor, shift)
            )
            bias = keras.ops.convert_to_numpy(self.bias.value)
            moved = factor * (bias.astype(np.float64) - shift)
            changed.append((self.bias, moved))
        return [
            (variable, tf.cast(value, variable.dtype))
            for variable, value in changed
        ]

    def _along_kernel(self, by_unit: np.ndarray) -> tf.Tensor:
        """Numbers of the units in float32, or beside float64 in that."""
        sizes = self.kernel.shape
        by_axis = np.reshape(by_unit, [sizes[i] for i in self.kernel_axes])
        shape = [
            size if axis in self.kernel_axes else 1
            for axis, size in enumerate(sizes)
        ]
        in_order = by_axis.transpose(np.argsort(self.kernel_axes))
        wide = self.kernel.dtype == "float64"
        return tf.constant(
            in_order.reshape(shape), tf.float64 if wide else tf.float32
        )


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
                plain = isinstance(found.kernel, keras.Variable)
                return found if plain else None
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


def _einsum(layer: Any) -> Readout:
    left, result = layer.equation.replace(" ", "").split("->")
    letters = left.split(",")[1]
    # Counted from the end, where no ellipsis is in between.
    result = result.replace("...", "")
    units = [letter for letter in result if letter in letters]
    return Readout(
        layer.kernel,
        tuple(map(letters.index, units)),
        tuple(result.index(letter) - len(result) for letter in units),
        layer.bias,
    )
