"""Layers that a calibration leaves alone for what is around them."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import tensorflow as tf

from keras_initx.models.walk import all_layers
from keras_initx.signal.heard import Heard, swapped
from keras_initx.signal.tap import holds_kernel, listening

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

    Nothing is computed, but the model is traced once if it holds any.
    """
    normalizations = [
        layer for layer in layers if isinstance(layer, _NORMALIZATIONS)
    ]
    if not normalizations:
        return {}
    heard_at: dict[int, tuple[keras.layers.Layer, tf.Tensor]] = {}
    taken: list[tf.Tensor] = []

    def listener(heard: Heard, signal: tf.Tensor) -> tf.Tensor:
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

    def forward(inputs: Any) -> tf.Tensor:
        with (
            keras.StatelessScope(),
            contextlib.ExitStack() as stack,
            listening(listener, lambda heard: holds_kernel(heard.layer)),
        ):
            for layer in normalizations:
                stack.enter_context(swapped(layer, "call", taking(layer.call)))
            model(inputs, training=training)
        return tf.constant(0)

    spec = keras.tree.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), batch
    )
    tf.function(forward, autograph=False).get_concrete_function(spec)
    return {
        id(heard_at[id(tensor)][0]): "followed by a normalization"
        for tensor in taken
        if id(tensor) in heard_at
    }
