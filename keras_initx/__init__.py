"""Weights that keep the signal alive, the theory, and the measurement."""

from keras_initx import callbacks, theory
from keras_initx.profile import VarianceProfile
from keras_initx.signal import measure

__version__ = "0.1.0.dev0"

__all__ = ["VarianceProfile", "callbacks", "measure", "theory"]
