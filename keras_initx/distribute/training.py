"""`fit`, which trains a model with several workers as with one.

Under `MultiWorkerMirroredStrategy` the `fit` of Keras 3 ends with an error
before the first step (keras#20585), for two reasons:

- To build the model, Keras takes the mean over replicas of every tensor of a
  batch. A strategy with several workers cannot do that for a tuple, and no
  strategy can for pieces of different sizes. Keras skips this step for a
  structure whose leaves are not all distributed values. So `_build` builds the
  model beforehand, and a batch comes in a container that Keras's tree functions
  treat as a leaf, `_Batch`.
- Keras takes the mean over replicas of the results of a step along axis 0, and
  the results are scalars. So `_as_vectors` makes a step return vectors of one
  element.

The training loop itself is Keras's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import count_workers, is_chief
from keras_initx.distribute.worker_callbacks import (
    CheckSameStart,
    without_writing,
)
from keras_initx.validation import check_backend

_LOST_WORKER_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


def fit(
    model: keras.Model,
    dataset: tf.data.Dataset,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_data: tf.data.Dataset | None = None,
    validation_steps: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    callbacks: keras.callbacks.Callback
    | Sequence[keras.callbacks.Callback]
    | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Trains a model like `model.fit`, and also with several workers.

    The loop is Keras's: callbacks, metrics, validation and history are those of
    `model.fit`. A batch of `dataset` is the global batch, of which each replica
    takes a share. If the shares are equal, the weights after a step are those
    of one device that takes the whole batch. This holds for batch normalization
    with `BatchNormalization(synchronized=True)`, and without gradient clipping,
    which Keras applies on each replica. If the shares differ, as in a last
    batch that the replicas do not divide, Keras gives the mean of each replica
    the same weight, and so a sample of a smaller share a larger one. To avoid
    such a batch, use `batch(..., drop_remainder=True)`, or `repeat()` before it
    and `steps_per_epoch`.

    With several workers, each one calls `fit` with the same callbacks and the
    same data in the same order: `shuffle` needs a `seed` that all share. Only
    the chief prints. Keras's callbacks that write files run on the chief alone.
    `BackupAndRestore` restores on all workers, from a `backup_dir` that all can
    read. Your own callbacks should ask `is_chief` before they write, and cannot
    call `model.evaluate`, which Keras does not support there; use
    `validation_data`. If a worker ends, the others end with a RuntimeError.
    When all are started again, `BackupAndRestore` continues after the last
    complete epoch.

    Args:
        model: A compiled `keras.Model`, created in the scope of its strategy.
        dataset: `tf.data.Dataset`. Batches of `(inputs, labels)` or
            `(inputs, labels, weights)`.
        epochs: int. The epoch before which training ends. Defaults to 1.
        initial_epoch: int. The epoch from which training starts. Defaults to 0.
        steps_per_epoch: int or None. The number of batches in an epoch.
            Defaults to all.
        validation_data: `tf.data.Dataset` or None. Batches like those of
            `dataset`. Defaults to None.
        validation_steps: int or None. The number of batches in a validation.
            Defaults to all.
        validation_freq: int or list of int. The number of epochs between
            validations, or the epochs after which to validate. Defaults to 1.
        callbacks: Keras callback, list of callbacks, or None. Defaults to None.
        verbose: "auto", 0, 1 or 2. The `verbose` of `model.fit`. Defaults to
            "auto".

    Returns:
        The `History` that `model.fit` returns.

    Raises:
        ValueError: If `dataset` is not a `tf.data.Dataset`, if workers start
            from different epochs or weights, or if `steps_per_execution` is
            above 1 on several mirrored replicas, where Keras's compiled loop
            does not run. Errors of `model.fit` are raised unchanged.
        RuntimeError: If another worker has ended or did not answer in time.
            The message starts with TensorFlow's own, since the cause is a
            likely one and not certain.

    Example:

    >>> import keras, keras_initx as kx, tensorflow as tf
    >>> with kx.distribute.get_strategy("default").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensors((tf.ones((8, 4)), tf.ones((8, 1))))
    >>> history = kx.distribute.fit(model, data, epochs=3, verbose=0)
    >>> len(history.history["loss"])
    3

    Reference: keras#20585 describes the error of `model.fit`. The workaround is
    introduced here.
    """
    check_backend("distribute")
    _check_dataset("dataset", dataset)
    if validation_data is not None:
        _check_dataset("validation_data", validation_data)
    _check_steps_per_execution(model)
    strategy = model.distribute_strategy
    several = count_workers(strategy) > 1
    with contextlib.ExitStack() as stack:
        if several:
            stack.enter_context(_explain_lost_worker())
            callbacks = [*keras.tree.flatten(callbacks or []), CheckSameStart()]
            if not is_chief(strategy):
                callbacks, verbose = without_writing(callbacks), 0
        # Otherwise `model.fit` works, and keeps its compiled steps for the
        # next call.
        if several or (
            _has_mirrored_replicas(strategy)
            and not _has_equal_shares(dataset, strategy)
        ):
            _build(model, dataset)
            dataset = dataset.map(_as_batch)
            if validation_data is not None:
                validation_data = validation_data.map(_as_batch)
            stack.enter_context(_replicated_steps(model))
        return model.fit(
            dataset,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation_data,
            validation_steps=validation_steps,
            validation_freq=validation_freq,
            callbacks=callbacks,
            verbose=verbose,
            # Keras warns of its default, since a data set shuffles itself.
            shuffle=False,
        )


