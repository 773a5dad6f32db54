"""Measurement of the signal in a model, layer by layer, on data."""

from keras_initx.measurement.measure import measure
from keras_initx.measurement.meter import Meter

__all__ = ["Meter", "measure"]


def __dir__() -> list[str]:
    return __all__
