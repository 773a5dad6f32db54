"""Measurement of the signal in a model, layer by layer, on data."""

from keras_initx.measurement.jacobian import (
    JacobianProfile,
    measure_jacobian,
)
from keras_initx.measurement.measure import measure
from keras_initx.measurement.meter import Meter

__all__ = ["JacobianProfile", "Meter", "measure", "measure_jacobian"]


def __dir__() -> list[str]:
    return __all__
