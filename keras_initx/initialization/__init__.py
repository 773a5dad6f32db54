"""Initialization of whole models, and the scale of their weights."""

from keras_initx.initialization.balance import balance
from keras_initx.initialization.initialize import initialize
from keras_initx.initialization.paired import paired
from keras_initx.initialization.record import (
    Balance,
    BalancedLayer,
    BranchScaling,
    Initialization,
    InitializedWeight,
    ScaledBranch,
)
from keras_initx.initialization.scale_branches import scale_branches

__all__ = [
    "Balance",
    "BalancedLayer",
    "BranchScaling",
    "Initialization",
    "InitializedWeight",
    "ScaledBranch",
    "balance",
    "initialize",
    "paired",
    "scale_branches",
]


def __dir__() -> list[str]:
    return __all__
