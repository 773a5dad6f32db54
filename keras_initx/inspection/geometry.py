"""What each weight of a layer is: a linear map, several, or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_initx.validation import check_choice

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
    """What one weight is, and how it splits into linear maps.

    The maps of a linear weight are those of its gates, groups or channels.
    Reshaped to `split_shape`, each axis of the weight counts the maps, or the
    inputs that an output sums, or the outputs.

    Args:
        role: What the weight is, in words. Of weights that are no linear map,
            these have an effect in `initialize`: "bias" draws from
            `bias_initializer`, "norm scale", "attention scale" and "norm
            offset" start at 1 and 0, and all but "unknown" from the layer's
            initializer of that name, `layer.<weight>_initializer`, if it has
            one.
        split_shape: The weight's shape after axes were split; None if the
            weight is no linear map.
        batch_axes: Axes of `split_shape` along which there are separate maps.
        input_axes: Axes of `split_shape` that an output sums over.
        output_axes: Axes of `split_shape` that the output has.
        window: How many of `input_axes`, its first, are a convolution's window.
        fan_in: How many numbers an output sums, > 0, by default the product
            of the sizes along `input_axes`. A transposed convolution with
            strides has a fraction of it: the mean over output positions.
        fan_out: How many outputs an input feeds, > 0, by default the product
            of the sizes along `output_axes`.

    Raises:
        ValueError: The axes are not each axis of `split_shape` once, or a fan
            is not positive.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> gates.fan_in, gates.fan_out
    (8, 16)

    Reference: the axes are those of `VarianceScaling` in flax, where maps are
    `batch_axis`. Fans: Glorot & Bengio, AISTATS (2010).
    """

    role: Role
    split_shape: tuple[int, ...] | None = None
    batch_axes: tuple[int, ...] = ()
    input_axes: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    window: int = 0
    fan_in: float | None = None
    fan_out: float | None = None

    def __post_init__(self) -> None:
        check_choice("role", self.role, get_args(Role))
        if self.split_shape is None:
            return
        axes = sorted((*self.batch_axes, *self.input_axes, *self.output_axes))
        if axes != list(range(len(self.split_shape))):
            raise ValueError(
                "batch_axes, input_axes and output_axes must hold each axis of "
                f"split_shape once. Received: split_shape={self.split_shape}, "
                f"batch_axes={self.batch_axes}, input_axes={self.input_axes}, "
                f"output_axes={self.output_axes}"
            )
        if not 0 <= self.window <= len(self.input_axes):
            raise ValueError(
                f"window must be from 0 to {len(self.input_axes)}, the number "
                f"of input_axes. Received: window={self.window!r}"
            )
        for fan, along in (
            ("fan_in", self.input_axes),
            ("fan_out", self.output_axes),
        ):
            value = getattr(self, fan)
            if value is None:
                # Of an empty kernel, as Keras has it.
                object.__setattr__(self, fan, max(1, self._size(along)))
            elif not 0 < value < math.inf:
                raise ValueError(
                    f"{fan} must be positive. Received: {fan}={value!r}"
                )

    @property
    def matrices(self) -> tuple[int, int, int]:
        """Number of maps, and the rows and columns of each."""
        return tuple(
            map(
                self._size, (self.batch_axes, self.input_axes, self.output_axes)
            )
        )

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Of each map as an ordinary kernel: (*window, inputs, outputs)."""
        sizes = [self.split_shape[axis] for axis in self.input_axes]
        return (
            *sizes[: self.window],
            math.prod(sizes[self.window :]),
            self._size(self.output_axes),
        )

    @property
    def order(self) -> tuple[int, ...]:
        """Axes of `split_shape`: maps first, then inputs, then outputs."""
        return (*self.batch_axes, *self.input_axes, *self.output_axes)

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.split_shape[axis] for axis in axes)


