"""One forward pass of a model, and the moments of what was heard in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.selection import (
    LayerCall,
    Selector,
    check_all_matched,
    matches,
)
from keras_initx.measurement.moments import (
    LayerMoments,
    all_finite,
    layer_moments,
)


class Pass(NamedTuple):
    """What one forward pass found.

    Args:
        names: Of the rows.
        moments: A row for each call of a picked layer.
        finite: Whether the batch was.
        written: The variables that the pass would have assigned.
        states: What it would have assigned to them.
        layers: All that ran.
    """

    names: tuple[str, ...]
    moments: tuple[LayerMoments, ...]
    finite: tf.Tensor
    written: tuple[keras.Variable, ...]
    states: tuple[tf.Tensor, ...]
    layers: tuple[keras.layers.Layer, ...]


def forward_pass(
    model: keras.Model,
    batch: Any,
    wanted: Sequence[Selector],
    training: bool = False,
    states: Iterable[tuple[keras.Variable, tf.Tensor]] = (),
) -> Pass:
    """Run `model` with the values `states` in the place of its variables'.

    Raises:
        ValueError: A selector picks no layer, or all that are picked have no
            floating-point signal.
    """
    names: list[str] = []
    rows: list[LayerMoments] = []
    ran: list[LayerCall] = []

    def listener(heard: LayerCall, signal: tf.Tensor) -> tf.Tensor:
        names.append(heard.name)
        rows.append(layer_moments(signal))
        # Only then may the signal go on: an activation can then overwrite it
        # in place, and no signal is kept waiting for its turn.
        with tf.control_dependencies(rows[-1]):
            return tf.identity(signal)

    def picks(heard: LayerCall) -> bool:
        ran.append(heard)
        return any(matches(selector, heard) for selector in wanted)

    scope = _RecordingScope(states)
    with scope, forward_hooks(on_pre_activation=listener, select=picks):
        model(batch, training=training)
    check_all_matched(wanted, ran)
    if not rows:
        raise ValueError(
            "A picked layer must have a floating-point signal. "
            f"Received: {sorted({heard.name for heard in ran})}"
        )
    written = tuple(scope.written.values())
    return Pass(
        tuple(names),
        tuple(rows),
        _inputs_finite(batch),
        written,
        tuple(scope.get_current_value(variable) for variable in written),
        tuple(heard.layer for heard in ran),
    )


class _RecordingScope(keras.StatelessScope):
    """A stateless scope that says which variables would have been written."""

    def __init__(self, states: Iterable[tuple[keras.Variable, tf.Tensor]]):
        super().__init__(list(states))
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        self.written[id(update[0])] = update[0]
        super().add_update(update)


def _inputs_finite(batch: Any) -> tf.Tensor:
    return tf.reduce_all(
        [
            all_finite(x)
            for x in keras.tree.flatten(batch)
            if x.dtype.is_floating
        ]
        or [True]
    )
