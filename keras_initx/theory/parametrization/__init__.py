"""How weights and learning rates depend on the width of a network.

`abc_parametrization` has the exponents of the published choices: standard, NTK,
mean-field or integrable, and muP (Yang & Hu, 2021; Hajjar, Chizat & Giraud,
2021). `first_step_exponent` is the power of the width with which the output
changes in the first step of training. `mup_factors` says by which factors muP
multiplies a weight and its learning rate, from the ratios of its fans to those
in a narrower network (Yang et al., 2022).
"""

from keras_initx.theory.parametrization.abc import (
    AbcParametrization,
    abc_parametrization,
    first_step_exponent,
)
from keras_initx.theory.parametrization.width_ratios import (
    MupFactors,
    mup_factors,
)

__all__ = [
    "AbcParametrization",
    "MupFactors",
    "abc_parametrization",
    "first_step_exponent",
    "mup_factors",
]


def __dir__() -> list[str]:
    return __all__
