"""Signals, gradients and kernels of infinitely wide random networks.

- `critical_scale` is the scale of weights that keeps the variance of the signal
  (He et al., 2015), and `signal_stability` says whether the variance then stays
  near 1 (Poole et al., 2016).
- `correlation_map` is the correlation of two samples after one layer (Cho &
  Saul, 2009; Williams, 1997). `sample_variance_decay` says how fast the
  differences between samples die away with depth, and
  `asymptotic_sample_variance` how fast in deep layers (Luther & Seung, 2020).
- `batch_norm_raw_variance` and `batch_norm_gradient_growth` say what batch
  normalization does to the signal and to the gradient (Luther & Seung, 2020).
  `normalized_spectrum` and `mean_inverse_variance` say the same of a batch of
  few values, whose statistics differ from channel to channel (Yang et al.,
  2019).
- `signal_fixed_point` is what the signal of a network with biases tends to, and
  `edge_of_chaos` has variances that keep its gradients (Poole et al., 2016).
- `jacobian_moments` says how much the singular values of the Jacobian differ
  (Pennington et al., 2017).
- `nngp_kernel` and `tangent_kernel` are kernels of wide networks on given
  inputs (Matthews et al., 2018; Jacot et al., 2018).
- `paired_scale` is the scale of paired weights (Balduzzi et al., 2017).
- `Activation` is the record of an activation and its parameters that all of
  `keras_initx.theory` accepts.
"""

from keras_initx.theory.mean_field.activations import Activation
from keras_initx.theory.mean_field.batch_norm import (
    batch_norm_gradient_growth,
    batch_norm_raw_variance,
    mean_inverse_variance,
    normalized_spectrum,
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
    "mean_inverse_variance",
    "nngp_kernel",
    "normalized_spectrum",
    "paired_scale",
    "sample_variance_decay",
    "signal_fixed_point",
    "signal_stability",
    "tangent_kernel",
]


def __dir__() -> list[str]:
    return __all__
