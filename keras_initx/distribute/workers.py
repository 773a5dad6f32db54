"""What callbacks do on each of several workers."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

# Of Keras's own, those that write, or print, whatever the worker.
_OF_THE_CHIEF = (
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)


def of_a_worker(
    callbacks: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """What of the callbacks a worker runs that is not the chief."""
    return [
        _Restore(each)
        if isinstance(each, keras.callbacks.BackupAndRestore)
        else each
        for each in callbacks
        if not isinstance(each, _OF_THE_CHIEF)
    ]


class _Restore(keras.callbacks.Callback):
    """Of a `BackupAndRestore` the second half."""

    def __init__(self, backup: keras.callbacks.BackupAndRestore):
        super().__init__()
        self._backup = backup

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._backup.set_model(self.model)
        self._backup.on_train_begin(logs)


class SameStart(keras.callbacks.Callback):
    """Refuses workers that do not start from the same weights and epoch."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._checked = False
        # This is last in the list, so now all have restored. A chief with no
        # epoch left would remove the backup before a late worker has read it.
        sums, norms = self._of_all(*_sum_and_norm(self.model)).T
        # Two draws of one law differ in their sum by about the norm; what
        # workers add up in other orders, by far less.
        if np.ptp(sums) > 1e-3 * norms.max():
            raise ValueError(
                "All workers must start from the same weights: draw, load and "
                "calibrate them alike, with the same seeds and data. Received: "
                f"weights that sum up to {sums.tolist()}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._checked:
            return
        self._checked = True
        epochs = sorted({int(one) for (one,) in self._of_all(epoch)})
        if len(epochs) > 1:
            raise ValueError(
                "All workers must start from the same epoch, so all must be "
                "able to read the backup_dir of BackupAndRestore. "
                f"Received: epochs {epochs}"
            )

    def _of_all(self, *numbers: float) -> np.ndarray:
        """What workers call this with, a row for each; waits for all."""
        strategy = self.model.distribute_strategy
        mine = strategy.experimental_distribute_values_from_function(
            lambda _: tf.constant([numbers], tf.float64)
        )
        return strategy.gather(mine, axis=0).numpy()


def _sum_and_norm(model: keras.Model) -> tuple[float, float]:
    """Of all trainable weights together."""
    weights = [
        keras.ops.convert_to_numpy(weight).astype(np.float64)
        for weight in model.trainable_weights
    ]
    squares = sum(np.sum(weight**2) for weight in weights)
    return float(sum(map(np.sum, weights))), float(squares) ** 0.5
