"""Triangle waves: curves of 2^depth linear pieces in a relu net of width 4.

- `triangle_wave` is the curve itself. `triangle_wave_scales` are the scales of
  its waves with which the limit of infinite depth is differentiable.
  `triangle_wave_weights` are the kernels and biases of the relu network that
  computes it. All three are of Milkert, Hyde & Laine (2025).
- `fit_peaks` fits such a curve to data by least squares, and
  `count_linear_regions` counts the linear pieces of any relu network of one
  input on an interval. Both are derived here.
"""

from keras_initx.theory.triangle_waves.curve import (
    FittedPeaks,
    fit_peaks,
    triangle_wave,
    triangle_wave_scales,
)
from keras_initx.theory.triangle_waves.linear_regions import (
    count_linear_regions,
)
from keras_initx.theory.triangle_waves.weights import triangle_wave_weights

__all__ = [
    "FittedPeaks",
    "count_linear_regions",
    "fit_peaks",
    "triangle_wave",
    "triangle_wave_scales",
    "triangle_wave_weights",
]


def __dir__() -> list[str]:
    return __all__
