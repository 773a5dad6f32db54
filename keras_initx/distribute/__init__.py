"""Where it trains: several devices, several machines, TPUs."""

from keras_initx.distribute.strategies import is_chief, strategy
from keras_initx.distribute.training import fit

__all__ = ["fit", "is_chief", "strategy"]
