"""What a distribution does with the parameters it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb = tfp.bijectors

_EXPECTED = {
    "stability": ("in (0, 2]", lambda a: (a > 0) & (a <= 2)),
    "skewness": ("in [-1, 1]", lambda b: tf.abs(b) <= 1),
    "loc": ("finite", tf.math.is_finite),
    "scale": ("> 0", lambda s: (s > 0) & tf.math.is_finite(s)),
}


def properties(dtype: Any) -> dict[str, tfp.util.ParameterProperties]:
    """What TFP asks of a class about its parameters, at a dtype."""
    number = tf.as_dtype(dtype).as_numpy_dtype
    tiny = number(np.finfo(np.float32).eps)
    constrain = {
        "stability": lambda: tfb.Sigmoid(tiny, number(2)),
        "skewness": lambda: tfb.Sigmoid(number(-1), number(1)),
        "loc": tfb.Identity,
        "scale": lambda: tfb.Softplus(low=tiny),
    }
    return {
        name: tfp.util.ParameterProperties(
            default_constraining_bijector_fn=bijector
        )
        for name, bijector in constrain.items()
    }


def checks(values: dict[str, Any], is_init: bool) -> list[Any]:
    """Assertions on the values, at construction or at each use.

    What may change is checked at each use, the rest at construction.
    """
    return [
        require(
            _EXPECTED[name][1](tf.convert_to_tensor(value)),
            f"{name} must be {_EXPECTED[name][0]}",
            **{name: value},
        )
        for name, value in values.items()
        if is_init != is_reference(value)
    ]


def in_dtype(values: dict[str, Any], dtype: tf.DType) -> list[tf.Tensor]:
    """The values in a dtype; "scale" is NaN where one of them is no value."""
    cast = {
        name: tf.cast(tf.convert_to_tensor(value), dtype)
        for name, value in values.items()
    }
    # All that is made of the parameters has scale as a factor or divisor.
    valid = tf.constant(True)
    for name, value in cast.items():
        # Raises the ValueError of other distributions, which "&" would not.
        tf.broadcast_static_shape(valid.shape, value.shape)
        valid &= _EXPECTED[name][1](value)
    cast["scale"] = tf.where(valid, cast["scale"], np.nan)
    return list(cast.values())


def common_dtype(values: dict[str, Any]) -> tf.DType:
    """The one floating dtype that all values that have a dtype have."""
    dtypes = {
        name: tf.as_dtype(value.dtype)
        for name, value in values.items()
        if getattr(value, "dtype", None) is not None
    }
    common = next(iter(dtypes.values()), tf.float32)
    if not common.is_floating or any(d != common for d in dtypes.values()):
        names = {name: dtype.name for name, dtype in dtypes.items()}
        raise TypeError(
            f"The parameters must be of one floating dtype. "
            f"Received: dtypes={names}"
        )
    return common


def is_reference(value: Any) -> bool:
    """Whether its value may change: a variable, or one transformed."""
    return isinstance(value, tf.Variable | tfp.util.DeferredTensor)


def tensor_or_reference(value: Any, dtype: tf.DType) -> Any:
    """The value as a tensor, unless reading it is to be put off."""
    return value if is_reference(value) else tf.convert_to_tensor(value, dtype)


def require(condition: tf.Tensor, expectation: str, **received: Any) -> Any:
    """Raise InvalidArgumentError now, or return an op that does when it runs.

    Args:
        condition: A boolean tensor, all of it to be true.
        expectation: What was expected.
        **received: One name and the value that the condition is about.
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
