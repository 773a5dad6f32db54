"""Frequencies of networks of sines, and of data.

- `sine_bandwidth` is the frequency of a random network of sines.
- `rms_frequency` is that of data, to choose the frequency of a network by.
- `sine_frequency` is the frequency of the first layer for a given bandwidth.
- `sine_tangent_kernel` is the tangent kernel of one layer of sines.

The networks are those of Belbute-Peres & Kolter (2022), a simpler form of those
of Sitzmann et al. (2020): `models.SinusoidalNetwork`.
"""

from keras_initx.theory.sinusoidal.frequency import (
    rms_frequency,
    sine_bandwidth,
    sine_frequency,
)
from keras_initx.theory.sinusoidal.tangent_kernel import sine_tangent_kernel

__all__ = [
    "rms_frequency",
    "sine_bandwidth",
    "sine_frequency",
    "sine_tangent_kernel",
]


def __dir__() -> list[str]:
    return __all__
