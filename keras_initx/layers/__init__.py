"""Layers that keep the signal of deep networks alive.

Residual branches that are scaled, and activations that are bent less the wider
or deeper the network is.
"""

from keras_initx.layers.branch_scale import BranchScale
from keras_initx.layers.residual import Residual
from keras_initx.layers.scalar_bias import ScalarBias
from keras_initx.layers.shaped import ShapedActivation, ShapedReLU

__all__ = [
    "BranchScale",
    "Residual",
    "ScalarBias",
    "ShapedActivation",
    "ShapedReLU",
]
