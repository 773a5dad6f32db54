"""Records the cell inside a recurrent layer.

A recurrent layer runs its cell in a loop of the graph, out of which only the
cell's output comes. The signals of the layers inside the cell therefore travel
on that output, flattened and appended to it, and are split off again behind the
loop.

What this module needs of Keras, and what is not documented:

* `RNN.call` runs `self.inner_loop(...)`, an attribute of the instance, which
  returns `(last output, outputs, states)` and runs `self.cell` once a step.
* `RNN.inner_loop` of the base class does so for the cells of `LSTM` and `GRU`
  too, whose own `inner_loop` may call a fused kernel instead of the cell.
* Where `RNN._expected_batch_size`, an attribute of the instance, is None, any
  number of samples is taken. Keras 3.12 and 3.13 compare it in a graph with a
  number that is not known there, which raises.

`tests/hooks/test_undocumented_keras.py` fails as soon as either is not so.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_initx.hooks.patching import replaced
from keras_initx.hooks.recorder import Recorder, check_reachable
from keras_initx.inspection.selection import LayerCall


@contextlib.contextmanager
def recurrent(layer: keras.layers.RNN, recorder: Recorder) -> Iterator[None]:
    """Records the layers inside the cell of `layer` when its loop has run.

    The hook is called once for each of them: of a layer that returns sequences
    with time along the second axis, else with the last time step. What it
    returns is dropped.
    """
    outer = recorder.sequence

    def recorded_inner_loop(
        inner_loop: Callable, *args: Any, **kwargs: Any
    ) -> tuple:
        carried = _Carried(layer.cell)
        with recorder.recording_in(carried):
            last, outputs, states = inner_loop(*args, **kwargs)
        last, *last_signals = carried.split(last, lead=1)
        outputs, *signals = carried.split(outputs, lead=2)
        with recorder.recording_in(outer):
            for layer_call, signal in zip(
                carried.layer_calls,
                signals if layer.return_sequences else last_signals,
                strict=True,
            ):
                recorder.record_steps(layer_call, signal)
        return last, outputs, states

    def wrap(inner_loop: Callable) -> Callable:
        if isinstance(layer, (keras.layers.LSTM, keras.layers.GRU)):
            # Their own would try a fused kernel, which never calls the cell.
            inner_loop = functools.partial(keras.layers.RNN.inner_loop, layer)
        return functools.partial(recorded_inner_loop, inner_loop)

    # Outside its loop Keras may run cells only to learn the shapes of masks.
    with (
        _any_batch_size(layer),
        replaced(layer, "inner_loop", wrap),
        recorder.recording_in(_Nothing()),
    ):
        yield


@contextlib.contextmanager
def _any_batch_size(layer: keras.layers.RNN) -> Iterator[None]:
    # Not through setattr, which Keras tracks.
    attributes = vars(layer)
    expected = attributes.get("_expected_batch_size")
    if expected is None or tf.executing_eagerly():
        yield
        return
    attributes["_expected_batch_size"] = None
    try:
        yield
    finally:
        attributes["_expected_batch_size"] = expected


class _Nothing:
    """Records nothing."""

    def record(self, layer_call: LayerCall, signal: tf.Tensor) -> tf.Tensor:
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        return output


class _Carried:
    """Carries the signals of a graph's loop out of it on the cell's output.

    The output `(batch, ...)` of each step becomes `(batch, n)`: itself and the
    signals, each flattened, one after the other.
    """

    def __init__(self, cell: keras.layers.Layer):
        self.cell = cell
        self.current: list[tuple[LayerCall, tf.Tensor, tf.Graph]] = []
        self.layer_calls: list[LayerCall] = []
        self.parts: list[tuple[tf.TensorShape, tf.DType]] = []

    def record(self, layer_call: LayerCall, signal: tf.Tensor) -> tf.Tensor:
        graph = tf.compat.v1.get_default_graph()
        self.current.append((layer_call, signal, graph))
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        if layer is not self.cell or not self.current:
            return output
        current, self.current = self.current, []
        for layer_call, _, graph in current:
            check_reachable(layer_call, graph)
        value, states = output
        tensors = [value, *(signal for _, signal, _ in current)]
        self.layer_calls = [layer_call for layer_call, _, _ in current]
        self.parts = [(t.shape[1:], t.dtype) for t in tensors]
        wide = max((t.dtype for t in tensors), key=lambda dtype: dtype.size)
        flat = [
            tf.reshape(
                tf.cast(t, wide), [tf.shape(t)[0], t.shape[1:].num_elements()]
            )
            for t in tensors
        ]
        return tf.concat(flat, axis=1), states

    def split(self, joined: tf.Tensor, lead: int) -> list[tf.Tensor]:
        """Undoes `step_output` behind the `lead` leading axes of `joined`."""
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
