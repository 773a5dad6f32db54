"""The base class of the initializers whose scale follows from the fan-in."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np

from keras_initx import backend
from keras_initx.initializers.einsum_axes import einsum_axes, warn_of_einsum
from keras_initx.validation import check_int, is_int, refuse

# A constructor computes the scale at this fan-in to check its arguments.
TYPICAL_FAN_IN = 256
# The dtypes of weights, and their largest numbers.
LARGEST = {
    "float16": float(np.finfo(np.float16).max),
    "bfloat16": (2 - 2**-7) * 2.0**127,
    "float32": float(np.finfo(np.float32).max),
    "float64": float(np.finfo(np.float64).max),
}


class FanInInitializer(keras.initializers.VarianceScaling):
    """Base class of the initializers whose scale follows from the fan-in.

    A subclass implements `draw`, which returns the weights in float32.

    `VarianceScaling` is the base class for two reasons: it handles the seed,
    and `EinsumDense`, which knows the meaning of its kernel's axes, passes
    `input_axes` and `output_axes` to instances of `VarianceScaling` only, and
    none before Keras 3.15. The arguments `scale`, `mode` and `distribution` of
    `VarianceScaling` are not used.

    A call is a pure function of the config, the shape and the dtype, in a
    graph and in eager mode, unless the seed is a `SeedGenerator`, whose state
    changes at each call. (Compiled by XLA, Keras draws other normal numbers.)
    An instance without a seed therefore gives equal weights to all layers that
    share it, of which its second call for one shape warns.

    Args:
        fan_in: int. The number of terms that each output of the layer sums,
            at least 1. By default it is computed from the axes or, without
            axes, from the shape as in `compute_fans`.
        input_axes: list of int. The axes of the kernel that the layer sums
            over.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. Both lists of axes must be given, or neither.
        seed: None, int or `keras.random.SeedGenerator`. The seed.

    Raises:
        ValueError: If an argument has another type or is out of range.
    """

    # Whether all weights of a kernel are independent and follow one
    # distribution, wherever in the kernel they stand.
    entrywise: ClassVar[bool] = True
    # Whether the weights depend on the fan-in.
    uses_fan_in: bool = True
    # Whether the initializers of several layers must keep a common seed.
    shares_seed: ClassVar[bool] = False

    def __init__(
        self,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        if (input_axes is None) != (output_axes is None):
            refuse(
                "input_axes and output_axes must be given together.",
                input_axes=input_axes,
                output_axes=output_axes,
            )
        super().__init__(seed=_check_seed(seed))
        # `VarianceScaling` takes them from Keras 3.15 on.
        self.input_axes: Any = _check_axes("input_axes", input_axes)
        self.output_axes: Any = _check_axes("output_axes", output_axes)
        self.fan_in = check_int("fan_in", fan_in, 1, optional=True)
        self._calls: Counter[tuple[int, ...]] = Counter()

    @property
    def is_random(self) -> bool:
        """Whether the weights depend on the seed of this initializer."""
        return True

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns finite weights of a shape, in float32 or float64.

        Args:
            shape: tuple of int. The shape of the kernel.
            fan_in: int. The fan-in, at least 1.
        """
        raise NotImplementedError

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        """Returns the weights of a kernel.

        Args:
            shape: Sequence of int. The shape of the kernel.
            dtype: str or dtype. One of "float16", "bfloat16", "float32" and
                "float64". Defaults to `keras.config.floatx()`.

        Returns:
            A tensor. The weights are drawn in float32 and cast last, so that
            they differ between dtypes by rounding only. Values beyond the
            range of the dtype are clipped to it.

        Raises:
            ValueError: If the dtype is another one, or if `input_axes` and
                `output_axes` are not axes of the shape.
        """
        dtype = check_dtype(dtype)
        shape = tuple(int(size) for size in shape)
        self._warn_if_shared(shape)
        fan_in = self.fan_in
        if fan_in is None:
            fan_in, _ = compute_fans(shape, self.input_axes, self.output_axes)
            if self.input_axes is None and self.uses_fan_in:
                warn_of_einsum(shape, fan_in)
        # The fan-in of an empty kernel is 0, and its scale does not matter.
        return cast_finite(self.draw(shape, max(1, fan_in)), dtype)

    def axes_for(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Returns the axes of inputs and outputs, or None and None.

        Where Keras does not name the axes of an `EinsumDense` kernel, they are
        those of its equation. Only weights whose places in the kernel matter
        ask for them: the fan-in stays the one that Keras takes.

        Args:
            shape: tuple of int. The shape of the kernel.
        """
        if self.input_axes is None:
            return einsum_axes(shape)
        return self.input_axes, self.output_axes

    def _warn_if_shared(self, shape: tuple[int, ...]) -> None:
        """Warns, once a shape, if a call repeats the weights of another."""
        # A function that is traced again calls again, for the same weights.
        if not backend.executes_eagerly():
            return
        self._calls[shape] += 1
        if self._calls[shape] != 2 or not self.is_random:
            return
        if self.get_config()["seed"] is None:
            warnings.warn(
                f"This {type(self).__name__} initializer has no seed and is "
                f"called a second time for the shape {shape}, which gives the "
                "same weights again. Give each layer an initializer of its "
                "own, or draw a whole model with `keras_initx.initialize`.",
                stacklevel=3,
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        # Copied, so that a changed config does not change the initializer.
        return {
            "fan_in": self.fan_in,
            "input_axes": copy.copy(self.input_axes),
            "output_axes": copy.copy(self.output_axes),
            "seed": super().get_config()["seed"],
        }


def axes_of(initializer: Any) -> tuple[Any, Any]:
    """Returns the axes that an initializer was given, or None twice.

    Keras's own initializers have them from Keras 3.15 on.
    """
    return (
        getattr(initializer, "input_axes", None),
        getattr(initializer, "output_axes", None),
    )


def compute_fans(
    shape: Sequence[int],
    input_axes: Sequence[int] | None = None,
    output_axes: Sequence[int] | None = None,
) -> tuple[int, int]:
    """Returns the fan-in and the fan-out of a kernel, by the rule of Keras.

    If axes are given, the fans are the products of the sizes along them.
    Otherwise they follow from the rank:

        ()             1, 1
        (n,)           n, n
        (n, m)         n, m                        Dense
        (..., n, m)    n prod(...), m prod(...)    convolutions

    It is a second rule beside `inspection.kernel_geometry`, since a layer calls
    its initializer with a shape and a dtype, and not with itself: here the fans
    can only be those that Keras takes. `initialize` has the layer, and gives
    the initializer the fans of the inspection.

    Args:
        shape: Sequence of int. The shape of the kernel.
        input_axes: Sequence of int. The axes of `shape` that the layer sums
            over.
        output_axes: Sequence of int. The axes of `shape` that the layer's
            output has.

    Returns:
        Two ints, fan-in and fan-out. They are 0 if the kernel has no entries.

    Raises:
        ValueError: If an axis is not an axis of `shape`.

    Example:

    >>> compute_fans((3, 3, 64, 128))
    (576, 1152)
    >>> compute_fans((64, 4, 16), input_axes=[0], output_axes=[1, 2])
    (64, 64)

    Reference: `keras.initializers.VarianceScaling` of Keras 3.15, which
    receives the axes from `EinsumDense`.
    """
    shape = tuple(int(size) for size in shape)
    if input_axes is not None and output_axes is not None:
        return (
            _size_along("input_axes", input_axes, shape),
            _size_along("output_axes", output_axes, shape),
        )
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    receptive_field = math.prod(shape[:-2])
    return shape[-2] * receptive_field, shape[-1] * receptive_field


def _size_along(name: str, axes: Sequence[int], shape: tuple[int, ...]) -> int:
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        received: dict[str, Any] = {name: list(axes)}
        refuse(
            f"{name} must be axes of the kernel, whose shape is {shape}.",
            **received,
        )
    return math.prod(shape[axis] for axis in axes)


def cast_finite(values: Any, dtype: str) -> Any:
    """Returns finite values in another dtype, clipped to its range."""
    limit = LARGEST[dtype]
    if limit < LARGEST[keras.backend.standardize_dtype(values.dtype)]:
        values = keras.ops.clip(values, -limit, limit)
    return keras.ops.cast(values, dtype)


def tensor_of(values: np.ndarray, dtype: str) -> Any:
    """Returns finite float64 numbers as a tensor, clipped to its range.

    Args:
        values: float64 array.
        dtype: str. The dtype of the tensor.
    """
    # JAX knows float32 at most, as a rule.
    wide = backend.widest_float()
    limit = min(LARGEST[dtype], LARGEST[wide])
    clipped = np.clip(values, -limit, limit)
    tensor = keras.ops.convert_to_tensor(clipped, dtype=wide)
    return keras.ops.cast(tensor, dtype)


def stateless_seed(seed: int | keras.random.SeedGenerator) -> Any:
    """Returns a seed for `tf.random.stateless_*` and TFP distributions."""
    return keras.random.randint(
        (2,), minval=0, maxval=2**31 - 1, dtype="int32", seed=seed
    )


def check_activation_name(activation: Any) -> str:
    """Checks that an activation is a name, which a config can hold.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(activation, str):
        refuse(
            "activation must be a name, which a saved model can hold.",
            activation=activation,
        )
    return activation


def without_none(**arguments: Any) -> dict[str, Any]:
    """Returns the arguments that are not None, for functions with defaults."""
    return {name: v for name, v in arguments.items() if v is not None}


def _check_seed(seed: Any) -> Any:
    # Keras makes a SeedGenerator of a dict, which is its config.
    if seed is None or isinstance(seed, keras.random.SeedGenerator | dict):
        return seed
    if not is_int(seed) or not -(2**63) <= seed < 2**63:
        refuse(
            "seed must be None, an int of 64 bits, or a "
            "keras.random.SeedGenerator.",
            seed=seed,
        )
    return int(seed)


def _check_axes(name: str, axes: Any) -> list[int] | None:
    if axes is None:
        return None
    if not isinstance(axes, list | tuple) or not all(map(is_int, axes)):
        refuse(f"{name} must be a list of ints or None.", **{name: axes})
    return [int(axis) for axis in axes]


def check_dtype(dtype: Any) -> str:
    """Returns the name of a dtype of weights, `keras.config.floatx()` for None.

    Raises:
        ValueError: If the dtype is not one of real numbers.
    """
    try:
        name = keras.backend.standardize_dtype(dtype)
    except (ValueError, TypeError):
        name = None
    if name not in LARGEST:
        refuse(
            f"dtype must be one of {', '.join(LARGEST)}, since weights are "
            "real numbers.",
            dtype=dtype,
        )
    return name
