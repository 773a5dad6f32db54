"""Initial weights (the start) and learning rates that fit every width.

`mup` compares a model with a narrower one, its base, by the rules of
`inspection`, takes the factors of each weight from `theory.parametrization`,
and returns a `Mup`, whose optimizer multiplies the learning rates.
`coordinate_check` trains a network of several widths and compares them.
"""

from keras_initx.parametrization.coordinate_check import coordinate_check
from keras_initx.parametrization.mup import mup
from keras_initx.parametrization.mup_weight import MupWeight
from keras_initx.parametrization.record import Mup
from keras_initx.parametrization.width_record import CoordinateCheck

__all__ = ["CoordinateCheck", "Mup", "MupWeight", "coordinate_check", "mup"]


def __dir__() -> list[str]:
    return __all__
