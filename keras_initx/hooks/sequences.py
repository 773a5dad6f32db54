"""Hear the layers that another layer runs once a time step.

`TimeDistributed` runs its layer's `call` itself, past `Layer.__call__`. A
recurrent layer runs its cell in a loop of the graph, out of which only the
cell's output comes: so what is heard in the cell travels on that output, laid
flat behind it, and is cut off again when the loop is done.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import keras
import tensorflow as tf

from keras_initx.hooks.heard import Heard, check_reachable, swapped

if TYPE_CHECKING:
    from keras_initx.hooks.forward_hooks import _Tap


class Sequence(Protocol):
    """What hears in the listener's place while a sequence runs."""

    def hear(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        """Take note of a signal of the present time step."""

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        """What `layer` shall return in the place of `output`."""


@contextlib.contextmanager
def opened(layer: keras.layers.Layer, tap: _Tap) -> Iterator[None]:
    """Within, the layers that `layer` runs once a time step are heard."""
    if isinstance(layer, keras.layers.TimeDistributed):
        with _time_distributed(layer, tap):
            yield
    elif isinstance(layer, keras.layers.RNN):
        with _recurrent(layer, tap):
            yield
    else:
        yield


@contextlib.contextmanager
def _told_to(tap: _Tap, sequence: Sequence) -> Iterator[None]:
    outer, tap.sequence = tap.sequence, sequence
    try:
        yield
    finally:
        tap.sequence = outer


@contextlib.contextmanager
def _time_distributed(
    layer: keras.layers.TimeDistributed, tap: _Tap
) -> Iterator[None]:
    steps = _Steps(layer.layer)
    with tap.attached(layer.layer), _told_to(tap, steps):
        yield
    for step in zip(*steps.finished, strict=True):
        heard = step[0][0]
        tap.tell(heard, tf.stack([signal for _, signal in step], axis=1))


class _Steps:
    """Collects the signals of a Python loop over time, step by step."""

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer
        self.graph = tf.compat.v1.get_default_graph()
        self.present: list[tuple[Heard, tf.Tensor]] = []
        self.finished: list[list[tuple[Heard, tf.Tensor]]] = []

    def hear(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        check_reachable(heard, self.graph)
        self.present.append((heard, signal))
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        if layer is self.layer:
            self.finished.append(self.present)
            self.present = []
        return output


@contextlib.contextmanager
def _recurrent(layer: keras.layers.RNN, tap: _Tap) -> Iterator[None]:
    outer = tap.sequence

    def heard_inner_loop(inner_loop, *args, **kwargs):
        carried = _Carried(layer.cell)
        with _told_to(tap, carried):
            last, outputs, states = inner_loop(*args, **kwargs)
        last, *last_signals = carried.cut(last, lead=1)
        outputs, *signals = carried.cut(outputs, lead=2)
        with _told_to(tap, outer):
            for heard, signal in zip(
                carried.heard,
                signals if layer.return_sequences else last_signals,
                strict=True,
            ):
                tap.tell(heard, signal)
        return last, outputs, states

    def hearing(inner_loop: Callable) -> Callable:
        if isinstance(layer, (keras.layers.LSTM, keras.layers.GRU)):
            # Their own would try a fused kernel, which never calls the cell.
            inner_loop = functools.partial(keras.layers.RNN.inner_loop, layer)
        return functools.partial(heard_inner_loop, inner_loop)

    # Outside its loop Keras may run cells only to learn the shapes of masks.
    with (
        swapped(layer, "inner_loop", hearing),
        _told_to(tap, _Deaf()),
    ):
        yield


class _Deaf:
    """Hears nothing."""

    def hear(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        return output


class _Carried:
    """Carries the signals of a graph's loop out of it on the cell's output.

    The output `(batch, ...)` of each step becomes `(batch, n)`: itself and the
    signals, each laid flat, one after the other.
    """

    def __init__(self, cell: keras.layers.Layer):
        self.cell = cell
        self.present: list[tuple[Heard, tf.Tensor, tf.Graph]] = []
        self.heard: list[Heard] = []
        self.parts: list[tuple[tf.TensorShape, tf.DType]] = []

    def hear(self, heard: Heard, signal: tf.Tensor) -> tf.Tensor:
        graph = tf.compat.v1.get_default_graph()
        self.present.append((heard, signal, graph))
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        if layer is not self.cell or not self.present:
            return output
        present, self.present = self.present, []
        for heard, _, graph in present:
            check_reachable(heard, graph)
        value, states = output
        tensors = [value, *(signal for _, signal, _ in present)]
        self.heard = [heard for heard, _, _ in present]
        self.parts = [(t.shape[1:], t.dtype) for t in tensors]
        wide = max((t.dtype for t in tensors), key=lambda dtype: dtype.size)
        flat = [
            tf.reshape(
                tf.cast(t, wide), [tf.shape(t)[0], t.shape[1:].num_elements()]
            )
            for t in tensors
        ]
        return tf.concat(flat, axis=1), states

    def cut(self, joined: tf.Tensor, lead: int) -> list[tf.Tensor]:
        """Undo `step_output` behind the `lead` leading axes of `joined`."""
        if not self.parts:
            return [joined]
        sizes = [shape.num_elements() for shape, _ in self.parts]
        leading = tf.shape(joined)[:lead]
        return [
            tf.cast(tf.reshape(t, tf.concat([leading, shape], 0)), dtype)
            for t, (shape, dtype) in zip(
                tf.split(joined, sizes, axis=lead), self.parts, strict=True
            )
        ]
