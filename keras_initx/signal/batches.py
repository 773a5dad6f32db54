"""Whatever a user may hold data in, as batches of a model's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Data = Any


@dataclass(frozen=True)
class Batches:
    """Batches of model inputs that can be run through more than once.

    Args:
        data: One of the kinds that `batches` accepts.
        size: Samples a batch, of arrays; a data set brings its own.
        count: How many batches there are, None if that is not known.
    """

    data: Data
    size: int | None
    count: int | None

    def __iter__(self) -> Iterator[Any]:
        for i, batch in enumerate(self._all()):
            if self.count is not None and i == self.count:
                return
            tensors = keras.tree.map_structure(_tensor, batch)
            # A mean over no samples would be NaN, and add nothing.
            if all(t.shape[:1] != [0] for t in keras.tree.flatten(tensors)):
                yield tensors

    def _all(self) -> Iterator[Any]:
        if isinstance(self.data, tf.data.Dataset):
            for element in self.data:
                yield _inputs(element)
        elif isinstance(self.data, keras.utils.PyDataset):
            for i in range(self.count):
                yield _inputs(self.data[i])
        else:
            samples = len(keras.tree.flatten(self.data)[0])
            for start in range(0, samples, self.size):
                yield keras.tree.map_structure(
                    lambda a, start=start: a[start : start + self.size],
                    self.data,
                )


def batches(
    data: Data, batch_size: int | None = None, steps: int | None = None
) -> Batches:
    """`data` as batches of inputs, labels left out.

    Args:
        data: An array; a dict, tuple or list of arrays, one for each input of
            the model; a `tf.data.Dataset` or `keras.utils.PyDataset` of
            batches of inputs, or of `(inputs, labels)` or
            `(inputs, labels, weights)`.
        batch_size: Samples a batch, for arrays. Default: 32.
        steps: At most so many batches. Default: all.

    Raises:
        ValueError: No such data, no samples, empty ones, or no end to them.
    """
    _check_count("batch_size", batch_size)
    _check_count("steps", steps)
    if isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
        if batch_size is not None:
            raise ValueError(
                "batch_size is for arrays; a data set brings its own batches. "
                f"Received: batch_size={batch_size}"
            )
        count = _batches_in(data)
        if steps is None and count == np.inf:
            raise ValueError(
                "Endless data needs a number of batches to stop after. "
                "Received: steps=None"
            )
        if steps is not None:
            count = steps if count is None else min(steps, count)
        return Batches(data, None, count)
    arrays = keras.tree.map_structure(_array, data)
    size = batch_size or 32
    count = -(-_samples(arrays) // size)
    return Batches(arrays, size, min(count, steps or count))


def _batches_in(data: Data) -> float | None:
    if isinstance(data, keras.utils.PyDataset):
        # An endless PyDataset says None.
        return np.inf if data.num_batches is None else data.num_batches
    count = int(data.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        return np.inf
    return None if count == tf.data.UNKNOWN_CARDINALITY else count


def _inputs(element: Any) -> Any:
    return keras.utils.unpack_x_y_sample_weight(element)[0]


def _array(leaf: Any) -> Any:
    if isinstance(leaf, tf.Variable):
        array = tf.convert_to_tensor(leaf)
    elif isinstance(leaf, (np.ndarray, tf.Tensor)):
        array = leaf
    elif hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
    else:
        raise ValueError(
            "data must be an array, a dict or tuple of arrays, a "
            "tf.data.Dataset or a keras.utils.PyDataset. "
            f"Received: {leaf!r} of type {type(leaf).__name__}"
        )
    if array.dtype == object or len(array.shape) == 0:
        raise ValueError(
            "data must be arrays of numbers with the samples along the first "
            f"axis. Received: an array of dtype {array.dtype} and shape "
            f"{tuple(array.shape)}"
        )
    return array


def _tensor(array: Any) -> tf.Tensor:
    tensor = tf.convert_to_tensor(array)
    # TensorFlow would end the process on some of what comes of it.
    if 0 in tensor.shape[1:]:
        raise ValueError(
            "A sample of data must hold at least one number. "
            f"Received: a batch of shape {tuple(tensor.shape)}"
        )
    return tensor


def _samples(arrays: Any) -> int:
    counts = {len(a) for a in keras.tree.flatten(arrays)}
    if len(counts) > 1:
        raise ValueError(
            "All arrays of data must hold equally many samples. "
            f"Received: {sorted(counts)} samples"
        )
    if not counts or counts == {0}:
        raise ValueError("data must hold samples. Received: empty data")
    return counts.pop()


def _check_count(name: str, value: int | None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if value is not None and not (whole and value > 0):
        raise ValueError(
            f"{name} must be a positive integer or None. "
            f"Received: {name}={value!r}"
        )
