"""Layers that a calibration leaves alone for what is around them."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.patching import replaced
from keras_initx.inspection.selection import LayerCall
from keras_initx.inspection.traversal import all_layers, places

_L = keras.layers
# What is inside of these is left alone.
_AROUND = {
    (_L.MultiHeadAttention, _L.GroupQueryAttention): "attention",
    (_L.RNN, _L.Bidirectional): "recurrent",
    (_L.TimeDistributed,): "runs once a time step",
    (_L.SpectralNormalization,): "scaled by its wrapper",
}
_KINDS = {
    (_L.Embedding,): "embedding",
    (_L.LSTMCell, _L.GRUCell, _L.SimpleRNNCell): "recurrent",
}
_NORMALIZATIONS = (
    _L.BatchNormalization,
    _L.LayerNormalization,
    _L.GroupNormalization,
    _L.RMSNormalization,
    _L.UnitNormalization,
)


def excluded(layers: list[keras.layers.Layer]) -> dict[int, str]:
    """For the id of each layer that is left alone, the reason."""
    reasons = {}
    for layer in layers:
        for classes, reason in _AROUND.items():
            if isinstance(layer, classes):
                for inner in all_layers(layer):
                    reasons.setdefault(id(inner), reason)
        for classes, reason in _KINDS.items():
            if isinstance(layer, classes):
                reasons.setdefault(id(layer), reason)
    return reasons


def normalized(
    model: keras.Model,
    layers: list[keras.layers.Layer],
    batch: Any,
    training: bool,
) -> dict[int, str]:
    """The same for layers whose pre-activation a normalization takes.

    A model that holds any is run on two samples to see it.
    """
    normalizations = [
        layer for layer in layers if isinstance(layer, _NORMALIZATIONS)
    ]
    if not normalizations:
        return {}
    heard_at: dict[int, tuple[keras.layers.Layer, tf.Tensor]] = {}
    taken: list[tf.Tensor] = []

    def listener(heard: LayerCall, signal: tf.Tensor) -> tf.Tensor:
        # An identity, so that no two layers hand on one tensor. Kept, so that
        # no other comes to have its id.
        signal = tf.identity(signal)
        heard_at[id(signal)] = (heard.layer, signal)
        return signal

    def taking(call: Any) -> Any:
        def noted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            taken.append(inputs)
            return call(inputs, *args, **kwargs)

        return noted

    with (
        keras.StatelessScope(),
        contextlib.ExitStack() as stack,
        forward_hooks(on_pre_activation=listener),
    ):
        for layer in normalizations:
            stack.enter_context(replaced(layer, "call", taking))
        few = keras.tree.map_structure(lambda t: t[:2], batch)
        model(few, training=training)
    return {
        id(heard_at[id(tensor)][0]): "followed by a normalization"
        for tensor in taken
        if id(tensor) in heard_at
    }


def unheard(
    model: keras.Model, heard: set[int], ran: set[int]
) -> dict[str, str]:
    """Layers with weights that may be linear, of which nothing was heard.

    Args:
        model: Whose layers.
        heard: The ids of those that were.
        ran: The ids of those that ran.
    """
    reasons = {}
    for place in places(model):
        layer, geometry = place.layers[-1], place.geometry
        linear = geometry.split_shape is not None
        if id(layer) in heard or not (linear or geometry.role == "unknown"):
            continue
        name = "/".join(each.name for each in place.layers[1:])
        told = "not known to be linear in one kernel"
        reasons[name] = told if id(layer) in ran else "did not run"
    return reasons
