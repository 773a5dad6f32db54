"""Whether the units of a layer can be scaled through its kernel."""

from __future__ import annotations

import keras

from keras_initx.inspection.traversal import ModelView
from keras_initx.inspection.writable import why_not_writable


def skipped_by_kind(view: ModelView) -> dict[int, str]:
    """The reason of each layer that `calibrate` skips for its kind, by its id.

    A reason holds for all layers inside of one, and the outermost one counts.
    """
    reasons: dict[int, str] = {}
    for layer in view.layers:
        reason = view.rule(layer).skip_calibration
        if reason:
            for inner in view.inside(layer):
                reasons.setdefault(id(inner), reason)
    return reasons


def why_not_scalable(
    view: ModelView, layer: keras.layers.Layer, *, by_unit: bool
) -> str:
    """Why the units of a layer cannot be scaled and shifted, "" if they can.

    Reasons that lie in its kind (`skipped_by_kind`) are not among these.

    Args:
        view: ModelView. The model.
        layer: keras.layers.Layer. The layer.
        by_unit: bool. Whether each unit has a factor and a shift of its own.
    """
    reason = why_not_writable(view, layer)
    if reason:
        return reason
    if not layer.built:
        return "not built"
    units = view.rule(layer).units
    if units is None:
        return "not known to be linear in one kernel"
    for weight in units.weights:
        reason = why_not_writable(view, layer, weight, alone=True)
        if reason:
            return reason
    if by_unit and not units.bias_per_unit:
        return "its bias is not one for each unit"
    return ""
