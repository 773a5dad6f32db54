"""Callbacks for training with several workers."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

# Keras's callbacks that write or print on every worker.
_CHIEF_ONLY = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def without_writing(
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks for a worker that is not the chief.

    Keras's callbacks that write files or print are left out, and
    `BackupAndRestore` only restores.
    """
    return [
        _Restore(callback)
        if isinstance(callback, keras.callbacks.BackupAndRestore)
        else callback
        for callback in callbacks
        if not isinstance(callback, _CHIEF_ONLY)
    ]


class _Restore(keras.callbacks.Callback):
    """Restores a model as `BackupAndRestore` does, without backing it up."""

    def __init__(self, backup: keras.callbacks.BackupAndRestore):
        super().__init__()
        self._backup = backup

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._backup.set_model(self.model)
        self._backup.on_train_begin(logs)


class CheckSameStart(keras.callbacks.Callback):
    """Raises an error if workers start from different weights or epochs.

    It must be the last callback, so that `BackupAndRestore` has restored the
    weights before it runs.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Compares the weights of all workers."""
        self._epoch_checked = False
        # This also waits for all workers to restore their weights: a chief
        # with no epoch left would otherwise delete the backup before a slower
        # worker has read it.
        sums, norms = self._gather(*_sum_and_norm(self.model)).T
        # The sums of two independent draws differ by about the norm of the
        # weights, and those of one draw added in another order by far less.
        if np.ptp(sums) > 1e-3 * norms.max():
            raise ValueError(
                "All workers must start from the same weights: initialize, "
                "load and calibrate them alike, with the same seeds and data. "
                f"Received: weights with the sums {sums.tolist()}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Compares the first epoch of all workers."""
        if self._epoch_checked:
            return
        self._epoch_checked = True
        epochs = sorted({int(number) for (number,) in self._gather(epoch)})
        if len(epochs) > 1:
            raise ValueError(
                "All workers must start from the same epoch, so all must be "
                "able to read the backup_dir of BackupAndRestore. "
                f"Received: epochs {epochs}"
            )

    def _gather(self, *numbers: float) -> np.ndarray:
        """Returns one row of numbers from each worker; waits for all of them.

        Args:
            *numbers: float. This worker's row.
        """
        strategy = self.model.distribute_strategy
        row = strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([numbers], tf.float64)
        )
        return strategy.gather(row, axis=0).numpy()


def _sum_and_norm(model: keras.Model) -> tuple[float, float]:
    """Returns the sum and the Euclidean norm of all trainable weights."""
    weights = [
        keras.ops.convert_to_numpy(weight).astype(np.float64)
        for weight in model.trainable_weights
    ]
    squares = sum(np.sum(weight**2) for weight in weights)
    return float(sum(map(np.sum, weights))), float(squares) ** 0.5
