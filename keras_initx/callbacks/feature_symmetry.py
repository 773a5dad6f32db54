"""How alike the features of each layer are while a model trains."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_initx.backend.passes import Tensor, passes
from keras_initx.callbacks.kernel_symmetry import kernel_symmetry
from keras_initx.callbacks.periodic import (
    Periodic,
    UpdateFreq,
    Verbose,
    print_message,
)
from keras_initx.inspection.selection import (
    LayerCall,
    Layers,
    check_all_matched,
    matches_any,
    selectors,
)
from keras_initx.inspection.traversal import ModelWeight, inspect_model
from keras_initx.profile import display

_KEYS = ("feature_spread", "forward_correlation", "backward_correlation")


class FeatureSymmetry(Periodic):
    """A Keras callback that measures how alike the features of a layer are.

    A network that starts with identical features, such as `models.ConstNet`,
    trains like a network that is one channel wide until they differ. Before
    the first step, and then after every epoch or every so many batches, this
    callback examines the kernels and writes into `logs`, where `History` and
    the callbacks behind it in the list read it,

        feature_spread               the largest of all kernels

    and with `per_layer=True` also

        feature_spread/<layer>       standard deviation over the output
                                     channels, root mean square over the rest
        forward_correlation/<layer>  mean correlation of two output channels,
                                     as vectors over all that they sum
        backward_correlation/<layer> mean correlation of two input channels,
                                     as vectors over all that they feed

    In an epoch without a measurement the values are NaN.

    A spread is 0 if and only if all output channels of a kernel are equal in
    float32, except for entries below its normal range. Only kernels are
    examined: features may differ by a bias, by the scales of a normalization,
    or between groups. Channels of equal entries, such as those of a kernel of
    zeros, count as correlated by 1. All is computed where the weights are;
    three numbers a kernel come to the host.

    Args:
        update_freq: "epoch" or int. Whether to measure after every epoch or
            after every so many training batches. Defaults to "epoch".
        log_dir: str or path-like. The directory for TensorBoard scalars of
            all these numbers, by step. Defaults to no such file.
        layers: Which layers to examine, as in `measure`: a layer, its name, a
            layer class, a function of a layer, or a list of these. Defaults to
            all that hold a kernel except the last, whose outputs are not
            features.
        per_layer: bool. Whether to write the keys of single layers into
            `logs`, all of which Keras's progress bar prints. Defaults to False.
        verbose: "auto" or int. 1 prints a line at each measurement, 2 the
            table, 0 nothing; "auto" is 0 in a `fit(verbose=0)`, and 1
            otherwise. Defaults to "auto".

    Attributes:
        names: list of str. The names of the kernels in the last fit, in the
            order of the columns of `spread`.
        measured_at: list of tuple. The `(epoch, step)` of each measurement of
            the last fit: epochs and batches that the model had been trained
            on, including those of earlier fits.
        spread: array. Shape (measurements, kernels). The spreads.
        forward: array. The same shape. The forward correlations.
        backward: array. The same shape. The backward correlations.
        broken_at: tuple. The `(epoch, step)` of the first measurement of the
            last fit with a spread above 0, None if there is none.

    Raises:
        ValueError: If an argument is out of its range; at the start of a fit,
            if one of `layers` selects no layer that holds a kernel.

    Example:

    >>> import keras_initx as kx
    >>> model = kx.models.ConstNet(7, 1, 3, (8, 8, 3), dropout=0.5)
    >>> model.compile(
    ...     "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ... )
    >>> x, y = keras.random.normal((64, 8, 8, 3)), keras.ops.arange(64) % 3
    >>> symmetry = FeatureSymmetry(update_freq=1, verbose=0)
    >>> history = model.fit(x, y, verbose=0, callbacks=[symmetry])
    >>> symmetry.measured_at
    [(0, 0), (0, 1), (0, 2)]
    >>> symmetry.broken_at  # The first step moves the logits alone.
    (0, 2)

    Reference: Blumenfeld, Gilboa & Soudry, ICML (2020), arXiv:2007.01038; the
    correlations are those of the authors' code, the spread is defined here.
    """

    _keys = _KEYS

    def __init__(
        self,
        *,
        update_freq: UpdateFreq = "epoch",
        log_dir: str | os.PathLike | None = None,
        layers: Layers = None,
        per_layer: bool = False,
        verbose: Verbose = "auto",
    ):
        super().__init__(update_freq, log_dir, verbose, per_layer)
        selectors(layers)
        self.layers = layers
        self._start()

    def _start(self) -> None:
        super()._start()
        self.names: list[str] = []
        self._rows: list[np.ndarray] = []
        self._symmetries: Callable[[], Tensor] | None = None

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file for TensorBoard and drops the compiled function."""
        super().on_train_end(logs)
        self._symmetries = None

    @property
    def spread(self) -> np.ndarray:
        """The spread of each kernel at each measurement."""
        return self._column(0)

    @property
    def forward(self) -> np.ndarray:
        """The mean correlation of two output channels."""
        return self._column(1)

    @property
    def backward(self) -> np.ndarray:
        """The mean correlation of two input channels."""
        return self._column(2)

    @property
    def broken_at(self) -> tuple[int, int] | None:
        """When features were first seen to differ."""
        broken = (self.spread > 0).any(axis=1)
        return (
            self.measured_at[int(np.argmax(broken))] if broken.any() else None
        )

    def _column(self, index: int) -> np.ndarray:
        rows = np.array(self._rows, np.float32)
        return rows.reshape(len(self._rows), len(self.names), 3)[..., index]

    def table(self) -> str:
        """Returns the last measurement as text, one line a kernel."""
        last = self._rows[-1] if self._rows else ()
        lines = [
            [name, *map(display.number, row)]
            for name, row in zip(self.names, last, strict=True)
        ]
        heads = ["layer", "spread", "forward", "backward"]
        return display.text_table(heads, lines)

    def _measure(self) -> None:
        if self._symmetries is None:
            selected = _selected(self.model, self.layers)
            self.names = [_name(place) for place in selected]

            def symmetries() -> Tensor:
                with passes().stateless_scope():
                    return ops.stack(
                        [kernel_symmetry(_kernel(place)) for place in selected]
                    )

            self._symmetries, _ = passes().compile(symmetries)
        row = passes().to_numpy(self._symmetries())
        self._rows.append(row)
        self.measured_at.append((self._epoch, self._step))
        values = {_KEYS[0]: float(row[:, 0].max())} | {
            f"{key}/{name}": float(value)
            for name, row_of_kernel in zip(self.names, row, strict=True)
            for key, value in zip(_KEYS, row_of_kernel, strict=True)
        }
        self._logs = self._in_logs(values)
        self._write_summary(values)
        if self._verbosity and self._is_chief():
            print_message(self._message(row))

    def _message(self, row: np.ndarray) -> str:
        widest = int(np.argmax(row[:, 0]))
        spread = (
            f"largest spread of features {row[widest, 0]:.3g} at "
            f"{self.names[widest]}"
            if row[widest, 0] != 0
            else "the filters of each kernel are equal"
        )
        line = (
            f"Step {self._step}: {spread}, mean correlation of filters "
            f"{_mean(row[:, 1]):.3g} forward, "
            f"{_mean(row[:, 2]):.3g} backward"
        )
        return f"{line}\n{self.table()}" if self._verbosity == 2 else line


def _mean(values: np.ndarray) -> float:
    """Mean without NaN, which a layer of one channel has."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _selected(model: keras.Model, layers: Layers) -> list[ModelWeight]:
    """The kernels to examine.

    Raises:
        ValueError: If one of `layers` selects no layer that holds a kernel.
    """
    kernels = [
        w for w in inspect_model(model).weights if w.role.endswith("kernel")
    ]
    present = [LayerCall(_name(kernel), kernel.layer) for kernel in kernels]
    any_of = selectors(layers)
    check_all_matched(any_of, present)
    selected = [
        kernel
        for kernel, layer_call in zip(kernels, present, strict=True)
        if matches_any(any_of, layer_call)
    ]
    return selected[:-1] or selected if layers is None else selected


def _name(kernel: ModelWeight) -> str:
    return kernel.path.removesuffix("/kernel")


def _kernel(weight: ModelWeight) -> Tensor:
    """The kernel with shape (taps, channels, outputs).

    The outputs of separate maps stand side by side.
    """
    geometry = weight.geometry
    shape = geometry.split_shape
    # A weight that is a kernel is a linear map.
    assert shape is not None
    inputs = geometry.input_axes
    outputs = geometry.batch_axes + geometry.output_axes

    def size(axes: Sequence[int]) -> int:
        return math.prod(shape[axis] for axis in axes)

    return ops.reshape(
        ops.transpose(
            ops.reshape(weight.variable.value, shape), inputs + outputs
        ),
        (
            size(inputs[: geometry.window]),
            size(inputs[geometry.window :]),
            size(outputs),
        ),
    )
