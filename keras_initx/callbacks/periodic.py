"""The base class of the callbacks: when to measure, where to write."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import keras
import numpy as np

from keras_initx import backend
from keras_initx.backend.passes import passes
from keras_initx.validation import check_bool, check_choice, is_int, refuse

UpdateFreq = int | Literal["epoch"]
Verbose = int | Literal["auto"]


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
        verbose: "auto" or int. 0, 1 or 2, for the subclass; "auto" is 0 in a
            `fit(verbose=0)`, and 1 otherwise.
        per_layer: bool. Whether the keys of single layers, which have a slash,
            are written into `logs`.

    Raises:
        ValueError: If an argument is something else, or `log_dir` is given
            where TensorFlow is not installed.
    """

    # The keys in `logs` that are not of a single layer.
    _keys: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        update_freq: UpdateFreq,
        log_dir: str | os.PathLike | None,
        verbose: Verbose,
        per_layer: bool,
    ):
        super().__init__()
        if update_freq != "epoch" and not (
            is_int(update_freq) and update_freq > 0
        ):
            refuse(
                'update_freq must be "epoch" or a number of batches >= 1.',
                update_freq=update_freq,
            )
        self.update_freq = update_freq
        if log_dir is not None and not backend.has_tensorflow():
            refuse(
                "log_dir is for files of TensorBoard, which are written by "
                "TensorFlow: install it beside the backend.",
                log_dir=log_dir,
            )
        self.log_dir = log_dir
        self.verbose = check_choice("verbose", verbose, ("auto", 0, 1, 2))
        self.per_layer = check_bool("per_layer", per_layer)

    def _measure(self) -> None:
        raise NotImplementedError

    def _start(self) -> None:
        """Empties the record of the last fit."""
        self.measured_at: list[tuple[int, int]] = []
        self._epoch = 0
        self._begin_at(0)
        self._logs: dict[str, float] = {}
        self._writer: Any = None

    def _begin_at(self, step: int) -> None:
        self._step = self._first_step = self._step_before_epoch = step

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts a new record and measures."""
        self._start()
        for problem in self._problems(_callbacks_around(self)):
            warnings.warn(problem, stacklevel=2)
        # A training that continues an earlier one continues its steps too.
        self._begin_at(_batches(self.model))
        if self.log_dir is not None and self._is_chief():
            self._writer = backend.tensorflow().summary.create_file_writer(
                str(self.log_dir)
            )
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

    def _problems(self, callbacks: Sequence[Any]) -> list[str]:
        """What keeps other callbacks of a fit from reading the logs."""
        own, found = type(self).__name__, []
        for i, callback in enumerate(callbacks):
            key = getattr(callback, "monitor", None)
            if not isinstance(key, str) or key.split("/")[0] not in self._keys:
                continue
            name = f"{type(callback).__name__}(monitor={key!r})"
            if i < callbacks.index(self):
                found.append(
                    f"{name} reads the logs before {own} writes them: put it "
                    f"behind {own} in the list of callbacks."
                )
            if "/" in key and not self.per_layer:
                found.append(
                    f"{name} reads a key of one layer, which {own} writes "
                    "with per_layer=True."
                )
        return found

    def _in_logs(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values that are written into `logs`."""
        return {
            key: float(value)
            for key, value in values.items()
            if self.per_layer or "/" not in key
        }

    @property
    def _verbosity(self) -> int:
        """What `verbose` means in this fit."""
        if self.verbose != "auto":
            return self.verbose
        return int((self.params or {}).get("verbose", 1) != 0)

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
        if not backend.is_tensorflow():
            return passes().is_first_process()
        from keras_initx.distribute.cluster import is_chief, strategy_of

        return is_chief(strategy_of(self.model))

    def _write_summary(
        self,
        scalars: Mapping[str, float],
        figures: Mapping[str, bytes] | None = None,
        descriptions: Mapping[str, str] | None = None,
    ) -> None:
        """Writes scalars, and figures as PNG, by their tags.

        Args:
            scalars: dict. The numbers by their tags.
            figures: dict. The content of PNG files by their tags.
            descriptions: dict. What TensorBoard says of a tag, by its part
                before the slash.
        """
        if self._writer is None:
            return
        with self._writer.as_default(step=self._step):
            for tag, value in scalars.items():
                text = (descriptions or {}).get(tag.split("/")[0], "")
                _summary(tag, np.float32(value), "scalars", text)
            for tag, png in (figures or {}).items():
                text = (descriptions or {}).get(tag.split("/")[0], "")
                _summary(tag, _image(png), "images", text)
        self._writer.flush()


def print_message(message: str) -> None:
    """Prints a message, unless Keras's interactive logging is disabled."""
    # The progress bar leaves its line open; Keras's own callbacks do the same.
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"\n{message}\n")
        sys.stdout.flush()


def _callbacks_around(callback: keras.callbacks.Callback) -> Sequence[Any]:
    """All callbacks of the fit that calls a method of this one, in order.

    Keras gives a callback its model and parameters, but not the other
    callbacks. What calls it is a `keras.callbacks.CallbackList`, which has
    them.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            callbacks: Sequence[Any] = getattr(caller, "callbacks", ())
            return callbacks if callback in callbacks else ()
        frame = frame.f_back
    return ()


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


def _image(png: bytes) -> Any:
    """An image as TensorBoard stores it: width, height, file."""
    tf = backend.tensorflow()
    height, width, _ = tf.io.decode_png(png).shape
    return tf.constant([str(width).encode(), str(height).encode(), png])


def _summary(tag: str, value: Any, plugin: str, text: str) -> None:
    tf = backend.tensorflow()
    # As tf.summary.scalar and tf.summary.image do, which need TensorBoard
    # installed to write.
    metadata = tf.compat.v1.SummaryMetadata(summary_description=text)
    metadata.plugin_data.plugin_name = plugin
    tf.summary.write(tag, value, metadata=metadata)
