"""Starts and learning rates that fit every width of a network."""

from keras_initx import backend
from keras_initx.parametrization.mup import mup
from keras_initx.parametrization.record import Mup, MupWeight

__all__ = ["Mup", "MupWeight", "mup"]

if backend.is_tensorflow():
    from keras_initx.parametrization.coordinate_check import coordinate_check
    from keras_initx.parametrization.width_record import CoordinateCheck

    __all__ += ["CoordinateCheck", "coordinate_check"]


def __dir__() -> list[str]:
    return __all__
