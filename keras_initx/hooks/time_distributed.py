"""Records the layer inside a `TimeDistributed`.

What this module needs of Keras, and what is not documented:
`TimeDistributed.call` runs `self.layer.call`, past `Layer.__call__`, once for
each time step in a Python loop. `tests/hooks/test_undocumented_keras.py` fails
as soon as this is not so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_initx.backend.passes import Tensor, passes
from keras_initx.hooks.recorder import Recorder, check_reachable
from keras_initx.inspection.selection import LayerCall


@contextlib.contextmanager
def time_distributed(
    layer: keras.layers.TimeDistributed, recorder: Recorder
) -> Iterator[None]:
    """Records the layer inside `layer` when all time steps have run.

    The hook is called once, with time along the second axis. What it returns
    is dropped.
    """
    steps = _Steps(layer.layer)
    with (
        recorder.attached(layer.layer),
        recorder.recording_in(steps),
    ):
        yield
    for step in zip(*steps.finished, strict=True):
        layer_call = step[0][0]
        signals = [signal for _, signal in step]
        recorder.record_steps(layer_call, keras.ops.stack(signals, axis=1))


class _Steps:
    """Collects the signals of a Python loop over time, step by step."""

    def __init__(self, layer: keras.layers.Layer):
        self.layer = layer
        self.graph = passes().graph()
        self.first_row: int | None = None
        self.current: list[tuple[LayerCall, Tensor]] = []
        self.finished: list[list[tuple[LayerCall, Tensor]]] = []

    def record(self, layer_call: LayerCall, signal: Tensor) -> Tensor:
        check_reachable(layer_call, self.graph)
        self.current.append((layer_call, signal))
        return signal

    def step_output(self, layer: keras.layers.Layer, output: Any) -> Any:
        if layer is self.layer:
            self.finished.append(self.current)
            self.current = []
        return output
