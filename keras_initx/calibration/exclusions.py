"""Layers that a calibration skips, and why."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall
from keras_initx.inspection.traversal import ModelView
from keras_initx.inspection.writable import why_not_writable

NOT_LINEAR = "not known to be linear in one kernel"


def skipped_by_kind(view: ModelView) -> dict[int, str]:
    """The reason of each layer that is skipped for its kind, by its id.

    A reason holds for all layers inside of one, and the outermost one counts.
    """
    reasons: dict[int, str] = {}
    for layer in view.layers:
        reason = view.rule(layer).skip_calibration
        if reason:
            for inner in view.inside(layer):
                reasons.setdefault(id(inner), reason)
    return reasons


def normalized(view: ModelView, batch: Any, training: bool) -> dict[int, str]:
    """The reason of each layer that a normalization follows, by its id.

    Its pre-activation is the input of the normalization. A model that has
    normalizations is run on two samples to find such layers.
    """
    if not any(view.rule(layer).normalizes for layer in view.layers):
        return {}
    signals: dict[int, tuple[keras.layers.Layer, tf.Tensor]] = {}
    inputs: list[Any] = []

    def record(call: LayerCall, signal: tf.Tensor) -> tf.Tensor:
        # An identity, so that no two layers have one tensor. It is kept, so
        # that no other tensor comes to have its id.
        signal = tf.identity(signal)
        signals[id(signal)] = (call.layer, signal)
        return signal

    def after_call(call: LayerCall, rerun: Rerun, output: Any) -> Any:
        if view.rule(call.layer).normalizes:
            inputs.extend([*rerun.args, *rerun.kwargs.values()][:1])
        return output

    few = keras.tree.map_structure(lambda t: t[:2], batch)
    with (
        keras.StatelessScope(),
        forward_hooks(
            on_pre_activation=record,
            after_call=after_call,
            measured=view.measured_by_default,
        ),
    ):
        view.model(few, training=training)
    return {
        id(signals[id(tensor)][0]): "followed by a normalization"
        for tensor in inputs
        if id(tensor) in signals
    }


def why_skipped(view: ModelView, layer: keras.layers.Layer) -> str:
    """Why a layer cannot be corrected, "" if it can.

    Reasons that lie in its kind (`skipped_by_kind`), or in the layer after it
    (`normalized`), are not among these.
    """
    reason = why_not_writable(view, layer)
    if reason:
        return reason
    units = view.rule(layer).units
    if units is None:
        return NOT_LINEAR
    reasons = [
        why_not_writable(view, layer, weight, alone=True)
        for weight in units.weights
    ]
    return next(filter(None, reasons), "")


def unrecorded(
    view: ModelView, recorded: set[int], ran: set[int]
) -> dict[str, str]:
    """Layers with weights that may be linear, and no recorded signal.

    Args:
        view: ModelView. The model.
        recorded: The ids of the layers whose pre-activation was recorded.
        ran: The ids of the layers that ran.

    Returns:
        The reason for each, by its name.
    """
    reasons = {}
    for weight in view.weights:
        linear = weight.geometry.is_linear or weight.role == "unknown"
        if id(weight.layer) in recorded or not linear:
            continue
        name = "/".join(layer.name for layer in weight.layers[1:])
        known = id(weight.layer) in ran
        reasons[name] = NOT_LINEAR if known else "did not run"
    return reasons
