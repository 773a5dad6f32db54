"""Scales and growth of residual networks, and their limits of great depth.

- `critical_exponent` is the power of the depth by which branches must be scaled
  (Marion, Fermanian, Biau & Vert, 2025). It depends on how weights vary over
  depth: independently, or as `fractional_process` or `smooth_process`, whose
  covariances are `fractional_noise_covariance` and `smooth_covariance`.
- `residual_growth` and `residual_log_norm` say how much the signal grows.
- Published architectures have rules of their own: `stable_resnet_scale` (Hayou
  et al., 2021), `fixup_factor` (Zhang, Dauphin & Ma, 2019), `gpt2_residual_std`
  (Radford et al., 2019), `tfixup_factor` (Huang et al., 2020) and
  `deepnorm_scale` (Wang et al., 2022).
- `neural_covariance_sde`, `shaped_relu_drift` and `shaped_variance_drift` are
  the limit of shaped networks that are as deep as wide (Li, Nica & Roy, 2022).
"""

from keras_initx.theory.residual.covariance_sde import (
    CorrelationDistribution,
    neural_covariance_sde,
    shaped_relu_drift,
    shaped_variance_drift,
)
from keras_initx.theory.residual.depth_processes import (
    DepthSpectrum,
    fractional_noise_covariance,
    fractional_process,
    smooth_covariance,
    smooth_process,
)
from keras_initx.theory.residual.growth import (
    LogNorm,
    critical_exponent,
    residual_growth,
    residual_log_norm,
)
from keras_initx.theory.residual.schemes import (
    DeepNormScale,
    deepnorm_scale,
    fixup_factor,
    gpt2_residual_std,
    stable_resnet_scale,
    tfixup_factor,
)

__all__ = [
    "CorrelationDistribution",
    "DeepNormScale",
    "DepthSpectrum",
    "LogNorm",
    "critical_exponent",
    "deepnorm_scale",
    "fixup_factor",
    "fractional_noise_covariance",
    "fractional_process",
    "gpt2_residual_std",
    "neural_covariance_sde",
    "residual_growth",
    "residual_log_norm",
    "shaped_relu_drift",
    "shaped_variance_drift",
    "smooth_covariance",
    "smooth_process",
    "stable_resnet_scale",
    "tfixup_factor",
]


def __dir__() -> list[str]:
    return __all__
