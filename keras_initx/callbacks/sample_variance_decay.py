"""The sample variance at every layer, while the model trains."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Literal

import keras
import tensorflow as tf

from keras_initx.profile import VarianceProfile
from keras_initx.signal.batches import Data
from keras_initx.signal.measure import measure, require_tensorflow
from keras_initx.signal.selection import Layers, selectors

_KEY = "sample_variance_decay"


class SampleVarianceDecay(keras.callbacks.Callback):
    """Reports, layer by layer, how the variance between samples decays.

    Runs `keras_initx.measure` on `data` before the first step and then after
    every epoch, or every so many batches. What it writes into `logs`,

        sample_variance_decay            last layer's decay over the first's
        sample_variance_decay/<layer>    decay of each layer

    is seen by History, and by CSVLogger, EarlyStopping, ModelCheckpoint and
    TensorBoard where they stand *behind* it in the list of callbacks. An epoch
    in which nothing was measured has NaN there. Keras's progress bar, too,
    prints all that it sees: to keep it short, put
    `keras.callbacks.ProgbarLogger()` in the list before this callback.

    Args:
        data: What `measure` takes. A few hundred samples say enough.
        every: "epoch", or a number of training batches.
        log_dir: Where to write TensorBoard scalars of every layer's decay,
            sample variance and squared mean, by step. Default: nowhere.
        expected: A profile of as many layers, usually from theory, to print
            beside the table of `verbose=2`.
        layers: Which layers, as for `measure`.
        verbose: 1 prints a line at each measurement, 2 the table, 0 nothing.
        on_error: "raise", which ends a training whose signal has diverged,
            or "warn" to let it go on without the measurement; `logs` then say
            NaN. Before the first step an error is always raised: it is a
            mistake in the arguments, and there is no training to lose.

    Attributes:
        profiles: A `VarianceProfile` for each measurement of the last fit.
        steps: The matching `(epoch, step)`: epochs and batches that had been
            trained on.

    Raises:
        ValueError: An argument is out of its range; at a measurement, what
            `measure` raises.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> import keras, numpy as np
    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, "relu"),
    ...     keras.layers.Dense(1)
    ... ])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.random.normal(size=(64, 4)), np.zeros((64, 1))
    >>> decay = SampleVarianceDecay(x, verbose=0)
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[decay])
    >>> decay.steps
    [(0, 0), (1, 2), (2, 4)]
    >>> len(history.history["sample_variance_decay"])
    2

    Reference: the decay is Luther & Seung's, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942; following it during training is ours.
    """

    def __init__(
        self,
        data: Data,
        *,
        every: int | Literal["epoch"] = "epoch",
        log_dir: str | os.PathLike | None = None,
        expected: VarianceProfile | None = None,
        layers: Layers = None,
        verbose: int = 1,
        on_error: Literal["raise", "warn"] = "raise",
    ):
        super().__init__()
        require_tensorflow("SampleVarianceDecay")
        if every != "epoch" and not (type(every) is int and every > 0):
            raise ValueError(
                'every must be "epoch" or a positive number of batches. '
                f"Received: every={every!r}"
            )
        if expected is not None and not isinstance(expected, VarianceProfile):
            raise ValueError(
                "expected must be a VarianceProfile. "
                f"Received: expected={expected!r}"
            )
        if verbose not in (0, 1, 2):
            raise ValueError(
                f"verbose must be 0, 1 or 2. Received: verbose={verbose!r}"
            )
        if on_error not in ("raise", "warn"):
            raise ValueError(
                'on_error must be "raise" or "warn". '
                f"Received: on_error={on_error!r}"
            )
        selectors(layers)
        self.data = data
        self.every = every
        self.log_dir = log_dir
        self.expected = expected
        self.layers = layers
        self.verbose = verbose
        self.on_error = on_error
        self._start()

    def _start(self) -> None:
        self.profiles: list[VarianceProfile] = []
        self.steps: list[tuple[int, int]] = []
        self._epoch = 0
        self._step = 0
        self._step_before_epoch = 0
        self._updates_before = 0
        self._logs: dict[str, float] = {}
        self._writer = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start()
        self._updates_before = _updates(self.model) or 0
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        self._measure()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if self._step == 0 and self.steps == [(0, 0)]:
            # Only now does a fit with initial_epoch say so.
            self.steps = [(epoch, 0)]
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

    def _steps_until(self, batch: int) -> int:
        """Batches trained on, of which the last is reported as `batch`."""
        # Keras reports whole executions, also where data end within the last.
        batches = batch + 1
        if getattr(self.model, "steps_per_execution", 1) > 1:
            updates = _updates(self.model)
            if updates is not None:
                return updates - self._updates_before
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

    def _measure(self) -> None:
        try:
            profile = measure(self.model, self.data, layers=self.layers)
            if self.expected is not None:
                profile.check_expected(self.expected)
        except Exception as error:
            if self.on_error == "raise" or self._step == 0:
                raise
            self._logs = dict.fromkeys(self._logs or [_KEY], float("nan"))
            warnings.warn(
                f"No sample variance at epoch {self._epoch}, "
                f"step {self._step}: {error}",
                stacklevel=2,
            )
            return
        self.profiles.append(profile)
        self.steps.append((self._epoch, self._step))
        self._logs = {_KEY: float(profile.relative[-1])} | {
            f"{_KEY}/{name}": float(decay)
            for name, decay in zip(profile.layers, profile.decay, strict=True)
        }
        self._write_summary(profile)
        if self.verbose:
            _say(self._message(profile))

    def _message(self, profile: VarianceProfile) -> str:
        first, last = profile.decay[0], profile.decay[-1]
        line = (
            f"Step {self._step}: sample variance / total variance "
            f"{first:.3g} at {profile.layers[0]}, "
            f"{last:.3g} at {profile.layers[-1]}, "
            f"{profile.relative[-1]:.3g} of the first"
        )
        if self.verbose == 2:
            line += "\n" + profile.table(self.expected)
        return line

    def _write_summary(self, profile: VarianceProfile) -> None:
        if self._writer is None:
            return
        with self._writer.as_default(step=self._step):
            _scalar(_KEY, profile.relative[-1])
            for i, name in enumerate(profile.layers):
                _scalar(f"{_KEY}/{name}", profile.decay[i])
                _scalar(f"sample_variance/{name}", profile.sample_variance[i])
                _scalar(f"squared_mean/{name}", profile.squared_mean[i])
        self._writer.flush()


def _updates(model: keras.Model) -> int | None:
    """Batches that an optimizer has seen, None if it counts no batches."""
    optimizer = getattr(model, "optimizer", None)
    counts_others = isinstance(
        optimizer, keras.optimizers.LossScaleOptimizer
    ) or getattr(optimizer, "gradient_accumulation_steps", None)
    if optimizer is None or counts_others:
        return None
    return int(optimizer.iterations)


def _scalar(tag: str, value: float) -> None:
    # As tf.summary.scalar does, which needs TensorBoard installed to write.
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "scalars"
    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=metadata)


def _say(message: str) -> None:
    # The progress bar leaves its line open; Keras's own callbacks do the same.
    if keras.config.is_interactive_logging_enabled():
        sys.stdout.write(f"\n{message}\n")
        sys.stdout.flush()
