"""Closed forms and recursions for what a random network does to its input.

Plain numbers in, plain numbers out: NumPy and SciPy in float64, nothing else.
"""

from keras_initx.theory.mean_field.batch_norm import (
    batch_norm_gradient_growth,
    batch_norm_raw_variance,
)
from keras_initx.theory.mean_field.correlation import (
    asymptotic_sample_variance,
    correlation_map,
    critical_gain,
    sample_variance_decay,
)
from keras_initx.theory.norm_moments.gaussian import (
    fractional_moment_std,
    log_norm_drift_and_variance,
)
from keras_initx.theory.norm_moments.stable import (
    stable_log_moments,
    stable_moment,
    stable_tail_constant,
    stable_weight_scale,
)
from keras_initx.theory.norm_moments.stable_limit import stable_scale_recursion
from keras_initx.theory.residual.covariance_sde import (
    neural_covariance_sde,
    shaped_relu_drift,
    shaped_variance_drift,
)
from keras_initx.theory.residual.depth_processes import (
    fractional_noise,
    fractional_noise_covariance,
    smooth_covariance,
    smooth_noise,
)
from keras_initx.theory.residual.growth import (
    critical_beta,
    residual_growth,
    residual_log_norm,
)
from keras_initx.theory.residual.schemes import (
    deepnorm_scale,
    deepnorm_scales,
    fixup_factor,
    gpt2_residual_std,
    stable_resnet_scale,
    tfixup_factor,
)
from keras_initx.theory.trained_weights.depth_regularity import (
    estimate_hurst,
    estimate_scaling,
)
from keras_initx.theory.trained_weights.tail_index import tail_index
from keras_initx.theory.triangle_waves.curve import (
    best_peaks,
    triangle_wave,
    triangle_wave_scales,
)
from keras_initx.theory.triangle_waves.linear_regions import linear_regions
from keras_initx.theory.triangle_waves.weights import triangle_wave_weights

__all__ = [
    "asymptotic_sample_variance",
    "batch_norm_gradient_growth",
    "batch_norm_raw_variance",
    "best_peaks",
    "correlation_map",
    "critical_beta",
    "critical_gain",
    "deepnorm_scale",
    "deepnorm_scales",
    "estimate_hurst",
    "estimate_scaling",
    "fixup_factor",
    "fractional_moment_std",
    "fractional_noise",
    "fractional_noise_covariance",
    "gpt2_residual_std",
    "linear_regions",
    "log_norm_drift_and_variance",
    "neural_covariance_sde",
    "residual_growth",
    "residual_log_norm",
    "sample_variance_decay",
    "shaped_relu_drift",
    "shaped_variance_drift",
    "smooth_covariance",
    "smooth_noise",
    "stable_log_moments",
    "stable_moment",
    "stable_resnet_scale",
    "stable_scale_recursion",
    "stable_tail_constant",
    "stable_weight_scale",
    "tail_index",
    "tfixup_factor",
    "triangle_wave",
    "triangle_wave_scales",
    "triangle_wave_weights",
]
