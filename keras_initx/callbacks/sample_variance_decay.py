"""The decay of the sample variance over the layers while a model trains."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from keras_initx.callbacks.periodic import (
    Periodic,
    UpdateFreq,
    Verbose,
    print_message,
)
from keras_initx.inspection.selection import Layers, selectors
from keras_initx.measurement.data import Data, batches
from keras_initx.measurement.gradient import Loss, check_gradient
from keras_initx.measurement.meter import Meter
from keras_initx.profile import VarianceProfile
from keras_initx.profile.display import png
from keras_initx.profile.verdict import RANGES
from keras_initx.validation import (
    check_bool,
    check_choice,
    check_instance,
)

_TOTAL, _DECAY = ("signal_total", "sample_variance_decay")
_DEAD = "dead_fraction"
_GRADIENT = "gradient_ratio"
_KEYS = (_TOTAL, _DECAY, _DEAD, _GRADIENT)
# What TensorBoard shows beside a number and a figure.
_DESCRIPTIONS = {
    _TOTAL: (
        "Mean square of the last layer's pre-activations over the first one's, "
        + RANGES["signal_total"]
    ),
    "total": "Mean square of a layer's pre-activations.",
    _DECAY: (
        "Sample fraction over the first layer's. A value near 1 is no aim in "
        "itself: read it together with signal_total."
    ),
    "sample_fraction": (
        "Share of the mean square that differs between samples, "
        + RANGES["sample_fraction"]
    ),
    _DEAD: (
        "Share of units that are constant over all samples behind the "
        "activation; without a layer's name, that of the layer where it is "
        "greatest. A layer with 1 passes nothing on."
    ),
    _GRADIENT: (
        "Mean square of the gradient at a layer over that at the last layer; "
        "without a layer's name, that of the first layer that it reaches."
    ),
    "gradient": "Mean square of the gradient at a layer's pre-activations.",
    "saturated_fraction": "Share of outputs that are near a bound.",
    "profile": (
        f"The total over the first one: {RANGES['signal_total']} The sample "
        f"fraction: {RANGES['sample_fraction']}"
    ),
}


class SampleVarianceDecay(Periodic):
    """A Keras callback that measures what reaches the layers of a model.

    Measures the model on `data`, as `keras_initx.measure` does, before the
    first step and then after every epoch, or every so many batches. It writes
    into `logs`

        signal_total             `signal_total` of the last layer
        sample_variance_decay    `decay` of the last layer
        dead_fraction            `dead_fraction` of the layer where it is
                                 greatest, if an activation follows a layer
        gradient_ratio           with `gradient=True`, `gradient_ratio` of the
                                 first layer that the gradient reaches

    and with `per_layer=True` also `signal_total/<layer>`,
    `sample_variance_decay/<layer>` and so on of each layer.
    They are columns of a `VarianceProfile`, the first two ratios to the first
    layer. A network whose `signal_total`
    starts below 1e-4 or above 1e4 hardly trains, whatever its decay is, and a
    decay of 1 is no aim in itself. `VarianceProfile` explains the ranges. In
    an epoch without a measurement the values are NaN.

    `History` always has these logs. `CSVLogger`, `EarlyStopping`,
    `ReduceLROnPlateau`, `ModelCheckpoint` and `TensorBoard` have them where
    they stand *behind* this callback in the list, and a callback in front of
    it that monitors one of its keys is warned of. Keras cannot guess whether
    these numbers should grow, so that it needs `mode="max"` or `mode="min"`:

    ```python
    callbacks = [
        SampleVarianceDecay(x),
        keras.callbacks.EarlyStopping("sample_variance_decay", mode="max"),
    ]
    ```

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
            step, of every layer's total, decay, sample fraction, sample
            variance and squared mean, of its gradient and its share of dead
            units where there are any, and, where matplotlib is installed, a
            figure of the profile. Defaults to no such file.
        expected: VarianceProfile. A profile of as many layers, usually from
            `predict` or `theory`, to print beside the table of `verbose=2`.
            Defaults to None.
        layers: Which layers to report, as in `measure`. Defaults to every
            layer that holds a kernel.
        training: bool. Whether to run the model in training mode when it is
            measured. Use True for a model with Batch Normalization: with
            False, it normalizes by its moving statistics, as in `predict`.
            These are mean 0 and variance 1 before the first step, and lag
            behind the data during the first hundreds of steps. Defaults to
            False.
        gradient: bool. Whether to measure the gradient too, as in `measure`.
            Defaults to False.
        loss: As in `measure`; with `loss=model.loss`, what the model was
            compiled with. Defaults to a random gradient at the last row.
        labels: Array, or a structure of arrays. The labels of `data` for
            `loss`, as in `measure`. Defaults to those of a data set.
        steps: int. The largest number of batches to measure on, as in
            `measure`. Defaults to all.
        batch_size: int. Samples per batch, for arrays. A measurement is
            cheapest in batches of the training's size. Defaults to 32.
        model: keras.Model or function. The model to measure. If the model of
            the fit has no `call`, or is trained in another way, this is one of
            its parts, such as `vae.encoder`, or a function that is called with
            the model of the fit and returns the part. `data` are then inputs
            of the part. Defaults to the model of the fit.
        per_layer: bool. Whether to write the keys of single layers into
            `logs`, all of which Keras's progress bar prints. Defaults to False.
        verbose: "auto" or int. 1 prints a line at each measurement, 2 the
            table, 0 nothing; "auto" is 0 in a `fit(verbose=0)`, and 1
            otherwise. Defaults to "auto".
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
        RuntimeError: At a measurement, as in `measure`.

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
    >>> len(history.history["signal_total"])
    2

    A VAE, a GAN, a diffusion model or a contrastive model often has a
    `train_step` and no `call`. One of its parts is measured then:

    >>> import tensorflow as tf
    >>> class Autoencoder(keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         encode = keras.layers.Dense(2, name="encode")
    ...         self.encoder = keras.Sequential([encode])
    ...         self.decoder = keras.Sequential([keras.layers.Dense(4)])
    ...     def train_step(self, x):
    ...         with tf.GradientTape() as tape:
    ...             x_again = self.decoder(self.encoder(x))
    ...             loss = tf.reduce_mean((x_again - x) ** 2)
    ...         weights = self.trainable_variables
    ...         self.optimizer.apply(tape.gradient(loss, weights), weights)
    ...         return {"loss": loss}
    >>> autoencoder = Autoencoder()
    >>> autoencoder.compile("sgd")
    >>> decay = SampleVarianceDecay(x, model=autoencoder.encoder)
    >>> history = autoencoder.fit(x, verbose=0, callbacks=[decay])
    >>> decay.profiles[-1].layers
    ('encode',)

    Reference: the decay is that of Luther & Seung, Physical Review Research 2,
    033135 (2020), arXiv:1902.04942; following it during training is not in the
    paper.
    """

    _keys = _KEYS

    def __init__(
        self,
        data: Data,
        *,
        update_freq: UpdateFreq = "epoch",
        log_dir: str | os.PathLike | None = None,
        expected: VarianceProfile | None = None,
        layers: Layers = None,
        training: bool = False,
        gradient: bool = False,
        loss: Loss | None = None,
        labels: Any = None,
        steps: int | None = None,
        batch_size: int | None = None,
        model: keras.Model | Callable[[keras.Model], keras.Model] | None = None,
        per_layer: bool = False,
        verbose: Verbose = "auto",
        on_error: Literal["raise", "warn"] = "raise",
    ):
        super().__init__(update_freq, log_dir, verbose, per_layer)
        check_instance(
            "expected",
            expected,
            VarianceProfile,
            "a VarianceProfile",
            optional=True,
        )
        if model is not None and not callable(model):
            check_instance(
                "model", model, keras.layers.Layer, _A_MODEL, optional=True
            )
        selectors(layers)
        check_gradient(gradient, loss, labels)
        batches(data, batch_size, steps, labels=labels)
        self.data = data
        self.expected = expected
        self.layers = layers
        self.training = check_bool("training", training)
        self.gradient = gradient
        self.loss = loss
        self.labels = labels
        self.steps = steps
        self.batch_size = batch_size
        self.measured_model = model
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
                    self._model_to_measure(),
                    layers=self.layers,
                    training=self.training,
                    gradient=self.gradient,
                    loss=self.loss,
                )
            # On JAX, `self.model` gets the weights that a fit has trained.
            assert self.model is not None
            profile = self._meter(
                self.data,
                steps=self.steps,
                batch_size=self.batch_size,
                labels=self.labels,
            )
            if self.expected is not None:
                profile.check_expected(self.expected)
        except Exception as error:
            if self.on_error == "raise" or self._nothing_trained:
                raise
            self._logs = dict.fromkeys(self._logs or _KEYS, float("nan"))
            warnings.warn(
                f"No sample variance at epoch {self._epoch}, "
                f"step {self._step}: {error}",
                stacklevel=2,
            )
            return
        self.profiles.append(profile)
        self.measured_at.append((self._epoch, self._step))
        scalars = _scalars(profile)
        self._logs = self._in_logs(
            {
                tag: value
                for tag, value in scalars.items()
                if tag.split("/")[0] in _KEYS
            }
        )
        if self._writer is not None:
            self._write_summary(scalars, self._figures(profile), _DESCRIPTIONS)
        if self._verbosity and self._is_chief():
            print_message(self._message(profile))

    def _model_to_measure(self) -> keras.Model:
        model = self.measured_model
        if model is None:
            return self.model
        if isinstance(model, keras.layers.Layer):
            return model
        return check_instance(
            "model", model(self.model), keras.layers.Layer, _A_MODEL
        )

    def _figures(self, profile: VarianceProfile) -> dict[str, bytes]:
        if importlib.util.find_spec("matplotlib") is None:
            return {}
        figure = png(
            lambda axes: profile.plot(self.expected, axes),
            f"Step {self._step}: {profile.verdict}",
            profile.panels,
        )
        return {f"profile/{_DECAY}": figure}

    def _message(self, profile: VarianceProfile) -> str:
        first, last = profile.sample_fraction[[0, -1]]
        line = (
            f"Step {self._step}: total {profile.signal_total[-1]:.3g} of the "
            f"first layer's, sample fraction {first:.3g} at "
            f"{profile.layers[0]}, {last:.3g} at {profile.layers[-1]}"
        )
        ratio = _first_ratio(profile)
        if ratio is not None:
            line += f", gradient {ratio:.3g} of the last layer's"
        if self._verbosity == 2:
            line += f"\n{profile.table(self.expected)}"
        return f"{line}\n{profile.verdict}"


# What `model` may be.
_A_MODEL = "a keras.Model, or a function of the model that returns one"


def _scalars(profile: VarianceProfile) -> dict[str, float]:
    """The numbers for TensorBoard and the logs, by their tags."""
    columns = {
        _TOTAL: profile.signal_total,
        _DECAY: profile.decay,
        "total": profile.total,
        "sample_fraction": profile.sample_fraction,
        "sample_variance": profile.sample_variance,
        "squared_mean": profile.squared_mean,
    }
    scalars = {key: columns[key][-1] for key in (_TOTAL, _DECAY)}
    # These are there only where an activation follows, or a gradient arrives.
    optional = (_DEAD, "saturated_fraction", "gradient", _GRADIENT)
    for column in optional:
        values = getattr(profile, column)
        columns[column] = values
        if column == _DEAD and not np.isnan(values).all():
            scalars[_DEAD] = np.nanmax(values)
    ratio = _first_ratio(profile)
    if ratio is not None:
        scalars[_GRADIENT] = ratio
    return scalars | {
        f"{column}/{name}": value
        for column, values in columns.items()
        for name, value in zip(profile.layers, values, strict=True)
        if column not in optional or not np.isnan(value)
    }


def _first_ratio(profile: VarianceProfile) -> float | None:
    """`gradient_ratio` of the first layer that the gradient reaches."""
    known = profile.gradient_ratio[~np.isnan(profile.gradient_ratio)]
    return float(known[0]) if len(known) else None
