"""Batches of a model's inputs from every kind of data."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import Tensor
from keras_initx.inspection.traversal import inspect_model
from keras_initx.measurement.moments import all_finite
from keras_initx.measurement.refusals import empty_data
from keras_initx.validation import check_int, refuse

Data = Any

# So many numbers show whether data are white noise.
_NOISE_ENTRIES = 2**18


class Example(NamedTuple):
    """A batch as a training takes it.

    Args:
        inputs: Structure of tensors. The inputs of the model.
        labels: Structure of tensors, or None.
        weights: Structure of tensors. The weights of the samples, or None.
    """

    inputs: Any
    labels: Any = None
    weights: Any = None


@dataclass(frozen=True)
class Batches:
    """Batches of model inputs that can be iterated more than once.

    Args:
        data: Data of a kind that `batches` accepts.
        size: int. Samples per batch, for arrays; None for a data set, which
            has its own batches.
        count: int. The number of batches, None if it is not known.
        required: int. The size that the model requires of each batch. Defaults
            to any size.
        labels: Structure of arrays. The labels of arrays. Defaults to none.
    """

    data: Data
    size: int | None
    count: int | None
    required: int | None = None
    labels: Any = None

    def __iter__(self) -> Iterator[Any]:
        for example in self.examples():
            yield example.inputs

    def examples(self, with_labels: bool = False) -> Iterator[Example]:
        """Yields batches, with their labels if they are asked for.

        Args:
            with_labels: bool. Whether to yield labels and weights. Defaults to
                False.

        Raises:
            ValueError: If a batch has no labels that are asked for, or labels
                or weights that are not finite.
        """
        for i, example in enumerate(self._all()):
            if self.count is not None and i == self.count:
                return
            batch = map_arrays(_tensor, example.inputs)
            # A batch without samples has no moments; a data set may have one.
            if not all(len(x) for x in arrays_of(batch)):
                continue
            if self.required not in (None, samples_of(batch)):
                raise ValueError(
                    "A stateful model with a fixed batch size takes batches of "
                    f"that size alone, here of {self.required} samples, so the "
                    "number of samples must be a multiple of it. "
                    f"Received: a batch of {samples_of(batch)} samples"
                )
            if not with_labels:
                yield Example(batch)
                continue
            if example.labels is None:
                raise ValueError(
                    "A loss needs labels: `labels` for arrays, or a data set "
                    "of (inputs, labels). Received: data without labels"
                )
            targets = [
                map_arrays(_tensor, each)
                for each in (example.labels, example.weights)
            ]
            for name, each in zip(("labels", "weights"), targets, strict=True):
                if not all_finite(each, few=True):
                    raise ValueError(
                        f"{name} must be finite. Received: NaN or inf in {name}"
                    )
            yield Example(batch, *targets)

    def _all(self) -> Iterator[Example]:
        if isinstance(self.data, keras.utils.PyDataset):
            for i in range(self.count or 0):
                yield _example(self.data[i])
        elif backend.is_dataset(self.data) or backend.is_loader(self.data):
            for element in self.data:
                yield _example(element)
        else:
            samples = samples_of(self.data)
            size = self.size or samples
            for start in range(0, samples, size):
                yield Example(
                    *(
                        map_arrays(
                            lambda a, start=start: a[start : start + size],
                            arrays,
                        )
                        for arrays in (self.data, self.labels)
                    )
                )


def arrays_of(structure: Any) -> list[Any]:
    """Returns the arrays in a structure, without inputs that are None."""
    return [x for x in keras.tree.flatten(structure) if x is not None]


def is_white_noise(batch: Any) -> bool:
    """Whether samples with several positions are white noise.

    White noise has mean 0 and both signs, and its numbers are independent, so
    that the sum of all numbers, and the products of neighbors, have

        sum x       = z (sum x^2)^(1/2)              z ~ N(0, 1)
        sum x_p x_q = z (sum x_p^2 x_q^2)^(1/2)      z ~ N(0, 1)

    Here |z| must be below 5, for the products along each axis of positions, and
    the correlation of neighbors below 0.1, which is far less than that of
    photographs, sounds and texts. A mean that is another one for each sample or
    unit is found in the products. Symbols that are one-hot, and rare events,
    have no product that is not 0, and are found by their sign or mean. Integers
    are no noise.

    Args:
        batch: A structure of arrays.

    Reference: derived here.
    """
    found = False
    for array in arrays_of(batch):
        dtype = getattr(array.dtype, "name", str(array.dtype))
        if "float" not in dtype:
            return False
        sizes = tuple(array.shape)
        axes = [i for i in range(1, len(sizes) - 1) if sizes[i] > 1]
        if not axes:
            continue
        found = True
        count = max(2, _NOISE_ENTRIES // math.prod(sizes[1:]))
        x = np.asarray(ops.convert_to_numpy(array[:count]), np.float64)
        if not (x.min() < 0 < x.max() and _z(x) < 5):
            return False
        squares = float(np.mean(x**2))
        for axis in axes:
            size = sizes[axis]
            products = x.take(range(1, size), axis) * x.take(
                range(size - 1), axis
            )
            if not (_z(products) < 5 and abs(products.mean()) < 0.1 * squares):
                return False
    return found


def _z(numbers: np.ndarray) -> float:
    """The size of a sum over its standard deviation, for a mean of 0."""
    return abs(float(numbers.sum())) / max(
        float(np.sum(numbers**2)) ** 0.5, 1e-300
    )


def map_arrays(function: Callable[..., Any], *structures: Any) -> Any:
    """Applies a function to each array in structures; None stays None."""
    return keras.tree.map_structure(
        lambda *x: None if x[0] is None else function(*x), *structures
    )


def batches(
    data: Data,
    batch_size: int | None = None,
    steps: int | None = None,
    model: keras.Model | None = None,
    labels: Any = None,
) -> Batches:
    """Returns the batches of inputs in data.

    Args:
        data: An array; a dict, tuple or list of arrays, one for each input of
            the model, or None for an optional one; a `tf.data.Dataset`,
            `keras.utils.PyDataset` or `torch.utils.data.DataLoader` of batches
            of inputs, of `(inputs, labels)` or of `(inputs, labels, weights)`.
        batch_size: int. Samples per batch, for arrays. Defaults to the batch
            size that the model fixes, or else to 32.
        steps: int. The largest number of batches. Defaults to all.
        model: keras.Model. The model that takes the batches. Defaults to one
            that takes batches of any size.
        labels: Array, or a dict, tuple or list of arrays. The labels of arrays.
            Defaults to those of a data set, if any.

    Raises:
        ValueError: If the data are of another kind, have no samples, have
            samples of no numbers, or have no end.
    """
    batch_size = check_int("batch_size", batch_size, 1, optional=True)
    steps = check_int("steps", steps, 1, optional=True)
    fixed = None if model is None else fixed_size(model)
    required = fixed if fixed and _is_stateful(model) else None
    if (
        isinstance(data, keras.utils.PyDataset)
        or backend.is_dataset(data)
        or backend.is_loader(data)
    ):
        if batch_size is not None:
            refuse(
                "batch_size is for arrays; a data set has its own batches.",
                batch_size=batch_size,
            )
        if labels is not None:
            refuse(
                "labels is for arrays; a data set has its own labels.",
                labels=type(labels).__name__,
            )
        count, endless = _batches_in(data)
        if endless and steps is None:
            refuse(
                "Endless data need a number of batches to stop after: "
                "`steps`, or `take` of a tf.data.Dataset.",
                steps=steps,
            )
        known = [n for n in (count, steps) if n is not None]
        return Batches(data, None, min(known, default=None), required)
    if data is None:
        refuse("data must hold samples.", data=data)
    arrays = map_arrays(_array, data)
    size = batch_size or fixed or 32
    samples = _check_samples(arrays)
    if labels is not None:
        labels = _labels(labels, samples)
    count = -(-samples // size)
    return Batches(arrays, size, min(count, steps or count), required, labels)


def _labels(labels: Any, samples: int) -> Any:
    """The labels as arrays.

    Raises:
        ValueError: If they are no arrays of as many samples.
    """
    try:
        labels = map_arrays(_array, labels)
        count = _check_samples(labels)
    except ValueError as error:
        raise ValueError(
            f"labels must be what data may be, one for each sample: {error}"
        ) from error
    if count != samples:
        raise ValueError(
            "labels must hold one label for each sample. "
            f"Received: {count} labels of {samples} samples"
        )
    return labels


def fixed_size(model: keras.layers.Layer) -> int | None:
    """Returns the batch size that the inputs of a model fix, or None."""
    inputs = arrays_of(_inputs_of(model))
    return next((x.shape[0] for x in inputs if x.shape[:1] != (None,)), None)


def _is_stateful(model: Any) -> bool:
    """Whether a layer in a model has a state for each sample of a batch."""
    layers = inspect_model(model).layers if model.built else ()
    return any(getattr(layer, "stateful", False) for layer in layers)


@contextlib.contextmanager
def taken_as_inputs(model: keras.Model, batch: Any) -> Iterator[None]:
    """Explains errors of a model that is given other data than it takes.

    Args:
        model: keras.Model. The model that is called within.
        batch: The structure of arrays that it is called on.

    Raises:
        ValueError: If `batch` is a list or tuple of more arrays than the model
            has inputs, or if the model refuses arrays of another shape than
            its inputs. If only the model's `call` knows how many it takes, an
            error that is raised within gets a note instead.
    """
    if not isinstance(batch, (list, tuple)):
        with _explains_shapes(model, batch):
            yield
        return
    count, inputs = len(keras.tree.flatten(batch)), _count_inputs(model)
    message = (
        "A list or tuple in data holds an array for each input of the model; "
        "samples are stacked in one array, labels left out: for (x, y), pass x "
        f"alone. Received: {count} arrays"
    )
    if inputs is not None and count > inputs:
        raise ValueError(
            f"{message}, where model {model.name!r} takes {inputs}"
        )
    try:
        with _explains_shapes(model, batch):
            yield
    except Exception as error:
        error.add_note(message)
        raise


@contextlib.contextmanager
def _explains_shapes(model: keras.Model, batch: Any) -> Iterator[None]:
    """Says which shapes a model takes if it fails on other ones, within."""
    try:
        yield
    except Exception as error:
        # What the replicas of a strategy take is described together.
        if not all(hasattr(x, "shape") for x in arrays_of(batch)):
            raise
        if isinstance(batch, dict) and "Missing data for input" in str(error):
            names = model.input
            if not isinstance(names, dict):
                names = [tensor.name for tensor in model.inputs]
            raise ValueError(
                "A dict in data must hold an array for each input of the "
                f"model, {list(names)}. Received: a dict of {list(batch)}"
            ) from error
        given, taken = _shapes(batch), _shapes(_inputs_of(model))
        if taken and len(given) < len(taken) and not isinstance(batch, dict):
            raise ValueError(
                "data must hold an array for each input of the model, in a "
                "list, or in a dict by their names. Received: data of shape "
                f"{_listed(given)}, where model {model.name!r} takes "
                f"{_listed(taken)}"
            ) from error
        if len(given) != len(taken) or all(map(_fits, given, taken)):
            raise
        raise ValueError(
            "data must have the shapes that the model takes, with the samples "
            f"along the first axis. Received: data of shape {_listed(given)}, "
            f"where model {model.name!r} takes {_listed(taken)}"
        ) from error


def check_taken(model: keras.Model, arrays: Any) -> None:
    """Refuses data that a model does not take, as a pass over them would.

    A model takes data of the shapes of its inputs. With data of other shapes,
    or if only its `call` knows them, it is called on one sample, without a
    change of its state.

    Args:
        model: keras.Model. A built model.
        arrays: Structure of NumPy arrays.

    Raises:
        ValueError: As `taken_as_inputs`. What else the model raises passes.
    """
    given, taken = _shapes(arrays), _shapes(_inputs_of(model))
    if len(given) == len(taken) and all(map(_fits, given, taken)):
        return
    size = fixed_size(model) or 1
    with taken_as_inputs(model, arrays), keras.StatelessScope():
        model(map_arrays(lambda a: np.repeat(a[:1], size, axis=0), arrays))


def _shapes(structure: Any) -> list[tuple[int | None, ...]]:
    """The shapes of the arrays in a structure."""
    return [tuple(x.shape) for x in arrays_of(structure)]


def _inputs_of(model: keras.Model) -> Any:
    """The symbolic inputs of a model, None if only its `call` knows them."""
    return getattr(model, "inputs", None)


def _fits(given: tuple[int | None, ...], taken: tuple[int | None, ...]) -> bool:
    """Whether an array has the shape of an input, however many samples."""
    return len(given) == len(taken) and all(
        size == of or None in (size, of)
        for size, of in zip(given[1:], taken[1:], strict=True)
    )


def _listed(shapes: list[tuple[int | None, ...]]) -> str:
    return ", ".join(map(str, shapes))


def build(model: keras.Model, data: Iterable[Any]) -> None:
    """Builds a model that is not built, on the first batch.

    Raises:
        ValueError: If the model does not take that batch.
    """
    if _is_built(model):
        return
    batch = next(iter(data), None)
    if batch is None:
        return
    with taken_as_inputs(model, batch):
        try:
            model(symbolic(batch))
        except Exception as error:
            shapes = map_arrays(lambda t: tuple(t.shape), batch)
            raise ValueError(
                "An unbuilt model is built on the first batch, so that must "
                f"be what it takes. Received: model={model.name!r}, data of "
                f"shape {shapes}, which it refuses: {error}"
            ) from error


def _is_built(model: keras.Model) -> bool:
    """Whether a model can be traced."""
    if not model.built or backend.is_tensorflow():
        return model.built
    # What a trace would build holds tracers, and outlives it.
    return all(layer.built for layer in inspect_model(model).layers)


def symbolic(batch: Any) -> Any:
    """Returns the symbolic tensors of Keras in the place of a batch."""
    return map_arrays(
        lambda t: keras.KerasTensor(
            t.shape, keras.backend.standardize_dtype(t.dtype)
        ),
        batch,
    )


def samples_of(batch: Any) -> int:
    """Returns the number of samples in a batch."""
    return arrays_of(batch)[0].shape[0]


def _count_inputs(model: keras.Model) -> int | None:
    if isinstance(model, keras.Sequential):
        return 1
    inputs = _inputs_of(model)
    return None if inputs is None else len(inputs)


def _batches_in(data: Data) -> tuple[int | None, bool]:
    """The number of batches, None if not known; whether it is infinite."""
    if isinstance(data, keras.utils.PyDataset):
        # An endless PyDataset has None batches.
        return data.num_batches, data.num_batches is None
    if backend.is_loader(data):
        try:
            return len(data), False
        except TypeError:
            # It loads a stream.
            return None, False
    count = int(data.cardinality())
    # Unknown and infinite are negative numbers, -2 and -1.
    known = count if count >= 0 else None
    return known, count == -1


def _example(element: Any) -> Example:
    return Example(*keras.utils.unpack_x_y_sample_weight(element))


def _array(leaf: Any) -> Any:
    _check_dense(leaf)
    if backend.is_variable(leaf):
        array = ops.convert_to_tensor(leaf)
    elif isinstance(leaf, np.ndarray) or ops.is_tensor(leaf):
        array = leaf
    elif hasattr(leaf, "__array__"):
        array = np.asarray(leaf)
    elif isinstance(leaf, Iterator):
        raise ValueError(
            "A generator gives its batches only once, but data are read "
            "several times: join its batches to an array, "
            "np.concatenate([x for x, *_ in data]), or make a "
            "keras.utils.PyDataset of it. "
            f"Received: a {type(leaf).__name__}"
        )
    else:
        raise ValueError(
            "data must be an array, a dict or tuple of arrays, a "
            "tf.data.Dataset or a keras.utils.PyDataset; of a list of numbers "
            "make an array, np.array(data). "
            f"Received: {leaf!r} of type {type(leaf).__name__}"
        )
    if getattr(array.dtype, "kind", None) == "O" and all(
        isinstance(text, (str, bytes)) for text in array.flat
    ):
        array = backend.to_tensor(array)
    # Objects, such as rows of several lengths, and times.
    no_numbers = getattr(array.dtype, "kind", None) in ("O", "M", "m")
    if no_numbers or len(array.shape) == 0:
        raise ValueError(
            "data must be arrays of numbers, or of text, with the samples "
            f"along the first axis. Received: an array of dtype {array.dtype} "
            f"and shape {tuple(array.shape)}"
        )
    return array


def _check_dense(leaf: Any) -> None:
    for kind, remedy in (
        ("RaggedTensor", "pad ragged data, data.to_tensor()"),
        ("SparseTensor", "unpack sparse data, tf.sparse.to_dense(data)"),
        ("BCOO", "unpack sparse data, data.todense()"),
        ("MaskedArray", "fill masked data, data.filled(value)"),
    ):
        if kind in {each.__name__ for each in type(leaf).mro()}:
            raise ValueError(
                "All samples of data must be arrays of one shape: "
                f"{remedy}. Received: a {kind}"
            )
    if hasattr(leaf, "toarray"):
        raise ValueError(
            "All samples of data must be arrays of one shape: unpack sparse "
            f"data, data.toarray(). Received: a {type(leaf).__name__}"
        )


def _tensor(array: Any) -> Tensor:
    _check_dense(array)
    tensor = backend.to_tensor(array)
    # Some operations on it would end the process.
    if 0 in tensor.shape[1:]:
        raise ValueError(
            "A sample of data must hold at least one number. "
            f"Received: a batch of shape {tuple(tensor.shape)}"
        )
    return tensor


def _check_samples(arrays: Any) -> int:
    """The number of samples, equal in all arrays.

    Raises:
        ValueError: If it is not equal, or 0.
    """
    counts = {a.shape[0] for a in arrays_of(arrays)}
    if len(counts) > 1:
        raise ValueError(
            "All arrays of data must hold equally many samples. "
            f"Received: {sorted(counts)} samples"
        )
    if not counts or counts == {0}:
        raise empty_data()
    return counts.pop()
