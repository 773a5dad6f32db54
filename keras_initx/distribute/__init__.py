"""Where it trains: several devices, several machines, TPUs."""

from keras_initx.distribute.strategies import get_strategy, is_chief
from keras_initx.distribute.training import fit

__all__ = ["fit", "get_strategy", "is_chief"]
