"""Layers that no sample reaches, such as maps of learned vectors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from keras_initx.backend.passes import Observe, Tensor, passes
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.inspection.selection import LayerCall, Selector, matches_any
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import map_arrays, samples_of
from keras_initx.measurement.sample_axis import (
    NONE,
    Place,
    PlacesInGraph,
    Sizes,
    find_places,
)

_REASON = "no sample reaches it"


def unreached(
    view: ModelView, batch: Any, chosen: Sequence[Selector], training: bool
) -> dict[int, str]:
    """The reason of each layer that no sample reaches, by its id.

    The graph of the model tells what its signals depend on. The model is traced
    only if it has layers that run other layers in a way of their own: those of
    Keras run them on their inputs.

    Args:
        view: ModelView. The model.
        batch: A batch of inputs.
        chosen: Sequence of selectors. Which layers may be calibrated.
        training: bool. Whether to run the model in training mode.
    """
    if not any(_has_own_call(view, layer) for layer in view.layers):
        return {}
    # The first call of each layer, which is the one that is calibrated.
    first: dict[int, tuple[str, Place]] = {}
    doubtful: list[str] = []

    # The sizes of first axes on another number of samples, if there is one.
    elsewhere: Sizes | None = None

    def forward(batch: Any, states: Any) -> Any:
        nonlocal elsewhere
        first.clear()
        place_of = PlacesInGraph(batch, {}, elsewhere)
        sizes: dict[str, int | None] = {}

        def record(call: LayerCall, signal: Tensor) -> Tensor:
            sizes[call.name] = signal.shape[0]
            if id(call.layer) not in first:
                place = place_of(call.name, signal)
                first[id(call.layer)] = (call.name, place)
            return signal

        def run(observe: Observe, batch: Any) -> tuple[Tensor, ...]:
            with (
                passes().stateless_scope(),
                forward_hooks(
                    on_pre_activation=functools.partial(observe, record),
                    select=lambda call: matches_any(chosen, call),
                    measured=view.measured_by_default,
                ),
            ):
                view.model(batch, training=training)
            return ()

        passes().observe(run, batch)
        elsewhere = Sizes(samples_of(batch), sizes)
        doubtful[:] = place_of.doubtful
        return ()

    try:
        passes().compile_pass(
            forward, batch, map_arrays(passes().batch_spec, batch), ()
        )
    except Exception:
        # The model can be run op by op only, or fails, which is said later.
        return {}
    found: dict[str, Place] = {}
    if doubtful:
        found, _ = find_places(view.model, [batch], chosen, doubtful)
    return {
        layer: _REASON
        for layer, (name, place) in first.items()
        if found.get(name, place) == NONE
    }


def _has_own_call(view: ModelView, layer: keras.layers.Layer) -> bool:
    """Whether a layer runs others, by code that is not that of Keras."""
    room = type(layer).call.__module__.partition(".")[0]
    return room not in ("keras", "keras_initx") and len(view.inside(layer)) > 1
