"""What the backends of Keras do differently.

Rooms that run on every backend compute with `keras.ops`, and ask here for the
rest. No module imports a backend before it is known to be Keras's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


def is_tensorflow() -> bool:
    """Whether Keras runs on TensorFlow."""
    return keras.config.backend() == "tensorflow"


def has_tensorflow() -> bool:
    """Whether TensorFlow can be imported, whatever the backend is."""
    return importlib.util.find_spec("tensorflow") is not None


def tensorflow() -> Any:
    """TensorFlow, which alone writes the files of TensorBoard."""
    import tensorflow as tf

    return tf


def has_passes() -> bool:
    """Whether models are measured on the backend, as `passes` says."""
    return keras.config.backend() in ("tensorflow", "jax", "torch")


def executes_eagerly() -> bool:
    """Whether a computation has values now, outside of a graph of TensorFlow.

    On the other backends the answer is True: JAX traces a function once for
    each set of shapes, as it calls one.
    """
    if not is_tensorflow():
        return True
    import tensorflow as tf

    return tf.executing_eagerly()


def inside_function() -> bool:
    """Whether a `tf.function` is being traced."""
    if not is_tensorflow():
        return False
    import tensorflow as tf

    return tf.inside_function()


def with_values() -> contextlib.AbstractContextManager[Any]:
    """The context in which computations have values, also while code is traced.

    It is `tf.init_scope` or `jax.ensure_compile_time_eval`; PyTorch needs none.
    """
    if is_tensorflow():
        import tensorflow as tf

        return tf.init_scope()
    if keras.config.backend() == "jax":
        import jax

        return jax.ensure_compile_time_eval()
    return contextlib.nullcontext()


def widest_float() -> str:
    """The widest dtype of floating-point numbers that tensors may have.

    It is "float32" on JAX, unless `jax_enable_x64` is set.
    """
    if keras.config.backend() == "jax":
        import jax

        return "float64" if jax.config.jax_enable_x64 else "float32"
    return "float64"


def is_floating_tensor(value: Any) -> bool:
    """Whether a value is a tensor of the backend, of floating-point numbers."""
    return keras.ops.is_tensor(value) and keras.backend.is_float_dtype(
        keras.backend.standardize_dtype(value.dtype)
    )


def is_variable(value: Any) -> bool:
    """Whether a value is a variable of Keras or TensorFlow."""
    return isinstance(value, keras.Variable) or _is_of(
        value, "tensorflow", "Variable"
    )


def is_dataset(value: Any) -> bool:
    """Whether a value is a `tf.data.Dataset`, on any backend."""
    return _is_of(value, "tensorflow", "data.Dataset")


def is_loader(value: Any) -> bool:
    """Whether a value is a `torch.utils.data.DataLoader`, on any backend."""
    return _is_of(value, "torch", "utils.data.DataLoader")


def _is_of(value: Any, package: str, name: str) -> bool:
    """Whether a value is of a class of a package that may not be imported."""
    module = sys.modules.get(package)
    if module is None:
        return False
    return isinstance(value, operator.attrgetter(name)(module))


def to_tensor(array: Any) -> Any:
    """Returns an array, of any framework, as a tensor of the backend.

    Raises:
        ValueError: If the array holds text and the backend has no such tensors.
    """
    if is_tensorflow():
        import tensorflow as tf

        return tf.convert_to_tensor(array)
    if keras.ops.is_tensor(array):
        return array
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        raise ValueError(
            "Keras has tensors of text on its TensorFlow backend alone; turn "
            "the text into numbers first. "
            f"Received: backend={keras.config.backend()!r}"
        )
    return keras.ops.convert_to_tensor(array)


def without_autograph(function: Function) -> Function:
    """Returns a function that AutoGraph of TensorFlow does not rewrite."""
    if not is_tensorflow():
        return function
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


def steps_per_execution(steps: int) -> int:
    """The argument of `compile` for a number of steps: 1 on PyTorch."""
    return 1 if keras.config.backend() == "torch" else steps


def function_modules() -> tuple[Any, ...]:
    """The backend's own modules of activation functions."""
    if not is_tensorflow():
        return ()
    import tensorflow as tf

    return tf.nn, tf.math


def endless_batches(x: np.ndarray, y: np.ndarray, batch_size: int) -> Any:
    """Data for `fit`: in batches, shuffled anew in each of endless epochs.

    Args:
        x: array of shape (samples, ...).
        y: array of shape (samples, ...).
        batch_size: int. The number of samples in a batch; the last of an epoch
            may have fewer.
    """
    if not is_tensorflow():
        return _batches(x, y, batch_size)
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x, y)).cache()
    return data.shuffle(len(x)).batch(batch_size).repeat()


def _batches(
    x: np.ndarray, y: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        # From the generator that `keras.utils.set_random_seed` seeds.
        order = np.random.permutation(len(x))
        for start in range(0, len(x), batch_size):
            batch = order[start : start + batch_size]
            yield x[batch], y[batch]
