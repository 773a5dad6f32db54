"""Moments of the signal's norm in networks of finite width or heavy tails.

Which Gaussian weights keep a fractional moment of the norm, at any width:
`fractional_moment_std` (Gürbüzbalaban & Hu, 2021). How the logarithm of the
norm then drifts and spreads over depth: `log_norm_drift_and_variance`. The
same question for symmetric stable weights: `stable_weight_scale` at finite
width, and `stable_scale_recursion` at infinite width (Favaro, Fortini &
Peluchetti, 2020 and 2022). The moments and tails of a symmetric stable
variable itself: `stable_moment` (Shao & Nikias, 1993), `stable_log_moments`
(Ma & Nikias, 1995) and `stable_tail_constant` (Samorodnitsky & Taqqu, 1994).
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
