"""Recurrent layers, which are refused."""

from __future__ import annotations

from typing import Any

import keras

from keras_initx.prediction.moment_tensor import MomentTensor
from keras_initx.prediction.propagation import Propagation
from keras_initx.prediction.refusals import Unpredictable
from keras_initx.prediction.registry import register_propagation

_L = keras.layers


# Each class has a `call` of its own, and a rule is not inherited by those.
@register_propagation(
    _L.RNN,
    _L.SimpleRNN,
    _L.LSTM,
    _L.GRU,
    _L.ConvLSTM1D,
    _L.ConvLSTM2D,
    _L.ConvLSTM3D,
    _L.Bidirectional,
)
def _recurrent(steps: Propagation, layer: Any, x: MomentTensor) -> MomentTensor:
    """Refuses: the same weights act at every time step, through gates."""
    raise Unpredictable(
        "recurrent layers are not known to predict; `measure` shows what they "
        "do to data"
    )
