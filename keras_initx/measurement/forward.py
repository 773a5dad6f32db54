"""One forward pass of a model, and the moments of its signals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    constant_moments,
    layer_moments,
)
from keras_initx.measurement.refusals import no_signal
from keras_initx.measurement.sample_axis import (
    NONE,
    Place,
    PlacesInGraph,
    by_sample,
)


class ForwardResult(NamedTuple):
    """Result of one forward pass.

    Args:
        names: tuple of str. The names of the selected layers' calls.
        moments: tuple of LayerMoments. One for each of these calls.
        places: tuple of str or SampleAxis. Where the samples are in the signal
            of each call.
        doubtful: tuple of str. The names of the calls whose place was not
            given, and whose first axis has a fixed size although the signal
            depends on the samples.
        finite: tf.Tensor. Whether all numbers of the batch are finite.
        written: tuple of keras.Variable. The variables that the pass would
            have assigned.
        states: tuple of tf.Tensor. The values that it would have assigned.
        ran: tuple of LayerCall. The calls of all layers, outer ones first.
    """

    names: tuple[str, ...]
    moments: tuple[LayerMoments, ...]
    places: tuple[Place, ...]
    doubtful: tuple[str, ...]
    finite: tf.Tensor
    written: tuple[keras.Variable, ...]
    states: tuple[tf.Tensor, ...]
    ran: tuple[LayerCall, ...]


def forward_pass(
    model: keras.Model,
    batch: Any,
    selectors: Sequence[Selector],
    training: bool = False,
    states: Iterable[tuple[keras.Variable, tf.Tensor]] = (),
    places: Mapping[str, Place] | None = None,
) -> ForwardResult:
    """Runs a model without writing its variables.

    Args:
        model: keras.Model. A built model.
        batch: A batch of inputs.
        selectors: Sequence of selectors. A layer is reported if one of them
            selects it.
        training: bool. Whether to run the model in training mode. Defaults to
            False.
        states: Iterable of pairs of a variable and the value that it has in
            this pass. Defaults to the values that the variables hold.
        places: Mapping. Where the samples are in the signals of some calls, by
            the name of the call. Defaults to none. Other signals that depend
            on no sample are found where the model is traced, and all others
            have the samples along the first axis.

    Raises:
        ValueError: If a selector selects no layer, or no selected layer has a
            floating-point signal.
    """
    names: list[str] = []
    rows: list[LayerMoments] = []
    where: list[Place] = []
    ran: list[LayerCall] = []
    place_of = PlacesInGraph(batch, places or {})

    def on_pre_activation(
        layer_call: LayerCall, signal: tf.Tensor
    ) -> tf.Tensor:
        place = place_of(layer_call.name, signal)
        names.append(layer_call.name)
        where.append(place)
        rows.append(
            constant_moments(signal)
            if place == NONE
            else layer_moments(by_sample(signal, place))
        )
        # Only then may the signal go on: an activation can then overwrite it
        # in place, and no signal is kept until its moments are computed.
        with tf.control_dependencies(rows[-1]):
            return tf.identity(signal)

    def select(layer_call: LayerCall) -> bool:
        ran.append(layer_call)
        return any(matches(selector, layer_call) for selector in selectors)

    scope = _RecordingScope(states)
    hooks = forward_hooks(on_pre_activation=on_pre_activation, select=select)
    with scope, hooks:
        model(batch, training=training)
    check_all_matched(selectors, ran)
    if not rows:
        raise no_signal(ran)
    written = tuple(scope.written.values())
    return ForwardResult(
        tuple(names),
        tuple(rows),
        tuple(where),
        tuple(place_of.doubtful),
        all_finite(batch),
        written,
        tuple(scope.get_current_value(variable) for variable in written),
        tuple(ran),
    )


class _RecordingScope(keras.StatelessScope):
    """A stateless scope that lists the variables that would be written."""

    def __init__(self, states: Iterable[tuple[keras.Variable, tf.Tensor]]):
        super().__init__(list(states))
        self.written: dict[int, keras.Variable] = {}

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        self.written[id(update[0])] = update[0]
        super().add_update(update)
