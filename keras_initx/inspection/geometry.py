"""The role of a weight, its fans, and the linear maps that it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from keras_initx.validation import check_choice, refuse

Role = Literal[
    "kernel",
    "recurrent kernel",
    "depthwise kernel",
    "pointwise kernel",
    "embedding",
    "bias",
    "norm scale",
    "norm offset",
    "attention scale",
    "branch scale",
    "slope",
    "wave",
    "statistic",
    "fixed transform",
    "lora",
    "unknown",
]


@dataclass(frozen=True)
class Geometry:
    """The role of one weight of a layer, and the linear maps that it holds.

    A linear weight holds one map, or one for each gate, group or channel of
    its layer. Once the weight is reshaped to `split_shape`, each of its axes
    counts the maps, or the inputs that an output sums, or the outputs.

    Args:
        role: str. What the weight is: "kernel", "recurrent kernel",
            "depthwise kernel", "pointwise kernel", "embedding", "bias", "norm
            scale", "norm offset", "attention scale", "branch scale", "slope",
            "wave", "statistic", "fixed transform", "lora" or "unknown". A
            "wave" holds the peaks or scales of a `TriangleWave`, a "statistic"
            is collected and not trained, such as a moving mean, and a "fixed
            transform" is computed and not drawn. `initialize` draws linear maps
            from its argument `initializer`, a "bias" from its argument
            `bias_initializer`, and other weights from the field `initializer`
            below.
        split_shape: tuple of ints. The shape of the weight once the axes that
            hold several things are split. None if the weight is no linear map.
            Defaults to None.
        batch_axes: tuple of ints. Axes of `split_shape` that count separate
            maps. Defaults to none.
        input_axes: tuple of ints. Axes of `split_shape` that an output sums
            over. Defaults to none.
        output_axes: tuple of ints. Axes of `split_shape` that count the
            outputs of a map. Defaults to none.
        window: int. How many of `input_axes`, the first ones, are the window
            of a convolution. Defaults to 0.
        fan_in: float. How many numbers an output sums, > 0. A transposed
            convolution with strides has a fraction: the mean over output
            positions. Defaults to the product of the sizes of `input_axes`.
        fan_out: float. How many outputs an input feeds, > 0. Defaults to the
            product of the sizes of `output_axes`.
        initializer: keras.Initializer. The initializer of a weight that is
            neither a linear map nor a bias. Defaults to the one that the layer
            has for it, `layer.<weight>_initializer`; without one, a
            "norm scale" and an "attention scale" become 1 and a "norm offset"
            becomes 0.
        ones: tuple of two ints. The first and the last entry of a bias,
            counted in flattened order, the last one excluded, that
            `initialize` sets to 1, as those of the forget gate of an LSTM.
            Defaults to none.

    Raises:
        ValueError: If the role is none of these, if the axes are not each axis
            of `split_shape` once, or if a fan is not positive.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> gates.fan_in, gates.fan_out
    (8, 16)

    Reference: the axes are those of `variance_scaling` in jax. Fans: Glorot &
    Bengio, AISTATS (2010).
    """

    role: Role
    split_shape: tuple[int, ...] | None = None
    batch_axes: tuple[int, ...] = ()
    input_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    window: int = 0
    fan_in: float | None = None
    fan_out: float | None = None
    initializer: Any = field(default=None, compare=False)
    ones: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_choice("role", self.role, get_args(Role))
        if self.ones is not None:
            start, stop = self.ones
            if self.role != "bias" or not 0 <= start <= stop:
                refuse(
                    "ones must be the first and the last index of entries of "
                    "a bias.",
                    role=self.role,
                    ones=self.ones,
                )
        if self.split_shape is None:
            return
        if sorted(self.order) != list(range(len(self.split_shape))):
            refuse(
                "batch_axes, input_axes and output_axes must hold each axis "
                "of split_shape once.",
                split_shape=self.split_shape,
                batch_axes=self.batch_axes,
                input_axes=self.input_axes,
                output_axes=self.output_axes,
            )
        if not 0 <= self.window <= len(self.input_axes):
            refuse(
                f"window must be from 0 to {len(self.input_axes)}, the number "
                "of input_axes.",
                window=self.window,
            )
        for name, axes in (
            ("fan_in", self.input_axes),
            ("fan_out", self.output_axes),
        ):
            fan = getattr(self, name)
            if fan is None:
                # An empty kernel has fans of 1, as in Keras.
                object.__setattr__(self, name, max(1, self._size(axes)))
            elif not 0 < fan < math.inf:
                refuse(f"{name} must be positive.", **{name: fan})

    @property
    def is_linear(self) -> bool:
        """Whether the weight is a linear map, or several."""
        return self.split_shape is not None

    @property
    def fans(self) -> tuple[float, float]:
        """`fan_in` and `fan_out` of a linear map.

        Raises:
            ValueError: If the weight is no linear map.
        """
        if self.fan_in is None or self.fan_out is None:
            refuse("Only a linear map has fans.", geometry=self)
        return self.fan_in, self.fan_out

    @property
    def matrices(self) -> tuple[int, int, int]:
        """The number of maps, and the rows and columns of each."""
        return (
            self._size(self.batch_axes),
            self._size(self.input_axes),
            self._size(self.output_axes),
        )

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """The shape of one map as a kernel, `(*window, inputs, outputs)`."""
        sizes = [self._sizes[axis] for axis in self.input_axes]
        return (
            *sizes[: self.window],
            math.prod(sizes[self.window :]),
            self._size(self.output_axes),
        )

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of `split_shape`: batch, then input, then output axes."""
        return (*self.batch_axes, *self.input_axes, *self.output_axes)

    @property
    def ordered_shape(self) -> tuple[int, ...]:
        """The sizes of `split_shape` in that order."""
        return tuple(self._sizes[axis] for axis in self.order)

    @property
    def _sizes(self) -> tuple[int, ...]:
        if self.split_shape is None:
            refuse("geometry must be of a linear map.", geometry=self)
        return self.split_shape

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self._sizes[axis] for axis in axes)


