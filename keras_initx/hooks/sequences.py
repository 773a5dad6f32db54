"""Layers that run other layers once a time step."""

from __future__ import annotations

import contextlib

import keras

from keras_initx.hooks.recorder import Recorder
from keras_initx.hooks.recurrent import recurrent
from keras_initx.hooks.time_distributed import time_distributed


def around_steps(
    layer: keras.layers.Layer, recorder: Recorder
) -> contextlib.AbstractContextManager[None]:
    """The context in which the steps of a running layer are recorded.

    Args:
        layer: The layer, of any kind.
        recorder: The recorder of the present forward pass.
    """
    if isinstance(layer, keras.layers.TimeDistributed):
        return time_distributed(layer, recorder)
    if isinstance(layer, keras.layers.RNN):
        return recurrent(layer, recorder)
    return contextlib.nullcontext()
