"""The decay of the sample variance over the layers while a model trains."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Literal

from keras_initx.callbacks.periodic import (
    Periodic,
    UpdateFreq,
    print_message,
)
from keras_initx.inspection.selection import Layers, selectors
from keras_initx.measurement.data import Data, batches
from keras_initx.measurement.meter import Meter
from keras_initx.profile import VarianceProfile
from keras_initx.profile.display import png
from keras_initx.validation import (
    check_backend,
    check_bool,
    check_choice,
    check_instance,
)

_KEY = "sample_variance_decay"


class SampleVarianceDecay(Periodic):
    """A Keras callback that measures how the sample variance decays.

    Measures the model on `data`, as `keras_initx.measure` does, before the
    first step and then after every epoch, or every so many batches. It writes
    into `logs`

        sample_variance_decay            `decay` of the last layer
        sample_variance_decay/<layer>    `decay` of each layer

    where `decay` is that of a `VarianceProfile`. History reads them, and so do
    CSVLogger, EarlyStopping, ModelCheckpoint and TensorBoard where they stand
    *behind* this callback in the list. In an epoch without a measurement the
    values are NaN. Keras's progress bar prints all
    logs too: to keep it short, put `keras.callbacks.ProgbarLogger()` in the
    list before this callback.

    `keras.callbacks.BackupAndRestore` belongs before it as well: the first
    measurement is then made with the restored weights, and its steps continue
    those of the interrupted training. With several workers, only the chief
    prints and writes.

    The callback holds one `keras_initx.Meter` for the length of a fit, so the
    model is compiled once; what a `Meter` fixes at its first call stays fixed
    for that fit.

    Args:
        data: The data to measure on, as in `measure`. A few hundred samples
            suffice.
        update_freq: "epoch" or int. Whether to measure after every epoch or
            after every so many training batches. Defaults to "epoch".
        log_dir: str or path-like. The directory for TensorBoard scalars, by
            step, of every layer's decay, sample fraction, sample variance and
            squared mean, and, where matplotlib is installed, a figure of the
            profile. Defaults to no such file.
        expected: VarianceProfile. A profile of as many layers, usually from
            theory, to print beside the table of `verbose=2`. Defaults to None.
        layers: Which layers to report, as in `measure`. Defaults to every
            layer that holds a kernel.
        training: bool. Whether to run the model in training mode when it is
            measured. Defaults to False.
        steps: int. The largest number of batches to measure on, as in
            `measure`. Defaults to all.
        batch_size: int. Samples per batch, for arrays. A measurement is
            cheapest in batches of the training's size. Defaults to 32.
        verbose: int. 1 prints a line at each measurement, 2 the table, 0
            nothing. Defaults to 1.
        on_error: "raise" or "warn". "raise" ends a training whose signal has
            diverged; "warn" continues it without the measurement, and `logs`
            hold NaN. Before the first step an error is always raised, since
            it comes from the arguments and no training is lost. Defaults to
            "raise".

    Attributes:
        profiles: list of VarianceProfile. One for each measurement of the last
            fit.
        measured_at: list of tuple. The matching `(epoch, step)`: epochs and
            batches that the model had been trained on, including those of
            earlier fits.

    Raises:
        ValueError: If an argument is out of its range; at a measurement, as in
            `measure`.
        RuntimeError: If Keras runs on another backend than TensorFlow.

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
    >>> decay.measured_at
    [(0, 0), (1, 2), (2, 4)]
    >>> len(history.history["sample_variance_decay"])
    2

    Reference: the decay is that of Luther & Seung, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942; following it during training is not in the
    paper.
    """

    def __init__(
        self,
        data: Data,
        *,
        update_freq: UpdateFreq = "epoch",
        log_dir: str | os.PathLike | None = None,
        expected: VarianceProfile | None = None,
        layers: Layers = None,
        training: bool = False,
        steps: int | None = None,
        batch_size: int | None = None,
        verbose: int = 1,
        on_error: Literal["raise", "warn"] = "raise",
    ):
        super().__init__(update_freq, log_dir, verbose)
        check_backend("SampleVarianceDecay")
        check_instance(
            "expected",
            expected,
            VarianceProfile,
            "a VarianceProfile",
            optional=True,
        )
        selectors(layers)
        batches(data, batch_size, steps)
        self.data = data
        self.expected = expected
        self.layers = layers
        self.training = check_bool("training", training)
        self.steps = steps
        self.batch_size = batch_size
        self.on_error = check_choice("on_error", on_error, ("raise", "warn"))
        self._start()

    def _start(self) -> None:
        super()._start()
        self.profiles: list[VarianceProfile] = []
        self._meter: Meter | None = None

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file for TensorBoard and drops the compiled pass."""
        super().on_train_end(logs)
        self._meter = None

    def _measure(self) -> None:
        try:
            if self._meter is None:
                self._meter = Meter(
                    self.model, layers=self.layers, training=self.training
                )
            profile = self._meter(
                self.data, steps=self.steps, batch_size=self.batch_size
            )
            if self.expected is not None:
                profile.check_expected(self.expected)
        except Exception as error:
            if self.on_error == "raise" or self._nothing_trained:
                raise
            self._logs = dict.fromkeys(self._logs or [_KEY], float("nan"))
            warnings.warn(
                f"No sample variance at epoch {self._epoch}, "
                f"step {self._step}: {error}",
                stacklevel=2,
            )
            return
        self.profiles.append(profile)
        self.measured_at.append((self._epoch, self._step))
        self._logs = {_KEY: float(profile.decay[-1])} | {
            f"{_KEY}/{name}": float(decay)
            for name, decay in zip(profile.layers, profile.decay, strict=True)
        }
        if self._writer is not None:
            self._write_summary(_scalars(profile), self._figures(profile))
        if self.verbose and self._is_chief():
            print_message(self._message(profile))

    def _figures(self, profile: VarianceProfile) -> dict[str, bytes]:
        if importlib.util.find_spec("matplotlib") is None:
            return {}
        return {
            f"profile/{_KEY}": png(lambda ax: profile.plot(self.expected, ax))
        }

    def _message(self, profile: VarianceProfile) -> str:
        first, last = profile.sample_fraction[[0, -1]]
        line = (
            f"Step {self._step}: sample fraction "
            f"{first:.3g} at {profile.layers[0]}, "
            f"{last:.3g} at {profile.layers[-1]}, "
            f"decay {profile.decay[-1]:.3g}"
        )
        if self.verbose == 2:
            line += "\n" + profile.table(self.expected)
        return line


def _scalars(profile: VarianceProfile) -> dict[str, float]:
    scalars = {_KEY: profile.decay[-1]}
    for i, name in enumerate(profile.layers):
        scalars |= {
            f"{_KEY}/{name}": profile.decay[i],
            f"sample_fraction/{name}": profile.sample_fraction[i],
            f"sample_variance/{name}": profile.sample_variance[i],
            f"squared_mean/{name}": profile.squared_mean[i],
        }
    return scalars