def to_matrices(weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The linear maps of a weight, as matrices that act as `x @ matrix`.

    Args:
        weight: array of any shape with as many entries as
            `geometry.split_shape`.
        geometry: Geometry. That of the weight, which must be a linear map.

    Returns:
        Array of shape `(maps, inputs, outputs)`; `from_matrices` is the
        inverse.

    Raises:
        ValueError: If the geometry is of no linear map, or of another size.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> to_matrices(np.zeros((8, 64)), gates).shape
    (4, 8, 16)

    Reference: derived here.
    """
    weight = np.asarray(weight)
    check_size(weight.shape, geometry)
    split = weight.reshape(geometry.split_shape)
    return split.transpose(geometry.order).reshape(geometry.matrices)


def from_matrices(
    matrices: np.ndarray, geometry: Geometry, shape: tuple[int, ...]
) -> np.ndarray:
    """The weight whose linear maps are given as matrices.

    Args:
        matrices: array of shape `(maps, inputs, outputs)`.
        geometry: Geometry. That of the weight.
        shape: tuple of ints. The shape of the weight.

    Returns:
        Array of shape `shape`, of which `to_matrices` makes the matrices.

    Raises:
        ValueError: If the sizes differ.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> from_matrices(np.zeros((4, 8, 16)), gates, (8, 64)).shape
    (8, 64)

    Reference: derived here.
    """
    check_size(shape, geometry)
    ordered = np.reshape(matrices, geometry.ordered_shape)
    return ordered.transpose(np.argsort(geometry.order)).reshape(shape)


def check_size(shape: tuple[int, ...], geometry: Geometry) -> None:
    """Refuses a geometry that is not of a linear map of this size.

    Raises:
        ValueError: If it is not.
    """
    split_shape = geometry.split_shape
    if split_shape is None or math.prod(split_shape) != math.prod(shape):
        refuse(
            "geometry must be of a linear map with as many entries as the "
            "weight.",
            shape=tuple(shape),
            geometry=geometry,
        )
