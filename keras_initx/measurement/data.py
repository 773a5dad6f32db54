"""Whatever a user may hold data in, as batches of a model's inputs."""

from __future__ import annotations

import contextlib
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
            batch = keras.tree.map_structure(_tensor, batch)
            # A batch of nothing has no moments, and a data set may hold one.
            if all(len(x) for x in keras.tree.flatten(batch)):
                yield batch

    def _all(self) -> Iterator[Any]:
        if isinstance(self.data, tf.data.Dataset):
            for element in self.data:
                yield _inputs(element)
        elif isinstance(self.data, keras.utils.PyDataset):
            for i in range(self.count):
                yield _inputs(self.data[i])
        else:
            for start in range(0, samples_of(self.data), self.size):
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
                "Endless data needs a number of batches to stop after: "
                "`steps`, or `take` of a tf.data.Dataset. "
                "Received: steps=None"
            )
        if steps is not None:
            count = steps if count is None else min(steps, count)
        return Batches(data, None, count)
    arrays = keras.tree.map_structure(_array, data)
    size = batch_size or 32
    count = -(-_samples(arrays) // size)
    return Batches(arrays, size, min(count, steps or count))


@contextlib.contextmanager
def taken_as_inputs(model: keras.Model, batch: Any) -> Iterator[None]:
    """Within, `batch` is given to the model; tells what it was taken for.

    Raises:
        ValueError: `batch` is a list or tuple of more arrays than the model
            has inputs. Where only the model's `call` knows how many it takes,
            what that raises gets a note instead.
    """
    if not isinstance(batch, (list, tuple)):
        yield
        return
    holds, takes = len(keras.tree.flatten(batch)), _inputs_of(model)
    what = (
        "A list or tuple in data holds an array for each input of the model; "
        "samples are stacked in one array, labels left out: of (x, y), pass x "
        f"alone. Received: {holds} arrays"
    )
    if takes is not None and holds > takes:
        raise ValueError(f"{what}, where model {model.name!r} takes {takes}")
    try:
        yield
    except Exception as error:
        error.add_note(what)
        raise


def build(model: keras.Model, data: Batches) -> None:
    """Builds a model that is not built, on the first batch.

    Raises:
        ValueError: If the model does not take that batch.
    """
    if model.built:
        return
    batch = next(iter(data), None)
    if batch is None:
        return
    symbolic = keras.tree.map_structure(
        lambda t: keras.KerasTensor(
            t.shape, keras.backend.standardize_dtype(t.dtype)
        ),
        batch,
    )
    with taken_as_inputs(model, batch):
        try:
            model(symbolic)
        except Exception as error:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), batch)
            raise ValueError(
                "An unbuilt model is built on the first batch, so that must "
                f"be what it takes. Received: model={model.name!r}, data of "
                f"shape {shapes}, which it refuses: {error}"
            ) from error


def _inputs_of(model: keras.Model) -> int | None:
    if isinstance(model, keras.Sequential):
        return 1
    inputs = getattr(model, "inputs", None)
    return None if inputs is None else len(inputs)


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
    _check_dense(leaf)
    if isinstance(leaf, tf.Variable):
        array = tf.convert_to_tensor(leaf)
    elif isinstance(leaf, (np.ndarray, tf.Tensor)):
        array = leaf
    elif hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
    else:
        raise ValueError(
            "data must be an array, a dict or tuple of arrays, a "
            "tf.data.Dataset or a keras.utils.PyDataset; of a list of numbers "
            "make an array, np.array(data). "
            f"Received: {leaf!r} of type {type(leaf).__name__}"
        )
    # Objects (rows of several lengths among them) and times.
    no_numbers = getattr(array.dtype, "kind", None) in ("O", "M", "m")
    if no_numbers or len(array.shape) == 0:
        raise ValueError(
            "data must be arrays of numbers with the samples along the first "
            f"axis. Received: an array of dtype {array.dtype} and shape "
            f"{tuple(array.shape)}"
        )
    return array


def _check_dense(leaf: Any) -> None:
    for kind, cure in (
        (tf.RaggedTensor, "pad ragged data, data.to_tensor()"),
        (tf.SparseTensor, "unpack sparse data, tf.sparse.to_dense(data)"),
    ):
        if isinstance(leaf, kind):
            raise ValueError(
                "All samples of data must be arrays of one shape: "
                f"{cure}. Received: a {kind.__name__}"
            )


def _tensor(array: Any) -> tf.Tensor:
    _check_dense(array)
    tensor = tf.convert_to_tensor(array)
    # TensorFlow would end the process on some of what comes of it.
    if 0 in tensor.shape[1:]:
        raise ValueError(
            "A sample of data must hold at least one number. "
            f"Received: a batch of shape {tuple(tensor.shape)}"
        )
    return tensor


def samples_of(batch: Any) -> int:
    """Samples in a batch."""
    return len(keras.tree.flatten(batch)[0])


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
