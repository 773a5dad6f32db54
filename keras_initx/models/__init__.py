"""Whole models: what each weight is, and weights drawn by what it is."""

from keras_initx.models import rules as _rules  # noqa: F401
from keras_initx.models.calibration import Calibration
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
from keras_initx.models.walk import kernel_geometry

__all__ = [
    "Calibration",
    "Geometry",
    "Initialization",
    "InitializedWeight",
    "from_matrices",
    "kernel_geometry",
    "register_geometry",
    "to_matrices",
]