def _check_dataset(name: str, dataset: Any) -> None:
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"{name} must be a tf.data.Dataset of batches. "
            f"Received: {name} of type {type(dataset).__name__}"
        )


def _has_mirrored_replicas(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy has several replicas and is not for a TPU."""
    kinds = (
        tf.distribute.MirroredStrategy,
        tf.distribute.MultiWorkerMirroredStrategy,
    )
    return isinstance(strategy, kinds) and strategy.num_replicas_in_sync > 1


def _has_equal_shares(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy
) -> bool:
    """Whether all batches are known to divide evenly among the replicas."""
    shape = tf.nest.flatten(dataset.element_spec)[0].shape
    size = shape[0] if shape.rank else None
    return size is not None and size % strategy.num_replicas_in_sync == 0


def _check_steps_per_execution(model: keras.Model) -> None:
    mirrored = _has_mirrored_replicas(model.distribute_strategy)
    if mirrored and model.steps_per_execution != 1:
        raise ValueError(
            "steps_per_execution must be 1 on several mirrored replicas, where "
            "Keras's loop over steps does not run. Compile the model with "
            "steps_per_execution=1. Received: "
            f"steps_per_execution={model.steps_per_execution}"
        )


class _Batch(dict):
    """A dict `{"data": batch}` that Keras's tree functions treat as a leaf."""


def _as_batch(*element: Any) -> _Batch:
    return _Batch(data=element)


def _unpacking(step: Callable) -> Callable:
    """Returns `step` with a `_Batch` unpacked, and other data passed on."""
    return lambda data: step(data["data"] if isinstance(data, _Batch) else data)


def _as_vectors(step: Callable) -> Callable:
    """Returns `step` with its scalar results as vectors of one element."""
    return lambda data: keras.tree.map_structure(
        lambda number: tf.expand_dims(number, 0), step(data)
    )


@contextlib.contextmanager
def _replicated_steps(model: keras.Model) -> Iterator[None]:
    """Makes the steps of `model` accept a `_Batch` inside the context."""
    several = count_workers(model.distribute_strategy) > 1
    with contextlib.ExitStack() as stack:
        for name in ("train_step", "test_step"):
            step = _unpacking(getattr(model, name))
            step = _as_vectors(step) if several else step
            stack.enter_context(_set_temporarily(model, name, step))
        for name in ("train_function", "test_function"):
            # Keras compiles these from the steps, so the old ones are stale.
            stack.enter_context(_set_temporarily(model, name, None))
        yield


@contextlib.contextmanager
def _set_temporarily(
    model: keras.Model, name: str, value: Any
) -> Iterator[None]:
    """Sets an attribute of `model` inside the context, in all threads."""
    attributes = vars(model)
    before = {name: attributes[name]} if name in attributes else {}
    setattr(model, name, value)
    try:
        yield
    finally:
        delattr(model, name)
        attributes |= before


@contextlib.contextmanager
def _explain_lost_worker() -> Iterator[None]:
    """Adds advice to errors that a lost worker may have caused."""
    try:
        yield
    except _LOST_WORKER_ERRORS as error:
        raise RuntimeError(
            f"{type(error).__name__}: {error.message}\nAll workers must train "
            "together, and it is likely that another one ended or did not "
            "answer in time. If so, start all of them again: with "
            "keras.callbacks.BackupAndRestore they continue after the last "
            "complete epoch."
        ) from error


def _build(model: keras.Model, dataset: tf.data.Dataset) -> None:
    """Creates the variables of model, loss and metrics; runs none of them."""

    def once(*element: Any) -> None:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(element)
        outputs = model(x)
        model.compute_metrics(x, y, outputs, weights)
        model.compute_loss(x, y, outputs, weights)

    spec = dataset.element_spec
    spec = spec if isinstance(spec, tuple) else (spec,)
    with model.distribute_strategy.scope(), keras.StatelessScope():
        tf.function(once, autograph=False).get_concrete_function(*spec)
