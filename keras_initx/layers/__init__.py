"""Layers that keep the signal of deep networks alive.

Residual branches with a scale, activations that come nearer to the identity the
wider or deeper the network is, others that Keras has no layer for, and curves
that deep relu networks compute exactly.
"""

from keras_initx.layers.activations import HardTanh, Sine
from keras_initx.layers.branch_scale import BranchScale
from keras_initx.layers.residual import Residual
from keras_initx.layers.scalar_bias import ScalarBias
from keras_initx.layers.shaped import ShapedActivation, ShapedReLU
from keras_initx.layers.triangle_wave import TriangleWave

__all__ = [
    "BranchScale",
    "HardTanh",
    "Residual",
    "ScalarBias",
    "ShapedActivation",
    "ShapedReLU",
    "Sine",
    "TriangleWave",
]


def __dir__() -> list[str]:
    return __all__
