"""Weights that are built, not drawn: the centre tap averages, or passes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_initx.initializers.base import FanInInitializer
from keras_initx.validation import is_real

# Beyond, float32 has no weights left.
_LARGEST = 1e30


class _CenterTap(FanInInitializer):
    """Base of both: `matrix` says what the centre tap does to the channels."""

    entrywise = False

    def __init__(
        self,
        noise: float = 0.0,
        value: float = 1.0,
        scale: float = 1.0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        if not (is_real(noise) and 0 <= noise <= 1):
            raise ValueError(
                f"noise must be a share in [0, 1]. Received: noise={noise!r}"
            )
        if not (is_real(value) and abs(value) <= _LARGEST):
            raise ValueError(
                f"value must be a number from {-_LARGEST} to {_LARGEST}. "
                f"Received: value={value!r}"
            )
        if not (is_real(scale) and 0 <= scale <= _LARGEST):
            raise ValueError(
                f"scale must be a number from 0 to {_LARGEST}. "
                f"Received: scale={scale!r}"
            )
        self.noise = float(noise)
        self.value = float(value)
        self.scale = float(scale)

    def matrix(self, inputs: int, outputs: int) -> tf.Tensor:
        """What the centre does, (inputs, outputs) in float32."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        weights = self._structure(shape) * ((1 - self.noise) * self.value)
        if not self.noise:
            return weights
        return weights + keras.random.normal(
            shape,
            stddev=math.sqrt(self.scale * self.noise / fan_in),
            dtype="float32",
            seed=self.seed,
        )

    def _structure(self, shape: tuple[int, ...]) -> tf.Tensor:
        if self.input_axes is not None and self.output_axes is not None:
            return self._along_axes(shape)
        *window, inputs, outputs = (1,) * (2 - len(shape)) + shape
        center = [(max(0, size - 1) // 2, size // 2) for size in window]
        tap = tf.reshape(
            self.matrix(inputs, outputs), [1] * len(window) + [inputs, outputs]
        )
        weights = tf.pad(tap, [*center, (0, 0), (0, 0)])
        # An empty window has no centre; one axis or none is a column.
        return tf.reshape(weights if 0 not in window else (), shape)

    def _along_axes(self, shape: tuple[int, ...]) -> tf.Tensor:
        """A kernel without a window, whose axes the layer has named."""
        axes = [
            [axis % len(shape) for axis in named]
            for named in (self.input_axes, self.output_axes)
        ]
        order = axes[0] + axes[1]
        if sorted(order) != list(range(len(shape))):
            raise ValueError(
                "input_axes and output_axes must hold each axis of the kernel "
                f"once, whose shape is {shape}. Received: "
                f"input_axes={self.input_axes}, output_axes={self.output_axes}"
            )
        sizes = [[shape[axis] for axis in named] for named in axes]
        flat = self.matrix(*map(math.prod, sizes))
        return tf.transpose(
            tf.reshape(flat, sizes[0] + sizes[1]), np.argsort(order)
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "noise": self.noise,
            "value": self.value,
            "scale": self.scale,
        } | super().get_config()


@keras.saving.register_keras_serializable(package="keras_initx")
class DiracAverage(_CenterTap):
    """Each output channel starts as the mean of its group's input channels.

        w[mid, c, d] = value / c_in,    0 off the centre of the window

    so that all output channels are EQUAL: features without any diversity. They
    can only become different where something tells them apart, such as
    dropout or `noise`,

        (1 - noise) w + N(0, scale noise / fan_in)

    For `Dense`, whose window is a single tap, `Conv1D` to `Conv3D`, whose
    groups each have a mean of their own, and `EinsumDense`. Transposed and
    depthwise kernels need `input_axes` and `output_axes`, or `initialize`. The
    centre of an even window is the tap that padding "same" lays over the
    position itself, (size - 1) // 2. Of a shape of one axis or none each entry
    is `value`.

    Args:
        noise: Share of noise, in [0, 1]. The authors' noisy start has 0.01.
        value: Of the average, from -1e30 to 1e30; -1 / slope after a leaky
            relu in `models.LeakyNet`.
        scale: Of the noise: its variance times the fan-in at `noise` 1, from 0
            to 1e30.
        fan_in: An int >= 1 in place of the fan-in of the noise that shape or
            axes give: window times channels.
        input_axes: Axes of the kernel that the layer sums over, and
        output_axes: axes that its output has: ints, both or neither.
            `EinsumDense` and attention layers fill them in.
        seed: None, an int, or a `keras.random.SeedGenerator`, of the noise.
            With an int, equal shapes get equal weights.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is outside its range; at a call, the axes are
            not each axis of the kernel once.

    Example:

    >>> DiracAverage()((3, 4, 2))[1, :, 0].numpy()
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code, where windows are odd. Other windows, and
    kernels of `EinsumDense`, are derived here.
    """

    def matrix(self, inputs: int, outputs: int) -> tf.Tensor:
        return tf.fill([inputs, outputs], np.float32(1 / max(1, inputs)))


@keras.saving.register_keras_serializable(package="keras_initx")
class Dirac(_CenterTap):
    """Each output channel starts as one of the input channels.

        w[mid, d mod c_in, d] = value,    0 elsewhere

    The input channels are passed on in turn until all output channels have
    one; with fewer outputs than inputs the first are passed on. In groups d
    counts over all of them, c within one. `noise` mixes in random weights,

        (1 - noise) w + N(0, scale noise / fan_in)

    For the layers that `DiracAverage` is for. Of a shape of one axis or none
    each entry is `value`.

    Args:
        noise: As in `DiracAverage`.
        value: Of the identity, from -1e30 to 1e30. Two layers of values 1 and
            -1 / slope, each followed by a leaky relu of that slope, are minus
            the identity.
        scale: As in `DiracAverage`.
        fan_in: As in `DiracAverage`.
        input_axes: As in `DiracAverage`.
        output_axes: As in `DiracAverage`.
        seed: As in `DiracAverage`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is outside its range; at a call, the axes are
            not each axis of the kernel once.

    Example:

    >>> layer = keras.layers.Conv1D(4, 3, kernel_initializer=Dirac())
    >>> layer.build((None, 8, 2))
    >>> layer.kernel[1].numpy()
    array([[1., 0., 1., 0.],
           [0., 1., 0., 1.]], dtype=float32)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code, where outputs are no fewer than inputs and
    windows are odd. The rest is derived here.
    """

    def matrix(self, inputs: int, outputs: int) -> tf.Tensor:
        chosen = tf.range(outputs) % max(1, inputs)
        return tf.transpose(tf.one_hot(chosen, inputs, dtype=tf.float32))
