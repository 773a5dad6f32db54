"""Kernels whose center passes channels on or averages them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_initx.initializers.base import FanInInitializer
from keras_initx.validation import check_real, refuse

# Larger weights are not finite in float32.
_RANGE = "[-1e30, 1e30]"


class CenterKernel(FanInInitializer):
    """Base class: `matrix` is the kernel at the center of the window."""

    entrywise = False
    uses_fan_in = False

    def matrix(self, inputs: int, outputs: int) -> Any:
        """Returns the matrix at the center, (inputs, outputs), float32."""
        raise NotImplementedError

    def structure(self, shape: tuple[int, ...]) -> Any:
        """Returns the kernel with the matrix at its center, 0 elsewhere."""
        rows, columns = self.axes_for(shape)
        if rows is not None and columns is not None:
            return self._along_axes(shape, rows, columns)
        *window, inputs, outputs = (1,) * (2 - len(shape)) + shape
        center = [(max(0, size - 1) // 2, size // 2) for size in window]
        matrix = ops.reshape(
            self.matrix(inputs, outputs), [1] * len(window) + [inputs, outputs]
        )
        weights = ops.pad(matrix, [*center, (0, 0), (0, 0)])
        # An empty window has no center. A shape of one axis is a column.
        return ops.reshape(weights if 0 not in window else (), shape)

    def _along_axes(
        self, shape: tuple[int, ...], rows: list[int], columns: list[int]
    ) -> Any:
        """Returns a kernel without a window, whose axes the layer has named."""
        axes = [
            [axis % len(shape) for axis in named] for named in (rows, columns)
        ]
        order = axes[0] + axes[1]
        if sorted(order) != list(range(len(shape))):
            refuse(
                "input_axes and output_axes must hold each axis of the kernel "
                f"once, whose shape is {shape}.",
                input_axes=rows,
                output_axes=columns,
            )
        sizes = [[shape[axis] for axis in named] for named in axes]
        flat = self.matrix(*map(math.prod, sizes))
        return ops.transpose(
            ops.reshape(flat, sizes[0] + sizes[1]), np.argsort(order).tolist()
        )


class _NoisyCenter(CenterKernel):
    """Base class: a kernel whose noise is mixed in."""

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
        self.noise = check_real("noise", noise, "[0, 1]")
        self.uses_fan_in = self.noise > 0
        self.value = check_real("value", value, _RANGE)
        self.scale = check_real("scale", scale, "[0, 1e30]")

    @property
    def is_random(self) -> bool:
        """Whether there is noise."""
        return self.noise > 0

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns the weights at the center plus the noise, in float32."""
        weights = self.structure(shape) * ((1 - self.noise) * self.value)
        if not self.noise:
            return weights
        return weights + keras.random.normal(
            shape,
            stddev=math.sqrt(self.scale * self.noise / fan_in),
            dtype="float32",
            seed=self.seed,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {
            "noise": self.noise,
            "value": self.value,
            "scale": self.scale,
        } | super().get_config()


@keras.saving.register_keras_serializable(package="keras_initx")
class Dirac(_NoisyCenter):
    """Kernels whose output channels start as copies of the input channels.

        w[mid, d mod c_in, d] = value,    0 elsewhere

    Here `mid` is the center of the window, c_in the number of input channels
    and d the output channel. The input channels are passed on in turn until all
    output channels have one. With fewer outputs than inputs, the first inputs
    are passed on. In a grouped convolution, d counts over all groups and c_in
    within one group. With `noise`, random weights are mixed in:

        (1 - noise) w + N(0, scale noise / fan_in)

    The initializer is meant for `Dense`, which has no window, `Conv1D`,
    `Conv2D`, `Conv3D` and `EinsumDense`. Transposed and depthwise kernels need
    `input_axes` and `output_axes`, or `kx.initialize`. The center of an even
    window is at (size - 1) // 2, which padding "same" lays over the position
    itself. In a kernel of one axis or none each entry is `value`.

    Args:
        noise: float. The share of noise, in [0, 1]. Defaults to 0.
        value: float. The weight of each copied channel, from -1e30 to 1e30.
            Two layers of values 1 and -1 / slope, each followed by a leaky relu
            of that slope, compute minus the identity. Defaults to 1.
        scale: float. The variance of the noise times the fan-in at `noise` 1,
            from 0 to 1e30. Defaults to 1.
        fan_in: int. Overrides the fan-in of the noise, which is window times
            channels by default, at least 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them, from Keras 3.15
            on.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them, from Keras
            3.15 on.
        seed: None, int or `keras.random.SeedGenerator`. The seed of the noise.
            With an int, kernels of equal shape get equal weights.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument is out of range. When called: if the axes
            are not each axis of the kernel once.

    Example:

    >>> layer = keras.layers.Conv1D(4, 3, kernel_initializer=Dirac())
    >>> layer.build((None, 8, 2))
    >>> keras.ops.convert_to_numpy(layer.kernel[1])
    array([[1., 0., 1., 0.],
           [0., 1., 0., 1.]], dtype=float32)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code, where outputs are no fewer than inputs and
    windows are odd. The other cases are derived here. `torch.nn.init.dirac_` is
    the same with value 1 and zeros in the place of repeated channels.
    """

    def matrix(self, inputs: int, outputs: int) -> Any:
        """Returns the matrix that passes the inputs on in turn."""
        chosen = np.arange(outputs) % max(1, inputs)
        return np.equal.outer(np.arange(inputs), chosen).astype(np.float32)


@keras.saving.register_keras_serializable(package="keras_initx")
class DiracAverage(_NoisyCenter):
    """Kernels whose output channels start as the mean of the input channels.

        w[mid, c, d] = value / c_in,    0 off the center of the window

    Here `mid` is the center of the window, c the input channel, c_in their
    number and d the output channel. In a grouped convolution each group has a
    mean of its own. All output channels start EQUAL: the features have no
    diversity. They can only become different where something breaks the
    symmetry, such as dropout or `noise`, which mixes in random weights:

        (1 - noise) w + N(0, scale noise / fan_in)

    The initializer is meant for the layers of `Dirac`, and finds the center of
    the window in the same way. In a kernel of one axis or none each entry is
    `value`.

    Args:
        noise: float. The share of noise, in [0, 1]. The noisy start of the
            authors has 0.01. Defaults to 0.
        value: float. The factor of the mean, from -1e30 to 1e30. It is
            -1 / slope after a leaky relu in `models.LeakyNet`. Defaults to 1.
        scale: float. The variance of the noise times the fan-in at `noise` 1,
            from 0 to 1e30. Defaults to 1.
        fan_in: int. Overrides the fan-in of the noise, which is window times
            channels by default, at least 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them, from Keras 3.15
            on.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them, from Keras
            3.15 on.
        seed: None, int or `keras.random.SeedGenerator`. The seed of the noise.
            With an int, kernels of equal shape get equal weights.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: If an argument is out of range. When called: if the axes
            are not each axis of the kernel once.

    Example:

    >>> keras.ops.convert_to_numpy(DiracAverage()((3, 4, 2))[1, :, 0])
    array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038, as
    read from the authors' code, where windows are odd. Other windows, and
    kernels of `EinsumDense`, are derived here.
    """

    def matrix(self, inputs: int, outputs: int) -> Any:
        """Returns the matrix that averages the inputs."""
        return np.full((inputs, outputs), 1 / max(1, inputs), np.float32)
