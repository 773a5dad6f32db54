"""Whole models drawn anew at the fans of their layers."""

from keras_initx.initialization.initialize import initialize
from keras_initx.initialization.record import (
    Initialization,
    InitializedWeight,
)

__all__ = ["InitializedWeight", "Initialization", "initialize"]
