"""Layers that a calibration skips, and why."""

from __future__ import annotations

from collections.abc import Callable

import keras

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


def why_skipped(view: ModelView, layer: keras.layers.Layer) -> str:
    """Why a layer cannot be corrected, "" if it can.

    Reasons that lie in its kind (`skipped_by_kind`), or in the layer after it
    (`survey`), are not among these.
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
    view: ModelView,
    recorded: set[int],
    ran: set[int],
    why: Callable[[keras.layers.Layer], str],
) -> dict[str, str]:
    """Layers with weights that may be linear, and no recorded signal.

    Args:
        view: ModelView. The model.
        recorded: The ids of the layers whose pre-activation was recorded.
        ran: The ids of the layers that ran.
        why: Returns why a layer is skipped, "" if it need not be.

    Returns:
        The reason for each, by its name.
    """
    reasons = {}
    for weight in view.weights:
        linear = weight.geometry.is_linear or weight.role == "unknown"
        if id(weight.layer) in recorded or not linear:
            continue
        # A weight of the model itself is in no layer.
        name = weight.layer_name or weight.layer.name
        if id(weight.layer) not in ran:
            reasons[name] = "did not run"
        else:
            reasons[name] = why(weight.layer) or "no pre-activation"
    return reasons
