"""Triangle waves: curves of 2^depth linear pieces in a relu net of width 4.

The curve itself: `triangle_wave`. The scales of its waves with which the limit
of infinite depth is differentiable: `triangle_wave_scales`. The kernels and
biases of the relu net that computes it: `triangle_wave_weights`. All three are
of Milkert, Hyde & Laine (2025). The best fit of such a curve to data:
`fit_peaks`. How many linear pieces any relu net of one input has on an
interval: `count_linear_regions`. Both are derived here.
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
