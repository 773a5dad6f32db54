"""Closed forms and recursions for the signal in random networks.

Plain numbers in, plain numbers out: everything is computed by NumPy and SciPy
in float64, without Keras or TensorFlow. Each subject is a module of its own;
all of its names are also names of `keras_initx.theory`.
"""

from keras_initx.theory import (
    mean_field,
    norm_moments,
    parametrization,
    residual,
    sinusoidal,
    trained_weights,
    triangle_waves,
)
from keras_initx.theory.mean_field import *  # noqa: F403
from keras_initx.theory.norm_moments import *  # noqa: F403
from keras_initx.theory.parametrization import *  # noqa: F403
from keras_initx.theory.residual import *  # noqa: F403
from keras_initx.theory.sinusoidal import *  # noqa: F403
from keras_initx.theory.trained_weights import *  # noqa: F403
from keras_initx.theory.triangle_waves import *  # noqa: F403

__all__ = [
    "mean_field",
    "norm_moments",
    "parametrization",
    "residual",
    "sinusoidal",
    "trained_weights",
    "triangle_waves",
]
__all__ += mean_field.__all__
__all__ += norm_moments.__all__
__all__ += parametrization.__all__
__all__ += residual.__all__
__all__ += sinusoidal.__all__
__all__ += trained_weights.__all__
__all__ += triangle_waves.__all__


def __dir__() -> list[str]:
    return __all__
