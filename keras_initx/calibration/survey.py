"""What a run on a few samples tells of a model before its calibration."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_initx.backend.passes import Tensor
from keras_initx.hooks.forward_hooks import forward_hooks
from keras_initx.hooks.recorder import Rerun
from keras_initx.inspection.selection import LayerCall
from keras_initx.inspection.traversal import ModelView
from keras_initx.measurement.data import samples_of, taken_as_inputs
from keras_initx.measurement.nonfinite import naming_nonfinite


class Survey(NamedTuple):
    """What a run on a few samples tells of a model.

    Attributes:
        normalized: dict. The reason to skip each layer that a normalization
            follows, by the id of the layer. The pre-activation of such a layer
            is the input of the normalization.
        numbers: int. How many numbers the largest output of a layer has for
            each sample.
    """

    normalized: dict[int, str]
    numbers: int


def survey(view: ModelView, few: Any, training: bool) -> Survey:
    """Runs a model on a few samples.

    Args:
        view: ModelView. The model.
        few: A batch of a few samples.
        training: bool. Whether to run the model in training mode.

    Raises:
        ValueError: If the model fails since a signal is not finite.
        Exception: Whatever else the model raises.
    """
    signals: dict[int, tuple[keras.layers.Layer, Tensor]] = {}
    inputs: list[Any] = []
    numbers = 1

    def record(call: LayerCall, signal: Tensor) -> Tensor:
        # A copy, so that no two layers have one tensor. It is kept, so that no
        # other tensor comes to have its id.
        signal = ops.copy(signal)
        signals[id(signal)] = (call.layer, signal)
        return signal

    def after_call(call: LayerCall, rerun: Rerun, output: Any) -> Any:
        nonlocal numbers
        if view.rule(call.layer).normalizes:
            inputs.extend([*rerun.args, *rerun.kwargs.values()][:1])
        tensors = filter(ops.is_tensor, keras.tree.flatten(output))
        sizes = (int(ops.size(tensor)) for tensor in tensors)
        numbers = max(numbers, *sizes, 1)
        return output

    with (
        naming_nonfinite(view.model, few, training),
        taken_as_inputs(view.model, few),
        keras.StatelessScope(),
        forward_hooks(
            on_pre_activation=record,
            after_call=after_call,
            measured=view.measured_by_default,
        ),
    ):
        view.model(few, training=training)
    normalized = {
        id(signals[id(tensor)][0]): "followed by a normalization"
        for tensor in inputs
        if id(tensor) in signals
    }
    return Survey(normalized, -(-numbers // samples_of(few)))
