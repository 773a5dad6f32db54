"""Training of a relu network of width 4 to a curve, from triangle waves on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_initx import backend
from keras_initx.layers import TriangleWave
from keras_initx.theory.triangle_waves.peaks import FORMS
from keras_initx.validation import (
    check_array,
    check_bool,
    check_choice,
    check_int,
    check_real,
    refuse,
)

# Values whose range is a smaller share of their size are nearly equal in
# float32.
_LEAST_RANGE = 1e-4
# How far y may leave the interval of its values at the ends of a ramp, and how
# far it must leave it in a v, as a share of its range.
_MOST_BEYOND, _LEAST_BEYOND = 0.5, 0.25
# The least distance of the ends of a ramp, as a share of the range of y.
_LEAST_RISE = 0.25
# Between these, the weights that scale x and y are finite in float32.
_SMALLEST, _LARGEST = 1e-30, 1e30
# The least number of updates of the progress bar.
_UPDATES = 50


class _Scaling(NamedTuple):
    """The linear map v = factor u + offset."""

    factor: float
    offset: float


def fit_triangle_wave(
    x: np.ndarray,
    y: np.ndarray,
    depth: int,
    concave: bool | None = None,
    form: str = "ramp",
    trainable_scales: bool = False,
    peaks: Sequence[float] | None = None,
    epochs: int = 1000,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    seed: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 1,
) -> keras.Sequential:
    """Fits a relu network of width 4 to a curve in two phases of training.

    The first phase trains the peaks of a `layers.TriangleWave`. The second
    phase trains all weights of the same network, as dense layers. Both use Adam
    on the mean squared error.

    x and y are scaled so that the target belongs to the family of curves. For
    "ramp", x is scaled to [0, 1], and y so that it goes from 0 to 1, rising or
    falling. For "v", x is scaled to [-1, 1], and y so that its mean at both
    ends is 1 and its value farthest from that is 0. The scales become a part of
    the first and last layer, so that the model takes x and returns y as they
    are. The first phase is best for curves without an inflection that are flat
    at one end of the ramp, or at the turning point of the v. The second phase
    fits the rest.

    Args:
        x: Array-like of shape (n,) or (n, 1), finite, in any order. The range
            of its values must be visible in float32: subtract a large offset.
        y: Array-like of the same shape, finite.
        depth: int. The number of hidden layers, at least 1.
        concave: bool. Whether the scaled curve is concave or convex. By default
            the nearer one for "ramp", and convex for "v".
        form: str. "ramp" if y goes from its value at the least x to its value
            at the largest x, "v" if it falls and rises, or rises and falls.
            Defaults to "ramp".
        trainable_scales: bool. Whether the first phase also trains the scales
            of the waves, as in `layers.TriangleWave`. Defaults to False.
        peaks: Sequence of depth + 1 floats in (0, 1). The initial peaks. By
            default they are random.
        epochs: int. The number of epochs of each phase, at least 1. Defaults
            to 1000.
        batch_size: int. The number of points in a batch, at least 1. Defaults
            to 100.
        learning_rate: float. The learning rate of Adam, above 0. Defaults to
            1e-3.
        seed: int. The seed of the initial peaks, at least 0. Batches follow
            from `keras.utils.set_random_seed`.
        callbacks: Sequence of `keras.callbacks.Callback`. The callbacks of both
            phases. An epoch of Keras is here a fiftieth of all epochs, or the
            nearest smaller part that divides them.
        verbose: int. 1 shows a progress bar for each phase, 0 none. Defaults
            to 1.

    Returns:
        A `keras.Sequential` of `depth` layers `Dense(4, "relu")` and one
        `Dense(1)`, compiled with Adam and the mean squared error.

    Raises:
        ValueError: If an argument has another type or is out of range, or if y
            does not have the form.

    Example:

    >>> x = np.linspace(-2, 2, 200)
    >>> model = fit_triangle_wave(
    ...     x, 3 * x**2, depth=3, form="v", epochs=2, verbose=0
    ... )
    >>> model.predict(x, verbose=0).shape
    (200, 1)

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, section 4.
    The scaling of x and y is derived here.
    """
    if concave is not None:
        concave = check_bool("concave", concave)
    check_bool("trainable_scales", trainable_scales)
    check_choice("form", form, FORMS)
    epochs = check_int("epochs", epochs, 1)
    batch_size = check_int("batch_size", batch_size, 1)
    learning_rate = check_real("learning_rate", learning_rate, "(0, inf)")
    points, target = _column("x", x), _column("y", y)
    if len(points) != len(target):
        raise ValueError(
            "x and y must have as many values. "
            f"Received: {len(points)} and {len(target)}"
        )
    x_scaling = _scaling_of_x(points, form)
    y_scaling = _scaling_of_y(points, target, form)
    points = (points - x_scaling.offset) / x_scaling.factor
    target = (target - y_scaling.offset) / y_scaling.factor
    if concave is None:
        concave = bool(form == "ramp" and np.mean(target - points) > 0)
    elif form == "v" and concave:
        target, y_scaling = (
            1 - target,
            _Scaling(-y_scaling.factor, sum(y_scaling)),
        )

    wave = TriangleWave(depth, concave, trainable_scales, peaks, form, seed)
    first = keras.Sequential([keras.Input((1,)), wave])

    data = backend.endless_batches(
        points[:, None].astype(np.float32),
        target[:, None].astype(np.float32),
        batch_size,
    )
    # Keras takes longer for a short epoch than for the training in it.
    passes = _divisor(epochs, most=max(1, epochs // _UPDATES))
    steps = passes * math.ceil(len(points) / batch_size)

    def train(model: keras.Sequential, title: str) -> None:
        model.compile(
            keras.optimizers.Adam(learning_rate),
            "mse",
            steps_per_execution=backend.steps_per_execution(steps),
            jit_compile=False,
        )
        bar = [_ProgressBar(title, passes)] if verbose else []
        model.fit(
            data,
            epochs=epochs // passes,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[*bar, *callbacks],
        )

    train(first, "Phase 1, peaks")
    model = wave.to_dense()
    train(model, "Phase 2, all weights")
    _unscale(model, x_scaling, y_scaling)
    # The optimizer's moments are those of the scaled weights.
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


def _divisor(number: int, most: int) -> int:
    """Returns the largest divisor that is not above `most`."""
    return next(d for d in range(most, 0, -1) if number % d == 0)


class _ProgressBar(keras.callbacks.Callback):
    """Shows one bar for all epochs, several of which are one of Keras."""

    def __init__(self, title: str, passes: int):
        super().__init__()
        self._title = title
        self._passes = passes

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Prints the title and makes the bar."""
        print(self._title)
        self._bar = keras.utils.Progbar(
            self._passes * self.params["epochs"],
            stateful_metrics=["loss"],
            unit_name="epoch",
        )

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Updates the bar."""
        loss = (logs or {}).get("loss", math.nan)
        self._bar.update(self._passes * (epoch + 1), [("loss", loss)])


def _column(name: str, values: Any) -> np.ndarray:
    """Returns the values as float64 of shape (n,), n >= 2."""
    column = check_array(name, values)
    shape = column.shape
    if len(shape) == 2 and shape[1] == 1:
        column = column.reshape(-1)
    elif len(shape) != 1:
        refuse(
            f"{name} must be of shape (n,) or (n, 1), one number a sample. For "
            "several inputs use triangle_wave_network.",
            shape=shape,
        )
    if column.size < 2:
        raise ValueError(
            f"{name} must be 2 or more finite real numbers. "
            f"Received: {name}={values!s:.200}"
        )
    if np.ptp(column) <= _LEAST_RANGE * np.abs(column).max():
        raise ValueError(
            f"{name} must vary by more than {_LEAST_RANGE:g} of its size, so "
            "that its values differ in float32: subtract an offset. "
            f"Received: {name} from {column.min()} to {column.max()}"
        )
    if np.ptp(column) < _SMALLEST or np.abs(column).max() > _LARGEST:
        raise ValueError(
            f"{name} must vary by {_SMALLEST:g} or more, and be within "
            f"{_LARGEST:g}, for weights in float32. Received: {name} from "
            f"{column.min()} to {column.max()}"
        )
    return column


def _scaling_of_x(points: np.ndarray, form: str) -> _Scaling:
    low, high = points.min(), points.max()
    if form == "v":
        return _Scaling((high - low) / 2, (high + low) / 2)
    return _Scaling(high - low, low)


def _scaling_of_y(
    points: np.ndarray, target: np.ndarray, form: str
) -> _Scaling:
    low, high = (
        target[points == end].mean() for end in (points.min(), points.max())
    )
    below = (min(low, high) - target.min()) / np.ptp(target)
    above = (target.max() - max(low, high)) / np.ptp(target)
    beyond = max(below, above)
    rise = abs(high - low) / np.ptp(target)
    if form == "ramp" and (beyond > _MOST_BEYOND or rise < _LEAST_RISE):
        raise ValueError(
            'form="ramp" needs a y that goes from its value at the least x to '
            "its value at the largest. A y that falls and rises, or rises and "
            f'falls, has form="v". Received: y={low:g} and {high:g} at the '
            f"ends, of {target.min():g} to {target.max():g}"
        )
    if form == "v" and beyond < _LEAST_BEYOND:
        raise ValueError(
            'form="v" needs a y that falls and rises, or rises and falls. A y '
            'that goes from one value to another has form="ramp". '
            f"Received: y={low:g} and {high:g} at the ends, of "
            f"{target.min():g} to {target.max():g}"
        )
    if form == "ramp":
        return _Scaling(high - low, low)
    farthest = target.min() if below > above else target.max()
    return _Scaling((low + high) / 2 - farthest, farthest)


def _unscale(model: keras.Sequential, x: _Scaling, y: _Scaling) -> None:
    """Changes the ends of a model so that it takes x and returns y as given."""
    first, last = model.layers[0], model.layers[-1]
    kernel, bias = (np.array(w, np.float64) for w in first.get_weights())
    kernel = kernel / x.factor
    first.set_weights([kernel, bias - x.offset * kernel[0]])
    kernel, bias = (np.array(w, np.float64) for w in last.get_weights())
    last.set_weights([kernel * y.factor, bias * y.factor + y.offset])
