"""Moments of the signal's norm in networks of finite width or heavy tails.

- `fractional_moment_std` is the size of Gaussian weights that keep a
  fractional moment of the norm, at any width (Gürbüzbalaban & Hu, 2021), and
  `log_norm_drift_and_variance` says how the logarithm of the norm then changes
  from layer to layer.
- `stable_weight_scale` is the size of symmetric stable weights that keep a
  moment, at any width; `stable_scale_recursion` follows the signal in
  infinitely wide networks of such weights (Favaro, Fortini & Peluchetti, 2020
  and 2022).
- `stable_moment` (Shao & Nikias, 1993), `stable_log_moments` (Ma & Nikias,
  1995) and `stable_tail_constant` (Samorodnitsky & Taqqu, 1994) are the
  moments and tails of a symmetric stable variable itself.
"""

from keras_initx.theory.norm_moments.gaussian import (
    LogNormStep,
    fractional_moment_std,
    log_norm_drift_and_variance,
)
from keras_initx.theory.norm_moments.stable import (
    LogMoments,
    stable_log_moments,
    stable_moment,
    stable_tail_constant,
    stable_weight_scale,
)
from keras_initx.theory.norm_moments.stable_limit import stable_scale_recursion

__all__ = [
    "LogMoments",
    "LogNormStep",
    "fractional_moment_std",
    "log_norm_drift_and_variance",
    "stable_log_moments",
    "stable_moment",
    "stable_scale_recursion",
    "stable_tail_constant",
    "stable_weight_scale",
]


def __dir__() -> list[str]:
    return __all__
