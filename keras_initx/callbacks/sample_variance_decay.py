"""The sample variance at every layer, while the model trains."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Literal

from keras_initx.callbacks.periodic import (
    Every,
    Periodic,
    check_verbose,
    say,
)
from keras_initx.inspection.selection import Layers, selectors
from keras_initx.measurement.data import Data, batches
from keras_initx.measurement.measure import measure
from keras_initx.profile import VarianceProfile
from keras_initx.profile.display import png
from keras_initx.validation import check_backend

_KEY = "sample_variance_decay"


class SampleVarianceDecay(Periodic):
    """Reports, layer by layer, how the variance between samples decays.

    Runs `keras_initx.measure` on `data` before the first step and then after
    every epoch, or every so many batches. What it writes into `logs`,

        sample_variance_decay            `decay` of the last layer
        sample_variance_decay/<layer>    `decay` of each layer

    where `decay` is that of a `VarianceProfile`,

    is seen by History, and by CSVLogger, EarlyStopping, ModelCheckpoint and
    TensorBoard where they stand *behind* it in the list of callbacks. An epoch
    in which nothing was measured has NaN there. Keras's progress bar, too,
    prints all that it sees: to keep it short, put
    `keras.callbacks.ProgbarLogger()` in the list before this callback.

    `keras.callbacks.BackupAndRestore`, too, belongs before it: the first
    measurement is then of the weights that it has restored, and its steps go
    on. Of several workers the chief prints and writes.

    Args:
        data: What `measure` takes. A few hundred samples say enough.
        every: "epoch", or a number of training batches.
        log_dir: Where to write for TensorBoard, by step, scalars of every
            layer's decay, sample fraction, sample variance and squared mean,
            and, where matplotlib is installed, a figure of the profile.
            Default: nowhere.
        expected: A profile of as many layers, usually from theory, to print
            beside the table of `verbose=2`.
        layers: Which layers, as for `measure`.
        batch_size: Samples a batch, for arrays, as for `measure`. In batches
            of the training's size a measurement costs least. Default: 32.
        verbose: 1 prints a line at each measurement, 2 the table, 0 nothing.
        on_error: "raise", which ends a training whose signal has diverged,
            or "warn" to let it go on without the measurement; `logs` then say
            NaN. Before the first step an error is always raised: it is a
            mistake in the arguments, and there is no training to lose.

    Attributes:
        profiles: A `VarianceProfile` for each measurement of the last fit.
        steps: The matching `(epoch, step)`: epochs and batches that the model
            had been trained on, those of earlier fits included.

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

    Reference: the moments are Luther & Seung's, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942; following them during training is ours.
    """

    def __init__(
        self,
        data: Data,
        *,
        every: Every = "epoch",
        log_dir: str | os.PathLike | None = None,
        expected: VarianceProfile | None = None,
        layers: Layers = None,
        batch_size: int | None = None,
        verbose: int = 1,
        on_error: Literal["raise", "warn"] = "raise",
    ):
        super().__init__(every, log_dir)
        check_backend("SampleVarianceDecay")
        if expected is not None and not isinstance(expected, VarianceProfile):
            raise ValueError(
                "expected must be a VarianceProfile. "
                f"Received: expected={expected!r}"
            )
        check_verbose(verbose)
        if on_error not in ("raise", "warn"):
            raise ValueError(
                'on_error must be "raise" or "warn". '
                f"Received: on_error={on_error!r}"
            )
        selectors(layers)
        batches(data, batch_size)
        self.data = data
        self.expected = expected
        self.layers = layers
        self.batch_size = batch_size
        self.verbose = verbose
        self.on_error = on_error
        self._start()

    def _start(self) -> None:
        super()._start()
        self.profiles: list[VarianceProfile] = []

    def _measure(self) -> None:
        try:
            profile = measure(
                self.model,
                self.data,
                layers=self.layers,
                batch_size=self.batch_size,
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
        self.steps.append((self._epoch, self._step))
        self._logs = {_KEY: float(profile.decay[-1])} | {
            f"{_KEY}/{name}": float(decay)
            for name, decay in zip(profile.layers, profile.decay, strict=True)
        }
        if self._writer is not None:
            self._write_summary(_scalars(profile), self._figures(profile))
        if self.verbose and self._is_chief():
            say(self._message(profile))

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