def to_matrices(weight: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The linear maps of a weight, as matrices that act as x @ matrix.

    Args:
        weight: Of any shape with as many entries as `geometry.split_shape`.
        geometry: Of a weight that is linear.

    Returns:
        Shape (maps, inputs, outputs); `from_matrices` is the inverse.

    Raises:
        ValueError: The geometry is of no linear map, or of another size.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> to_matrices(np.zeros((8, 64)), gates).shape
    (4, 8, 16)

    Reference: derived here.
    """
    weight = np.asarray(weight)
    if (
        geometry.split_shape is None
        or math.prod(geometry.split_shape) != weight.size
    ):
        raise ValueError(
            "geometry must be of a linear map with as many entries as the "
            f"weight. Received: weight of shape {weight.shape}, "
            f"geometry={geometry}"
        )
    factored = weight.reshape(geometry.split_shape)
    return factored.transpose(geometry.order).reshape(geometry.matrices)


def from_matrices(
    matrices: np.ndarray, geometry: Geometry, shape: tuple[int, ...]
) -> np.ndarray:
    """The weight of that shape whose linear maps these are.

    Args:
        matrices: Shape (maps, inputs, outputs).
        geometry: Of the weight.
        shape: Of the weight.

    Returns:
        What `to_matrices` made the matrices of.

    Raises:
        ValueError: The sizes differ.

    Example:

    >>> gates = Geometry("kernel", (8, 4, 16), (1,), (0,), (2,))
    >>> from_matrices(np.zeros((4, 8, 16)), gates, (8, 64)).shape
    (8, 64)

    Reference: derived here.
    """
    order = geometry.order
    ordered = np.reshape(matrices, [geometry.split_shape[i] for i in order])
    return ordered.transpose(np.argsort(order)).reshape(shape)


Rule = Callable[[keras.layers.Layer, keras.Variable], Geometry | None]
_RULES: dict[type, Rule] = {}


def register_geometry(*classes: type) -> Callable[[Rule], Rule]:
    """Say what the weights of a layer class are, its subclasses included.

    A rule takes the place of an earlier one for the same class.

    Args:
        classes: Layer classes.

    Returns:
        A decorator of a function (layer, weight) -> `Geometry`, or None for a
        weight that it does not know. It is asked for the weights that the
        layer itself holds, not for those of layers inside it.

    Raises:
        TypeError: One of `classes` is no layer class.

    Example:

    >>> import keras, keras_initx as kx
    >>> class Mix(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.w = self.add_weight(shape=(7, shape[-1]), name="w")
    >>> @kx.inspection.register_geometry(Mix)
    ... def mix(layer, weight):
    ...     shape = tuple(weight.shape)
    ...     return kx.inspection.Geometry("kernel", shape, (), (1,), (0,))
    >>> layer = Mix()
    >>> layer.build((None, 5))
    >>> kx.inspection.kernel_geometry(layer)["w"].fan_in
    5

    Reference: derived here.
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, keras.layers.Layer)):
            raise TypeError(
                "register_geometry takes layer classes, as in "
                f"@register_geometry(MyLayer). Received: {cls!r}"
            )

    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(classes, rule))
        return rule

    return register


def own_geometry(layer: keras.layers.Layer, weight: Any) -> Geometry:
    """What a weight that this layer itself holds is; else role "unknown".

    Raises:
        ValueError: The class's rule fails, or answers with no geometry, or
            with one of another size.
    """
    for cls in type(layer).__mro__:
        rule = _RULES.get(cls)
        try:
            found = rule(layer, weight) if rule else None
            if found is None:
                continue
            if not isinstance(found, Geometry):
                raise TypeError(f"it answers {found!r}")
            if found.split_shape is not None:
                to_matrices(np.broadcast_to(0.0, weight.shape), found)
        except Exception as error:
            raise ValueError(
                f"The geometry rule of {cls.__name__} must answer with a "
                f"Geometry, or None, for {weight.name!r} of {layer.name!r}, of "
                f"shape {tuple(weight.shape)}. Received: {error}"
            ) from error
        return found
    return Geometry("unknown")
