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
    critical_scale,
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
    fractional_noise_covariance,
    fractional_process,
    smooth_covariance,
    smooth_process,
)
from keras_initx.theory.residual.growth import (
    critical_exponent,
    residual_growth,
    residual_log_norm,
)
from keras_initx.theory.residual.schemes import (
    deepnorm_scale,
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
    fit_peaks,
    triangle_wave,
    triangle_wave_scales,
)
from keras_initx.theory.triangle_waves.linear_regions import (
    count_linear_regions,
)
from keras_initx.theory.triangle_waves.weights import triangle_wave_weights

__all__ = [
    "asymptotic_sample_variance",
    "batch_norm_gradient_growth",
    "batch_norm_raw_variance",
    "fit_peaks",
    "correlation_map",
    "count_linear_regions",
    "critical_exponent",
    "critical_scale",
    "deepnorm_scale",
    "estimate_hurst",
    "estimate_scaling",
    "fixup_factor",
    "fractional_moment_std",
    "fractional_process",
    "fractional_noise_covariance",
    "gpt2_residual_std",
    "log_norm_drift_and_variance",
    "neural_covariance_sde",
    "residual_growth",
    "residual_log_norm",
    "sample_variance_decay",
    "shaped_relu_drift",
    "shaped_variance_drift",
    "smooth_covariance",
    "smooth_process",
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
