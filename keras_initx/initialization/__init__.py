"""Initialization of whole models, and the scale of their branches."""

from keras_initx.initialization.initialize import initialize
from keras_initx.initialization.paired import paired
from keras_initx.initialization.record import (
    BranchScaling,
    Initialization,
    InitializedWeight,
    ScaledBranch,
)
from keras_initx.initialization.scale_branches import scale_branches

__all__ = [
    "BranchScaling",
    "Initialization",
    "InitializedWeight",
    "ScaledBranch",
    "initialize",
    "paired",
    "scale_branches",
]


def __dir__() -> list[str]:
    return __all__
