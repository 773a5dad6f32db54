"""A relu net of width 4 that learns a curve, from triangle waves on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_initx.layers import TriangleWave
from keras_initx.theory.triangle_waves.peaks import FORMS
from keras_initx.validation import (
    check_array,
    check_bool,
    check_choice,
    check_int,
    is_real,
)

# Values that vary by less of their size are alike in float32, nearly.
_LEAST_RANGE = 1e-4
# How far y may go beyond its values at the ends, as a share of its range, in a
# ramp; and must, in a v.
_MOST_BEYOND, _LEAST_BEYOND = 0.5, 0.25
# How far apart the ends of a ramp are, as a share of the range of y, at least.
_LEAST_RISE = 0.25
# float32 has room for the weights of what lies between.
_SMALLEST, _LARGEST = 1e-30, 1e30
# Of the progress bar, at least.
_UPDATES = 50


class _Scaling(NamedTuple):
    """v = factor u + offset."""

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
    """A plain relu net, 4 wide, trained to a curve in two phases.

    First the peaks of a `layers.TriangleWave` are trained, then all weights of
    the same net, each time by Adam on the mean square error.

    Both are scaled so that the target is of the family: x to [0, 1] for
    "ramp", and y so that it goes from 0 to 1, rising or falling; x to [-1, 1]
    for "v", and y so that it is 1 at the ends, on average, and 0 where it is
    farthest from them. The scales go into the first and last layer, so that
    the model is of x and y as they came. The first phase fits best what has no
    inflection, and is flat at one end of the ramp, or at the turning point of
    the v; the second phase takes what remains.

    Args:
        x: Array-like, (n,) or (n, 1), finite, in any order, of a range that
            float32 tells apart: subtract a large offset first.
        y: Array-like of the same shape, finite.
        depth: Number of hidden layers, an int >= 1.
        concave: Whether the scaled curve is concave, or convex. By default the
            ramp that is nearer; convex for "v".
        form: "ramp" if y goes from its value at the least x to that at the
            largest, "v" if it falls and rises, or rises and falls.
        trainable_scales: As in `layers.TriangleWave`.
        peaks: At the start, depth + 1 numbers in (0, 1); random by default.
        epochs: Of each phase, an int >= 1.
        batch_size: An int >= 1.
        learning_rate: Of Adam, finite and > 0.
        seed: Of the peaks, an int >= 0 or None. Batches are drawn from
            `keras.utils.set_random_seed`.
        callbacks: Of Keras, for both phases. What Keras counts as an epoch is
            here a fiftieth of them all, or as much as divides them.
        verbose: 1 shows a progress bar for each phase, 0 none.

    Returns:
        A `keras.Sequential` of `depth` layers Dense(4, "relu") and one
        Dense(1), compiled with Adam and the mean square error.

    Raises:
        ValueError: An argument is none of these, or y has no such form.

    Example:

    >>> x = np.linspace(-2, 2, 200)
    >>> model = fit_triangle_wave(
    ...     x, 3 * x**2, depth=3, form="v", epochs=2, verbose=0
    ... )
    >>> model.predict(x, verbose=0).shape
    (200, 1)

    Reference: Milkert, Hyde & Laine, ICML (2025), arXiv:2311.18022, section 4.
    The scaling is ours.
    """
    if concave is not None:
        check_bool("concave", concave)
    check_bool("trainable_scales", trainable_scales)
    check_choice("form", form, FORMS)
    check_int("epochs", epochs, 1)
    check_int("batch_size", batch_size, 1)
    if not (is_real(learning_rate) and learning_rate > 0):
        raise ValueError(
            "learning_rate must be finite and > 0. "
            f"Received: learning_rate={learning_rate!r}"
        )
    points, target = _column("x", x), _column("y", y)
    if len(points) != len(target):
        raise ValueError(
            "x and y must have as many values. "
            f"Received: {len(points)} and {len(target)}"
        )
    to_x, to_y = (
        _scaling_of_x(points, form),
        _scaling_of_y(points, target, form),
    )
    points = (points - to_x.offset) / to_x.factor
    target = (target - to_y.offset) / to_y.factor
    if concave is None:
        concave = bool(form == "ramp" and np.mean(target - points) > 0)
    elif form == "v" and concave:
        target, to_y = 1 - target, _Scaling(-to_y.factor, sum(to_y))

    wave = TriangleWave(depth, concave, trainable_scales, peaks, form, seed)
    first = keras.Sequential([keras.Input((1,)), wave])

    data = tf.data.Dataset.from_tensor_slices(
        tuple(v[:, None].astype(np.float32) for v in (points, target))
    )
    data = data.cache().shuffle(len(points)).batch(batch_size).repeat()
    # Many short epochs cost Keras more than what happens in them.
    passes = _divisor(epochs, most=max(1, epochs // _UPDATES))
    steps = passes * math.ceil(len(points) / batch_size)

    def train(model: keras.Sequential, phase: str) -> None:
        model.compile(
            keras.optimizers.Adam(learning_rate),
            "mse",
            steps_per_execution=steps,
            jit_compile=False,
        )
        bar = [_Bar(phase, passes)] if verbose else []
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
    _unscale(model, to_x, to_y)
    # Adam has moments of the scaled weights.
    model.compile(keras.optimizers.Adam(learning_rate), "mse")
    return model


def _divisor(number: int, most: int) -> int:
    return next(d for d in range(most, 0, -1) if number % d == 0)


class _Bar(keras.callbacks.Callback):
    """One bar for all epochs, of which Keras counts several as one."""

    def __init__(self, title: str, passes: int):
        super().__init__()
        self._title = title
        self._passes = passes

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        print(self._title)
        self._bar = keras.utils.Progbar(
            self._passes * self.params["epochs"],
            stateful_metrics=["loss"],
            unit_name="epoch",
        )

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._bar.update(self._passes * (epoch + 1), [("loss", logs["loss"])])


def _column(name: str, values: Any) -> np.ndarray:
    """float64 of shape (n,), n >= 2, or an error."""
    given = check_array(name, values)
    shape = given.shape
    if len(shape) == 2 and shape[1] == 1:
        given = given.reshape(-1)
    elif len(shape) != 1:
        raise ValueError(
            f"{name} must be of shape (n,) or (n, 1): one number a sample. For "
            "several inputs there is triangle_wave_network. "
            f"Received: shape={shape}"
        )
    if given.size < 2:
        raise ValueError(
            f"{name} must be 2 or more finite real numbers. "
            f"Received: {name}={values!s:.200}"
        )
    if np.ptp(given) <= _LEAST_RANGE * np.abs(given).max():
        raise ValueError(
            f"{name} must vary by more than {_LEAST_RANGE:g} of its size, so "
            "that float32 can tell its values apart: subtract an offset. "
            f"Received: {name} from {given.min()} to {given.max()}"
        )
    if np.ptp(given) < _SMALLEST or np.abs(given).max() > _LARGEST:
        raise ValueError(
            f"{name} must vary by {_SMALLEST:g} or more, and be within "
            f"{_LARGEST:g}, for weights in float32. Received: {name} from "
            f"{given.min()} to {given.max()}"
        )
    return given


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
            "that at the largest; what falls and rises, or rises and falls, "
            f'is form="v". Received: y={low:g} and {high:g} at the ends, of '
            f"{target.min():g} to {target.max():g}"
        )
    if form == "v" and beyond < _LEAST_BEYOND:
        raise ValueError(
            'form="v" needs a y that falls and rises, or rises and falls; '
            'what goes from one value to another is form="ramp". '
            f"Received: y={low:g} and {high:g} at the ends, of "
            f"{target.min():g} to {target.max():g}"
        )
    if form == "ramp":
        return _Scaling(high - low, low)
    farthest = target.min() if below > above else target.max()
    return _Scaling((low + high) / 2 - farthest, farthest)


def _unscale(model: keras.Sequential, x: _Scaling, y: _Scaling) -> None:
    """Let the model take x and give y as they came."""
    first, last = model.layers[0], model.layers[-1]
    kernel, bias = map(np.float64, first.get_weights())
    kernel = kernel / x.factor
    first.set_weights([kernel, bias - x.offset * kernel[0]])
    kernel, bias = map(np.float64, last.get_weights())
    last.set_weights([kernel * y.factor, bias * y.factor + y.offset])
