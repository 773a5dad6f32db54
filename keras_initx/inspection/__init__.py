"""Rules of layers, and the inspection of a model without running it."""

from keras_initx.inspection import keras_layers as _keras_layers  # noqa: F401
from keras_initx.inspection.geometry import (
    Geometry,
    from_matrices,
    to_matrices,
)
from keras_initx.inspection.layer_rule import (
    LayerRule,
    LinearUnits,
    register_layer,
)
from keras_initx.inspection.traversal import kernel_geometry

__all__ = [
    "Geometry",
    "LayerRule",
    "LinearUnits",
    "from_matrices",
    "kernel_geometry",
    "register_layer",
    "to_matrices",
]


def __dir__() -> list[str]:
    return __all__
