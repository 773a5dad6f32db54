"""Whether a weight may be written, and why not."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.inspection.traversal import ModelView

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def why_not_writable(
    view: ModelView,
    layer: keras.layers.Layer,
    weight: Any = None,
    *,
    alone: bool = False,
) -> str:
    """Why a weight of a layer must not be written.

    Args:
        view: ModelView. The model.
        layer: keras.layers.Layer. The layer.
        weight: keras.Variable. The weight. None asks for reasons that hold
            for all weights of the layer. Defaults to None.
        alone: bool. Whether a weight that is linear in several layers must
            stay as it is: what fits one of them need not fit the others.
            Defaults to False.

    Returns:
        The reason in a few words, "" if the weight may be written.
    """
    if not view.tracks(layer):
        return "not tracked by the model"
    # Several weights make up one kernel, which another bias would not fit.
    if getattr(layer, "quantization_mode", None):
        return "quantized"
    role = "" if weight is None else view.role(weight)
    if getattr(layer, "lora_enabled", False) or role == "lora":
        return "LoRA adapter"
    if weight is None:
        return ""
    if weight.dtype not in _FLOATS:
        return f"of dtype {weight.dtype}"
    # Statistics are never trainable, but belong to a layer that may be.
    if not (layer.trainable if role == "statistic" else weight.trainable):
        return "frozen"
    if alone and len(view.linear_in(weight)) > 1:
        return "shares its weights with another layer"
    return ""
