"""Weights drawn from any distribution of TensorFlow Probability."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_initx import backend, theory
from keras_initx.initializers.base import (
    LARGEST,
    FanInInitializer,
    check_activation_name,
    stateless_seed,
    without_none,
)
from keras_initx.validation import check_backend, check_bool, check_real, refuse


@keras.saving.register_keras_serializable(package="keras_initx")
class FromDistribution(FanInInitializer):
    """Weights drawn from any TFP distribution, scaled to preserve the variance.

    With z drawn from the distribution,

        preserve_variance=True     w = sqrt(scale / fan_in) z / stddev(z)
        preserve_variance=False    w = z

    where scale = `theory.critical_scale(activation)`. A sum of fan_in terms
    w x then has the variance that the pre-activations of the layer before had.

    Draws are scaled but not shifted. To preserve the variance, the distribution
    must have mean zero, since a mean adds fan_in^2 times its square to the
    second moment, and a finite variance. Among heavy-tailed distributions
    `StudentT` has one for df > 2, and `Cauchy` has none: use
    `kx.initializers.AlphaStable` for those.

    Args:
        distribution: An instance of a class of `tfp.distributions` or
            `kx.distributions` with batch and event shape (). Its parameters are
            read once, as plain numbers, and so are distributions among them, as
            in `MixtureSameFamily`.
        preserve_variance: bool. Whether to scale the draws as above. Defaults
            to True.
        activation: str. The activation of the layer before, a name of
            `theory.critical_scale`. Not used if `preserve_variance` is False.
            Defaults to "relu".
        negative_slope: float. The slope of "leaky_relu" below 0. Defaults to
            0.2, as in `keras.activations.leaky_relu` (the default of
            `keras.layers.LeakyReLU` is 0.3).
        fan_in: int. Overrides the fan-in that the shape or the axes give, at
            least 1.
        input_axes: list of int. The axes of the kernel that the layer sums
            over. `EinsumDense` and attention layers set them, from Keras 3.15
            on.
        output_axes: list of int. The axes of the kernel that the layer's
            output has. `EinsumDense` and attention layers set them, from Keras
            3.15 on.
        seed: None, int or `keras.random.SeedGenerator`. With an int, kernels
            of equal shape get equal weights, such as the query, key and value
            kernels of `MultiHeadAttention`: see `keras_initx.initializers`.

    Returns:
        When called with a shape and a dtype: weights in float16, bfloat16,
        float32 or float64, drawn in float32 and clipped to the range of the
        dtype.

    Raises:
        ValueError: If the distribution is not one of real numbers, cannot be
            saved, or has no mean zero and finite variance to preserve, or if
            another argument is out of range.

    Example:

    >>> import tensorflow_probability as tfp
    >>> student = tfp.distributions.StudentT(df=5.0, loc=0.0, scale=1.0)
    >>> layer = keras.layers.Dense(
    ...     256, kernel_initializer=FromDistribution(student)
    ... )
    >>> layer.build((None, 256))
    >>> f"{keras.ops.std(layer.kernel):.2f}"  # sqrt(2 / 256) = 0.088
    '0.09'

    Reference: He et al., ICCV (2015), arXiv:1502.01852, for the scale.
    """

    def __init__(
        self,
        distribution: Any,
        preserve_variance: bool = True,
        activation: str = "relu",
        negative_slope: float | None = None,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        self.preserve_variance = check_bool(
            "preserve_variance", preserve_variance
        )
        self.uses_fan_in = self.preserve_variance
        check_backend("initializers.FromDistribution")
        # Parameters are read eagerly, also where a model is built in a graph.
        with backend.with_values():
            if not isinstance(distribution, dict):
                distribution = _configs().to_config(distribution)
            scalar = _scalar_distribution(distribution)
            self._stddev = (
                _stddev(distribution, scalar) if self.preserve_variance else 1.0
            )
        self.distribution = copy.deepcopy(distribution)
        self.activation = check_activation_name(activation)
        self.negative_slope = check_real(
            "negative_slope", negative_slope, optional=True
        )
        self._scale = theory.critical_scale(
            activation, **without_none(negative_slope=self.negative_slope)
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> Any:
        """Returns draws of the distribution in float32."""
        distribution = _configs().from_config(self.distribution)
        seed = stateless_seed(self.seed)
        weights = keras.ops.cast(
            distribution.sample(shape, seed=seed), "float32"
        )
        if self.preserve_variance:
            weights *= math.sqrt(self._scale / fan_in) / self._stddev
        limit = LARGEST["float32"]
        return keras.ops.clip(weights, -limit, limit)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON can hold them."""
        return {
            "distribution": copy.deepcopy(self.distribution),
            "preserve_variance": self.preserve_variance,
            "activation": self.activation,
            "negative_slope": self.negative_slope,
        } | super().get_config()


def _configs() -> Any:
    """The module that converts distributions, which imports TensorFlow."""
    from keras_initx.initializers import distribution_config

    return distribution_config


def _scalar_distribution(config: dict[str, Any]) -> Any:
    """Returns the distribution, checked to be valid and of one number."""
    distribution = _configs().from_config(config, validate_args=True)
    shapes = {
        "batch": distribution.batch_shape,
        "event": distribution.event_shape,
    }
    for kind, shape in shapes.items():
        # A joint distribution has a structure of shapes.
        if getattr(shape, "rank", None) != 0:
            refuse(
                f"distribution must be of one number: its {kind} shape must "
                "be ().",
                distribution=distribution,
            )
    return distribution


def _stddev(config: dict[str, Any], distribution: Any) -> float:
    """Returns the standard deviation, if it can be preserved."""
    try:
        mean = float(distribution.mean())
        variance = float(distribution.variance())
    except NotImplementedError:
        mean, variance = math.nan, math.nan
    if "VonMises" in _configs().class_names(config):
        reason = "TFP's variance of VonMises is that of directions on a circle"
    elif not math.isfinite(variance) or variance <= 0:
        reason = f"its variance is {variance}"
    elif not abs(mean) <= 1e-6 * math.sqrt(variance):
        reason = (
            f"its mean is {mean:.6g}, and a mean adds up over the fan-in where "
            "zero-mean weights average out"
        )
    else:
        return math.sqrt(variance)
    refuse(
        "distribution must have mean zero and a known, finite variance with "
        f"preserve_variance=True, but {reason}. With preserve_variance=False "
        "the draws are not scaled.",
        distribution=distribution,
    )
