"""Networks with a constructed start, and a network that fits a curve."""

from keras_initx.models.constnet import ConstNet
from keras_initx.models.leakynet import LeakyNet
from keras_initx.models.sinusoidal import SinusoidalNetwork
from keras_initx.models.triangle_fit import fit_triangle_wave
from keras_initx.models.triangle_wave import triangle_wave_network

__all__ = [
    "ConstNet",
    "LeakyNet",
    "SinusoidalNetwork",
    "fit_triangle_wave",
    "triangle_wave_network",
]


def __dir__() -> list[str]:
    return __all__
