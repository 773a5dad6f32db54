"""Initialization of whole models at the fans of their layers."""

from keras_initx.initialization.initialize import initialize
from keras_initx.initialization.record import (
    Initialization,
    InitializedWeight,
)

__all__ = ["Initialization", "InitializedWeight", "initialize"]
