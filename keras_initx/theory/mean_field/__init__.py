"""Correlation between samples in infinitely wide random networks.

How the weights must be scaled: `critical_scale` (He et al., 2015), and whether
the variance then stays near 1: `signal_stability` (Poole et al., 2016). How the
correlation of two samples changes in one layer: `correlation_map`, whose
kernels are those of Cho & Saul (2009) and Williams (1997). How fast the
differences between samples die away with depth: `sample_variance_decay` and,
in deep layers, `asymptotic_sample_variance` (Luther & Seung, 2020). What batch
normalization does to this, forward and backward: `batch_norm_raw_variance` and
`batch_norm_gradient_growth` (Luther & Seung, 2020). Where the signal of a plain
network with biases ends up, and which variances keep its gradients:
`signal_fixed_point` and `edge_of_chaos` (Poole et al., 2016). How the singular
values of its Jacobian spread: `jacobian_moments` (Pennington et al., 2017).
Which kernels infinitely wide networks have on given inputs: `nngp_kernel` and
`tangent_kernel` (Matthews et al., 2018; Jacot et al., 2018). How paired weights
must be scaled: `paired_scale`. `Activation` is the record of an activation and
its parameters that all of `keras_initx.theory` accepts.
"""

from keras_initx.theory.mean_field.activations import Activation
from keras_initx.theory.mean_field.batch_norm import (
    batch_norm_gradient_growth,
    batch_norm_raw_variance,
)
from keras_initx.theory.mean_field.correlation import (
    asymptotic_sample_variance,
    correlation_map,
    sample_variance_decay,
)
from keras_initx.theory.mean_field.fixed_point import (
    EdgeOfChaos,
    SignalFixedPoint,
    edge_of_chaos,
    signal_fixed_point,
)
from keras_initx.theory.mean_field.jacobian import (
    JacobianMoments,
    jacobian_moments,
)
from keras_initx.theory.mean_field.kernels import nngp_kernel, tangent_kernel
from keras_initx.theory.mean_field.pairing import paired_scale
from keras_initx.theory.mean_field.variance import (
    critical_scale,
    signal_stability,
)

__all__ = [
    "Activation",
    "EdgeOfChaos",
    "JacobianMoments",
    "SignalFixedPoint",
    "asymptotic_sample_variance",
    "batch_norm_gradient_growth",
    "batch_norm_raw_variance",
    "correlation_map",
    "critical_scale",
    "edge_of_chaos",
    "jacobian_moments",
    "nngp_kernel",
    "paired_scale",
    "sample_variance_decay",
    "signal_fixed_point",
    "signal_stability",
    "tangent_kernel",
]


def __dir__() -> list[str]:
    return __all__
