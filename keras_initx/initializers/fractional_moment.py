"""Normal weights that keep a moment of the signal's norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx import theory
from keras_initx.initializers.base import (
    TYPICAL_FAN_IN,
    FanInInitializer,
    given,
    plain,
)
from keras_initx.validation import check_real


@keras.saving.register_keras_serializable(package="keras_initx")
class FractionalMoment(FanInInitializer):
    """Normal weights that keep the moment of order s of the signal's norm.

        w ~ N(0, sigma^2),    E |phi(W x)|^s = |x|^s    for every x

    with the Euclidean norm and sigma = `theory.fractional_moment_std`. s = 2
    is Kaiming initialisation, sigma^2 = 2 / fan_in for relu. A smaller s has a
    sigma larger by a factor 1 + O(1 / fan_in): through many layers a typical
    signal shrinks more slowly, while its second moment grows.

    This is exact for a layer without bias that is as wide as its input. For
    others, sigma at the fan-in keeps what a unit holds, as the theory says. Of
    convolutions, whose outputs share weights, nothing is proved.

    Args:
        order: s, the order of the moment, in (0, 2].
        activation: What follows the kernel, phi in phi(W x): "linear",
            "relu", "leaky_relu" or "rrelu", as in
            `theory.fractional_moment_std`.
        negative_slope: Of "leaky_relu"; by default 0.2, as in
            `keras.activations.leaky_relu` (`keras.layers.LeakyReLU` has 0.3).
        negative_slope_range: Of "rrelu", between which each unit draws its
            slope; by default those of PyTorch, (1/8, 1/3).
        dropout_rate: Of a dropout after the activation, as
            `keras.layers.Dropout` has it, in [0, 1).
        fan_in: An int >= 1 in place of the fan-in that shape or axes give.
        input_axes: Axes of the kernel that the layer sums over, and
        output_axes: axes that its output has: ints, both or neither.
            `EinsumDense` and attention layers fill them in.
        seed: None, an int, or a `keras.random.SeedGenerator`. With an int,
            equal shapes get equal weights, such as the query, key and value
            kernels of `MultiHeadAttention`: see `keras_initx.initializers`.

    Returns:
        When called with a shape and dtype, weights in float16, bfloat16,
        float32 or float64.

    Raises:
        ValueError: An argument is outside its range.

    Example:

    >>> layer = keras.layers.Dense(64, kernel_initializer=FractionalMoment(1.0))
    >>> layer.build((None, 64))
    >>> f"{keras.ops.std(layer.kernel):.2f}"
    '0.18'

    Reference: Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878.

    Dropout, and layers of other widths, are derived here.
    """

    def __init__(
        self,
        order: float = 1.0,
        activation: str = "relu",
        negative_slope: float | None = None,
        negative_slope_range: Sequence[float] | None = None,
        dropout_rate: float = 0.0,
        fan_in: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
        seed: int | keras.random.SeedGenerator | None = None,
    ):
        super().__init__(fan_in, input_axes, output_axes, seed)
        dropout_rate = check_real("dropout_rate", dropout_rate, "[0, 1)")
        self.order = order
        self.activation = activation
        self.negative_slope = negative_slope
        self.negative_slope_range = negative_slope_range
        self.dropout_rate = dropout_rate
        self._std(self.fan_in or TYPICAL_FAN_IN)
        # Accepted: now as JSON has them.
        self.order = float(order)
        self.negative_slope = plain(negative_slope)
        self.negative_slope_range = plain(negative_slope_range)

    def _std(self, fan_in: int) -> float:
        return theory.fractional_moment_std(
            self.order,
            fan_in,
            self.activation,
            dropout_rate=self.dropout_rate,
            **given(
                negative_slope=self.negative_slope,
                negative_slope_range=self.negative_slope_range,
            ),
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        return keras.random.normal(
            shape, stddev=self._std(fan_in), dtype="float32", seed=self.seed
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "order": self.order,
            "activation": self.activation,
            "negative_slope": self.negative_slope,
            "negative_slope_range": self.negative_slope_range,
            "dropout_rate": self.dropout_rate,
        } | super().get_config()
