"""Keras's `fit` for several workers as for one.

Under `MultiWorkerMirroredStrategy` Keras 3's own `fit` ends with an error
before the first step (keras#20585). Two small things are in its way:

- To build the model it takes the mean over replicas of a batch, leaf by leaf,
  which no strategy of several workers does of a tuple, and no strategy at all
  of pieces of different sizes. It asks first whether all leaves are distributed
  values. So the model is built beforehand, and a batch comes in a container
  that Keras's tree takes for a leaf: `_Batch`.
- It takes the mean over replicas of what a step returns along axis 0, and a
  metric has no axis. So a step returns vectors of one element: `_vectors`.

The loop remains Keras's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import count_workers, is_chief
from keras_initx.distribute.workers import SameStart, of_a_worker
from keras_initx.validation import check_backend

_A_WORKER_IS_GONE = (
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
    """`model.fit`, which so works under several workers as well.

    The loop is Keras's: its callbacks, metrics, validation and history are as
    in `model.fit`. A batch of `dataset` is the batch of all replicas together,
    each of which takes its share. Where the shares are equal, the weights after
    a step are those of one device that takes all of it (with
    `BatchNormalization(synchronized=True)`, and without clipping gradients,
    which Keras does on each replica). Where they are not, as in a last
    batch that the replicas do not divide, Keras weighs each replica's mean the
    same, and so a sample of a smaller share more: `batch(...,
    drop_remainder=True)`, or `repeat()` before it and `steps_per_epoch`, leave
    no such batch.

    Under several workers each calls `fit`, with the same callbacks and the same
    data in the same order: `shuffle` needs a `seed` that all share. Only the
    chief prints. Of Keras's callbacks those that write files run on the chief
    alone; `BackupAndRestore` restores on all, from a `backup_dir` that all can
    read. Callbacks of your own that write should ask `is_chief`, and none can
    call `model.evaluate`: Keras's own does not run there, and
    `validation_data` does. If a worker ends, the others end with a
    RuntimeError, and when all are started again `BackupAndRestore` goes on
    where the last epoch ended.

    Args:
        model: A compiled `keras.Model`, made in the scope of its strategy.
        dataset: Batches of `(inputs, labels)` or `(inputs, labels, weights)`.
        epochs: The epoch to end before.
        initial_epoch: The epoch to start from.
        steps_per_epoch: Batches an epoch. Default: all.
        validation_data: Like `dataset`.
        validation_steps: Batches of a validation. Default: all.
        validation_freq: Epochs between validations, or a list of epochs.
        callbacks: Keras callbacks, or one.
        verbose: As for `model.fit`.

    Returns:
        The `History` that `model.fit` returns.

    Raises:
        ValueError: `dataset` is no `tf.data.Dataset`; `steps_per_execution`
            above 1 on several mirrored replicas, where Keras's compiled loop
            does not run; workers that start from different epochs or weights;
            what `model.fit` raises.
        RuntimeError: Another worker has ended, or did not answer in time, or
            so it seems; what TensorFlow said comes first.

    Example:

    >>> import keras, keras_initx as kx, tensorflow as tf
    >>> with kx.distribute.get_strategy("default").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("sgd", "mse")
    >>> data = tf.data.Dataset.from_tensors((tf.ones((8, 4)), tf.ones((8, 1))))
    >>> history = kx.distribute.fit(model, data, epochs=3, verbose=0)
    >>> len(history.history["loss"])
    3

    Reference: keras#20585 on what `model.fit` lacks; the way around is ours.
    """
    check_backend("distribute")
    for name, data in (
        ("dataset", dataset),
        ("validation_data", validation_data),
    ):
        absent = data is None and name == "validation_data"
        if not absent and not isinstance(data, tf.data.Dataset):
            raise ValueError(
                f"{name} must be a tf.data.Dataset of batches. "
                f"Received: {name} of type {type(data).__name__}"
            )
    _check_steps_per_execution(model)
    strategy = model.distribute_strategy
    several = count_workers(strategy) > 1
    with contextlib.ExitStack() as stack:
        if several:
            stack.enter_context(_loss_of_a_worker())
            callbacks = [*keras.tree.flatten(callbacks or []), SameStart()]
            if not is_chief(strategy):
                callbacks, verbose = of_a_worker(callbacks), 0
        # Where Keras's own way is open, what it compiles outlives this call.
        if several or (_mirrored(strategy) and not _divided(dataset, strategy)):
            _build(model, dataset)
            dataset = dataset.map(_batch)
            if validation_data is not None:
                validation_data = validation_data.map(_batch)
            stack.enter_context(_steps_of_batches(model))
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
            # A data set shuffles itself; Keras warns of the default.
            shuffle=False,
        )


def _mirrored(strategy: tf.distribute.Strategy) -> bool:
    """Whether it has several replicas, and is none of a TPU."""
    kinds = (
        tf.distribute.MirroredStrategy,
        tf.distribute.MultiWorkerMirroredStrategy,
    )
    return isinstance(strategy, kinds) and strategy.num_replicas_in_sync > 1


def _divided(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy
) -> bool:
    """Whether all batches are known to be of equal shares."""
    shape = tf.nest.flatten(dataset.element_spec)[0].shape
    size = shape[0] if shape.rank else None
    return size is not None and size % strategy.num_replicas_in_sync == 0


def _check_steps_per_execution(model: keras.Model) -> None:
    several = _mirrored(model.distribute_strategy)
    if several and model.steps_per_execution != 1:
        raise ValueError(
            "Several mirrored replicas take one step an execution: Keras's "
            "loop over steps does not run on them. Compile the model with "
            "steps_per_execution=1. Received: "
            f"steps_per_execution={model.steps_per_execution}"
        )


class _Batch(dict):
    """A batch as `data`; for Keras a leaf, for TensorFlow a dictionary."""


def _batch(*element: Any) -> _Batch:
    return _Batch(data=element)


def _on_batches(step: Callable) -> Callable:
    """A step on the data of a `_Batch`, and on other data as they are."""
    return lambda data: step(data["data"] if isinstance(data, _Batch) else data)


def _vectors(step: Callable) -> Callable:
    """A step that returns vectors of one element, not scalars."""
    return lambda data: keras.tree.map_structure(
        lambda number: tf.expand_dims(number, 0), step(data)
    )


@contextlib.contextmanager
def _steps_of_batches(model: keras.Model) -> Iterator[None]:
    """Within, `fit` works on data of `_Batch`."""
    several = count_workers(model.distribute_strategy) > 1
    with contextlib.ExitStack() as stack:
        for name in ("train_step", "test_step"):
            step = _on_batches(getattr(model, name))
            step = _vectors(step) if several else step
            stack.enter_context(_set(model, name, step))
        for name in ("train_function", "test_function"):
            # Keras's are compiled from the steps as they were.
            stack.enter_context(_set(model, name, None))
        yield


@contextlib.contextmanager
def _set(model: keras.Model, name: str, value: Any) -> Iterator[None]:
    """Within, and in the threads of all replicas, the model's own attribute."""
    own = vars(model)
    before = {name: own[name]} if name in own else {}
    setattr(model, name, value)
    try:
        yield
    finally:
        delattr(model, name)
        own |= before


@contextlib.contextmanager
def _loss_of_a_worker() -> Iterator[None]:
    """Within, an error that may come of it says what to do."""
    try:
        yield
    except _A_WORKER_IS_GONE as error:
        raise RuntimeError(
            f"{type(error).__name__}: {error.message}\nAll workers must go on "
            "together, and it is likely that another one ended or did not "
            "answer in time. If so, start all of them again: with "
            "keras.callbacks.BackupAndRestore they go on where the last epoch "
            "ended."
        ) from error


def _build(model: keras.Model, dataset: tf.data.Dataset) -> None:
    """Make all variables of model, loss and metrics; runs none of them."""

    def once(*element: Any) -> None:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(element)
        outputs = model(x)
        model.compute_metrics(x, y, outputs, weights)
        model.compute_loss(x, y, outputs, weights)

    spec = dataset.element_spec
    spec = spec if isinstance(spec, tuple) else (spec,)
    with model.distribute_strategy.scope(), keras.StatelessScope():
        tf.function(once, autograph=False).get_concrete_function(*spec)
