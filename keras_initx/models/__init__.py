"""Whole models: what each weight is, how all start, networks that are built."""

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
from keras_initx.models.walk import kernel_geometry

__all__ = [
    "Calibration",
    "ConstNet",
    "Geometry",
    "Initialization",
    "InitializedWeight",
    "LeakyNet",
    "from_matrices",
    "kernel_geometry",
    "register_geometry",
    "to_matrices",
]
