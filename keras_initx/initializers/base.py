"""What all initializers here share: the fan-in, the seed and the dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from keras_initx.initializers.fans import compute_fans

# Where a scale is tried at construction, so that bad arguments raise there.
TYPICAL_FAN_IN = 256
_DTYPES = ("float16", "bfloat16", "float32", "float64")


class FanInInitializer(keras.initializers.VarianceScaling):
    """Base of the initializers whose scale follows from the fan-in.

    A subclass says in `draw` what the weights are, in float32. Of
    `VarianceScaling` it takes over the seed, and that `EinsumDense`, which
    knows what its kernel's axes mean, hands `input_axes` and `output_axes` to
    instances of that class and no other; scale, mode and distribution it has
    none.

    Calls are pure: equal config, shape and dtype give equal weights, in a
    graph and out of it, unless the seed is a `SeedGenerator`, whose state moves
    on at each call. (Compiled by XLA, Keras draws other normal numbers.)

    Args:
        fan_in: How many numbers each output of the layer sums, an int >= 1. By
            default it follows from the axes or, without, from the shape as
            `compute_fans` reads it.
        input_axes: Axes of the kernel that the layer sums over.
        output_axes: Axes of the kernel that its output has; both or neither.
        seed: None, an int, or a `keras.random.SeedGenerator`.

    Raises:
        ValueError: An argument is none of these.
    """

    # Whether every weight is drawn alone, wherever in the kernel it stands.
    entrywise: ClassVar[bool] = True
    # Whether several layers draw from one seed, which must stay the same.
    shares_seed: ClassVar[bool] = False

    def __init__(
        self,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        if (input_axes is None) != (output_axes is None):
            raise ValueError(
                "input_axes and output_axes must be given together. Received: "
                f"input_axes={input_axes!r}, output_axes={output_axes!r}"
            )
        super().__init__(
            seed=_check_seed(seed),
            input_axes=_check_axes("input_axes", input_axes),
            output_axes=_check_axes("output_axes", output_axes),
        )
        if fan_in is not None and not (is_int(fan_in) and fan_in >= 1):
            raise ValueError(
                f"fan_in must be an int >= 1, or None. "
                f"Received: fan_in={fan_in!r}"
            )
        self.fan_in = None if fan_in is None else int(fan_in)

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        """Weights in float32 or float64, finite, of that shape and fan-in."""
        raise NotImplementedError

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        """Weights of that shape.

        Args:
            shape: Of the kernel, ints.
            dtype: "float16", "bfloat16", "float32" or "float64"; by default
                `keras.config.floatx()`.

        Returns:
            A tensor. The weights are drawn in float32 and cast last, so that
            they are the same in every dtype but for rounding; what lies beyond
            the range of the dtype is clipped to it.

        Raises:
            ValueError: The dtype is another one, or `input_axes` and
                `output_axes` are not axes of the shape.
        """
        dtype = check_dtype(dtype)
        shape = tuple(int(size) for size in shape)
        fan_in = self.fan_in
        if fan_in is None:
            fan_in, _ = compute_fans(shape, self.input_axes, self.output_axes)
        # An empty kernel has a fan-in of 0, and needs no scale.
        return cast_finite(self.draw(shape, max(1, fan_in)), dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        config = super().get_config()
        own = {"fan_in": self.fan_in}
        return own | {
            key: config[key] for key in ("input_axes", "output_axes", "seed")
        }


def cast_finite(values: tf.Tensor, dtype: str) -> tf.Tensor:
    """Finite values in another dtype, clipped to its range."""
    target = tf.as_dtype(dtype)
    if float(target.max) < float(values.dtype.max):
        limit = tf.constant(float(target.max), values.dtype)
        values = tf.clip_by_value(values, -limit, limit)
    return tf.cast(values, target)


def stateless_seed(seed: int | keras.random.SeedGenerator) -> tf.Tensor:
    """Two int32, as `tf.random.stateless_*` and distributions take them."""
    return keras.random.randint(
        (2,), minval=0, maxval=2**31 - 1, dtype="int32", seed=seed
    )


def given(**parameters: Any) -> dict[str, Any]:
    """The parameters that are not None, for functions with defaults."""
    return {key: v for key, v in parameters.items() if v is not None}


def plain(value: Any) -> float | list[float] | None:
    """A number, a few numbers or None, as JSON can hold them."""
    return None if value is None else np.asarray(value, float).tolist()


def is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_seed(seed: Any) -> Any:
    # A dict is the config of a SeedGenerator, which Keras makes one of.
    if seed is None or isinstance(seed, keras.random.SeedGenerator | dict):
        return seed
    if not is_int(seed) or not -(2**63) <= seed < 2**63:
        raise ValueError(
            "seed must be None, an int of 64 bits, or a "
            f"keras.random.SeedGenerator. Received: seed={seed!r}"
        )
    return int(seed)


def _check_axes(name: str, axes: Any) -> list[int] | None:
    if axes is None:
        return None
    if not isinstance(axes, list | tuple) or not all(map(is_int, axes)):
        raise ValueError(
            f"{name} must be a list of ints, or None. Received: {name}={axes!r}"
        )
    return [int(axis) for axis in axes]


def check_dtype(dtype: Any) -> str:
    try:
        name = keras.backend.standardize_dtype(dtype)
    except (ValueError, TypeError):
        name = None
    if name not in _DTYPES:
        raise ValueError(
            f"dtype must be one of {', '.join(_DTYPES)}, since weights are "
            f"real numbers. Received: dtype={dtype!r}"
        )
    return name
