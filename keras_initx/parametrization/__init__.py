"""Starts and learning rates that fit every width of a network."""

from keras_initx.parametrization.mup import mup
from keras_initx.parametrization.record import Mup, MupWeight

__all__ = ["Mup", "MupWeight", "mup"]


def __dir__() -> list[str]:
    return __all__
