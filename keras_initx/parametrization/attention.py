"""The head size of the queries of attention layers."""

from __future__ import annotations

import keras

from keras_initx.inspection.traversal import ModelWeight

# The layers whose scores Keras divides by the root of the head size.
_SCALED = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


def head_size(weight: ModelWeight) -> int | None:
    """The head size of an attention layer, if a weight is of its query."""
    attentions = [x for x in weight.layers[-2:-1] if isinstance(x, _SCALED)]
    if not attentions or weight.layer.name != "query":
        return None
    # The last axis of the kernel and of the bias is that of a head.
    return int(weight.variable.shape[-1])
