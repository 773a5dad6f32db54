"""Dtypes, ranges and assertions of the parameters of `AlphaStable`.

Functions that take all four parameters take them by name, as a dict.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

# The allowed values of each parameter, in words and as a function.
_RANGES = {
    "stability": ("in (0, 2]", lambda a: (a > 0) & (a <= 2)),
    "skewness": ("in [-1, 1]", lambda b: tf.abs(b) <= 1),
    "loc": ("finite", tf.math.is_finite),
    "scale": ("> 0", lambda s: (s > 0) & tf.math.is_finite(s)),
}


def properties(dtype: Any) -> dict[str, tfp.util.ParameterProperties]:
    """Returns each parameter's properties: the bijector onto its range."""
    number = tf.as_dtype(dtype).as_numpy_dtype
    tiny = number(np.finfo(np.float32).eps)
    bijectors = {
        "stability": lambda: tfb.Sigmoid(tiny, number(2)),
        "skewness": lambda: tfb.Sigmoid(number(-1), number(1)),
        "loc": tfb.Identity,
        "scale": lambda: tfb.Softplus(low=tiny),
    }
    return {
        name: tfp.util.ParameterProperties(
            default_constraining_bijector_fn=bijector
        )
        for name, bijector in bijectors.items()
    }


def assertions(values: dict[str, Any], is_init: bool) -> list[Any]:
    """Returns assertions that the parameters are in their range.

    Variables are checked each time the distribution is used, other parameters
    when it is constructed.

    Args:
        values: dict. The parameters.
        is_init: bool. Whether the distribution is being constructed.

    Raises:
        tf.errors.InvalidArgumentError: If a known value is out of its range.
    """
    return [
        require(
            _RANGES[name][1](tf.convert_to_tensor(value)),
            f"{name} must be {_RANGES[name][0]}",
            **{name: value},
        )
        for name, value in values.items()
        if is_init != is_variable(value)
    ]


def in_dtype(values: dict[str, Any], dtype: tf.DType) -> list[tf.Tensor]:
    """Returns the parameters as tensors of a dtype.

    "scale" is NaN where one of the parameters is out of its range. All results
    are multiplied or divided by the scale, so they are NaN there as well.

    Raises:
        ValueError: If the shapes do not broadcast.
    """
    tensors = {
        name: tf.cast(tf.convert_to_tensor(value), dtype)
        for name, value in values.items()
    }
    valid = tf.constant(True)
    for name, value in tensors.items():
        # Raises the ValueError of other distributions, which "&" would not.
        tf.broadcast_static_shape(valid.shape, value.shape)
        valid &= _RANGES[name][1](value)
    tensors["scale"] = tf.where(valid, tensors["scale"], np.nan)
    return list(tensors.values())


def common_dtype(values: dict[str, Any]) -> tf.DType:
    """Returns the dtype of the parameters, float32 if they are plain numbers.

    Raises:
        TypeError: If the parameters that have a dtype do not have the same
            one, or if it is not floating.
    """
    dtypes = {
        name: tf.as_dtype(value.dtype)
        for name, value in values.items()
        if getattr(value, "dtype", None) is not None
    }
    common = next(iter(dtypes.values()), tf.float32)
    if not common.is_floating or any(d != common for d in dtypes.values()):
        names = {name: dtype.name for name, dtype in dtypes.items()}
        raise TypeError(
            f"The parameters must have one floating dtype. "
            f"Received: dtypes={names}"
        )
    return common


def is_variable(value: Any) -> bool:
    """Whether a value may change: it is a variable or a function of one."""
    return isinstance(value, tf.Variable | tfp.util.DeferredTensor)


def tensor_or_variable(value: Any, dtype: tf.DType) -> Any:
    """Returns a variable as it is, and any other value as a tensor."""
    return value if is_variable(value) else tf.convert_to_tensor(value, dtype)


def require(condition: tf.Tensor, expectation: str, **received: Any) -> Any:
    """Asserts a condition now, or when the graph runs.

    Args:
        condition: Boolean tensor, all of which must be True.
        expectation: str. What was expected, as the start of the message.
        **received: The one argument that the condition is about.

    Returns:
        An assertion op if the condition is not known yet, else None.

    Raises:
        tf.errors.InvalidArgumentError: If the condition is known to be False.
    """
    ((name, value),) = received.items()
    value = tf.convert_to_tensor(value)
    message = f"{expectation}. Received: {name}="
    met = tf.reduce_all(condition)
    known = tf.get_static_value(met)
    if known is None:
        return tf.debugging.Assert(met, [message, value])
    if not known:
        value = tf.get_static_value(value)
        raise tf.errors.InvalidArgumentError(None, None, f"{message}{value}")
    return None
