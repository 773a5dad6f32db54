"""Weights of any distribution that TensorFlow Probability has."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx import theory
from keras_initx.initializers import distribution_config
from keras_initx.initializers.base import (
    FanInInitializer,
    given,
    plain,
    stateless_seed,
)
from keras_initx.validation import check_bool


@keras.saving.register_keras_serializable(package="keras_initx")
class FromDistribution(FanInInitializer):
    """Weights of any TFP distribution, scaled to keep the signal's variance.

    With z drawn from the distribution,

        preserve_variance=True    w = sqrt(scale / fan_in) z / stddev(z)
        preserve_variance=False   w = z

    where scale = `theory.critical_scale(activation)`: sums of fan_in terms w x
    then have the variance of pre-activations that the layer before had.

    Only scale is touched. `preserve_variance` therefore asks for a mean of
    zero, since a mean adds fan_in^2 times its square to the second moment, and
    for a finite variance. Of the heavy-tailed, `StudentT` has one for df > 2,
    `Cauchy` none; `kx.initializers.AlphaStable` is for those.

    Args:
        distribution: An instance of a class of `tfp.distributions` or
            `kx.distributions` with batch and event shape (). Its parameters
            are read once, as plain numbers; so are distributions among them,
            as in `MixtureSameFamily`.
        preserve_variance: Whether to scale the draws; False leaves the scale
            as it is.
        activation: Of the layer before, a name that `theory.critical_scale`
            knows; not used if `preserve_variance` is False.
        negative_slope: Of "leaky_relu"; by default 0.2, as in
            `keras.activations.leaky_relu` (`keras.layers.LeakyReLU` has 0.3).
        fan_in: An int >= 1 in place of the fan-in that shape or axes give.
        input_axes: Axes of the kernel that the layer sums over, and
        output_axes: axes that its output has: ints, both or neither.
            `EinsumDense` and attention layers fill them in.
        seed: None, an int, or a `keras.random.SeedGenerator`. With an int,
            equal shapes get equal weights, such as the query, key and value
            kernels of `MultiHeadAttention`: see `keras_initx.initializers`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64, drawn in float32 and clipped to the range of the
        dtype.

    Raises:
        ValueError: The distribution has no zero mean or no finite variance to
            preserve, or is not one number, or cannot be saved; or another
            argument is outside its range.

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
        with tf.init_scope():
            if not isinstance(distribution, dict):
                distribution = distribution_config.to_config(distribution)
            law = _scalar_law(distribution)
            preserve_variance = check_bool(
                "preserve_variance", preserve_variance
            )
            self._stddev = (
                _stddev(distribution, law) if preserve_variance else 1.0
            )
        if not isinstance(activation, str):
            raise ValueError(
                "activation must be a name, which a saved model can hold. "
                f"Received: activation={activation!r}"
            )
        self._scale = theory.critical_scale(
            activation, **given(negative_slope=negative_slope)
        )
        self.distribution = copy.deepcopy(distribution)
        self.preserve_variance = preserve_variance
        self.activation = activation
        self.negative_slope = plain(negative_slope)

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        law = distribution_config.from_config(self.distribution)
        seed = stateless_seed(self.seed)
        weights = tf.cast(law.sample(shape, seed=seed), tf.float32)
        if self.preserve_variance:
            weights *= math.sqrt(self._scale / fan_in) / self._stddev
        return tf.clip_by_value(weights, tf.float32.min, tf.float32.max)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "distribution": copy.deepcopy(self.distribution),
            "preserve_variance": self.preserve_variance,
            "activation": self.activation,
            "negative_slope": self.negative_slope,
        } | super().get_config()


def _scalar_law(config: dict[str, Any]) -> Any:
    """The distribution, valid and of one real number."""
    law = distribution_config.from_config(config, validate_args=True)
    shapes = {"batch": law.batch_shape, "event": law.event_shape}
    for kind, shape in shapes.items():
        if not isinstance(shape, tf.TensorShape) or shape != []:
            raise ValueError(
                f"distribution must be of one number: its {kind} shape must be "
                f"(). Received: distribution={law!r}"
            )
    return law


def _stddev(config: dict[str, Any], law: Any) -> float:
    """The standard deviation, where it can be preserved."""
    try:
        mean, variance = float(law.mean()), float(law.variance())
    except NotImplementedError:
        mean, variance = math.nan, math.nan
    if "VonMises" in distribution_config.names_in(config):
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
    raise ValueError(
        "preserve_variance=True needs a distribution of mean zero and a known, "
        f"finite variance; of this one, {reason}. With preserve_variance=False "
        f"weights are drawn as it is. Received: distribution={law!r}"
    )
