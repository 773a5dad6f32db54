"""Whole models: drawn, calibrated, and networks whose start is built."""

from keras_initx.models import rules as _rules  # noqa: F401
from keras_initx.models.calibration import Calibration
from keras_initx.models.constnet import ConstNet
from keras_initx.models.geometry import (
    Geometry,
    from_matrices,
    register_geometry,
    to_matrices,
)
from keras_initx.models.initialization import (
    Initialization,
    InitializedWeight,
)
from keras_initx.models.leakynet import LeakyNet
from keras_initx.models.triangle_fit import fit_triangle_wave
from keras_initx.models.triangle_wave import triangle_wave_network
from keras_initx.models.walk import kernel_geometry

__all__ = [
    "Calibration",
    "ConstNet",
    "Geometry",
    "Initialization",
    "InitializedWeight",
    "LeakyNet",
    "fit_triangle_wave",
    "from_matrices",
    "kernel_geometry",
    "register_geometry",
    "to_matrices",
    "triangle_wave_network",
]
