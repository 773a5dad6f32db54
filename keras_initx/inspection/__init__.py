"""What is known of a model and its layers without running it."""

from keras_initx.inspection import keras_layers as _keras_layers  # noqa: F401
from keras_initx.inspection.geometry import (
    Geometry,
    from_matrices,
    register_geometry,
    to_matrices,
)
from keras_initx.inspection.traversal import kernel_geometry

__all__ = [
    "Geometry",
    "from_matrices",
    "kernel_geometry",
    "register_geometry",
    "to_matrices",
]
