"""What the callbacks share: when to look, where to say what was seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal

import keras
import tensorflow as tf

from keras_initx.distribute.cluster import is_chief, strategy_of

Every = int | Literal["epoch"]


class Periodic(keras.callbacks.Callback):
    """Looks before the first step, and then every so often.

    A subclass says in `_measure` what it looks at: it appends the `(epoch,
    step)` of now to `steps`, and sets `_logs` to what `logs` shall say. Before
    the first step nothing has been trained, and it may raise.

    Args:
        every: "epoch", or a number of training batches.
        log_dir: Where to write TensorBoard scalars. Default: nowhere.

    Raises:
        ValueError: `every` is something else.
    """

    def __init__(self, every: Every, log_dir: str | os.PathLike | None):
        super().__init__()
        if every != "epoch" and not (type(every) is int and every > 0):
            raise ValueError(
                'every must be "epoch" or a positive number of batches. '
                f"Received: every={every!r}"
            )
        self.every = every
        self.log_dir = log_dir

    def _measure(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self._epoch = 0
        self._begin_at(0)
        self._logs: dict[str, float] = {}
        self._writer = None

    def _begin_at(self, step: int) -> None:
        self._step = self._first_step = self._step_before_epoch = step

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start()
        # A training that goes on where another ended counts on as well.
        self._begin_at(_batches(self.model))
        if self.log_dir is not None and self._is_chief():
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        self._measure()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._nothing_trained and self.steps == [(0, self._step)]:
            # Only now does a fit with initial_epoch say so.
            self.steps = [(epoch, self._step)]
        self._epoch = epoch
        # An epoch without a measurement must not repeat one of before. The
        # keys stay, for CSVLogger writes those of the first epoch ever after.
        self._logs = dict.fromkeys(self._logs, float("nan"))
        self._step_before_epoch = self._step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        before = self._step
        self._step = self._steps_until(batch)
        if self.every == "epoch":
            return
        if self._step // self.every > before // self.every:
            self._measure()
            if logs is not None:
                logs.update(self._logs)

    @property
    def _nothing_trained(self) -> bool:
        """Whether this training has yet to take its first step."""
        return self._step == self._first_step

    def _steps_until(self, batch: int) -> int:
        """Batches trained on, of which the last is reported as `batch`."""
        # Keras reports whole executions, also where data end within the last.
        batches = batch + 1
        if getattr(self.model, "steps_per_execution", 1) > 1:
            updates = _updates(self.model)
            if updates is not None:
                return updates
            batches = min(batches, (self.params or {}).get("steps") or batches)
        return self._step_before_epoch + batches

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch + 1
        if self.every == "epoch":
            self._measure()
        if logs is not None:
            logs.update(self._logs)

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._writer is not None:
            self._writer.close()

    def _is_chief(self) -> bool:
        """Whether this is the one of several workers that says and writes."""
        return is_chief(strategy_of(self.model))

    def _write_summary(
        self,
        scalars: Mapping[str, float],
        figures: Mapping[str, bytes] | None = None,
    ) -> None:
        """Scalars, and figures as PNG, by their tags."""
        if self._writer is None:
            return
        with self._writer.as_default(step=self._step):
            for tag, value in scalars.items():
                _summary(tag, tf.constant(value, tf.float32), "scalars")
            for tag, png in (figures or {}).items():
                _summary(tag, _image(png), "images")
        self._writer.flush()


def check_verbose(verbose: int) -> None:
    """Refuse what is not 0, 1 or 2."""
    if verbose not in (0, 1, 2):
        raise ValueError(
            f"verbose must be 0, 1 or 2. Received: verbose={verbose!r}"
        )


def say(message: str) -> None:
    """Print, where Keras may talk."""
    # The progress bar leaves its line open; Keras's own callbacks do the same.
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"\n{message}\n")
        sys.stdout.flush()


def _updates(model: keras.Model) -> int | None:
    """Batches that an optimizer has seen, None if it counts no batches."""
    optimizer = getattr(model, "optimizer", None)
    counts_others = isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    ) or getattr(optimizer, "gradient_accumulation_steps", None)
    if optimizer is None or counts_others:
        return None
    # A strategy holds one for each replica.
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _batches(model: keras.Model) -> int:
    """Batches that the optimizer has seen, but for ones it has skipped."""
    optimizer = getattr(model, "optimizer", None)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer is None:
        return 0
    in_an_update = optimizer.gradient_accumulation_steps or 1
    return in_an_update * int(keras.ops.convert_to_numpy(optimizer.iterations))


def _image(png: bytes) -> tf.Tensor:
    """A picture as TensorBoard keeps it: width, height, file."""
    height, width, _ = tf.io.decode_png(png).shape
    return tf.constant([str(width).encode(), str(height).encode(), png])


def _summary(tag: str, value: tf.Tensor, plugin: str) -> None:
    # As tf.summary.scalar and tf.summary.image do, which need TensorBoard
    # installed to write.
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, value, metadata=metadata)
