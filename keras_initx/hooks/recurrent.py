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
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_initx import backend
from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.patching import replaced
from keras_initx.hooks.recorder import Recorder, check_reachable
from keras_initx.inspection.selection import LayerCall

_NOT_BY_SAMPLE = (
    "The signal of a layer in the cell of a recurrent layer must have the "
    "samples along its first axis. Leave the layer out through `layers`. "
    "Received: "
)


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
    if expected is None or backend.executes_eagerly():
        yield
        return
    attributes["_expected_batch_size"] = None
    try:
        yield
    finally:
        attributes["_expected_batch_size"] = expected


class _Nothing:
    """Records nothing."""

    current: tuple[()] = ()

    def __init__(self) -> None:
        self.first_row: int | None = None

    def record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        return output


class _Carried:
    """Carries the signals of a graph's loop out of it on the cell's output.

    The output `(batch, ...)` of each step becomes `(batch, n)`: itself and the
    signals, each flattened, one after the other. A signal whose first axis is
    not the batch, such as that of learned vectors, travels whole beside each
    sample.
    """

    def __init__(self, cell: keras.layers.Layer):
        self.cell = cell
        self.first_row: int | None = None
        self.current: list[tuple[LayerCall, Tensor, Any]] = []
        self.layer_calls: list[LayerCall] = []
        self.parts: list[_Part] = []

    def record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        graph = passes().graph()
        self.current.append((layer_call, signal, graph))
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        if layer is not self.cell or not self.current:
            return output
        current, self.current = self.current, []
        for layer_call, _, graph in current:
            check_reachable(layer_call, graph)
        value, states = output
        batch = value.shape[0]
        tensors = [value, *(signal for _, signal, _ in current)]
        self.layer_calls = [layer_call for layer_call, _, _ in current]
        self.parts = [
            _Part(
                tuple(t.shape),
                keras.backend.standardize_dtype(t.dtype),
                whole=t.shape[0] not in (batch, None),
            )
            for t in tensors
        ]
        wide = keras.backend.result_type(*(part.dtype for part in self.parts))
        samples = ops.shape(value)[0]
        for layer_call, signal, _ in current:
            samples = _checked(samples, signal, layer_call)
        flat = [
            part.by_sample(ops.cast(tensor, wide), samples)
            for part, tensor in zip(self.parts, tensors, strict=True)
        ]
        return ops.concatenate(flat, axis=1), states

    def split(self, joined: Tensor, lead: int) -> list[Tensor]:
        """Undoes `step_output` behind the `lead` leading axes of `joined`."""
        if not self.parts:
            return [joined]
        ends = list(itertools.accumulate(part.size for part in self.parts))
        split = ops.split(joined, ends[:-1], axis=lead)
        return [
            part.signal(t, lead)
            for t, part in zip(split, self.parts, strict=True)
        ]


class _Part(NamedTuple):
    """The place of one signal in what `_Carried` carries.

    Args:
        shape: tuple. Its shape in the loop.
        dtype: str. Its dtype.
        whole: bool. Whether each sample carries all of it.
    """

    shape: tuple[int | None, ...]
    dtype: str
    whole: bool

    @property
    def carried(self) -> tuple[Any, ...]:
        """The shape of what a sample carries."""
        return self.shape if self.whole else self.shape[1:]

    @property
    def size(self) -> int:
        """The number of numbers that a sample carries."""
        return math.prod(self.carried)

    def by_sample(self, signal: Tensor, samples: Any) -> Tensor:
        """Returns the matrix that the samples carry."""
        if self.whole:
            row = ops.reshape(signal, (1, self.size))
            return ops.repeat(row, samples, axis=0)
        return ops.reshape(signal, (samples, self.size))

    def signal(self, carried: Tensor, lead: int) -> Tensor:
        """Returns the signal behind the `lead` leading axes of what came out.

        A whole one is that of the first sample.
        """
        if self.whole:
            carried, lead = carried[0], lead - 1
        shape = (*ops.shape(carried)[:lead], *self.carried)
        return ops.cast(ops.reshape(carried, shape), self.dtype)


def _checked(samples: Any, signal: Tensor, layer_call: LayerCall) -> Any:
    """The number of samples, if the first axis of a signal has as many.

    A graph of TensorFlow knows neither number where it is traced. Where they
    are known, another first axis than the samples is carried whole.
    """
    if signal.shape[0] is not None:
        return samples
    return passes().checked_equal(
        samples,
        ops.shape(signal)[0],
        f"{_NOT_BY_SAMPLE}layer {layer_call.name}|",
    )


@contextlib.contextmanager
def refusing_other_axes() -> Iterator[None]:
    """Refuses signals in cells whose first axis is not that of the samples.

    Raises:
        ValueError: If a graph that is run within finds one.
    """
    try:
        yield
    except Exception as error:
        _, found, rest = str(error).partition(_NOT_BY_SAMPLE)
        if not found:
            raise
        layer = rest.partition("|")[0]
        raise ValueError(f"{_NOT_BY_SAMPLE}{layer}") from None
