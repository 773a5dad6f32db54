"""Calibration of whole models: their layers are scaled to data."""

from keras_initx.calibration.calibrate import calibrate
from keras_initx.calibration.record import Calibration

__all__ = ["Calibration", "calibrate"]


def __dir__() -> list[str]:
    return __all__
