"""Heavy-tailed weights that keep the signal's scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_initx import theory
from keras_initx.distributions.alpha_stable.sampling import standard_stable
from keras_initx.initializers.base import (
    TYPICAL_FAN_IN,
    FanInInitializer,
    given,
    plain,
    stateless_seed,
)
from keras_initx.validation import check_real


@keras.saving.register_keras_serializable(package="keras_initx")
class AlphaStable(FanInInitializer):
    """Symmetric alpha-stable weights that keep the scale of the signal.

        w ~ c Z,    E exp(i t Z) = exp(-|t|^alpha),    alpha = stability

    Stability 2 is normal, of variance 2 c^2. Below 2 weights have no variance,
    below 1 no mean: P(|w| > x) ~ C (c / x)^alpha for large x, with
    C = (2 / pi) Gamma(alpha) sin(pi alpha / 2). What the layer can keep is its
    signal's l_alpha norm |x|_alpha = (sum |x_i|^alpha)^(1 / alpha):

        order="log"    E log |phi(W x)|_alpha = log |x|_alpha
        order=s        E |phi(W x)|_alpha^s = |x|_alpha^s,   0 < s < alpha

    for every x, by c = `theory.stable_weight_scale`. The scale of textbooks,
    c = fan_in^(-1 / alpha), leaves out a logarithm of the fan-in: with relu,
    alpha 1.5 and 256 units |x|_alpha then grows 1.44 times a layer.

    This is exact for a layer without bias that is as wide as its input. For
    others, c at the fan-in keeps what a unit holds, as the theory says.

    A weight beyond the largest number M of the dtype is clipped to it. That
    happens to each with probability C (c / M)^alpha; with relu and a fan-in of
    256

        stability                        1.5      1.0      0.5      0.1
        float16 (M = 65504)              5e-11    2e-8     4e-6     4e-4
        bfloat16, float32 (M = 3e38)     0        0        6e-23    2e-7

    while float16 turns weights below 3e-8 into 0, at stability 0.5 one in
    fifty, at 0.1 nearly all: it is no dtype for tails so heavy.

    Args:
        stability: alpha, in (0, 2].
        activation: What follows the kernel, phi in phi(W x): "linear",
            "relu", "leaky_relu" or "rrelu", as in
            `theory.stable_weight_scale`.
        order: "log", or the order s of the moment to keep, in
            (0, stability).
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

    >>> layer = keras.layers.Dense(256, kernel_initializer=AlphaStable(1.5))
    >>> layer.build((None, 256))
    >>> f"{keras.ops.median(abs(layer.kernel)):.2f}"
    '0.02'

    Reference: Peluchetti, Favaro & Fortini, AISTATS (2020), arXiv:2003.00394;
    Gürbüzbalaban & Hu, AISTATS (2021), arXiv:2005.11878.

    The first has stable weights, the second keeps a moment of the norm, with
    normal weights. Both at once is derived here.
    """

    def __init__(
        self,
        stability: float,
        activation: str = "relu",
        order: str | float = "log",
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
        self.stability = stability
        self.activation = activation
        self.order = order
        self.negative_slope = negative_slope
        self.negative_slope_range = negative_slope_range
        self.dropout_rate = dropout_rate
        self._scale_of_weights(self.fan_in or TYPICAL_FAN_IN)
        # Accepted: now as JSON has them.
        self.stability = float(stability)
        if order != "log":
            self.order = float(order)
        self.negative_slope = plain(negative_slope)
        self.negative_slope_range = plain(negative_slope_range)

    def _scale_of_weights(self, fan_in: int) -> float:
        return theory.stable_weight_scale(
            self.stability,
            fan_in,
            self.activation,
            order=self.order,
            dropout_rate=self.dropout_rate,
            **given(
                negative_slope=self.negative_slope,
                negative_slope_range=self.negative_slope_range,
            ),
        )

    def draw(self, shape: tuple[int, ...], fan_in: int) -> tf.Tensor:
        return standard_stable(
            shape,
            self.stability,
            seed=stateless_seed(self.seed),
            scale=self._scale_of_weights(fan_in),
            # The scale and the draw each leave the range of float32 long
            # before their product does.
            dtype=tf.float64 if self.stability < 0.4 else tf.float32,
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, fit for JSON."""
        return {
            "stability": self.stability,
            "activation": self.activation,
            "order": self.order,
            "negative_slope": self.negative_slope,
            "negative_slope_range": self.negative_slope_range,
            "dropout_rate": self.dropout_rate,
        } | super().get_config()
