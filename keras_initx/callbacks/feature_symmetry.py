"""Whether the features of a layer are alike, while the model trains."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_initx.callbacks.kernel_symmetry import kernel_symmetry
from keras_initx.callbacks.periodic import (
    Every,
    Periodic,
    check_verbose,
    say,
)
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches,
    selectors,
)
from keras_initx.inspection.traversal import Place, places
from keras_initx.profile import display
from keras_initx.validation import check_backend

_KEYS = ("feature_spread", "forward_correlation", "backward_correlation")


class FeatureSymmetry(Periodic):
    """Reports, kernel by kernel, how alike its features are.

    A network that starts with identical features, such as `models.ConstNet`,
    trains as if it were one channel wide for as long as they are. Before the
    first step and then after every epoch, or every so many batches, this looks
    at the kernels and writes into `logs`, where `History` and callbacks behind
    it in the list see it,

        feature_spread               the largest of all kernels
        feature_spread/<layer>       standard deviation over the output
                                     channels, root mean square over the rest
        forward_correlation/<layer>  mean correlation of two output channels,
                                     as vectors over all that they sum
        backward_correlation/<layer> mean correlation of two input channels,
                                     as vectors over all that they feed

    Keras's progress bar, too, prints all of it: to keep it short, put
    `keras.callbacks.ProgbarLogger()` in the list before this callback. An epoch
    in which nothing was measured has NaN there.

    A spread is 0 if and only if all output channels of a kernel are equal in
    float32, but for entries below its normal range. Kernels alone are looked
    at: features may differ by a bias, by a normalization's own scales, or
    between groups.
    Channels of equal entries, as those of a kernel of zeros, count as
    correlated by 1. All is computed where the weights are; three numbers a
    kernel come to the host.

    Args:
        every: "epoch", or a number of training batches.
        layers: Which layers: a layer, its name, a layer class, a function of
            a layer, or a list of these. Default: all that hold a kernel but
            the last, whose outputs are no features.
        log_dir: Where to write TensorBoard scalars of what is in `logs`, by
            step. Default: nowhere.
        verbose: 1 prints a line at each measurement, 2 the table, 0 nothing.

    Attributes:
        names: Of the kernels in the last fit, in the order of the columns
            below.
        steps: The `(epoch, step)` of each measurement of the last fit: epochs
            and batches that the model had been trained on, those of earlier
            fits included.
        spread, forward, backward: What was measured, arrays of shape
            (measurements, kernels).
        broken_at: The `(epoch, step)` of the first measurement of the last fit
            with a spread above 0, None before it.

    Raises:
        ValueError: An argument is out of its range; at the start of a fit,
            one of `layers` picks no layer that holds a kernel.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> import keras_initx as kx
    >>> model = kx.models.ConstNet(7, 1, 3, (8, 8, 3), dropout=0.5)
    >>> model.compile(
    ...     "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ... )
    >>> x, y = keras.random.normal((64, 8, 8, 3)), keras.ops.arange(64) % 3
    >>> symmetry = FeatureSymmetry(every=1, verbose=0)
    >>> history = model.fit(x, y, verbose=0, callbacks=[symmetry])
    >>> symmetry.steps
    [(0, 0), (0, 1), (0, 2)]
    >>> symmetry.broken_at  # The first step moves the logits alone.
    (0, 2)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038; the
    correlations are those of the authors' code, the spread is ours.
    """

    def __init__(
        self,
        every: Every = "epoch",
        layers: Layers = None,
        log_dir: str | os.PathLike | None = None,
        verbose: int = 1,
    ):
        super().__init__(every, log_dir)
        check_backend("FeatureSymmetry")
        check_verbose(verbose)
        selectors(layers)
        self.layers = layers
        self.verbose = verbose
        self._start()

    def _start(self) -> None:
        super()._start()
        self.names: list[str] = []
        self._found: list[np.ndarray] = []
        self._look = None

    @property
    def spread(self) -> np.ndarray:
        return self._column(0)

    @property
    def forward(self) -> np.ndarray:
        return self._column(1)

    @property
    def backward(self) -> np.ndarray:
        return self._column(2)

    @property
    def broken_at(self) -> tuple[int, int] | None:
        broken = (self.spread > 0).any(axis=1)
        return self.steps[int(np.argmax(broken))] if broken.any() else None

    def _column(self, which: int) -> np.ndarray:
        found = np.array(self._found, np.float32)
        return found.reshape(len(self._found), len(self.names), 3)[..., which]

    def table(self) -> str:
        """The last measurement, a kernel a line."""
        found = self._found[-1] if self._found else []
        rows = [
            [name, *map(display.number, row)]
            for name, row in zip(self.names, found, strict=True)
        ]
        heads = ["layer", "spread", "forward", "backward"]
        return display.text_table(heads, rows)

    def _measure(self) -> None:
        if self._look is None:
            chosen = _chosen(self.model, self.layers)
            self.names = [_name(place) for place in chosen]
            self._look = tf.function(
                lambda: tf.stack([kernel_symmetry(_kernel(p)) for p in chosen])
            )
        found = self._look().numpy()
        self._found.append(found)
        self.steps.append((self._epoch, self._step))
        self._logs = {_KEYS[0]: float(found[:, 0].max())} | {
            f"{key}/{name}": float(value)
            for name, row in zip(self.names, found, strict=True)
            for key, value in zip(_KEYS, row, strict=True)
        }
        self._write_summary(self._logs)
        if self.verbose and self._is_chief():
            say(self._message(found))

    def _message(self, found: np.ndarray) -> str:
        widest = int(np.argmax(found[:, 0]))
        spread = (
            f"largest spread of features {found[widest, 0]:.3g} at "
            f"{self.names[widest]}"
            if found[widest, 0] != 0
            else "the filters of each kernel are equal"
        )
        line = (
            f"Step {self._step}: {spread}, mean correlation of filters "
            f"{_mean(found[:, 1]):.3g} forward, "
            f"{_mean(found[:, 2]):.3g} backward"
        )
        return f"{line}\n{self.table()}" if self.verbose == 2 else line


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers; a layer of one channel has none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _chosen(model: keras.Model, layers: Layers) -> list[Place]:
    kernels = [p for p in places(model) if p.geometry.role.endswith("kernel")]
    held = [LayerCall(_name(place), place.layers[-1]) for place in kernels]
    wanted = selectors(layers)
    check_all_matched(wanted, held)
    chosen = [
        place
        for place, heard in zip(kernels, held, strict=True)
        if any(matches(selector, heard) for selector in wanted)
    ]
    return chosen[:-1] or chosen if layers is None else chosen


def _name(place: Place) -> str:
    return place.name.removesuffix("/kernel")


def _kernel(place: Place) -> tf.Tensor:
    """As (taps, channels, outputs); separate maps are further outputs."""
    geometry = place.geometry
    taps = len(getattr(place.layers[-1], "kernel_size", ()))
    inputs, outputs = (
        geometry.input_axes,
        geometry.batch_axes + geometry.output_axes,
    )

    def size(axes: Sequence[int]) -> int:
        return int(np.prod([geometry.split_shape[axis] for axis in axes]))

    factored = tf.reshape(place.weight.value, geometry.split_shape)
    return tf.reshape(
        tf.transpose(factored, inputs + outputs),
        [size(inputs[:taps]), size(inputs[taps:]), size(outputs)],
    )
