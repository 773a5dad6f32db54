"""The base class of the callbacks: when to measure, where to write."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import is_chief, strategy_of
from keras_initx.validation import is_int, refuse

UpdateFreq = int | Literal["epoch"]


class Periodic(keras.callbacks.Callback):
    """Measures before the first step, and then after epochs or batches.

    A subclass implements `_measure`, which appends the present `(epoch, step)`
    to `measured_at`, and sets `_logs` to what is written into `logs`. Before
    the first step nothing has been trained, and it may raise.

    Args:
        update_freq: "epoch" or int. Whether to measure after every epoch or
            after every so many training batches.
        log_dir: str or path-like. The directory for TensorBoard scalars, or
            None for no such file.
        verbose: int. 0, 1 or 2, for the subclass.

    Raises:
        ValueError: If `update_freq` or `verbose` is something else.
    """

    def __init__(
        self,
        update_freq: UpdateFreq,
        log_dir: str | os.PathLike | None,
        verbose: int,
    ):
        super().__init__()
        if update_freq != "epoch" and not (
            is_int(update_freq) and update_freq > 0
        ):
            refuse(
                'update_freq must be "epoch" or a number of batches >= 1.',
                update_freq=update_freq,
            )
        if verbose not in (0, 1, 2):
            refuse("verbose must be 0, 1 or 2.", verbose=verbose)
        self.update_freq = update_freq
        self.log_dir = log_dir
        self.verbose = verbose

    def _measure(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        """Empties the record of the last fit."""
        self.measured_at: list[tuple[int, int]] = []
        self._epoch = 0
        self._begin_at(0)
        self._logs: dict[str, float] = {}
        self._writer: tf.summary.SummaryWriter | None = None

    def _begin_at(self, step: int) -> None:
        self._step = self._first_step = self._step_before_epoch = step

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts a new record and measures."""
        self._start()
        # A training that continues an earlier one continues its steps too.
        self._begin_at(_batches(self.model))
        if self.log_dir is not None and self._is_chief():
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        self._measure()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch."""
        if self._nothing_trained and self.measured_at == [(0, self._step)]:
            # A fit with initial_epoch tells it only now.
            self.measured_at = [(epoch, self._step)]
        self._epoch = epoch
        # An epoch without a measurement must not repeat an earlier one. The
        # keys stay, since CSVLogger writes those of the first epoch in all.
        self._logs = dict.fromkeys(self._logs, float("nan"))
        self._step_before_epoch = self._step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts the batch, and measures if it is time to."""
        before = self._step
        self._step = self._steps_until(batch)
        if self.update_freq == "epoch":
            return
        if self._step // self.update_freq > before // self.update_freq:
            self._measure()
            if logs is not None:
                logs.update(self._logs)

    @property
    def _nothing_trained(self) -> bool:
        """Whether this training has yet to take its first step."""
        return self._step == self._first_step

    def _steps_until(self, batch: int) -> int:
        """Batches trained on when Keras reports `batch` as the last one."""
        # Keras reports whole executions, also where data end within the last.
        batches = batch + 1
        if getattr(self.model, "steps_per_execution", 1) > 1:
            updates = _updates(self.model)
            if updates is not None:
                return updates
            batches = min(batches, (self.params or {}).get("steps") or batches)
        return self._step_before_epoch + batches

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measures if it is time to, and writes into `logs`."""
        self._epoch = epoch + 1
        if self.update_freq == "epoch":
            self._measure()
        if logs is not None:
            logs.update(self._logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file for TensorBoard."""
        if self._writer is not None:
            self._writer.close()

    def _is_chief(self) -> bool:
        """Whether this is the one of several workers that prints and writes."""
        return is_chief(strategy_of(self.model))

    def _write_summary(
        self,
        scalars: Mapping[str, float],
        figures: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes scalars, and figures as PNG, by their tags."""
        if self._writer is None:
            return
        with self._writer.as_default(step=self._step):
            for tag, value in scalars.items():
                _summary(tag, tf.constant(value, tf.float32), "scalars")
            for tag, png in (figures or {}).items():
                _summary(tag, _image(png), "images")
        self._writer.flush()


def print_message(message: str) -> None:
    """Prints a message, unless Keras's interactive logging is disabled."""
    # The progress bar leaves its line open; Keras's own callbacks do the same.
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"\n{message}\n")
        sys.stdout.flush()


def _updates(model: keras.Model) -> int | None:
    """Batches that an optimizer has seen, None if it does not count them."""
    optimizer = getattr(model, "optimizer", None)
    counts_others = isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    ) or getattr(optimizer, "gradient_accumulation_steps", None)
    if optimizer is None or counts_others:
        return None
    # A strategy holds one for each replica.
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _batches(model: keras.Model) -> int:
    """Batches that the optimizer has seen, except those it has skipped."""
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer is None:
        return 0
    in_an_update = optimizer.gradient_accumulation_steps or 1
    return in_an_update * int(keras.ops.convert_to_numpy(optimizer.iterations))


def _image(png: bytes) -> tf.Tensor:
    """An image as TensorBoard stores it: width, height, file."""
    height, width, _ = tf.io.decode_png(png).shape
    return tf.constant([str(width).encode(), str(height).encode(), png])


def _summary(tag: str, value: tf.Tensor, plugin: str) -> None:
    # As tf.summary.scalar and tf.summary.image do, which need TensorBoard
    # installed to write.
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, value, metadata=metadata)
