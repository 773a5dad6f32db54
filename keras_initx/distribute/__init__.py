"""Training on several devices, several machines, or a TPU."""

from keras_initx.distribute.cluster import is_chief
from keras_initx.distribute.strategies import get_strategy
from keras_initx.distribute.training import fit

__all__ = ["fit", "get_strategy", "is_chief"]


def __dir__() -> list[str]:
    return __all__
